//! A message as its sender writes it: [`Message`].

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::error::SendError;
use crate::correlation::{self, CorrelationId};
use crate::random::random_uuid;
use crate::store::outbox::{NewMessage, TraceParent};

/// A side effect that is to happen if the transaction commits: a mail, a charge, a webhook.
///
/// ```
/// use oneflight::Message;
/// use std::time::Duration;
///
/// #[derive(serde::Serialize)]
/// struct Receipt {
///     order: u64,
/// }
///
/// let message = Message::new("mail.receipt", &Receipt { order: 7 })?
///     .ordering_key("order-7")
///     .not_before(Duration::from_secs(60))
///     .expires_after(Duration::from_secs(86_400));
/// # let _ = message;
/// # Ok::<(), oneflight::outbox::SendError>(())
/// ```
#[derive(Clone)]
#[must_use = "a message does nothing until it is sent"]
pub struct Message {
    topic: String,
    step: Option<String>,
    key: Option<String>,
    ordering_key: Option<String>,
    content_type: String,
    payload: Arc<[u8]>,
    headers: Vec<(String, String)>,
    correlation_id: Option<CorrelationId>,
    trace_parent: Option<TraceParent>,
    delay: Option<Duration>,
    expires_after: Option<Duration>,
}

impl Message {
    /// The maximum length of a topic, a key, an ordering key, and of a header's name, in bytes.
    pub const MAX_NAME_BYTES: usize = 255;
    /// The maximum length of a payload, in bytes.
    pub const MAX_PAYLOAD_BYTES: usize = 1024 * 1024;
    /// The maximum length of all headers, names and values, in bytes.
    pub const MAX_HEADER_BYTES: usize = 16 * 1024;
    /// The longest delay, and the latest expiry.
    pub const MAX_DELAY: Duration = Duration::from_secs(10 * 366 * 86_400);

    /// Makes a message whose payload is a value as JSON.
    ///
    /// # Errors
    ///
    /// [`SendError`] if the value cannot be encoded.
    pub fn new<T: Serialize + ?Sized>(topic: impl Into<String>, value: &T) -> Result<Self, SendError> {
        let topic = topic.into();
        match serde_json::to_vec(value) {
            Ok(payload) => Ok(Self::bytes(topic, "application/json", payload)),
            Err(error) => Err(SendError::not_encodable(topic, error)),
        }
    }

    /// Makes a message whose payload is a text.
    pub fn text(topic: impl Into<String>, text: impl Into<String>) -> Self {
        Self::bytes(topic, "text/plain; charset=utf-8", text.into().into_bytes())
    }

    /// Makes a message of bytes of this media type.
    pub fn bytes(topic: impl Into<String>, content_type: impl Into<String>, payload: impl Into<Arc<[u8]>>) -> Self {
        Self {
            topic: topic.into(),
            step: None,
            key: None,
            ordering_key: None,
            content_type: content_type.into(),
            payload: payload.into(),
            headers: Vec::new(),
            correlation_id: None,
            trace_parent: None,
            delay: None,
            expires_after: None,
        }
    }

    /// Delivers the messages of one ordering key one after the other, in the order in which they were sent.
    ///
    /// Transactions that send under the same ordering key take turns from there to their commit.
    pub fn ordering_key(mut self, key: impl Into<String>) -> Self {
        self.ordering_key = Some(key.into());
        self
    }

    /// Names the step of the work that sends this, from which its key is derived in
    /// [`Tx::send`](crate::Tx::send). The default is the topic. In a loop, let it name the round as well: a transaction sends
    /// each step once.
    pub fn step(mut self, step: impl Into<String>) -> Self {
        self.step = Some(step.into());
        self
    }

