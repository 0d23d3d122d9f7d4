//! Finding the idempotency key of a request, in its headers or in its body.
//!
//! The header is the one of `draft-ietf-httpapi-idempotency-key-header`: a structured field (RFC 9651) whose item is a
//! string, `Idempotency-Key: "8e03978e-40d5"`. Most clients in use send the same without quotes. Those are understood
//! too, if the unquoted value can be read in one way only. Both spellings are the same key.
//!
//! A place that carries no key is not an error here. A place that carries something other than exactly one valid key
//! always is one: a key that is guessed, cut or picked from several lets two operations pass for one.

mod error;
mod find;
mod names;
mod source;

pub use error::{KeyError, KeyPlace};
pub use find::{find_key, form_key, header_key, json_key, require_key};
pub use names::{IDEMPOTENCY_KEY, KEY_FIELD};
pub use source::KeySource;
