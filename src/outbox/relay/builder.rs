//! How a relay is made: [`Relay`], [`RelayBuilder`].

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::handle::{Board, RelayHandle};
use super::routes::{Clash, Routes, is_pattern};
use super::run::Runner;
use super::settings::{OnDeadLetter, Settings};
use crate::outbox::target::{Target, TargetOptions};
use crate::store::OutboxStore;
use crate::store::outbox::DeadLetter;
use crate::telemetry;

/// Delivers the messages of an outbox. Any number of processes may have one; they divide the messages.
///
/// ```
/// use oneflight::outbox::{Delivery, DeliveryError, Relay, RelayBuildError};
/// use oneflight::store::OutboxStore;
///
/// async fn mail(delivery: Delivery) -> Result<(), DeliveryError> {
///     println!("{}: {} bytes", delivery.key(), delivery.payload().len());
///     Ok(())
/// }
///
/// async fn serve<S: OutboxStore + Clone>(store: &S) -> Result<(), RelayBuildError> {
///     let relay = Relay::builder(store.clone()).target("mail.*", mail).build()?.spawn();
///     // … serve requests, until it is time to stop …
///     relay.stop().await;
///     Ok(())
/// }
/// ```
#[must_use = "a relay does nothing until it runs"]
pub struct Relay<S> {
    store: Arc<S>,
    settings: Settings,
    routes: Routes,
}

/// Makes a [`Relay`].
#[must_use = "a builder makes nothing by itself"]
pub struct RelayBuilder<S> {
    relay: Relay<S>,
    wrong: Option<RelayBuildError>,
}

/// How long a lease may be.
const LEASES: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(86_400);

/// Why a relay was not made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RelayBuildError {
    /// It has no target.
    NoTarget,
    /// This cannot be the name of a group.
    Group(Arc<str>),
    /// This cannot be the length of a lease.
    Lease(Duration),
    /// This is no pattern of topics.
    Pattern(String),
    /// This pattern has a second target without a name. What each of them has is kept under its name.
    Unnamed(String),
    /// This pattern has two targets of one name. What each of them has is kept under its name.
    SameName(String),
}

impl fmt::Display for RelayBuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTarget => f.write_str("the relay has no target; add one with `target`"),
            Self::Group(group) => write!(
                f,
                "the group {:?} is empty, has more than 255 bytes, or has a control character",
                group.chars().take(80).collect::<String>()
            ),
            Self::Lease(lease) => write!(f, "a lease of {lease:?} is shorter than 100 ms or longer than a day"),
            Self::Pattern(pattern) => write!(
                f,
                "{pattern:?} is no pattern; write a topic, or the beginning of topics with an asterisk at its end"
            ),
            Self::Unnamed(pattern) => write!(
                f,
                "{pattern:?} has more than one target, and one of them has no name; set `TargetOptions::name`, and keep it from \
                 deploy to deploy"
            ),
            Self::SameName(pattern) => write!(f, "{pattern:?} has two targets of one name; give each its own"),
        }
    }
}

impl Error for RelayBuildError {}

impl<S: OutboxStore> Relay<S> {
    /// Begins to make a relay of this store.
    pub fn builder(store: S) -> RelayBuilder<S> {
        RelayBuilder {
            relay: Self {
                store: Arc::new(store),
                settings: Settings {
                    group: "default".into(),
                    lease: Duration::from_secs(15),
                    grace: Duration::from_secs(20),
                    buffer: 5000,
                    buffer_bytes: 64 * 1024 * 1024,
                    park_after: Duration::from_secs(30),
                    on_dead_letter: OnDeadLetter::default(),
                },
                routes: Routes::default(),
            },
            wrong: None,
        }
    }

    /// Delivers until `shutdown` is over, and then stops as [`RelayHandle::stop`] says.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, its deliveries are too. They count as attempts, and another relay takes over when the
    /// lease is over.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let (stop, stopped) = watch::channel(false);
        let mut runs =
            std::pin::pin!(Runner::new(self.store, self.settings, self.routes, Arc::default(), stopped).run());
        tokio::select! {
            () = &mut runs => return,
            () = shutdown => {}
        }
        stop.send_replace(true);
        runs.await;
    }

    /// Delivers in a task of its own.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    #[must_use = "the handle stops the relay"]
    pub fn spawn(self) -> RelayHandle {
        let (stop, stopped) = watch::channel(false);
        let board = Arc::<Board>::default();
        let task = tokio::spawn(Runner::new(self.store, self.settings, self.routes, Arc::clone(&board), stopped).run());
        RelayHandle { board, stop, task }
    }
}

impl<S: OutboxStore> RelayBuilder<S> {
    /// Delivers the messages of a topic, or of all topics that begin like a pattern (`mail.*`), to a target.
    ///
    /// The longest pattern that fits has a topic. Several targets of one pattern get each of its messages, and their
    /// progress is kept for each, under its [name](TargetOptions::name), which all but the first have to have. Topics that no pattern fits are left alone, for another
    /// [group](Self::group).
    pub fn target(self, pattern: impl AsRef<str>, target: impl Target) -> Self {
        self.target_with(pattern, target, TargetOptions::new())
    }

