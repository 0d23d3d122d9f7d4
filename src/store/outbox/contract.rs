//! What a store with an outbox has to do: the [`OutboxStore`] trait.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::bell::Bell;
use super::message::{Cancelled, DeadLetter, MessageId, NewMessage, Postponed, Sent, StoredMessage};
use super::settlement::Settlement;
use super::shard::Shard;
use crate::store::error::StoreError;
use crate::store::transaction::TransactionalStore;

/// The number that outdates an earlier owner of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelayToken(i64);

impl RelayToken {
    /// Makes the token that a store has drawn.
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

/// How far a relay has read. What it says is the store's affair.
#[derive(Clone, PartialEq, Eq)]
pub struct Cursor(Arc<str>);

impl Cursor {
    /// Makes a cursor of a store's own words.
    #[must_use]
    pub fn new(words: impl Into<Arc<str>>) -> Self {
        Self(words.into())
    }

    /// Returns the words.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cursor").field(&self.0).finish()
    }
}

/// A sign of life of a relay, and what it wants.
#[derive(Clone, Debug)]
pub struct Beat {
    /// The set of relays that divide the shards among themselves.
    pub group: Arc<str>,
    /// Its token. `None` draws one: the relay joins.
    pub token: Option<RelayToken>,
    /// How many shards it wants to have in the end.
    pub share: u16,
    /// Shards that it gives back.
    pub gives_back: Vec<Shard>,
    /// Relays that showed no sign of life for a whole lease, on the watch of this one.
    pub dead: Vec<Peer>,
    /// How far it has read, to be told whether there is more.
    pub cursor: Option<Cursor>,
    /// The shards that it has read so far.
    pub shards: Vec<Shard>,
}

/// A relay as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its token.
    pub token: RelayToken,
    /// How often it has shown a sign of life. A number that does not change for a whole lease is that of a dead relay.
    pub beats: i64,
}

/// What a store answers to a [`Beat`].
#[derive(Clone, Debug)]
pub struct Beaten {
    /// The token of this relay.
    pub token: RelayToken,
    /// All shards that it has now.
    pub shards: Vec<Shard>,
    /// The other relays of its group.
    pub peers: Vec<Peer>,
    /// Whether there is something that it has not read.
    pub news: bool,
    /// In how long the next parked message is due.
    pub due_in: Option<Duration>,
    /// Where to begin to read shards that are new to it.
    pub start: Cursor,
    /// The topics of which nothing is delivered until they are resumed.
    pub paused: Vec<Arc<str>>,
}

/// Messages that a relay has not read yet.
#[derive(Debug)]
pub struct Page {
    /// In the order of their positions.
    pub messages: Vec<StoredMessage>,
    /// Where to go on.
    pub cursor: Cursor,
    /// Whether there is more up to where this reading goes. If not, the cursor says what comes next.
    pub more: bool,
    /// In how long the next parked message is due.
    pub due_in: Option<Duration>,
    /// Messages in these shards for which their ordering keys wait, and which are not where they were sent: they are
    /// parked, or have come back behind later ones. Only where reading begins, and then all of them, however many messages
    /// are read.
    pub blocked: Vec<Blocker>,
}

/// A message for which its ordering key waits, and which is not read in its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocker {
    /// Its number.
    pub id: MessageId,
    /// What kind of side effect it is. A relay without a target for that does not wait.
    pub topic: Arc<str>,
    /// What waits for it.
    pub ordering_key: Arc<str>,
}

/// What a store answers to a relay that takes messages. A message that is not named is taken.
#[derive(Debug, Default)]
pub struct Taken {
    /// Cancelled meanwhile: ended.
    pub cancelled: Vec<i64>,
    /// Postponed meanwhile: it comes back, in its place.
    pub postponed: Vec<i64>,
    /// Shards that this relay does not have any more. None of their messages is taken.
    pub lost: Vec<Shard>,
}

/// A store in whose transactions messages can be sent.
///
/// Every operation is atomic by itself. A message is never skipped, however late its transaction commits, nor read
/// again because of a transaction that takes long.
///
/// # Cancel safety
///
/// A caller may drop the future of any operation. The operation has then happened as a whole, or has not happened, or
/// happens as a whole later.
pub trait OutboxStore: TransactionalStore {
    /// Returns the bell that rings after commits in this process.
    fn bell(&self) -> &Bell;

