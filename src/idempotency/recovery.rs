//! What to do about a request whose holder died, so that it is not known what it did.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::codec::{self, Codec};
use super::codec_error::CodecError;
use super::downstream::downstream_key;
use super::error::ErrorKind;
use crate::identity::RequestIdentity;
use crate::record::CodecId;

type Asked = Pin<Box<dyn Future<Output = Resolution> + Send>>;

/// The policy for a request whose holder died, panicked, lost its lease, or did [not know](super::Unknown) what it did.
///
/// The policy is asked when the lease of a dead holder has ended. After a panic, or work that does not know, it is
/// asked once what the work left has [settled](super::IdempotencyBuilder::settle): what the holder called may be at
/// work until then.
///
/// No policy can know what the work did. So the default is [`Hold`](Self::Hold): what may have been done once is not
/// done again until an operator who knows decides.
///
/// Work in a transaction is in doubt only if it ended the transaction itself. It then waits for a decision under every
/// policy but [`Ask`](Self::Ask).
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Recovery {
    /// Has every call fail with [`InDoubt`](super::ErrorKind::InDoubt) until the request is
    /// [resolved](super::Idempotency::resolve). The default.
    #[default]
    Hold,
    /// Runs the work again, as the next attempt, with the same [downstream keys](super::Context::downstream_key).
    ///
    /// This is right when everything that the work does is idempotent under these keys, or harmless when repeated.
    Rerun,
    /// Asks this function, which may look at the world. Made by [`Recovery::ask`].
    #[non_exhaustive]
    Ask(Arc<dyn Fn(Doubt) -> Asked + Send + Sync>),
}

impl Recovery {
    /// How long what an execution left is given to settle, where nothing else was set.
    pub(super) fn default_settle(&self, lease: Duration) -> Duration {
        match self {
            // This policy asks nothing. Other processes may have another policy, which only the user knows.
            Self::Hold => Duration::ZERO,
            Self::Rerun | Self::Ask(_) => lease,
        }
    }

    /// Makes a policy that asks a function, which may look at the world: does the payment exist under its downstream
    /// key?
    ///
    /// The function has as much time as the callers of the request wait. If it takes longer, the request is held this time,
    /// and the next call asks again. Several processes may ask at once.
    ///
    /// **Not found is not the same as not done.** A call that was cut off, by a time-out or a crash, may still land
    /// after the function has looked; the work is then run a second time. So the function must not look before nothing
    /// can land any more. When that is depends on what the work calls: on how long it goes on with a request whose
    /// client has gone. Set [`settle`](super::IdempotencyBuilder::settle) and the
    /// [lease](super::IdempotencyBuilder::lease) by that time.
    ///
    /// ```
    /// use oneflight::idempotency::{Recovery, Resolution};
    /// use oneflight::{Idempotency, MemoryStore};
    /// use std::time::Duration;
    ///
    /// /// Looks the charge up at your payment provider.
    /// async fn find_charge(key: &str) -> Result<Option<String>, String> {
    ///     Ok(Some(format!("charged under {key}")))
    /// }
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
    /// The attempt that ended without telling what it did, counted from 1.
    pub attempt: u32,
}

impl Doubt {
    /// Returns the key that the work sent downstream for this step.
    #[must_use]
    pub fn downstream_key(&self, step: impl AsRef<str>) -> String {
        downstream_key(&self.id, step.as_ref())
    }
}

/// What a policy or an operator found out about a request in doubt.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Resolution {
    /// It was done: record this result. Made by [`Resolution::completed`].
    #[non_exhaustive]
    Completed(Encoded),
    /// It was not done, or may be done again. The downstream keys stay the same.
    ///
    /// As the answer of a policy, it has the work run at once, as the next attempt. Given to
    /// [`resolve`](super::Idempotency::resolve), it makes the identity new: the work runs with the next call, and that is
    /// attempt 1.
    Rerun,
    /// It is not known whether it was done: the request stays in doubt, and a call that asked the policy fails with
    /// [`InDoubt`](super::ErrorKind::InDoubt).
    Hold,
}

impl Resolution {
    /// Says that the request was done, with this result, in JSON: for an [`Idempotency`](super::Idempotency) with no
    /// other codec.
    ///
    /// The type is not checked against what the work returns. If a call cannot read the value as its own type, it fails
    /// with [`CodecError::Decode`].
    ///
    /// # Errors
    ///
    /// The value cannot be encoded.
    pub fn completed<T: Serialize + ?Sized>(value: &T) -> Result<Self, CodecError> {
        let bytes = codec::encoded(|| Ok(serde_json::to_vec(value)?))?;
        let codec = CodecId::Json;
        Ok(Self::Completed(Encoded { codec, bytes }))
    }

    /// Says that the request was done, with this result, as this codec writes it: for an
    /// [`Idempotency`](super::Idempotency) that has [this codec](super::Idempotency::codec). One with another codec
    /// does not accept it, and the request stays in doubt. The type is not checked, as in
    /// [`completed`](Self::completed).
    ///
    /// # Errors
    ///
    /// The value cannot be encoded.
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