    /// Sets the key under which targets recognise this message. As long as a message of its topic with this key is kept, it
    /// is not sent again.
    ///
    /// The default is a key that is derived from the request and the step, or a random one outside of
    /// [`run_in_tx`](crate::Idempotency::run_in_tx).
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Delivers it no earlier than this long after it was sent, on the store's clock. Until then it can be cancelled.
    pub fn not_before(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// Drops it, and records that it has expired, if it was not delivered this long after it was sent. It has to be longer
    /// than [`not_before`](Self::not_before).
    pub fn expires_after(mut self, limit: Duration) -> Self {
        self.expires_after = Some(limit);
        self
    }

    /// Adds a name and a value for the target.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the correlation id. The default is the [current](correlation::current) one.
    pub fn correlation_id(mut self, id: CorrelationId) -> Self {
        self.correlation_id = Some(id);
        self
    }

    /// Sets the trace that the delivery is a part of.
    pub fn trace_parent(mut self, parent: TraceParent) -> Self {
        self.trace_parent = Some(parent);
        self
    }

    /// Returns the step, or the topic and how many without a step there were. Fails for a step that was there before, whose
    /// second message would count as a repetition of the first.
    pub(crate) fn step_or(&self, steps: &mut HashMap<Arc<str>, u32>) -> Result<String, SendError> {
        let step = self.step.as_ref().map(|step| format!("message step {step}"));
        let of = step.clone().unwrap_or_else(|| format!("of {}", self.topic));
        let count = steps.entry(of.into()).or_default();
        if step.is_some() && self.key.is_none() {
            if *count > 0 {
                return Err(SendError::invalid(
                    &self.topic,
                    "its step was sent before in this transaction; give each message a step of its own",
                ));
            }
            *count += 1;
        }
        if let Some(step) = step {
            return Ok(step);
        }
        *count += 1;
        Ok(format!("message {count} of {}", self.topic))
    }

    /// Decides what was left open.
    pub(crate) fn ready(self, derived_key: Option<&str>) -> Result<NewMessage, SendError> {
        self.check()?;
        let deduplicated = self.key.is_some() || derived_key.is_some();
        let key = match (&self.key, derived_key) {
            (Some(key), _) => key.as_str().into(),
            (None, Some(key)) => key.into(),
            (None, None) => random_uuid().into(),
        };
        Ok(NewMessage {
            topic: self.topic.into(),
            key,
            deduplicated,
            takes_turns: self.key.is_some(),
            ordering_key: self.ordering_key.map(Into::into),
            content_type: self.content_type.into(),
            payload: self.payload,
            headers: self.headers,
            correlation_id: self.correlation_id.or_else(correlation::current),
            trace_parent: self.trace_parent,
            delay: self.delay.filter(|delay| !delay.is_zero()),
            expires_after: self.expires_after,
        })
    }

    fn check(&self) -> Result<(), SendError> {
        let invalid = |what| Err(SendError::invalid(&self.topic, what));
        let names = [
            Some(&self.topic),
            self.key.as_ref(),
            self.ordering_key.as_ref(),
            Some(&self.content_type),
        ];
        for name in names
            .into_iter()
            .flatten()
            .chain(self.headers.iter().map(|(name, _)| name))
        {
            if name.is_empty() {
                return invalid("a topic, key, ordering key, content type or header name is empty");
            }
            if name.len() > Self::MAX_NAME_BYTES {
                return invalid("a topic, key, ordering key, content type or header name has more than 255 bytes");
            }
            if name.chars().any(char::is_control) {
                return invalid("a topic, key, ordering key, content type or header name has a control character");
            }
        }
        if self.topic.contains('*') {
            return invalid("the topic has an asterisk, which stands for the rest of a topic in what a relay delivers");
        }
        if self.payload.len() > Self::MAX_PAYLOAD_BYTES {
            return invalid("the payload has more than 1 MiB; store it elsewhere, and send where it is");
        }
        if self
            .headers
            .iter()
            .any(|(_, value)| value.chars().any(char::is_control))
        {
            return invalid("the value of a header has a control character");
        }
        if self
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum::<usize>()
            > Self::MAX_HEADER_BYTES
        {
            return invalid("the headers have more than 16 KiB");
        }
        if [self.delay, self.expires_after]
            .into_iter()
            .flatten()
            .any(|time| time > Self::MAX_DELAY)
        {
            return invalid("not_before or expires_after is more than ten years from now");
        }
        if let (Some(delay), Some(limit)) = (self.delay, self.expires_after)
            && delay >= limit
        {
            return invalid(
                "it would expire before it may be delivered: expires_after has to be longer than not_before",
            );
        }
        Ok(())
    }
}

/// Shows what is needed to find the message, never its payload.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("topic", &self.topic)
            .field("content_type", &self.content_type)
            .field("bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}