    /// Adds messages to the transaction of this connection: they exist if it commits. Answers in their order.
    ///
    /// # Errors
    ///
    /// The transaction has failed, or its session may not write to the outbox.
    fn send_in(
        &self,
        connection: &mut Self::Connection,
        messages: Vec<NewMessage>,
    ) -> impl Future<Output = Result<Vec<Sent>, StoreError>> + Send;

    /// Cancels a message, unless it is too late for that: then it is delivered, or was.
    ///
    /// # Errors
    ///
    /// The store cannot be reached. The message may have been cancelled.
    fn cancel(&self, id: MessageId) -> impl Future<Output = Result<Cancelled, StoreError>> + Send;

    /// Has a message delivered no earlier than this long from now, unless it is too late for that.
    ///
    /// # Errors
    ///
    /// The store cannot be reached. The message may have been postponed.
    fn postpone(&self, id: MessageId, delay: Duration) -> impl Future<Output = Result<Postponed, StoreError>> + Send;

    /// Lists dead letters by their ids, after this one.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    fn dead_letters(
        &self,
        limit: usize,
        after: Option<MessageId>,
    ) -> impl Future<Output = Result<Vec<DeadLetter>, StoreError>> + Send;

    /// Has a dead letter tried again, as if for the first time and in its old place. Returns whether it was one.
    ///
    /// # Errors
    ///
    /// The store cannot be reached. The message may be tried.
    fn redrive(&self, id: MessageId) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Shows a sign of life of a relay, and divides the shards anew.
    ///
    /// # Errors
    ///
    /// The store cannot be reached. [`StoreError::RelayOutdated`] if the relay was taken for dead: it has to join anew.
    fn beat(&self, beat: Beat) -> impl Future<Output = Result<Beaten, StoreError>> + Send;

    /// Reads messages of these shards, up to some number of them, without
    /// [large payloads](super::PAGE_PAYLOAD_BYTES).
    ///
    /// # Errors
    ///
    /// The store cannot be reached. [`StoreError::RelayOutdated`] if the cursor is of another database than the one that
    /// answers: the relay has to join anew.
    fn fetch(
        &self,
        shards: &[Shard],
        cursor: &Cursor,
        until: Option<&Cursor>,
        limit: usize,
    ) -> impl Future<Output = Result<Page, StoreError>> + Send;

    /// Reads messages again, as a whole, that a relay did not keep in its memory.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    fn reload(&self, positions: &[i64]) -> impl Future<Output = Result<Vec<StoredMessage>, StoreError>> + Send;

    /// Records that a relay begins to deliver messages, named by ids and positions. From now on they cannot be cancelled.
    ///
    /// One that has come back under another position since it was read counts as postponed.
    ///
    /// # Errors
    ///
    /// The store cannot be reached. The messages may count as taken.
    fn take(
        &self,
        group: &str,
        token: RelayToken,
        shards: &[Shard],
        messages: &[(MessageId, i64)],
    ) -> impl Future<Output = Result<Taken, StoreError>> + Send;

    /// Records what became of messages that a relay had taken. Returns the shards that it does not have any more, if
    /// there are some among these: then nothing was recorded.
    ///
    /// # Errors
    ///
    /// The store cannot be reached. The settlement may have been recorded; recording it again does no harm.
    fn settle(
        &self,
        group: &str,
        token: RelayToken,
        shards: &[Shard],
        settlement: &Settlement,
    ) -> impl Future<Output = Result<Vec<Shard>, StoreError>> + Send;

    /// Ends a relay: its shards are free at once.
    ///
    /// # Errors
    ///
    /// The store cannot be reached. Others take the shards over when the lease is over.
    fn leave(&self, group: &str, token: RelayToken) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Brings back what was parked and is due, and gives back the room of messages that have ended. Returns whether
    /// there is more to do soon.
    ///
    /// # Errors
    ///
    /// The store cannot be reached, or something is left for the next time.
    fn keep_house(&self) -> impl Future<Output = Result<bool, StoreError>> + Send;
}
