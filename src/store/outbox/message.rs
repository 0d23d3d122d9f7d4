//! A message as a store keeps it, and what a store says of one.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::shard::{SHARDS, Shard, shard_of};
use crate::backoff::random_u64;
use crate::correlation::CorrelationId;

/// The number of a message in its outbox. It is the same for as long as the message exists, and grows with the order in
/// which messages of one ordering key were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(i64);

impl MessageId {
    /// Makes the id that a store has drawn.
    #[must_use]
    pub fn new(number: i64) -> Self {
        Self(number)
    }

    /// Returns the number.
    #[must_use]
    pub fn get(self) -> i64 {
        self.0
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A W3C trace context's `traceparent`, as text of visible ASCII.
///
/// ```
/// use oneflight::store::outbox::TraceParent;
///
/// let parent = TraceParent::new("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")?;
/// assert_eq!(parent.as_str().len(), 55);
/// assert!(TraceParent::new("00-xyz").is_err());
/// # Ok::<(), oneflight::store::outbox::TraceParentError>(())
/// ```
///
/// The format is that of [W3C Trace Context, section 3.2](https://www.w3.org/TR/trace-context/#traceparent-header).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceParent(Arc<str>);

/// A text that is no `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParentError;

impl TraceParent {
    /// Validates a `traceparent`: version, trace id, parent id and flags, in lower-case hexadecimal digits.
    ///
    /// # Errors
    ///
    /// [`TraceParentError`] if the text has another form, or an id is zero.
    pub fn new(text: impl AsRef<str>) -> Result<Self, TraceParentError> {
        let text = text.as_ref();
        let mut parts = text.split('-');
        let mut part = |length: usize| {
            parts.next().filter(|part| {
                part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            })
        };
        let is_some_id = |id: &str| id.bytes().any(|byte| byte != b'0');
        match (part(2), part(32), part(16), part(2)) {
            (Some("ff"), ..) => Err(TraceParentError),
            (Some(_), Some(trace), Some(parent), Some(_))
                if text.len() == 55 && is_some_id(trace) && is_some_id(parent) =>
            {
                Ok(Self(text.into()))
            }
            _ => Err(TraceParentError),
        }
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TraceParentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the text is no traceparent of W3C Trace Context; pass the header on as it came, or leave it out")
    }
}

impl Error for TraceParentError {}

/// A message that is to be sent, with everything decided but its number.
#[derive(Clone)]
pub struct NewMessage {
    /// What kind of side effect it is.
    pub topic: Arc<str>,
    /// The key under which a target recognises it.
    pub key: Arc<str>,
    /// Whether a message of this topic with this key that is still kept takes its place.
    pub deduplicated: bool,
    /// Whether another transaction may be sending it under this key, so that both take turns. Under a key that is derived from
    /// a request none can, since the request is claimed.
    pub takes_turns: bool,
    /// Within what it is delivered in order.
    pub ordering_key: Option<Arc<str>>,
    /// The media type of the payload.
    pub content_type: Arc<str>,
    /// The payload.
    pub payload: Arc<[u8]>,
    /// Names and values for the target.
    pub headers: Vec<(String, String)>,
    /// The id that joins the logs of the request.
    pub correlation_id: Option<CorrelationId>,
    /// The trace that it is a part of.
    pub trace_parent: Option<TraceParent>,
    /// How long after now it is delivered at the earliest.
    pub delay: Option<Duration>,
    /// How long after now it is not delivered any more.
    pub expires_after: Option<Duration>,
}

impl NewMessage {
    /// Returns the shard of this message. Messages without an ordering key are spread at random.
    #[must_use]
    pub fn shard(&self) -> Shard {
        match &self.ordering_key {
            Some(key) => shard_of(key),
            None => Shard::new(u16::try_from(random_u64() % u64::from(SHARDS)).unwrap_or(0)),
        }
    }
}

/// Shows what is needed to find the message, never its payload.
impl fmt::Debug for NewMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewMessage")
            .field("topic", &self.topic)
            .field("bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

/// What became of a message that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a duplicate was not sent; if that is as good, say so by `let _ =`"]
pub enum Sent {
    /// It is part of the transaction.
    New(MessageId),
    /// A message of its topic with its key is there already. This is the id of that one, and nothing was added.
    Duplicate(MessageId),
}

impl Sent {
    /// Returns the id of the message that has the key.
    #[must_use]
    pub fn id(self) -> MessageId {
        match self {
            Self::New(id) | Self::Duplicate(id) => id,
        }
    }
}

/// The largest payload that is in a page, in bytes. A page of a thousand messages would else be as large as a gigabyte.
pub const PAGE_PAYLOAD_BYTES: usize = 16 * 1024;

/// A message as a relay gets it.
#[derive(Clone)]
pub struct StoredMessage {
    /// Its number, by which messages of one ordering key are in order.
    pub id: MessageId,
    /// Its place in the store, by which a relay names it. It changes when a message is parked and comes back.
    pub position: i64,
    /// Its shard.
    pub shard: Shard,
    /// How often a relay has taken it, but for shutdowns.
    pub attempts: u32,
    /// How long from now its pause lasts, if an earlier attempt failed.
    pub due_in: Option<Duration>,
    /// How long from now it may be delivered, if it expires.
    pub expires_in: Option<Duration>,
    /// It was cancelled where it kept its place in its ordering key, and only lets that key go on: it has expired by now.
    pub is_cancelled: bool,
    /// How long ago it was sent.
    pub age: Duration,
    /// The names of the targets that have it already.
    pub done: Vec<String>,
    /// What kind of side effect it is.
    pub topic: Arc<str>,
    /// The key under which a target recognises it.
    pub key: Arc<str>,
    /// Within what it is delivered in order.
    pub ordering_key: Option<Arc<str>>,
    /// The media type of the payload.
    pub content_type: Arc<str>,
    /// The payload. Empty in a page if it has more than [`PAGE_PAYLOAD_BYTES`].
    pub payload: Arc<[u8]>,
    /// The length of the payload.
    pub payload_bytes: usize,
    /// Names and values for the target.
    pub headers: Vec<(String, String)>,
    /// The id that joins the logs of the request.
    pub correlation_id: Option<CorrelationId>,
    /// The trace that it is a part of.
    pub trace_parent: Option<TraceParent>,
}

impl StoredMessage {
    /// Returns whether the payload is here.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.payload.len() == self.payload_bytes
    }
}

/// Shows what is needed to find the message, never its payload.
impl fmt::Debug for StoredMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredMessage")
            .field("id", &self.id)
            .field("topic", &self.topic)
            .field("attempts", &self.attempts)
            .field("bytes", &self.payload_bytes)
            .finish_non_exhaustive()
    }
}

/// What cancelling a message came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Cancelled {
    /// It will never be delivered.
    Cancelled,
    /// A relay has it, or it has ended, or there is no such message.
    TooLate,
}

/// What postponing a message came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Postponed {
    /// It will not be delivered before then.
    Postponed,
    /// A relay has it, or it has ended, or there is no such message.
    TooLate,
}

/// A message that will not be tried again unless it is redriven.
#[derive(Clone)]
pub struct DeadLetter {
    /// Its number.
    pub id: MessageId,
    /// What kind of side effect it is.
    pub topic: Arc<str>,
    /// The key under which a target recognises it.
    pub key: Arc<str>,
    /// Within what it is delivered in order.
    pub ordering_key: Option<Arc<str>>,
    /// How often it was tried.
    pub attempts: u32,
    /// What the last attempt said.
    pub error: String,
    /// Whether later messages of its ordering key wait for a decision.
    pub blocks: bool,
    /// The payload.
    pub payload: Arc<[u8]>,
}

/// Shows what is needed to find the message, never its payload.
impl fmt::Debug for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetter")
            .field("id", &self.id)
            .field("topic", &self.topic)
            .field("attempts", &self.attempts)
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}
