//! The digest of what a request means. JavaScript writes the meaning as text or bytes; the hash is the one that Rust services use.

use napi::bindgen_prelude::Uint8Array;
use napi_derive::napi;
use oneflight::Fingerprint;
use oneflight::store::hex;

/// Returns the fingerprint of a payload, in hexadecimal.
#[napi(catch_unwind)]
pub fn fingerprint(payload: Uint8Array) -> String {
    hex(Fingerprint::of(&*payload).as_bytes())
}

/// The same of a text, which is taken as UTF-8.
#[napi(catch_unwind)]
pub fn fingerprint_of_text(payload: String) -> String {
    hex(Fingerprint::of(payload).as_bytes())
}
