//! Where messages are delivered to: [`Target`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::delivery::{Delivery, DeliveryError};
use super::policy::{OnDead, Retry};

/// Where a relay delivers messages to. A function of a [`Delivery`] is one.
///
/// A delivery may come more than once, under the same [key](Delivery::key): a relay that dies between a delivery and
/// its receipt is followed by one that delivers again.
///
/// ```
/// use oneflight::outbox::{Delivery, DeliveryError, Target};
///
/// struct Console;
///
/// impl Target for Console {
///     async fn deliver(&self, delivery: Delivery) -> Result<(), DeliveryError> {
///         println!("{} under {}", delivery.topic(), delivery.key());
///         Ok(())
///     }
/// }
/// ```
pub trait Target: Send + Sync + 'static {
    /// Delivers one message.
    ///
    /// # Errors
    ///
    /// What became of it, if it was not delivered: see [`DeliveryError`].
    ///
    /// # Cancel safety
    ///
    /// The future is dropped when the time limit is over, when a stopping relay does not wait any longer, and when the
    /// relay has lost its lease.
    fn deliver(&self, delivery: Delivery) -> impl Future<Output = Result<(), DeliveryError>> + Send;

    /// Delivers several messages, of different ordering keys, at once, and answers in their order. What has no answer counts
    /// as failed. The time limit is that of all together, and if this panics, all have failed.
    ///
    /// It is asked for what there is, up to [`TargetOptions::batch`], but not for one message alone. The default answers
    /// `None`: each is [delivered](Self::deliver) by itself, one after the other, within a time limit of its own.
    ///
    /// ```
    /// use oneflight::outbox::{Delivery, DeliveryError, Target};
    ///
    /// struct Console;
    ///
    /// impl Target for Console {
    ///     async fn deliver(&self, delivery: Delivery) -> Result<(), DeliveryError> {
    ///         println!("{}", delivery.key());
    ///         Ok(())
    ///     }
    ///
    ///     async fn deliver_batch(&self, deliveries: Vec<Delivery>) -> Option<Vec<Result<(), DeliveryError>>> {
    ///         let keys: Vec<_> = deliveries.iter().map(Delivery::key).collect();
    ///         println!("{}", keys.join(" "));
    ///         Some(keys.iter().map(|_| Ok(())).collect())
    ///     }
    /// }
    /// ```
    fn deliver_batch(
        &self,
        deliveries: Vec<Delivery>,
    ) -> impl Future<Output = Option<Vec<Result<(), DeliveryError>>>> + Send {
        let _ = deliveries;
        async { None }
    }
}

impl<F, A> Target for F
where
    F: Fn(Delivery) -> A + Send + Sync + 'static,
    A: Future<Output = Result<(), DeliveryError>> + Send,
{
    async fn deliver(&self, delivery: Delivery) -> Result<(), DeliveryError> {
        self(delivery).await
    }
}

type Answering<'a, A> = Pin<Box<dyn Future<Output = A> + Send + 'a>>;
type Answer = Result<(), DeliveryError>;

/// A target without its type.
pub(super) trait AnyTarget: Send + Sync {
    fn deliver_one(&self, delivery: Delivery) -> Answering<'_, Answer>;

    fn deliver_all(&self, deliveries: Vec<Delivery>) -> Answering<'_, Option<Vec<Answer>>>;
}

impl<T: Target> AnyTarget for T {
    fn deliver_one(&self, delivery: Delivery) -> Answering<'_, Answer> {
        Box::pin(self.deliver(delivery))
    }

    fn deliver_all(&self, deliveries: Vec<Delivery>) -> Answering<'_, Option<Vec<Answer>>> {
        Box::pin(self.deliver_batch(deliveries))
    }
}

/// How a relay treats a target.
#[derive(Clone, Debug)]
#[must_use]
pub struct TargetOptions {
    pub(super) name: Option<Arc<str>>,
    pub(super) in_flight: usize,
    pub(super) batch: usize,
    pub(super) time_limit: Duration,
    pub(super) opens_after: u32,
    pub(super) longest_open: Duration,
    pub(super) retry: Retry,
    pub(super) on_dead: OnDead,
}

impl Default for TargetOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl TargetOptions {
    /// Makes the default options.
    pub fn new() -> Self {
        Self {
            name: None,
            in_flight: 64,
            batch: 1,
            time_limit: Duration::from_secs(30),
            opens_after: 10,
            longest_open: Duration::from_secs(60),
            retry: Retry::default(),
            on_dead: OnDead::Block,
        }
    }

    /// Names the target, in logs and where several targets get a topic: there, the name is how it is known which of them
    /// has a message already. So it has to be the same from deploy to deploy. The only target of a pattern, or the first, may
    /// do without.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Limits the number of messages that are being delivered at once. The default is 64.
    pub fn in_flight(mut self, messages: usize) -> Self {
        self.in_flight = messages.max(1);
        self
    }

    /// Delivers up to so many messages at once, by [`Target::deliver_batch`]. The default is 1.
    pub fn batch(mut self, messages: usize) -> Self {
        self.batch = messages.max(1);
        self
    }

    /// Limits the time of an attempt, or that of a whole [batch](Target::deliver_batch). The default is 30 s. It has nothing to do with the relay's lease, which is
    /// renewed meanwhile.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// Opens the circuit after so many failures in a row: nothing is delivered for a second, and then one message is tried.
    /// If that fails as well, the next pause is twice as long, up to [a limit](Self::longest_circuit_pause); if it succeeds, the
    /// circuit is closed. The default is 10. Final errors are no failures of the target.
    ///
    /// While nothing is delivered, nothing counts as an attempt. What is tried after a pause does: a message whose own fault it is
    /// that its target fails comes to an end. So let [`retry`](Self::retry) last longer than an outage: with the default it is
    /// some eight hours.
    pub fn circuit_breaker(mut self, failures: u32) -> Self {
        self.opens_after = failures.max(1);
        self
    }

    /// Limits how long a circuit is open before a message is tried again. The default is a minute. A target that is back is
    /// noticed so much later at most, and so often it is asked while it is away.
    pub fn longest_circuit_pause(mut self, pause: Duration) -> Self {
        self.longest_open = pause;
        self
    }

    /// Sets when a message is tried again, and how often. Where several targets get a topic, those of the first count.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Sets what becomes of an ordering key whose message is dead. The default is [`OnDead::Block`]. Where several
    /// targets get a topic, those of the first count.
    pub fn on_dead(mut self, on_dead: OnDead) -> Self {
        self.on_dead = on_dead;
        self
    }
}
