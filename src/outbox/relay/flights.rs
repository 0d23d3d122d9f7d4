//! Deliveries under way: a task for each batch, and what came of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::correlation;
use crate::outbox::delivery::{Delivery, DeliveryError};
use crate::outbox::target::AnyTarget;
use crate::store::outbox::MessageId;
use crate::timer::within;
use crate::unwind::catch;

/// What a target made of one message.
pub(super) struct Landed {
    pub(super) target: usize,
    pub(super) id: MessageId,
    /// Which taking of the message it was.
    pub(super) taking: u64,
    pub(super) answer: Result<(), DeliveryError>,
}

/// A message that some targets have not answered for yet.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) taking: u64,
    pub(super) waits_for: usize,
    pub(super) succeeded: Vec<usize>,
    pub(super) failures: Vec<DeliveryError>,
}

/// All deliveries of a relay.
pub(super) struct Flights {
    pub(super) of: HashMap<MessageId, Flight>,
    tasks: JoinSet<()>,
    sender: mpsc::UnboundedSender<Landed>,
    receiver: mpsc::UnboundedReceiver<Landed>,
}

impl Flights {
    pub(super) fn new() -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        Self {
            of: HashMap::new(),
            tasks: JoinSet::new(),
            sender,
            receiver,
        }
    }

    /// Begins a batch for one target.
    pub(super) fn begin(
        &mut self,
        number: usize,
        target: Arc<dyn AnyTarget>,
        limit: Duration,
        batch: Vec<(u64, Delivery)>,
    ) {
        let sender = self.sender.clone();
        self.tasks.spawn(async move {
            let ids: Vec<_> = batch
                .iter()
                .map(|(taking, delivery)| (*taking, delivery.id()))
                .collect();
            let current = batch.first().and_then(|(_, first)| first.correlation_id().cloned());
            let deliveries = batch.into_iter().map(|(_, delivery)| delivery).collect();
            // The logs of a batch of several have none of their ids.
            let current = current.filter(|_| ids.len() == 1);
            let delivers = correlation::carry(current, async move { target.deliver_all(deliveries).await });
            let mut answers = match within(limit, catch(delivers)).await {
                Some(Ok(answers)) => answers,
                Some(Err(_)) => ids
                    .iter()
                    .map(|_| Err(DeliveryError::retry("the target panicked")))
                    .collect(),
                None => {
                    let late = format!("the target has not answered within {limit:?}");
                    ids.iter().map(|_| Err(DeliveryError::retry(late.clone()))).collect()
                }
            }
            .into_iter();
            for (taking, id) in ids {
                let missing = || {
                    Err(DeliveryError::retry(
                        "the target gave no answer for this message of a batch",
                    ))
                };
                let answer = answers.next().unwrap_or_else(missing);
                // A relay that is gone does not listen.
                let _ = sender.send(Landed {
                    target: number,
                    id,
                    taking,
                    answer,
                });
            }
        });
    }

    /// Returns the next answer, if there is one.
    pub(super) fn try_next(&mut self) -> Option<Landed> {
        while self.tasks.try_join_next().is_some() {}
        self.receiver.try_recv().ok()
    }

    /// Waits for an answer.
    pub(super) async fn next(&mut self) -> Option<Landed> {
        self.receiver.recv().await
    }

    /// Ends all deliveries, wherever they are.
    pub(super) fn abort(&mut self) {
        self.tasks.abort_all();
    }
}
