//! Deliveries that are being made, each batch in a task of its own.
//!
//! A delivery is dropped when its message is not this relay's any more, and when the relay has shown no sign of life for a
//! lease: others may have taken over then, and would deliver beside it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::correlation;
use crate::outbox::delivery::{Delivery, DeliveryError};
use crate::outbox::target::AnyTarget;
use crate::store::outbox::{MessageId, Shard};
use crate::timer::within;
use crate::unwind::{catch, quietly};

/// What a target made of one message.
pub(super) struct Landed {
    pub(super) target: usize,
    pub(super) id: MessageId,
    /// Which taking of the message it was.
    pub(super) taking: u64,
    /// `None` if the delivery was dropped, or not begun.
    pub(super) answer: Option<Result<(), Failure>>,
}

/// Why a target did not take a message. It is made where the delivery was: the text of an error and its destructor are code of the
/// user's, and may panic.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) told: String,
    pub(super) is_final: bool,
    pub(super) retry_after: Option<Duration>,
}

impl From<DeliveryError> for Failure {
    fn from(error: DeliveryError) -> Self {
        let (is_final, retry_after) = (error.is_final, error.retry_after);
        let mut told = None;
        quietly(|| told = Some(error.told()));
        quietly(|| drop(error));
        Self {
            told: told.unwrap_or_else(|| "the error of the target panicked when it was asked for its text".to_owned()),
            is_final,
            retry_after,
        }
    }
}

/// Tells what became of the messages of a batch, one after the other: of all of them, also where the task is ended by a
/// destructor of the target's.
struct Tells {
    target: usize,
    left: VecDeque<(MessageId, u64)>,
    sender: mpsc::UnboundedSender<Landed>,
}

impl Tells {
    fn tell(&mut self, answer: Option<Result<(), Failure>>) {
        if let Some((id, taking)) = self.left.pop_front() {
            // A relay that is gone does not listen.
            let _ = self.sender.send(Landed {
                target: self.target,
                id,
                taking,
                answer,
            });
        }
    }
}

impl Drop for Tells {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell(Some(Err(panicked().into())));
        }
        while !self.left.is_empty() {
            self.tell(None);
        }
    }
}

/// A message that some targets have not answered for yet. Its deliveries are dropped with it.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) taking: u64,
    pub(super) shard: Shard,
    pub(super) waits_for: usize,
    pub(super) succeeded: Vec<usize>,
    pub(super) failures: Vec<Failure>,
    /// A delivery was dropped, or a target was not asked.
    pub(super) is_cut: bool,
    _holds: watch::Sender<()>,
}

/// One message for one target.
#[derive(Clone)]
pub(super) struct Outbound {
    pub(super) taking: u64,
    pub(super) delivery: Delivery,
    leash: Leash,
}

/// Tells a delivery that it must not go on.
#[derive(Clone)]
struct Leash {
    held: watch::Receiver<()>,
    lease: watch::Receiver<Instant>,
}

/// All deliveries of a relay.
pub(super) struct Flights {
    pub(super) of: HashMap<MessageId, Flight>,
    tasks: JoinSet<()>,
    sender: mpsc::UnboundedSender<Landed>,
    receiver: mpsc::UnboundedReceiver<Landed>,
    /// Until when nobody else can have taken over.
    lease: watch::Sender<Instant>,
}

impl Leash {
    /// Is over when the delivery must not go on.
    async fn is_cut(&mut self) {
        loop {
            let until = *self.lease.borrow_and_update();
            if until <= Instant::now() {
                return;
            }
            tokio::select! {
                // It is never sent to.
                _ = self.held.changed() => return,
                changed = self.lease.changed() => if changed.is_err() {
                    return;
                },
                () = sleep_until(until) => {}
            }
        }
    }
}

