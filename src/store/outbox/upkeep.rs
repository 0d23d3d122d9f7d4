//! What an operator does with an outbox: the [`OutboxUpkeep`] trait.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::contract::{OutboxStore, RelayToken};
use super::message::MessageId;
use crate::correlation::CorrelationId;
use crate::store::error::StoreError;

/// Where a message is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MessageState {
    /// It is to be delivered.
    Waiting,
    /// It is put aside until it is due.
    Parked,
    /// It will not be tried again unless it is redriven.
    Dead,
    /// It was delivered, was cancelled, or has expired, and is still kept.
    Ended,
}

/// Which messages are looked for. All conditions that are set have to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageQuery {
    /// The number.
    pub id: Option<MessageId>,
    /// The topic, whole.
    pub topic: Option<String>,
    /// The key under which a target recognises it.
    pub key: Option<String>,
    /// The ordering key.
    pub ordering_key: Option<String>,
    /// The id of the request that sent it.
    pub correlation_id: Option<CorrelationId>,
    /// The state.
    pub state: Option<MessageState>,
    /// The last message of the page before.
    pub after: Option<MessageId>,
    /// How many are returned at most.
    pub limit: usize,
}

/// A message, as an operator sees it: without its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageEntry {
    /// Its number.
    pub id: MessageId,
    /// What kind of side effect it is.
    pub topic: Arc<str>,
    /// The key under which a target recognises it.
    pub key: Arc<str>,
    /// Within what it is delivered in order.
    pub ordering_key: Option<Arc<str>>,
    /// Where it is on its way.
    pub state: MessageState,
    /// How often a relay has taken it, but for shutdowns.
    pub attempts: u32,
    /// The relay that took it last, if it was taken and has not told what became of it.
    pub taken_by: Option<RelayToken>,
    /// How long ago it was sent.
    pub age: Duration,
    /// In how long it is due, if it waits for that.
    pub due_in: Option<Duration>,
    /// In how long it expires, if it does. Zero if it has.
    pub expires_in: Option<Duration>,
    /// How long ago it ended.
    pub ended: Option<Duration>,
    /// What the last attempt said.
    pub error: Option<String>,
    /// Whether later messages of its ordering key wait for it although it is not where it was sent.
    pub blocks: bool,
    /// The names of the targets that have it already.
    pub done: Vec<String>,
    /// The id of the request that sent it.
    pub correlation_id: Option<CorrelationId>,
    /// The length of the payload.
    pub payload_bytes: usize,
}

/// How many messages of a topic there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicBacklog {
    /// The topic.
    pub topic: Arc<str>,
    /// Messages that are to be delivered.
    pub waiting: u64,
    /// Messages that are put aside until they are due.
    pub parked: u64,
    /// Dead letters.
    pub dead: u64,
    /// How long ago the oldest was sent that waits or is parked.
    pub oldest: Option<Duration>,
    /// Whether nothing of it is delivered until it is resumed.
    pub is_paused: bool,
}

/// A relay, as it last showed a sign of life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayEntry {
    /// Its token.
    pub token: RelayToken,
    /// The set of relays that divide the shards among themselves.
    pub group: Arc<str>,
    /// How often it has shown a sign of life. One whose number stands still for long is dead.
    pub beats: i64,
    /// How many shards it has.
    pub shards: u16,
}

const UNSUPPORTED: StoreError = StoreError::Unsupported {
    advice: "this outbox cannot be looked into; look at its dead letters",
};

/// An outbox that an operator can look into, and stop.
///
/// # Cancel safety
///
/// As for [`OutboxStore`].
pub trait OutboxUpkeep: OutboxStore {
    /// Lists messages by their ids, without a lock that a writer waits for.
    ///
    /// By its number, or those that are parked or dead, a page is found at once. In SQLite so is one of a topic and a state. For
    /// the rest, messages are read until the page is full, and all that are kept if it does not become so. In PostgreSQL, the
    /// states [`Waiting`](MessageState::Waiting) and [`Ended`](MessageState::Ended) have all messages and receipts read, as for
    /// [`backlog`](Self::backlog).
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    fn messages(&self, query: MessageQuery) -> impl Future<Output = Result<Vec<MessageEntry>, StoreError>> + Send {
        let _ = query;
        std::future::ready(Err(UNSUPPORTED))
    }

    /// Counts the messages of each topic, paused topics without one included, in the order of their names. No writer waits for
    /// it.
    ///
    /// In SQLite, it reads an index, some 20 bytes for each message that has not ended. In PostgreSQL, it reads all messages and
    /// receipts that are kept, payloads of less than 2 kB with them, on one of the three connections of the outbox's own.
    ///
    /// Of a million messages with 200 bytes each, this took 0.13 s in SQLite, and 0.35 s of a core in PostgreSQL; there, a million
    /// that have ended and are still kept add 1.5 s. So ask every minute, and not every second.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    fn backlog(&self) -> impl Future<Output = Result<Vec<TopicBacklog>, StoreError>> + Send {
        std::future::ready(Err(UNSUPPORTED))
    }

    /// Lists the relays that there are, and those that died and were not missed yet.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    fn relays(&self) -> impl Future<Output = Result<Vec<RelayEntry>, StoreError>> + Send {
        std::future::ready(Err(UNSUPPORTED))
    }

    /// Lists the topics that are paused, in the order of their names.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    fn paused(&self) -> impl Future<Output = Result<Vec<Arc<str>>, StoreError>> + Send {
        async {
            let backlog = self.backlog().await?;
            let paused = backlog.into_iter().filter(|it| it.is_paused);
            Ok(paused.map(|it| it.topic).collect())
        }
    }

    /// Has no relay deliver anything of a topic until it is [resumed](Self::resume). What is being delivered goes on, and a
    /// relay learns of it with its next sign of life, by the answer to its [beat](OutboxStore::beat). Returns whether the topic was not paused before.
    ///
    /// # Errors
    ///
    /// The store cannot be reached. The topic may be paused.
    fn pause(&self, topic: &str) -> impl Future<Output = Result<bool, StoreError>> + Send {
        let _ = topic;
        std::future::ready(Err(UNSUPPORTED))
    }

    /// Has relays deliver a topic again. Returns whether it was paused.
    ///
    /// # Errors
    ///
    /// The store cannot be reached. The topic may be resumed.
    fn resume(&self, topic: &str) -> impl Future<Output = Result<bool, StoreError>> + Send {
        let _ = topic;
        std::future::ready(Err(UNSUPPORTED))
    }
}
