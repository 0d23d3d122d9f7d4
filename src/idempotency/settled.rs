//! The value of a flight, which all its callers share.

use std::any::Any;
use std::sync::Arc;

use super::codec::{Codec, decode};
use super::codec_error::CodecError;
use super::error::{Effect, Error, ErrorKind};
use super::reply::{Origin, Reply};
use crate::group::Role;
use crate::identity::{Fingerprint, RequestIdentity};
use crate::record::{Decoded, RecordedResult};

/// A request that is settled: its result as recorded, and the value if it was decoded already.
///
/// Callers of one flight may ask for different types. A caller that asks for the leader's type gets the leader's value;
/// any other gets the recorded result, decoded as the type that it asked for.
#[derive(Clone)]
pub(super) struct Settled {
    value: Option<Arc<dyn Any + Send + Sync>>,
    result: RecordedResult,
    attempt: u32,
    ran: Ran,
}

/// What a flight comes to, and the fingerprint of the call that leads it.
pub(super) type Landed = (Option<Fingerprint>, Result<Settled, Error>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ran {
    /// This flight executed the work.
    Now,
    /// The result was recorded earlier.
    Earlier,
}

impl Settled {
    pub(super) fn executed(value: Option<Arc<dyn Any + Send + Sync>>, result: RecordedResult, attempt: u32) -> Self {
        Self {
            value,
            result,
            attempt,
            ran: Ran::Now,
        }
    }

    pub(super) fn replayed(result: RecordedResult, attempt: u32) -> Self {
        Self {
            value: None,
            result,
            attempt,
            ran: Ran::Earlier,
        }
    }

    /// Decodes the value once for all callers of the flight, if it can be decoded as the leader's type.
    pub(super) fn shared_as<T, C>(mut self, by: &C) -> Self
    where
        T: Send + Sync + 'static,
        C: Codec<T>,
    {
        if let (None, Ok(Decoded::Value { codec, payload, .. })) = (&self.value, self.result.decode())
            && let Ok(value) = decode(by, codec, payload)
        {
            self.value = Some(Arc::new(value));
        }
        self
    }

    /// Returns the reply for one caller.
    pub(super) fn reply<T, C>(self, by: &C, id: &RequestIdentity, role: Role) -> Result<Reply<T>, Error>
    where
        T: Send + Sync + 'static,
        C: Codec<T>,
    {
        let failed = |source| Error::codec(id, source, Effect::Done);
        let decoded = self.result.decode();
        let (verdict, codec, payload) = match decoded.map_err(|it| failed(CodecError::Layout(it)))? {
            Decoded::Value {
                verdict,
                codec,
                payload,
            } => (verdict, codec, payload),
            Decoded::TooLarge { size, limit } => {
                let limit = usize::try_from(limit).unwrap_or(usize::MAX);
                return Err(ErrorKind::ResultTooLarge { size, limit }
                    .of(id)
                    .with_effect(Effect::Done));
            }
            Decoded::NotEncodable => return Err(failed(CodecError::NotRecorded)),
        };
        let value = match self.value.map(Arc::downcast::<T>) {
            Some(Ok(value)) => value,
            Some(Err(_)) | None => Arc::new(decode(by, codec, payload).map_err(failed)?),
        };
        let origin = match (self.ran, role) {
            (Ran::Earlier, _) => Origin::Replayed,
            (Ran::Now, Role::Leader) => Origin::Executed,
            (Ran::Now, Role::Follower) => Origin::Collapsed,
        };
        Ok(Reply {
            value,
            origin,
            verdict,
            attempt: self.attempt,
            result: self.result,
        })
    }
}
