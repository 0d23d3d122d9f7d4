//! From a value to its recorded form and back.
//!
//! ```text
//! value ──Codec::encode──▶ bytes ──too many──▶ recorded without them
//!                            ├─────large─────▶ compressed, if that is wanted
//!                            └──Codec::decode──▶ value: what cannot be read again is found out the first time
//! ```
//!
//! Only the edges know the codec: where a value is made, and where one is wanted. Everything between has a
//! [`RecordedResult`], which names the codec that wrote it.

use std::borrow::Cow;
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::codec_error::CodecError;
use crate::record::{CodecId, JSON, RecordedResult, Verdict};

/// The name of what a [`Codec`] writes.
///
/// The name is recorded with each result. A result that is recorded under one name is not read under another by
/// mistake: the call fails with [`CodecError::Foreign`], which has both names.
pub trait Format: Send + Sync + 'static {
    /// The name: 1 to 255 bytes, which is checked at compile time. Change it when the bytes are not to be read as
    /// before any more.
    ///
    /// `json` is the name of [`Json`], and stands for plain JSON.
    const NAME: &'static str;
}

/// Writes and reads results of a type, in a [`Format`] of its own. The default is [`Json`]; the
/// [builder](super::IdempotencyBuilder::codec) sets another.
///
/// What the codec writes is read again before it is recorded, and its size is
/// [limited](super::IdempotencyBuilder::max_result_bytes). A panic counts as an error. Errors are logged, so they must
/// not contain any of the value.
///
/// # Examples
///
/// Encryption at rest. In the store, only the name `sealed.1` and the size of a result can be read:
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use chacha20poly1305::aead::{Aead, Generate, KeyInit};
/// use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
/// use oneflight::idempotency::{Codec, Format};
/// use oneflight::{Idempotency, MemoryStore, RequestIdentity, Scope};
/// use serde::{Serialize, de::DeserializeOwned};
/// use std::error::Error;
///
/// /// JSON, encrypted and authenticated. A nonce stands before it.
/// struct Sealed(XChaCha20Poly1305);
///
/// const NONCE: usize = 24;
///
/// impl Format for Sealed {
///     const NAME: &'static str = "sealed.1";
/// }
///
/// impl<T: Serialize + DeserializeOwned> Codec<T> for Sealed {
///     fn encode(&self, value: &T) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
///         let nonce = XNonce::generate();
///         let sealed = self.0.encrypt(&nonce, &*serde_json::to_vec(value)?);
///         Ok([&nonce[..], &sealed.map_err(|_| "it cannot be sealed")?].concat())
///     }
///
///     fn decode(&self, bytes: &[u8]) -> Result<T, Box<dyn Error + Send + Sync>> {
///         let (nonce, sealed) = bytes.split_at_checked(NONCE).ok_or("it is cut short")?;
///         let opened = self.0.decrypt(&XNonce::try_from(nonce)?, sealed);
///         let json = opened.map_err(|_| "it was changed, or sealed with another key")?;
///         // The error of `serde_json` quotes what it found.
///         serde_json::from_slice(&json).map_err(|_| "it is another type".into())
///     }
/// }
///
/// let key = Key::generate(); // From your key management.
/// let idem = Idempotency::builder(MemoryStore::new())
///     .codec(Sealed(XChaCha20Poly1305::new(&key)))
///     .build();
///
/// let id = RequestIdentity::new(Scope::new("tenant-7").route("POST /cards"), "a7f3")?;
/// let reply = idem.run(id.clone(), |_| async { "4111 1111 1111 1111".to_owned() }).await?;
/// assert!(!reply.recorded().as_bytes().windows(4).any(|bytes| bytes == b"4111"));
///
/// let again = idem.run(id, |_| async { "not called".to_owned() }).await?;
/// assert_eq!(again.value(), "4111 1111 1111 1111");
/// # Ok(()) }
/// ```
pub trait Codec<T>: Format {
    /// Encodes a value.
    ///
    /// # Errors
    ///
    /// Any reason why the value cannot be encoded. The work has run by then. In a transaction it is rolled back, and the
    /// key is free. Otherwise it was done, and that fact is recorded: it is not done again, and every call gets
    /// [`CodecError::NotRecorded`] from then on.
    fn encode(&self, value: &T) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>>;