impl Flights {
    pub(super) fn new() -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        Self {
            of: HashMap::new(),
            tasks: JoinSet::new(),
            sender,
            receiver,
            lease: watch::Sender::new(Instant::now()),
        }
    }

    /// Lets deliveries go on until then.
    pub(super) fn renew(&self, until: Instant) {
        self.lease.send_replace(until);
    }

    /// Notes a message that so many targets are to get, and returns what each of them gets. Others may be left out.
    pub(super) fn add(
        &mut self,
        taking: u64,
        shard: Shard,
        delivery: Delivery,
        targets: usize,
        leaves_out: bool,
    ) -> Vec<Outbound> {
        let (holds, held) = watch::channel(());
        let lease = self.lease.subscribe();
        let leash = Leash { held, lease };
        let flight = Flight {
            taking,
            shard,
            waits_for: targets,
            succeeded: Vec::new(),
            failures: Vec::new(),
            is_cut: leaves_out,
            _holds: holds,
        };
        self.of.insert(delivery.id(), flight);
        let outbound = Outbound {
            taking,
            delivery,
            leash,
        };
        vec![outbound; targets]
    }

    /// Begins a batch for one target.
    pub(super) fn begin(&mut self, target: usize, to: Arc<dyn AnyTarget>, limit: Duration, batch: Vec<Outbound>) {
        let mut tells = Tells {
            target,
            left: batch.iter().map(|it| (it.delivery.id(), it.taking)).collect(),
            sender: self.sender.clone(),
        };
        self.tasks.spawn(async move {
            if batch.len() > 1
                && let Some(answers) = together(&*to, limit, &batch).await
            {
                answers.into_iter().for_each(|answer| tells.tell(answer));
                return;
            }
            for outbound in batch {
                let answer = alone(&*to, limit, outbound).await;
                tells.tell(answer);
            }
        });
    }

    /// Returns the next answer, if there is one.
    pub(super) fn try_next(&mut self) -> Option<Landed> {
        while let Some(ended) = self.tasks.try_join_next() {
            quietly(|| drop(ended));
        }
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

/// Delivers one message.
async fn alone(to: &dyn AnyTarget, limit: Duration, outbound: Outbound) -> Option<Result<(), Failure>> {
    let Outbound {
        delivery, mut leash, ..
    } = outbound;
    let current = delivery.correlation_id().cloned();
    let delivers = correlation::carry(current, async move { to.deliver_one(delivery).await });
    tokio::select! {
        biased;
        () = leash.is_cut() => None,
        answer = within(limit, catch(delivers)) => Some(match answer {
            Some(Ok(answer)) => answer.map_err(Failure::from),
            Some(Err(panic)) => {
                quietly(|| drop(panic));
                Err(panicked().into())
            }
            None => Err(late(limit).into()),
        }),
    }
}

/// Delivers several messages at once, if the target does that. It goes on as long as one of them may.
async fn together(to: &dyn AnyTarget, limit: Duration, batch: &[Outbound]) -> Option<Vec<Option<Result<(), Failure>>>> {
    let deliveries = batch.iter().map(|it| it.delivery.clone()).collect();
    let mut leashes: Vec<Leash> = batch.iter().map(|it| it.leash.clone()).collect();
    let are_cut = async {
        for leash in &mut leashes {
            leash.is_cut().await;
        }
    };
    // The logs of several messages have none of their ids.
    let delivers = correlation::carry(None, async move { to.deliver_all(deliveries).await });
    let each = |error: fn(Duration) -> DeliveryError| batch.iter().map(|_| Some(Err(error(limit).into()))).collect();
    tokio::select! {
        biased;
        () = are_cut => Some(batch.iter().map(|_| None).collect()),
        answers = within(limit, catch(delivers)) => match answers {
            Some(Ok(answers)) => {
                let mut answers = answers?.into_iter();
                let mut next = || answers.next().unwrap_or_else(|| Err(missing()));
                Some(batch.iter().map(|_| Some(next().map_err(Failure::from))).collect())
            }
            Some(Err(panic)) => {
                quietly(|| drop(panic));
                Some(each(|_| panicked()))
            }
            None => Some(each(late)),
        },
    }
}

fn panicked() -> DeliveryError {
    DeliveryError::retry("the target panicked")
}

fn late(limit: Duration) -> DeliveryError {
    DeliveryError::retry(format!("the target has not answered within {limit:?}"))
}

fn missing() -> DeliveryError {
    DeliveryError::retry("the target gave no answer for this message of a batch")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::Message;

    fn flights() -> (Flights, Vec<Outbound>) {
        let mut flights = Flights::new();
        flights.renew(Instant::now() + Duration::from_secs(15));
        let delivery = Delivery::to_test(Message::text("t", "one")).unwrap();
        let all = flights.add(1, Shard::new(0), delivery, 2, false);
        (flights, all)
    }

    fn hangs() -> Arc<dyn AnyTarget> {
        Arc::new(|_: Delivery| std::future::pending::<Result<(), DeliveryError>>())
    }

    #[tokio::test(start_paused = true)]
    async fn a_delivery_is_dropped_a_lease_after_the_last_sign_of_life() {
        let (mut flights, all) = flights();
        flights.begin(0, hangs(), Duration::from_secs(600), all);
        let begun = Instant::now();
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(flights.try_next().is_none());
        flights.renew(begun + Duration::from_secs(25));
        assert!(flights.next().await.unwrap().answer.is_none());
        assert_eq!(begun.elapsed().as_secs(), 25);
        // The next one of the batch is not begun.
        assert!(flights.next().await.unwrap().answer.is_none());
        assert_eq!(begun.elapsed().as_secs(), 25);
    }

    #[tokio::test(start_paused = true)]
    async fn a_delivery_is_dropped_with_its_message() {
        let (mut flights, all) = flights();
        flights.begin(0, hangs(), Duration::from_secs(600), all);
        tokio::time::sleep(Duration::from_secs(1)).await;
        flights.of.clear();
        assert!(flights.next().await.unwrap().answer.is_none());
        assert!(flights.next().await.unwrap().answer.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn each_of_a_batch_has_the_whole_time_and_a_panic_of_its_own() {
        let (mut flights, all) = flights();
        let first = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let target = move |_: Delivery| {
            let is_first = first.swap(false, std::sync::atomic::Ordering::SeqCst);
            async move {
                tokio::time::sleep(Duration::from_secs(4)).await;
                if is_first {
                    std::panic::resume_unwind(Box::new("a target of the test"));
                }
                Ok::<(), DeliveryError>(())
            }
        };
        flights.begin(0, Arc::new(target), Duration::from_secs(5), all);
        let told = flights.next().await.unwrap().answer.unwrap().unwrap_err().told;
        assert!(told.contains("panicked"), "{told}");
        assert!(flights.next().await.unwrap().answer.unwrap().is_ok());
    }

    /// Panics as it is shown and as it is dropped.
    #[derive(Debug)]
    struct Wild;

    impl std::fmt::Display for Wild {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            Err(std::fmt::Error)
        }
    }

    impl std::error::Error for Wild {}

    impl Drop for Wild {
        fn drop(&mut self) {
            std::panic::resume_unwind(Box::new("a destructor of the test"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_whose_text_and_destructor_panic_is_a_failure_like_any_other() {
        let (mut flights, all) = flights();
        let target = |_: Delivery| async { Err::<(), _>(DeliveryError::rejected(Wild)) };
        flights.begin(0, Arc::new(target), Duration::from_secs(5), all);
        for _ in 0..2 {
            let failure = flights.next().await.unwrap().answer.unwrap().unwrap_err();
            assert!(failure.is_final && failure.told.contains("panicked"), "{failure:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_delivery_that_panics_as_it_is_dropped_has_failed_and_the_rest_of_its_batch_is_given_back() {
        let (mut flights, all) = flights();
        let target = |_: Delivery| async {
            let _wild = Wild;
            std::future::pending::<Result<(), DeliveryError>>().await
        };
        flights.begin(0, Arc::new(target), Duration::from_secs(5), all);
        let failure = flights.next().await.unwrap().answer.unwrap().unwrap_err();
        assert!(!failure.is_final && failure.told.contains("panicked"), "{failure:?}");
        assert!(flights.next().await.unwrap().answer.is_none());
        assert!(flights.try_next().is_none());
    }
}
