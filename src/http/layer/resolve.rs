//! Answers that were found out, by a policy or a person, for requests in doubt.

use std::time::SystemTime;

use bytes::Bytes;
use http::Response;

use super::answer::Answer;
use super::body::Whole;
use super::execute::for_answers;
use super::headers;
use crate::idempotency::{Codec, CodecError, Error, ErrorKind, Idempotency, Resolution, Resolved};
use crate::identity::RequestIdentity;
use crate::store::Store;

impl Resolution {
    /// Says that a request of an [`IdempotencyLayer`](super::IdempotencyLayer) was done, with this answer: for an
    /// [`Idempotency`] with no codec of its own.
    ///
    /// ```
    /// use oneflight::idempotency::{Recovery, Resolution};
    /// use oneflight::{Idempotency, MemoryStore};
    ///
    /// /// Looks the charge up at your payment provider.
    /// async fn find_charge(key: &str) -> Result<Option<String>, String> {
    ///     Ok(Some(format!("charged under {key}")))
    /// }
    ///
    /// let idem = Idempotency::builder(MemoryStore::new())
    ///     .recovery(Recovery::ask(|doubt| async move {
    ///         match find_charge(&doubt.downstream_key("charge")).await {
    ///             Ok(Some(charge)) => Resolution::answered(http::Response::new(charge)).unwrap_or(Resolution::Hold),
    ///             Ok(None) => Resolution::Rerun,
    ///             Err(_) => Resolution::Hold,
    ///         }
    ///     }))
    ///     .build();
    /// # let _ = idem;
    /// ```
    ///
    /// It has no trailers, so that it is none for clients of gRPC.
    ///
    /// # Errors
    ///
    /// The answer cannot be encoded.
    pub fn answered(answer: Response<impl Into<Bytes>>) -> Result<Self, CodecError> {
        Self::completed_with(&super::answer::plain(), &found_out(answer))
    }
}

impl<S: Store, C: Codec<Vec<u8>>> Idempotency<S, C> {
    /// Settles a request of an [`IdempotencyLayer`](crate::http::layer::IdempotencyLayer) that is in doubt, with the answer that was
    /// found out. This is [`resolve`](Self::resolve), for answers.
    ///
    /// # Errors
    ///
    /// As for [`resolve`](Self::resolve).
    ///
    /// # Cancel safety
    ///
    /// As for [`resolve`](Self::resolve).
    pub async fn resolve_answered(
        &self,
        id: &RequestIdentity,
        answer: Response<impl Into<Bytes>>,
    ) -> Result<Resolved, Error> {
        let answers = for_answers(self.clone());
        let resolution = Resolution::completed_with(answers.codec(), &found_out(answer));
        let failed = |error| Error::new(id.clone(), ErrorKind::Codec(error));
        answers.resolve(id, resolution.map_err(failed)?).await
    }
}

fn found_out(answer: Response<impl Into<Bytes>>) -> Answer {
    let (parts, body) = answer.into_parts();
    let bytes = body.into();
    Answer {
        status: parts.status,
        headers: headers::sorted(&parts.headers).shared,
        body: Some(Whole { bytes, trailers: None }),
        at: SystemTime::now(),
        held: Default::default(),
    }
}