    /// Decodes a value.
    ///
    /// # Errors
    ///
    /// These bytes were not written by [`encode`](Self::encode) for a value of this type.
    fn decode(&self, bytes: &[u8]) -> Result<T, Box<dyn Error + Send + Sync>>;

    /// Decodes a value that was recorded under another name. The default is `None`, which becomes a
    /// [`CodecError::Foreign`].
    ///
    /// It is for the time after a change of codecs: what was recorded before is kept until its retention ends.
    ///
    /// # Errors
    ///
    /// As for [`decode`](Self::decode).
    fn decode_foreign(&self, name: &str, bytes: &[u8]) -> Option<Result<T, Box<dyn Error + Send + Sync>>> {
        let _ = (name, bytes);
        None
    }
}

/// A shared codec.
impl<C: Format> Format for Arc<C> {
    const NAME: &'static str = C::NAME;
}

impl<T, C: Codec<T>> Codec<T> for Arc<C> {
    fn encode(&self, value: &T) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
        C::encode(self, value)
    }

    fn decode(&self, bytes: &[u8]) -> Result<T, Box<dyn Error + Send + Sync>> {
        C::decode(self, bytes)
    }

    fn decode_foreign(&self, name: &str, bytes: &[u8]) -> Option<Result<T, Box<dyn Error + Send + Sync>>> {
        C::decode_foreign(self, name, bytes)
    }
}

/// JSON, by `serde_json`. The default codec.
#[derive(Clone, Copy, Debug, Default)]
pub struct Json;

impl Format for Json {
    const NAME: &'static str = JSON;
}

impl<T: Serialize + DeserializeOwned> Codec<T> for Json {
    fn encode(&self, value: &T) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
        Ok(serde_json::to_vec(value)?)
    }

    fn decode(&self, bytes: &[u8]) -> Result<T, Box<dyn Error + Send + Sync>> {
        // Not the error itself: its message quotes what it found, which is payload.
        serde_json::from_slice(bytes).map_err(|error| {
            let (kind, line, column) = (error.classify(), error.line(), error.column());
            format!("{kind:?} error at line {line}, column {column}").into()
        })
    }
}

/// The mark of a codec's results.
pub(super) const fn id<C: Format + ?Sized>() -> CodecId<'static> {
    const {
        match CodecId::named(C::NAME) {
            Some(id) => id,
            None => panic!("the name of a codec has 1 to 255 bytes"),
        }
    }
}

/// Calls the user's code that writes a value. A panic of it is an error: the work is done by then.
pub(super) fn encoded(
    write: impl FnOnce() -> Result<Vec<u8>, Box<dyn Error + Send + Sync>>,
) -> Result<Vec<u8>, CodecError> {
    match catch_unwind(AssertUnwindSafe(write)) {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(CodecError::Encode(error.into())),
        Err(_) => Err(CodecError::Encode(text("its encoder panicked"))),
    }
}

/// Decodes a value.
pub(super) fn decode<T, C: Codec<T>>(codec: &C, id: CodecId<'_>, payload: &[u8]) -> Result<T, CodecError> {
    let payload = match id {
        CodecId::JsonLz4 | CodecId::NamedLz4(_) => Cow::Owned(decompress(payload)?),
        CodecId::Json | CodecId::Named(_) => Cow::Borrowed(payload),
        CodecId::None => Cow::Borrowed(&b"null"[..]),
    };
    let read = || match id.name() {
        own if own == C::NAME => Some(codec.decode(&payload)),
        other => codec.decode_foreign(other, &payload),
    };
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Some(Ok(value))) => Ok(value),
        Ok(Some(Err(error))) => Err(CodecError::Decode(error.into())),
        Ok(None) => Err(foreign(id, C::NAME)),
        Err(_) => Err(CodecError::Decode(text("its decoder panicked"))),
    }
}

fn foreign(written: CodecId<'_>, expected: &'static str) -> CodecError {
    CodecError::Foreign {
        written: written.name().into(),
        expected,
    }
}

