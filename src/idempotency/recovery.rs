//! What to do about a request whose holder died: nobody knows what it did.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde::Serialize;

use super::codec;
use super::context::downstream_key;
use super::error::CodecError;
use crate::identity::RequestId;

type Asked = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// What to do about a request whose holder died, panicked, or lost its lease.
///
/// Work in a transaction is in doubt only if it ended the transaction itself, and then waits for a decision under every
/// policy but [`Ask`](Self::Ask). Other work is, and no policy can know what it did; the default
/// therefore is [`Refuse`](Self::Refuse): what may have been done once is not done again until somebody
/// who knows says so.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Recovery {
    /// Answer [`InDoubt`](super::Error::InDoubt) until it is [resolved](super::Idempotency::resolve). The default.
    #[default]
    Refuse,
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
    /// ```
    /// use oneflight::idempotency::{Answer, Idempotency, Recovery};
    /// use oneflight::store::MemoryStore;
    ///
    /// # async fn find_charge(key: &str) -> Option<String> { Some(key.to_owned()) }
    /// let idem = Idempotency::builder(MemoryStore::new())
    ///     .recovery(Recovery::ask(|doubt| async move {
    ///         match find_charge(&doubt.downstream_key("charge")).await {
    ///             Some(charge) => Answer::completed(&charge).unwrap_or(Answer::Refuse),
    ///             None => Answer::Rerun,
    ///         }
    ///     }))
    ///     .build();
    /// # let _ = idem;
    /// ```
    pub fn ask<F, A>(ask: F) -> Self
    where
        F: Fn(Doubt) -> A + Send + Sync + 'static,
        A: Future<Output = Answer> + Send + 'static,
    {
        Self::Ask(Arc::new(move |doubt| Box::pin(ask(doubt))))
    }
}

impl fmt::Debug for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refuse => "Refuse",
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
    pub id: RequestId,
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
pub enum Answer {
    /// It was done: record this result. Made by [`Answer::completed`].
    #[non_exhaustive]
    Completed(Encoded),
    /// It was not done, or may be done again: run the work, with the next attempt's number.
    Rerun,
    /// That is not known: answer [`InDoubt`](super::Error::InDoubt).
    Refuse,
}

impl Answer {
    /// It was done, and this is the result.
    ///
    /// # Errors
    ///
    /// When the value cannot be encoded.
    pub fn completed<T: Serialize + ?Sized>(value: &T) -> Result<Self, CodecError> {
        Ok(Self::Completed(Encoded(codec::encode(value)?)))
    }
}

/// An encoded result.
#[derive(Clone)]
pub struct Encoded(pub(super) Vec<u8>);

/// Shows the size, never the content.
impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encoded({} bytes)", self.0.len())
    }
}