    /// The same with options.
    pub fn target_with(mut self, pattern: impl AsRef<str>, target: impl Target, options: TargetOptions) -> Self {
        let pattern = pattern.as_ref();
        match is_pattern(pattern) {
            true => match self.relay.routes.add(pattern, Arc::new(target), options) {
                Ok(()) => {}
                Err(Clash::Unnamed) => self.wrong = Some(RelayBuildError::Unnamed(pattern.to_owned())),
                Err(Clash::SameName) => self.wrong = Some(RelayBuildError::SameName(pattern.to_owned())),
            },
            false => self.wrong = Some(RelayBuildError::Pattern(pattern.to_owned())),
        }
        self
    }

    /// Names the set of relays that this one divides the outbox with. The default is `default`.
    ///
    /// All relays of a group should have targets for the same topics. If a service handles only some topics, give it
    /// a group of its own; no topic may have targets in two groups, or it is delivered by both.
    pub fn group(mut self, group: impl Into<Arc<str>>) -> Self {
        self.relay.settings.group = group.into();
        self
    }

    /// Sets after which time without a sign of life the others take this relay for dead. The default is 15 s. It has
    /// nothing to do with how long a delivery takes.
    ///
    /// A relay shows three signs of life in this time, which is all that it asks of an idle store. It has to be 100 ms at
    /// least, and a day at most.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.relay.settings.lease = lease;
        self
    }

    /// Sets how long a relay that stops waits for deliveries. The default is 20 s.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.relay.settings.grace = grace;
        self
    }

    /// Limits the messages that it holds in memory with their payloads before they are delivered: how many, and how many
    /// bytes. The default is 5,000 and 64 MiB. Messages that wait for long, or behind one that does, or that are larger than
    /// 16 KiB, are held without, and read again when they are delivered: then there are as many bytes again at most, but for
    /// one message of each pattern.
    pub fn buffer(mut self, messages: usize, bytes: usize) -> Self {
        (self.relay.settings.buffer, self.relay.settings.buffer_bytes) = (messages.max(1), bytes.max(1));
        self
    }

    /// Sets from which pause on a message is set aside in the store, where it keeps no room from being given back. The
    /// default is 30 s.
    pub fn park_after(mut self, pause: Duration) -> Self {
        self.relay.settings.park_after = pause;
        self
    }

    /// Sets what is told of each message that becomes a dead letter, once that is recorded.
    ///
    /// It is called by the relay's task, so it should only pass on what it is told, such as to a channel. A relay that dies
    /// at that moment tells nobody: what is dead is listed by [`Outbox::dead_letters`](crate::outbox::Outbox::dead_letters).
    /// A second call replaces the first.
    ///
    /// ```
    /// use oneflight::outbox::RelayBuilder;
    /// use oneflight::store::OutboxStore;
    ///
    /// fn alert<S: OutboxStore>(builder: RelayBuilder<S>, pager: tokio::sync::mpsc::UnboundedSender<String>) -> RelayBuilder<S> {
    ///     builder.on_dead_letter(move |letter| {
    ///         let _ = pager.send(format!("{} of {} is dead: {}", letter.id, letter.topic, letter.error));
    ///     })
    /// }
    /// ```
    ///
    /// # Panics
    ///
    /// A panic of `tell` is reported by the panic hook, and the relay goes on.
    pub fn on_dead_letter(mut self, tell: impl Fn(&DeadLetter) + Send + Sync + 'static) -> Self {
        self.relay.settings.on_dead_letter = OnDeadLetter(Some(Arc::new(tell)));
        self
    }

    /// Makes the relay.
    ///
    /// # Errors
    ///
    /// [`RelayBuildError`] if there is no target, a pattern is none, targets of a pattern cannot be told apart, or the group's
    /// name or the lease cannot be used.
    pub fn build(self) -> Result<Relay<S>, RelayBuildError> {
        telemetry::relays::describe();
        let (group, lease) = (&self.relay.settings.group, self.relay.settings.lease);
        match self.wrong {
            Some(wrong) => Err(wrong),
            None if group.is_empty() || group.len() > 255 || group.chars().any(char::is_control) => {
                Err(RelayBuildError::Group(Arc::clone(group)))
            }
            None if !LEASES.contains(&lease) => Err(RelayBuildError::Lease(lease)),
            None if self.relay.routes.is_empty() => Err(RelayBuildError::NoTarget),
            None => Ok(self.relay),
        }
    }
}

impl<S> fmt::Debug for Relay<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl<S> fmt::Debug for RelayBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayBuilder")
            .field("relay", &self.relay)
            .finish_non_exhaustive()
    }
}