/// What one codec wrote is not for another.
pub(super) fn same(written: CodecId<'_>, expected: &'static str) -> Result<(), CodecError> {
    match written.name() == expected {
        true => Ok(()),
        false => Err(foreign(written, expected)),
    }
}

/// Returns what an encoder wrote, from its compressed form.
#[cfg(feature = "compress")]
fn decompress(payload: &[u8]) -> Result<Vec<u8>, CodecError> {
    /// The most bytes that one byte of a block can stand for. It keeps a false length from allocating much.
    const LARGEST_RATIO: usize = 255;

    let damaged = |what: &str| CodecError::Decode(text(format!("it is compressed, and damaged: {what}")));
    let (size, block) = lz4_flex::block::uncompressed_size(payload).map_err(|_| damaged("its length is missing"))?;
    if size > block.len().saturating_mul(LARGEST_RATIO) {
        return Err(damaged("its length cannot be true"));
    }
    match lz4_flex::block::decompress(block, size) {
        Ok(payload) if payload.len() == size => Ok(payload),
        Ok(_) => Err(damaged("its length is not true")),
        Err(_) => Err(damaged("it is no LZ4 block")),
    }
}

#[cfg(not(feature = "compress"))]
fn decompress(_: &[u8]) -> Result<Vec<u8>, CodecError> {
    Err(CodecError::Compressed)
}

/// Compresses a result, if that makes it smaller.
#[cfg(feature = "compress")]
fn compressed(payload: &[u8], id: CodecId<'_>, verdict: Verdict) -> Option<RecordedResult> {
    // Its length is written in 32 bits.
    u32::try_from(payload.len()).ok()?;
    let compressed = lz4_flex::block::compress_prepend_size(payload);
    (compressed.len() < payload.len()).then(|| RecordedResult::value(verdict, id.compressed(), &compressed))
}

#[cfg(not(feature = "compress"))]
fn compressed(_: &[u8], _: CodecId<'_>, _: Verdict) -> Option<RecordedResult> {
    None
}

fn text(message: impl Into<String>) -> Arc<dyn Error + Send + Sync> {
    Box::<dyn Error + Send + Sync>::from(message.into()).into()
}

/// A result that is ready to be recorded, or the reason why there is none.
pub(super) enum Prepared {
    Kept(RecordedResult),
    TooLarge { size: u64, limit: usize },
    Failed(CodecError),
}

/// How large encoded results may be, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Larger ones are not kept.
    pub(super) most: usize,
    /// Larger ones are compressed.
    pub(super) plain: usize,
}

/// Encodes a result within a limit, and reads it again. So a result that cannot be read again is found out here, not by
/// the first duplicate.
pub(super) fn prepare<T, C: Codec<T>>(codec: &C, value: &T, verdict: Verdict, sizes: Sizes) -> Prepared {
    let payload = match encoded(|| codec.encode(value)) {
        Ok(payload) => payload,
        Err(error) => return Prepared::Failed(error),
    };
    let id = id::<C>();
    let prepared = bounded(&payload, id, verdict, sizes);
    if let Prepared::Kept(_) = prepared
        && let Err(CodecError::Decode(reason)) = decode(codec, id, &payload)
    {
        return Prepared::Failed(CodecError::Unreadable(reason));
    }
    prepared
}

/// Accepts an encoded result within a limit.
pub(super) fn bounded(payload: &[u8], id: CodecId<'_>, verdict: Verdict, sizes: Sizes) -> Prepared {
    if payload.len() > sizes.most {
        return Prepared::TooLarge {
            size: payload.len() as u64,
            limit: sizes.most,
        };
    }
    let compressed = (payload.len() > sizes.plain)
        .then(|| compressed(payload, id, verdict))
        .flatten();
    Prepared::Kept(compressed.unwrap_or_else(|| RecordedResult::value(verdict, id, payload)))
}

impl Prepared {
    /// What is recorded of work that was done, and the reason if that is not its result.
    pub(super) fn of_done(self) -> (RecordedResult, Option<CodecError>) {
        match self {
            Self::Kept(result) => (result, None),
            Self::TooLarge { size, limit } => (RecordedResult::too_large(size, limit as u64), None),
            Self::Failed(error) => (RecordedResult::not_encodable(), Some(error)),
        }
    }
}
