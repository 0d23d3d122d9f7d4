//! The outbox without the rest: [`Outbox`], for transactions of the user's own.

use std::fmt;
use std::time::Duration;

use super::error::SendError;
use super::message::Message;
use crate::store::outbox::{AtEnd, Cancelled, DeadLetter, MessageId, Postponed, Sent};
use crate::store::{OutboxStore, StoreError};

/// The outbox of a store: for transactions of your own, and for operators.
///
/// In [`run_in_tx`](crate::Idempotency::run_in_tx), use [`Tx::send`](crate::Tx::send).
///
/// In SQLite, begin the transaction as one that writes (`pool.begin_with("BEGIN IMMEDIATE")`): one that has read first cannot
/// write while another one does, or has since.
///
/// ```
/// use oneflight::outbox::{Outbox, SendError};
/// use oneflight::store::OutboxStore;
/// use oneflight::Message;
///
/// /// `connection` is that of a transaction which you began.
/// async fn ship<S: OutboxStore>(outbox: &Outbox<S>, connection: &mut S::Connection) -> Result<(), SendError> {
///     let _ = outbox.send(connection, Message::text("parcel.label", "order 7")).await?;
///     // … commit, and then …
///     outbox.wake();
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Outbox<S> {
    pub(super) store: S,
}

impl<S: OutboxStore> Outbox<S> {
    /// Uses the outbox of a store.
    pub fn new(store: S) -> Self {
        Self { store }
    }

    /// Sends a message when the transaction of this connection commits. [Wake](Self::wake) the relay after that.
    ///
    /// # Errors
    ///
    /// [`SendError`] if the message is not valid, or if the store failed.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, it is not known whether the message is part of the transaction.
    pub async fn send(&self, connection: &mut S::Connection, message: Message) -> Result<Sent, SendError> {
        let sent = self.send_all(connection, [message]).await?;
        sent.first().copied().ok_or_else(SendError::unanswered)
    }

    /// Sends messages when the transaction of this connection commits, in one statement. Answers in their order.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send). If one message is not valid, none is sent.
    ///
    /// # Cancel safety
    ///
    /// As for [`send`](Self::send).
    pub async fn send_all(
        &self,
        connection: &mut S::Connection,
        messages: impl IntoIterator<Item = Message>,
    ) -> Result<Vec<Sent>, SendError> {
        let ready: Result<Vec<_>, _> = messages.into_iter().map(|message| message.ready(None)).collect();
        Ok(self.store.send_in(connection, ready?).await?)
    }

    /// Wakes the relays of this process, after a commit. Without it they find the messages when they next look.
    pub fn wake(&self) {
        self.store.bell().ring();
    }

    /// Cancels a message. If the answer is [`Cancelled::Cancelled`], it is never delivered.
    ///
    /// # Errors
    ///
    /// The store cannot be reached. The message may have been cancelled.
    pub async fn cancel(&self, id: MessageId) -> Result<Cancelled, StoreError> {
        let rings = AtEnd::of(self.store.bell());
        let cancelled = self.store.cancel(id).await;
        if cancelled.is_ok() {
            rings.over();
        }
        cancelled
    }

    /// Has a message delivered no earlier than this long from now.
    ///
    /// # Errors
    ///
    /// The store cannot be reached. The message may have been postponed.
    pub async fn postpone(&self, id: MessageId, delay: Duration) -> Result<Postponed, StoreError> {
        let rings = AtEnd::of(self.store.bell());
        let postponed = self.store.postpone(id, delay.min(Message::MAX_DELAY)).await;
        if postponed.is_ok() {
            rings.over();
        }
        postponed
    }

    /// Lists up to `limit` dead letters by their ids, after this one.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    pub async fn dead_letters(&self, limit: usize, after: Option<MessageId>) -> Result<Vec<DeadLetter>, StoreError> {
        self.store.dead_letters(limit, after).await
    }

    /// Has a dead letter tried again, as if for the first time. Returns whether it was one. To discard one instead,
    /// [`cancel`](Self::cancel) it.
    ///
    /// # Errors
    ///
    /// The store cannot be reached. The message may be tried.
    pub async fn redrive(&self, id: MessageId) -> Result<bool, StoreError> {
        let rings = AtEnd::of(self.store.bell());
        let redriven = self.store.redrive(id).await;
        if redriven.is_ok() {
            rings.over();
        }
        redriven
    }
}

impl<S> fmt::Debug for Outbox<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").finish_non_exhaustive()
    }
}
