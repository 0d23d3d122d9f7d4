//! What a target gets, and what it answers: [`Delivery`], [`DeliveryError`].

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::error::SendError;
use super::message::Message;
use crate::correlation::CorrelationId;
use crate::store::outbox::{MessageId, StoredMessage, TraceParent};

/// A message on its way to a target. Cloning is cheap.
#[derive(Clone)]
pub struct Delivery {
    message: Arc<StoredMessage>,
    attempt: u32,
}

impl Delivery {
    pub(super) fn new(message: Arc<StoredMessage>, attempt: u32) -> Self {
        Self { message, attempt }
    }

    /// Makes the first delivery of a message, to test a target with.
    ///
    /// ```
    /// use oneflight::outbox::{Delivery, Target};
    /// use oneflight::Message;
    ///
    /// # async fn check(target: impl Target) -> Result<(), Box<dyn std::error::Error>> {
    /// let delivery = Delivery::to_test(Message::text("mail.receipt", "order 7").key("k"))?;
    /// assert!(target.deliver(delivery).await.is_ok());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`SendError`] if the message is not valid.
    pub fn to_test(message: Message) -> Result<Self, SendError> {
        let new = message.ready(None)?;
        let message = StoredMessage {
            id: MessageId::new(1),
            position: 1,
            shard: new.shard(),
            attempts: 0,
            due_in: None,
            expires_in: new.expires_after,
            is_cancelled: false,
            age: Duration::ZERO,
            done: Vec::new(),
            topic: new.topic,
            key: new.key,
            ordering_key: new.ordering_key,
            content_type: new.content_type,
            payload_bytes: new.payload.len(),
            payload: new.payload,
            headers: new.headers,
            correlation_id: new.correlation_id,
            trace_parent: new.trace_parent,
        };
        Ok(Self::new(Arc::new(message), 1))
    }

    /// Returns the id of the message in its outbox.
    #[must_use]
    pub fn id(&self) -> MessageId {
        self.message.id
    }

    /// Returns what kind of side effect it is.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.message.topic
    }

    /// Returns the idempotency key: the same for every delivery of this message. A target that has seen it has done
    /// its part.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.message.key
    }

    /// Returns within what it is delivered in order.
    #[must_use]
    pub fn ordering_key(&self) -> Option<&str> {
        self.message.ordering_key.as_deref()
    }

    /// Returns the media type of the payload.
    #[must_use]
    pub fn content_type(&self) -> &str {
        &self.message.content_type
    }

    /// Returns the payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.message.payload
    }

    /// Returns the payload, shared.
    #[must_use]
    pub fn shared_payload(&self) -> Arc<[u8]> {
        Arc::clone(&self.message.payload)
    }

    /// Reads the payload as JSON.
    ///
    /// ```
    /// use oneflight::outbox::{Delivery, DeliveryError};
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Receipt {
    ///     order: u64,
    /// }
    ///
    /// async fn mail(delivery: Delivery) -> Result<(), DeliveryError> {
    ///     let receipt: Receipt = delivery.json()?; // A payload that cannot be read is not tried again.
    ///     println!("order {}", receipt.order);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// A final [`DeliveryError`] if the payload is no JSON of that form.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, DeliveryError> {
        serde_json::from_slice(self.payload()).map_err(DeliveryError::rejected)
    }

    /// Returns names and values for the target.
    #[must_use]
    pub fn headers(&self) -> &[(String, String)] {
        &self.message.headers
    }

    /// Returns the id that joins the logs of the request that sent it.
    #[must_use]
    pub fn correlation_id(&self) -> Option<&CorrelationId> {
        self.message.correlation_id.as_ref()
    }

    /// Returns the trace that it is a part of.
    #[must_use]
    pub fn trace_parent(&self) -> Option<&TraceParent> {
        self.message.trace_parent.as_ref()
    }

    /// Returns the number of this attempt, from 1. An attempt that a shutdown cut short is not counted.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }
}

/// Shows what is needed to find the message, never its payload.
impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("id", &self.id())
            .field("topic", &self.topic())
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

/// Why a delivery failed, and whether it is tried again.
///
/// Any [`std::error::Error`] becomes one by `?`, and is tried again. What will never succeed is
/// [`rejected`](Self::rejected).
pub struct DeliveryError {
    reason: Box<dyn Error + Send + Sync>,
    pub(super) is_final: bool,
    pub(super) retry_after: Option<Duration>,
}

impl DeliveryError {
    /// Has the message tried again after a pause.
    pub fn retry(reason: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            reason: reason.into(),
            is_final: false,
            retry_after: None,
        }
    }

    /// Makes the message a dead letter at once.
    pub fn rejected(reason: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            is_final: true,
            ..Self::retry(reason)
        }
    }

    /// Sets the pause before the next attempt, as `Retry-After` asks for it.
    #[must_use]
    pub fn after(mut self, pause: Duration) -> Self {
        self.retry_after = Some(pause);
        self
    }

    /// Returns whether the message is not tried again.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.is_final
    }

    /// Returns the reason.
    #[must_use]
    pub fn reason(&self) -> &(dyn Error + 'static) {
        &*self.reason
    }

    /// The reason with its causes, in one line.
    pub(super) fn told(&self) -> String {
        let mut told = self.reason.to_string();
        let mut cause = self.reason.source();
        while let Some(next) = cause {
            let text = next.to_string();
            if !told.contains(&text) {
                told.push_str(": ");
                told.push_str(&text);
            }
            cause = next.source();
        }
        told
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for DeliveryError {
    fn from(error: E) -> Self {
        Self::retry(error)
    }
}

impl fmt::Debug for DeliveryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeliveryError")
            .field("reason", &self.reason)
            .field("is_final", &self.is_final)
            .field("retry_after", &self.retry_after)
            .finish()
    }
}
