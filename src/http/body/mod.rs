//! Request bodies, as far as keys and fingerprints need them: which format one has, and what its fields are.
//!
//! A reader for each format, over a body that was read as a whole. They know neither keys nor fingerprints.

pub(super) mod form;
mod format;
pub(super) mod json;
mod media;
pub(super) mod multipart;

pub use format::BodyFormat;
pub(super) use format::{encodings, is_encoded};
pub(super) use media::MediaType;
