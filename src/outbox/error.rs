//! Why a message was not sent: [`SendError`].

use std::error::Error;
use std::fmt;

use crate::store::StoreError;

/// Why a message was not sent. It names the topic, never the payload.
#[derive(Debug)]
pub struct SendError {
    kind: SendErrorKind,
}

/// What kind of reason it is.
#[derive(Debug)]
#[non_exhaustive]
pub enum SendErrorKind {
    /// The message cannot be sent like this. The transaction is as it was.
    Invalid {
        /// Of which topic it is.
        topic: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The payload could not be encoded. The transaction is as it was.
    NotEncodable {
        /// Of which topic it is.
        topic: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The store failed, and most likely the transaction with it.
    Store(StoreError),
}

impl SendError {
    pub(crate) fn invalid(topic: &str, what: &'static str) -> Self {
        let topic = topic.chars().take(80).collect();
        Self {
            kind: SendErrorKind::Invalid { topic, what },
        }
    }

    pub(crate) fn not_encodable(topic: String, source: serde_json::Error) -> Self {
        Self {
            kind: SendErrorKind::NotEncodable { topic, source },
        }
    }

    pub(crate) fn unanswered() -> Self {
        StoreError::Corrupt {
            what: "the store gave no answer to a message that was sent",
        }
        .into()
    }

    /// Returns what kind of reason it is.
    #[must_use]
    pub fn kind(&self) -> &SendErrorKind {
        &self.kind
    }
}

impl From<StoreError> for SendError {
    fn from(error: StoreError) -> Self {
        Self {
            kind: SendErrorKind::Store(error),
        }
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            SendErrorKind::Invalid { topic, what } => {
                write!(f, "a message of the topic {topic:?} cannot be sent: {what}")
            }
            SendErrorKind::NotEncodable { topic, .. } => write!(
                f,
                "the payload of a message of the topic {topic:?} could not be encoded as JSON; see its source, or send bytes"
            ),
            // It answered, in the user's own transaction: that is what is wrong most often.
            SendErrorKind::Store(StoreError::Unavailable { source }) => {
                write!(
                    f,
                    "the message was not sent, and the transaction cannot go on most likely: {source}"
                )
            }
            SendErrorKind::Store(error @ StoreError::Failed { .. }) => {
                write!(
                    f,
                    "the message was not sent, and the transaction cannot go on most likely: {error}"
                )
            }
            SendErrorKind::Store(error) => write!(f, "the store did not take the message: {error}"),
        }
    }
}

impl Error for SendError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.kind {
            SendErrorKind::Invalid { .. } => None,
            SendErrorKind::NotEncodable { source, .. } => Some(source),
            SendErrorKind::Store(error) => Some(error),
        }
    }
}
