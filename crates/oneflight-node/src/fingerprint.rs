//! The digest of what a request means. JavaScript writes the meaning as bytes; the hash is the one that Rust services use.

use napi::bindgen_prelude::{Buffer, Uint8Array};
use napi_derive::napi;
use oneflight::Fingerprint;

/// Returns the 32 bytes of the fingerprint of a payload.
#[napi(catch_unwind)]
pub fn fingerprint(payload: Uint8Array) -> Buffer {
    Buffer::from(Fingerprint::of(&*payload).as_bytes().to_vec())
}
