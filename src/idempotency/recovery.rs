//! What to do about a request whose holder died: nobody knows what it did.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde::Serialize;

use super::codec::{self, Codec};
use super::downstream::downstream_key;
use super::error::{CodecError, ErrorKind};
use crate::identity::RequestIdentity;
use crate::record::CodecId;

type Asked = Pin<Box<dyn Future<Output = Resolution> + Send>>;

/// What to do about a request whose holder died, panicked, lost its lease, or did [not know](super::Unknown) what it did.
///
/// It is asked when the lease of a dead holder has ended, and when what a panic, or work
/// that does not know, left has [settled](super::IdempotencyBuilder::settle): what the holder called may be at work until then.
///
/// Work in a transaction is in doubt only if it ended the transaction itself, and then waits for a decision under every
/// policy but [`Ask`](Self::Ask). Other work is, and no policy can know what it did; the default
/// therefore is [`Hold`](Self::Hold): what may have been done once is not done again until somebody
/// who knows says so.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Recovery {
    /// Resolution [`InDoubt`](super::ErrorKind::InDoubt) until it is [resolved](super::Idempotency::resolve). The default.
    #[default]
    Hold,
    /// Run the work again, with the same [downstream keys](super::Context::downstream_key).
    ///
    /// Right when everything that the work does is idempotent under these keys, or harmless when repeated.
    Rerun,
    /// Ask this function, which may look at the world. Made by [`Recovery::ask`].
    #[non_exhaustive]
    Ask(Arc<dyn Fn(Doubt) -> Asked + Send + Sync>),
}

impl Recovery {
    /// Asks a function that may look at the world: does the payment exist under its downstream key?
    ///
    /// **Not found is not the same as not done.** A call that was cut off, by a time-out or a crash, may still land after
    /// the function has looked; the work is then run a second time. So the function must not look before nothing can land
    /// any more. What says when that is, is what the work calls: how long it goes on with a request whose client has
    /// gone. Set [`settle`](super::IdempotencyBuilder::settle) and the [lease](super::IdempotencyBuilder::lease) by it.
    ///
    /// ```
    /// use oneflight::idempotency::{Resolution, Idempotency, Recovery};
    /// use oneflight::store::MemoryStore;
    /// use std::time::Duration;
    ///
    /// # async fn find_charge(key: &str) -> Result<Option<String>, String> { Ok(Some(key.to_owned())) }
    /// /// The provider answers a request within 20 s, or never carries it out.
    /// const NOTHING_LANDS_AFTER: Duration = Duration::from_secs(20);
    ///
    /// let idem = Idempotency::builder(MemoryStore::new())
    ///     .recovery(Recovery::ask(|doubt| async move {
    ///         match find_charge(&doubt.downstream_key("charge")).await {
    ///             Ok(Some(charge)) => Resolution::completed(&charge).unwrap_or(Resolution::Hold),
    ///             // Nor will it be there later: that is what was waited for.
    ///             Ok(None) => Resolution::Rerun,
    ///             // Not known now. The next call asks again.
    ///             Err(_) => Resolution::Hold,
    ///         }
    ///     }))
    ///     // After a panic, or work that does not know.
    ///     .settle(NOTHING_LANDS_AFTER)
    ///     // After the death of a process: at least two thirds of it are left then.
    ///     .lease(NOTHING_LANDS_AFTER * 3 / 2)
    ///     // A call that comes meanwhile waits for the answer.
    ///     .wait(NOTHING_LANDS_AFTER * 2)
    ///     .build();
    /// # let _ = idem;
    /// ```
    pub fn ask<F, A>(ask: F) -> Self
    where
        F: Fn(Doubt) -> A + Send + Sync + 'static,
        A: Future<Output = Resolution> + Send + 'static,
    {
        Self::Ask(Arc::new(move |doubt| Box::pin(ask(doubt))))
    }
}

impl fmt::Debug for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hold => "Hold",
            Self::Rerun => "Rerun",
            Self::Ask(_) => "Ask(..)",
        })
    }
}

/// A request of which it is not known whether it was done.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Doubt {
    /// The request.
    pub id: RequestIdentity,
    /// The attempt that ended without telling, from 1.
    pub attempt: u32,
}

impl Doubt {
    /// The key that the work sent downstream for this step.
    #[must_use]
    pub fn downstream_key(&self, step: impl AsRef<str>) -> String {
        downstream_key(&self.id, step.as_ref())
    }
}

/// What is known, by asking the world, of a request in doubt.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Resolution {
    /// It was done: record this result. Made by [`Resolution::completed`].
    #[non_exhaustive]
    Completed(Encoded),
    /// It was not done, or may be done again: run the work, with the next attempt's number.
    Rerun,
    /// That is not known: answer [`InDoubt`](super::ErrorKind::InDoubt).
    Hold,
}

impl Resolution {
    /// It was done, and this is the result, in JSON: for an [`Idempotency`](super::Idempotency) with no other codec.
    ///
    /// # Errors
    ///
    /// When the value cannot be encoded.
    pub fn completed<T: Serialize + ?Sized>(value: &T) -> Result<Self, CodecError> {
        let bytes = codec::encoded(|| Ok(serde_json::to_vec(value)?))?;
        let codec = CodecId::Json;
        Ok(Self::Completed(Encoded { codec, bytes }))
    }

    /// It was done, and this is the result, as this codec writes it: for an [`Idempotency`](super::Idempotency) that has
    /// [this codec](super::Idempotency::codec). Another one does not take it, and what is in doubt stays so.
    ///
    /// # Errors
    ///
    /// When the value cannot be encoded.
    pub fn completed_with<T, C: Codec<T>>(codec: &C, value: &T) -> Result<Self, CodecError> {
        let bytes = codec::encoded(|| codec.encode(value))?;
        let codec = codec::id::<C>();
        Ok(Self::Completed(Encoded { codec, bytes }))
    }
}

/// An encoded result.
#[derive(Clone)]
pub struct Encoded {
    pub(super) codec: CodecId<'static>,
    pub(super) bytes: Vec<u8>,
}

impl Encoded {
    /// What another codec wrote would never be read again here.
    pub(super) fn check(&self, format: &'static str) -> Result<(), ErrorKind> {
        codec::same(self.codec, format).map_err(ErrorKind::Codec)
    }
}

/// Shows the size, never the content.
impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encoded({} bytes)", self.bytes.len())
    }
}
