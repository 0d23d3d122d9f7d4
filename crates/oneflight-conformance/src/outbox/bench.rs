//! What the checks have in common: a store, a target that keeps what arrives, and wishes put into words.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};

use crate::failure::Failure;
use oneflight::outbox::{
    Delivery, DeliveryError, Message, MessageId, Outbox, Relay, RelayBuilder, RelayHandle, Retry, Sent, TargetOptions,
};
use oneflight::store::outbox::OutboxStore;
use oneflight::{Idempotency, RequestIdentity, Scope};

/// Long enough for whatever is to happen.
pub(super) const LONG: Duration = Duration::from_secs(20);

/// How long it is watched that something does not happen.
pub(super) const WATCH: Duration = Duration::from_millis(400);

pub(super) const LEASE: Duration = Duration::from_secs(1);

pub(super) type Checked = Result<(), Failure>;

/// What arrived at a target.
#[derive(Clone, Default)]
pub(super) struct Inbox(pub(super) Arc<Mutex<Vec<(String, u32, Instant)>>>);

impl Inbox {
    pub(super) fn note(&self, delivery: &Delivery) {
        let payload = String::from_utf8_lossy(delivery.payload()).into_owned();
        self.0.lock().push((payload, delivery.attempt(), Instant::now()));
    }

    pub(super) fn texts(&self) -> Vec<String> {
        self.0.lock().iter().map(|(text, ..)| text.clone()).collect()
    }

    pub(super) fn count(&self, text: &str) -> usize {
        self.0.lock().iter().filter(|(it, ..)| it == text).count()
    }
}

pub(super) struct Bench<S> {
    check: &'static str,
    pub(super) store: S,
    pub(super) idem: Idempotency<S>,
    pub(super) outbox: Outbox<S>,
    requests: AtomicU64,
}

pub(super) fn quick() -> Retry {
    Retry::new()
        .first_pause(Duration::from_millis(50))
        .longest_pause(Duration::from_millis(200))
}

pub(super) fn options() -> TargetOptions {
    TargetOptions::new().retry(quick()).circuit_breaker(1000)
}

impl<S: OutboxStore + Clone> Bench<S> {
    pub(super) fn new(check: &'static str, store: S) -> Self {
        Self {
            check,
            idem: Idempotency::builder(store.clone()).build(),
            outbox: Outbox::new(store.clone()),
            store,
            requests: AtomicU64::new(0),
        }
    }

    pub(super) fn failure<T>(&self, what: impl Into<String>) -> Result<T, Failure> {
        Err(Failure {
            check: self.check,
            what: what.into(),
            source: None,
        })
    }

    pub(super) fn require(&self, holds: bool, what: impl Into<String>) -> Checked {
        if holds { Ok(()) } else { self.failure(what) }
    }

    pub(super) fn ok<T, E: std::fmt::Display>(&self, answer: Result<T, E>) -> Result<T, Failure> {
        answer.or_else(|error| self.failure(format!("an operation that must succeed was an error: {error}")))
    }

    /// Sends messages in a request of its own.
    pub(super) async fn send(&self, messages: Vec<Message>) -> Result<Vec<Sent>, Failure> {
        let number = self.requests.fetch_add(1, Ordering::SeqCst);
        self.send_as(&format!("request-{number}"), messages).await
    }

    pub(super) async fn send_as(&self, key: &str, messages: Vec<Message>) -> Result<Vec<Sent>, Failure> {
        let id = self.ok(RequestIdentity::new(Scope::new("outbox"), key))?;
        let kept = Arc::new(Mutex::new(Vec::new()));
        let keeps = Arc::clone(&kept);
        let reply = self.idem.run_in_tx(id, move |mut tx| {
            let (messages, keeps) = (messages.clone(), Arc::clone(&keeps));
            async move {
                let sent = tx.send_all(messages).await?;
                *keeps.lock() = sent;
                Ok(())
            }
        });
        let _ = self.ok(reply.await)?;
        let sent = kept.lock().clone();
        Ok(sent)
    }

    pub(super) async fn send_one(&self, message: Message) -> Result<MessageId, Failure> {
        match self.send(vec![message]).await?.as_slice() {
            [Sent::New(id)] => Ok(*id),
            other => self.failure(format!("expected one new message, got {other:?}")),
        }
    }

    pub(super) fn builder(&self) -> RelayBuilder<S> {
        Relay::builder(self.store.clone()).lease(LEASE)
    }

    pub(super) fn spawn(&self, builder: RelayBuilder<S>) -> Result<RelayHandle, Failure> {
        Ok(self.ok(builder.build())?.spawn())
    }

    /// A relay whose target keeps everything.
    pub(super) fn keeping(&self, inbox: &Inbox) -> Result<RelayHandle, Failure> {
        let inbox = inbox.clone();
        let keep = move |delivery: Delivery| {
            inbox.note(&delivery);
            async { Ok::<(), DeliveryError>(()) }
        };
        self.spawn(self.builder().target_with("*", keep, options()))
    }

    pub(super) async fn until(&self, what: &str, holds: impl Fn() -> bool) -> Checked {
        let waits = async {
            while !holds() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        match timeout(LONG, waits).await {
            Ok(()) => Ok(()),
            Err(_) => self.failure(format!("this has not happened in time: {what}")),
        }
    }

    pub(super) async fn arrives(&self, inbox: &Inbox, expected: &[&str]) -> Checked {
        self.until(&format!("{expected:?} arrive"), || {
            inbox.texts().len() >= expected.len()
        })
        .await?;
        sleep(Duration::from_millis(50)).await;
        self.require(
            inbox.texts() == expected,
            format!("expected {expected:?}, got {:?}", inbox.texts()),
        )
    }
}

pub(super) fn text(text: &str) -> Message {
    Message::text("note.plain", text)
}

pub(super) fn ordered(content: &str) -> Message {
    text(content).ordering_key("one")
}

/// A relay whose target fails for a text, as often as is said, and keeps every attempt.
pub(super) fn failing<S: OutboxStore + Clone>(
    bench: &Bench<S>,
    inbox: &Inbox,
    what: &'static str,
    failures: u64,
    options: TargetOptions,
    settings: impl FnOnce(RelayBuilder<S>) -> RelayBuilder<S>,
) -> Result<RelayHandle, Failure> {
    let (inbox, failed) = (inbox.clone(), Arc::new(AtomicU64::new(0)));
    let target = move |delivery: Delivery| {
        inbox.note(&delivery);
        let fails = delivery.payload() == what.as_bytes() && failed.fetch_add(1, Ordering::SeqCst) < failures;
        async move {
            if fails {
                Err(DeliveryError::retry("not now"))
            } else {
                Ok(())
            }
        }
    };
    bench.spawn(settings(bench.builder().target_with("*", target, options)))
}
