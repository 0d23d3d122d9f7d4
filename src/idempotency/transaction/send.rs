//! Sending messages in the transaction of the work.

use std::sync::atomic::Ordering;

use super::Tx;
use crate::outbox::{Message, SendError};
use crate::store::OutboxStore;
use crate::store::outbox::Sent;

impl<S: OutboxStore> Tx<S> {
    /// Sends a message when this transaction commits, and not otherwise.
    ///
    /// This is one statement on the transaction's connection. A relay is woken after the commit.
    ///
    /// Unless the message has a key, it gets one that is derived from the request and from its
    /// [step](Message::step), the same however often the work is run again. Without a step, the topic is the step, and
    /// the second message of a topic has another key than the first.
    ///
    /// ```
    /// use oneflight::store::OutboxStore;
    /// use oneflight::{Error, Idempotency, Message, RequestIdentity};
    ///
    /// async fn place<S: OutboxStore>(idem: &Idempotency<S>, id: RequestIdentity) -> Result<(), Error> {
    ///     idem.run_in_tx(id, |mut tx| async move {
    ///         // … the order's own statements …
    ///         let _ = tx.send(Message::text("mail.receipt", "order 7").ordering_key("order-7")).await?;
    ///         Ok(())
    ///     })
    ///     .await?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`SendError`] if the message is not valid, or its step was sent before, in which cases the transaction is as it was; or
    /// if the store failed.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, it is not known whether the message is part of the transaction.
    pub async fn send(&mut self, message: Message) -> Result<Sent, SendError> {
        let sent = self.send_all([message]).await?;
        sent.first().copied().ok_or_else(SendError::unanswered)
    }

    /// Sends messages when this transaction commits, in one statement. Answers in their order.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send). If one message is not valid, none is sent.
    ///
    /// # Cancel safety
    ///
    /// As for [`send`](Self::send).
    pub async fn send_all(&mut self, messages: impl IntoIterator<Item = Message>) -> Result<Vec<Sent>, SendError> {
        let (mut ready, mut steps) = (Vec::new(), self.sending.steps.clone());
        for message in messages {
            let step = self.sending.known_as(message.step_or(&mut steps)?);
            ready.push(message.ready(Some(&self.context.downstream_key(step)))?);
        }
        self.sending.steps = steps;
        self.sending.bell.get_or_init(|| self.store.bell().clone());
        if let Some(used) = &self.used {
            used.store(true, Ordering::Release);
        }
        Ok(self.store.send_in(&mut self.open, ready).await?)
    }
}
