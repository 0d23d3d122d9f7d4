//! What a store with an outbox must do: the checks, one function a promise, named after it.
//!
//! They look from outside: messages are sent by [`Idempotency`], and arrive at a target by way of a [`Relay`].

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::failure::Failure;
use oneflight::outbox::{
    Cancelled, Delivery, DeliveryError, Message, MessageId, OnDead, Outbox, Postponed, Relay, RelayBuilder,
    RelayHandle, Retry, Sent, TargetOptions,
};
use oneflight::store::outbox::{Beat, Cursor, OutboxStore, RelayToken, Settlement, Shard};
use oneflight::{Idempotency, RequestIdentity, Rollback, Scope};

/// Long enough for whatever is to happen.
const LONG: Duration = Duration::from_secs(20);
/// How long it is watched that something does not happen.
const WATCH: Duration = Duration::from_millis(400);
const LEASE: Duration = Duration::from_secs(1);

type Checked = Result<(), Failure>;

/// Runs the suite of what [`OutboxStore`] promises. `make` returns an empty store. Some checks take seconds.
///
/// ```
/// use oneflight::store::OutboxStore;
/// use oneflight_conformance::{Failure, run_outbox};
///
/// async fn check<S: OutboxStore + Clone>(open: impl AsyncFn() -> S) -> Result<(), Failure> {
///     run_outbox(async || open().await).await
/// }
/// ```
///
/// # Errors
///
/// Returns the first promise that is not kept.
pub async fn run_outbox<S: OutboxStore + Clone>(make: impl AsyncFn() -> S) -> Result<(), Failure> {
    macro_rules! check {
        ($($name:ident),* $(,)?) => {$(
            $name(&Bench::new(stringify!($name), make().await)).await?;
        )*};
    }
    check!(
        what_is_committed_is_delivered_and_what_is_rolled_back_is_not,
        what_was_sent_arrives_as_it_was,
        a_key_is_sent_once,
        a_key_of_the_request_is_the_same_when_it_runs_again,
        messages_of_an_ordering_key_arrive_in_order,
        a_message_in_back_off_is_not_overtaken,
        a_long_back_off_is_parked_and_keeps_its_place,
        a_dead_letter_holds_its_key_up_until_it_is_redriven,
        a_dead_letter_that_is_cancelled_lets_its_key_go_on,
        a_dead_letter_is_overtaken_where_its_topic_says_so,
        a_poisonous_message_blocks_nobody_but_its_own_key,
        what_is_cancelled_is_never_delivered,
        what_is_being_delivered_is_too_late_to_cancel,
        what_waits_in_the_ring_can_be_cancelled_and_postponed,
        not_before_is_kept_beyond_the_lease_and_delivers_once,
        not_before_keeps_its_place_in_its_key,
        what_has_expired_is_not_delivered,
        an_unknown_topic_is_left_alone,
        each_of_several_targets_gets_it_and_only_what_failed_is_tried_again,
        a_batch_is_acknowledged_by_what_succeeded,
        a_slow_delivery_outlasts_the_lease_and_is_done_once,
        a_stop_counts_as_no_attempt_and_frees_the_shards,
        relays_divide_the_messages_and_take_over_from_the_dead,
        an_answer_after_its_lease_is_refused,
        a_message_that_kills_its_relays_is_not_tried_for_ever,
        a_target_that_panics_or_hangs_is_one_that_failed,
    );
    Ok(())
}

/// What arrived at a target.
#[derive(Clone, Default)]
struct Inbox(Arc<Mutex<Vec<(String, u32, Instant)>>>);

impl Inbox {
    fn note(&self, delivery: &Delivery) {
        let payload = String::from_utf8_lossy(delivery.payload()).into_owned();
        self.0.lock().push((payload, delivery.attempt(), Instant::now()));
    }

    fn texts(&self) -> Vec<String> {
        self.0.lock().iter().map(|(text, ..)| text.clone()).collect()
    }

    fn count(&self, text: &str) -> usize {
        self.0.lock().iter().filter(|(it, ..)| it == text).count()
    }
}

struct Bench<S> {
    check: &'static str,
    store: S,
    idem: Idempotency<S>,
    outbox: Outbox<S>,
    requests: AtomicU64,
}

fn quick() -> Retry {
    Retry::new()
        .first_pause(Duration::from_millis(50))
        .longest_pause(Duration::from_millis(200))
}

fn options() -> TargetOptions {
    TargetOptions::new().retry(quick()).circuit_breaker(1000)
}

impl<S: OutboxStore + Clone> Bench<S> {
    fn new(check: &'static str, store: S) -> Self {
        Self {
            check,
            idem: Idempotency::builder(store.clone()).build(),
            outbox: Outbox::new(store.clone()),
            store,
            requests: AtomicU64::new(0),
        }
    }

    fn failure<T>(&self, what: impl Into<String>) -> Result<T, Failure> {
        Err(Failure {
            check: self.check,
            what: what.into(),
            source: None,
        })
    }

    fn require(&self, holds: bool, what: impl Into<String>) -> Checked {
        if holds { Ok(()) } else { self.failure(what) }
    }

    fn ok<T, E: std::fmt::Display>(&self, answer: Result<T, E>) -> Result<T, Failure> {
        answer.or_else(|error| self.failure(format!("an operation that must succeed was an error: {error}")))
    }

    /// Sends messages in a request of its own.
    async fn send(&self, messages: Vec<Message>) -> Result<Vec<Sent>, Failure> {
        let number = self.requests.fetch_add(1, Ordering::SeqCst);
        self.send_as(&format!("request-{number}"), messages).await
    }

    async fn send_as(&self, key: &str, messages: Vec<Message>) -> Result<Vec<Sent>, Failure> {
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

    async fn send_one(&self, message: Message) -> Result<MessageId, Failure> {
        match self.send(vec![message]).await?.as_slice() {
            [Sent::New(id)] => Ok(*id),
            other => self.failure(format!("expected one new message, got {other:?}")),
        }
    }

    fn builder(&self) -> RelayBuilder<S> {
        Relay::builder(self.store.clone()).lease(LEASE)
    }

    fn spawn(&self, builder: RelayBuilder<S>) -> Result<RelayHandle, Failure> {
        Ok(self.ok(builder.build())?.spawn())
    }

    /// A relay whose target keeps everything.
    fn keeping(&self, inbox: &Inbox) -> Result<RelayHandle, Failure> {
        let inbox = inbox.clone();
        let keep = move |delivery: Delivery| {
            inbox.note(&delivery);
            async { Ok::<(), DeliveryError>(()) }
        };
        self.spawn(self.builder().target_with("*", keep, options()))
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) -> Checked {
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

    async fn arrives(&self, inbox: &Inbox, expected: &[&str]) -> Checked {
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

fn text(text: &str) -> Message {
    Message::text("note.plain", text)
}

fn ordered(content: &str) -> Message {
    text(content).ordering_key("one")
}

async fn what_is_committed_is_delivered_and_what_is_rolled_back_is_not<S: OutboxStore + Clone>(
    bench: &Bench<S>,
) -> Checked {
    let inbox = Inbox::default();
    let relay = bench.keeping(&inbox)?;
    let id = bench.ok(RequestIdentity::new(Scope::new("outbox"), "fails"))?;
    let failed = bench.idem.run_in_tx(id, |mut tx| async move {
        tx.send(text("never")).await?;
        Err::<(), _>(Rollback::failed("the work fails"))
    });
    bench.require(failed.await.is_err(), "work that fails was answered")?;
    bench.send_one(text("kept")).await?;
    bench.arrives(&inbox, &["kept"]).await?;
    relay.stop().await;
    // What had been delivered is not delivered again.
    let again = bench.keeping(&inbox)?;
    bench.send_one(text("later")).await?;
    bench.arrives(&inbox, &["kept", "later"]).await?;
    again.stop().await;
    Ok(())
}

async fn what_was_sent_arrives_as_it_was<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    let seen = Arc::new(Mutex::new(None::<Delivery>));
    let sees = Arc::clone(&seen);
    let keep = move |delivery: Delivery| {
        *sees.lock() = Some(delivery);
        async { Ok::<(), DeliveryError>(()) }
    };
    let relay = bench.spawn(bench.builder().target("*", keep))?;
    let bytes: Vec<u8> = (0..=u8::MAX).collect();
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let message = Message::bytes("data.all", "application/octet-stream", bytes.clone())
        .key("my key")
        .ordering_key("größe '\\")
        .header("x-one", "1")
        .header("x-two", "zwei; \"2\"")
        .correlation_id(bench.ok("edge-5f2c".parse())?)
        .trace_parent(bench.ok(oneflight::outbox::TraceParent::new(parent))?);
    let id = bench.send_one(message).await?;
    bench.until("it arrives", || seen.lock().is_some()).await?;
    let Some(delivery) = seen.lock().clone() else {
        return bench.failure("nothing arrived");
    };
    bench.require(
        delivery.id() == id && delivery.topic() == "data.all",
        "id or topic differ",
    )?;
    bench.require(delivery.payload() == bytes, "the payload differs")?;
    bench.require(
        delivery.content_type() == "application/octet-stream",
        "the content type differs",
    )?;
    bench.require(delivery.key() == "my key", "the key differs")?;
    bench.require(delivery.ordering_key() == Some("größe '\\"), "the ordering key differs")?;
    let headers = [("x-one", "1"), ("x-two", "zwei; \"2\"")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    bench.require(delivery.headers() == headers, "the headers differ")?;
    bench.require(
        delivery.correlation_id().is_some_and(|it| it.as_str() == "edge-5f2c"),
        "the correlation id differs",
    )?;
    bench.require(
        delivery.trace_parent().is_some_and(|it| it.as_str() == parent),
        "the trace differs",
    )?;
    bench.require(delivery.attempt() == 1, "the attempt is not the first")?;
    relay.stop().await;
    Ok(())
}

async fn a_key_is_sent_once<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    let twice = vec![text("first").key("k"), text("second").key("k"), text("other")];
    let sent = bench.send(twice).await?;
    let [Sent::New(first), Sent::Duplicate(again), Sent::New(_)] = sent.as_slice() else {
        return bench.failure(format!("expected new, duplicate, new; got {sent:?}"));
    };
    bench.require(first == again, "a duplicate has another id")?;
    let later = bench.send(vec![text("third").key("k")]).await?;
    bench.require(
        later == [Sent::Duplicate(*first)],
        format!("a duplicate of another request: {later:?}"),
    )?;
    let parked = text("parked").key("p").not_before(Duration::from_secs(600));
    let sent = bench.send(vec![parked.clone(), parked]).await?;
    let is_duplicate = matches!(sent.as_slice(), [Sent::New(first), Sent::Duplicate(again)] if first == again);
    bench.require(is_duplicate, format!("a duplicate of what is parked: {sent:?}"))?;
    let inbox = Inbox::default();
    let relay = bench.keeping(&inbox)?;
    bench.until("all arrive", || inbox.texts().len() >= 2).await?;
    sleep(WATCH).await;
    let once = inbox.count("first") == 1 && inbox.count("other") == 1 && inbox.texts().len() == 2;
    bench.require(once, format!("got {:?}", inbox.texts()))?;
    relay.stop().await;
    Ok(())
}

async fn a_key_of_the_request_is_the_same_when_it_runs_again<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    let keys = Arc::new(Mutex::new(Vec::new()));
    let keeps = Arc::clone(&keys);
    let keep = move |delivery: Delivery| {
        keeps.lock().push(delivery.key().to_owned());
        async { Ok::<(), DeliveryError>(()) }
    };
    let relay = bench.spawn(bench.builder().target("*", keep))?;
    let id = bench.ok(RequestIdentity::new(Scope::new("outbox"), "again"))?;
    let expected = Arc::new(Mutex::new(Vec::new()));
    for attempt in 0..2 {
        let expects = Arc::clone(&expected);
        let reply = bench.idem.run_in_tx(id.clone(), move |mut tx| {
            let expects = Arc::clone(&expects);
            async move {
                tx.send_all([text("a"), text("b"), text("c").step("named")]).await?;
                expects.lock().push(tx.downstream_key("message 1 of note.plain"));
                if attempt == 0 {
                    Err(Rollback::failed("not yet"))
                } else {
                    Ok(())
                }
            }
        });
        bench.require(
            reply.await.is_ok() == (attempt == 1),
            "the work ended otherwise than it said",
        )?;
    }
    bench.until("all arrive", || keys.lock().len() == 3).await?;
    let mut keys = keys.lock().clone();
    let expected = expected.lock().clone();
    bench.require(
        expected[0] == expected[1] && keys.contains(&expected[0]),
        "the key is not that of the step",
    )?;
    keys.sort();
    keys.dedup();
    bench.require(keys.len() == 3, "two messages of one request have one key")?;
    relay.stop().await;
    Ok(())
}

async fn messages_of_an_ordering_key_arrive_in_order<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    let inbox = Inbox::default();
    let relay = bench.keeping(&inbox)?;
    for round in 0..10 {
        let messages = (0..5).flat_map(|key| {
            (0..2).map(move |part| text(&format!("{key} {}", round * 2 + part)).ordering_key(format!("key-{key}")))
        });
        bench.send(messages.collect()).await?;
    }
    bench.until("all arrive", || inbox.texts().len() == 100).await?;
    let mut next: HashMap<String, u32> = HashMap::new();
    for arrived in inbox.texts() {
        let Some((key, number)) = arrived.split_once(' ') else {
            return bench.failure("something else arrived");
        };
        let expected = next.entry(key.to_owned()).or_default();
        bench.require(
            number == expected.to_string(),
            format!("{arrived} where {expected} was next"),
        )?;
        *expected += 1;
    }
    relay.stop().await;
    Ok(())
}

/// A relay whose target fails for a text, as often as is said, and keeps every attempt.
fn failing<S: OutboxStore + Clone>(
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

async fn a_message_in_back_off_is_not_overtaken<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    let inbox = Inbox::default();
    let relay = failing(bench, &inbox, "first", 2, options(), |it| it)?;
    bench.send(vec![ordered("first"), ordered("second")]).await?;
    bench.arrives(&inbox, &["first", "first", "first", "second"]).await?;
    let attempts: Vec<u32> = inbox.0.lock().iter().map(|(_, attempt, _)| *attempt).collect();
    bench.require(
        attempts == [1, 2, 3, 1],
        format!("attempts were counted as {attempts:?}"),
    )?;
    relay.stop().await;
    Ok(())
}

async fn a_long_back_off_is_parked_and_keeps_its_place<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    let inbox = Inbox::default();
    let parks = |it: RelayBuilder<S>| it.park_after(Duration::ZERO);
    let relay = failing(bench, &inbox, "first", 2, options(), parks)?;
    bench.send(vec![ordered("first"), ordered("second")]).await?;
    bench.arrives(&inbox, &["first", "first", "first", "second"]).await?;
    let attempts: Vec<u32> = inbox.0.lock().iter().map(|(_, attempt, _)| *attempt).collect();
    bench.require(
        attempts == [1, 2, 3, 1],
        format!("attempts were counted as {attempts:?}"),
    )?;
    relay.stop().await;
    Ok(())
}

async fn a_dead_letter_holds_its_key_up_until_it_is_redriven<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    let inbox = Inbox::default();
    let twice = options().retry(quick().attempts(2));
    let relay = failing(bench, &inbox, "first", 2, twice.clone(), |it| it)?;
    let sent = bench.send(vec![ordered("first"), ordered("second")]).await?;
    bench.until("it is dead", || relay.health().dead == 1).await?;
    sleep(WATCH).await;
    bench.require(inbox.texts() == ["first", "first"], "a dead letter was overtaken")?;
    let dead = bench.ok(bench.outbox.dead_letters(10, None).await)?;
    let [letter] = dead.as_slice() else {
        return bench.failure(format!("expected one dead letter, got {dead:?}"));
    };
    bench.require(
        letter.id == sent[0].id() && letter.attempts == 2,
        "the dead letter is another one",
    )?;
    bench.require(
        letter.error.contains("not now") && letter.blocks,
        "the dead letter does not tell why it died",
    )?;
    relay.stop().await;
    // Another relay knows it as well.
    let relay = failing(bench, &inbox, "first", 0, twice, |it| it)?;
    sleep(WATCH).await;
    bench.require(inbox.texts().len() == 2, "a dead letter was overtaken after a restart")?;
    bench.require(
        bench.ok(bench.outbox.redrive(letter.id).await)?,
        "a dead letter could not be redriven",
    )?;
    bench.arrives(&inbox, &["first", "first", "first", "second"]).await?;
    bench.require(
        !bench.ok(bench.outbox.redrive(letter.id).await)?,
        "what is no dead letter was redriven",
    )?;
    relay.stop().await;
    Ok(())
}

async fn a_dead_letter_that_is_cancelled_lets_its_key_go_on<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    let inbox = Inbox::default();
    let relay = failing(bench, &inbox, "first", 9, options().retry(quick().attempts(1)), |it| it)?;
    let sent = bench.send(vec![ordered("first"), ordered("second")]).await?;
    bench.until("it is dead", || relay.health().dead == 1).await?;
    let cancelled = bench.ok(bench.outbox.cancel(sent[0].id()).await)?;
    bench.require(
        cancelled == Cancelled::Cancelled,
        "a dead letter could not be cancelled",
    )?;
    bench.arrives(&inbox, &["first", "second"]).await?;
    relay.stop().await;
    Ok(())
}

async fn a_dead_letter_is_overtaken_where_its_topic_says_so<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    let inbox = Inbox::default();
    let skips = options().retry(quick().attempts(1)).on_dead(OnDead::Skip);
    let relay = failing(bench, &inbox, "first", 9, skips, |it| it)?;
    bench.send(vec![ordered("first"), ordered("second")]).await?;
    bench.arrives(&inbox, &["first", "second"]).await?;
    relay.stop().await;
    Ok(())
}

async fn a_poisonous_message_blocks_nobody_but_its_own_key<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    let inbox = Inbox::default();
    // So few that those which wait would fill the memory.
    let small = |it: RelayBuilder<S>| it.buffer(4, 1024 * 1024);
    let relay = failing(bench, &inbox, "poison", u64::MAX, options(), small)?;
    bench.send(vec![ordered("poison")]).await?;
    bench
        .send((0..20).map(|number| ordered(&format!("behind {number}"))).collect())
        .await?;
    bench
        .send(vec![text("free"), text("other").ordering_key("two")])
        .await?;
    bench
        .until("others arrive", || {
            inbox.count("free") == 1 && inbox.count("other") == 1
        })
        .await?;
    bench.require(
        !inbox.texts().iter().any(|text| text.starts_with("behind")),
        "a message was overtaken",
    )?;
    relay.stop().await;
    Ok(())
}

async fn what_is_cancelled_is_never_delivered<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    let inbox = Inbox::default();
    let relay = bench.keeping(&inbox)?;
    let soon = Duration::from_millis(600);
    let sent = bench
        .send(vec![
            text("cancelled").not_before(soon),
            text("delivered").not_before(soon),
        ])
        .await?;
    let cancelled = bench.ok(bench.outbox.cancel(sent[0].id()).await)?;
    bench.require(
        cancelled == Cancelled::Cancelled,
        "what was not due could not be cancelled",
    )?;
    let again = bench.ok(bench.outbox.cancel(sent[0].id()).await)?;
    bench.require(again == Cancelled::TooLate, "what is cancelled was cancelled again")?;
    bench.arrives(&inbox, &["delivered"]).await?;
    sleep(WATCH).await;
    bench.require(inbox.count("cancelled") == 0, "what is cancelled was delivered")?;
    let late = bench.ok(bench.outbox.cancel(sent[1].id()).await)?;
    bench.require(late == Cancelled::TooLate, "what is delivered was cancelled")?;
    let unknown = bench.ok(bench.outbox.cancel(MessageId::new(1 << 40)).await)?;
    bench.require(unknown == Cancelled::TooLate, "what is not there was cancelled")?;
    relay.stop().await;
    Ok(())
}

async fn what_is_being_delivered_is_too_late_to_cancel<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    let inbox = Inbox::default();
    let inside = inbox.clone();
    let slow = move |delivery: Delivery| {
        inside.note(&delivery);
        async {
            sleep(Duration::from_millis(700)).await;
            Ok::<(), DeliveryError>(())
        }
    };
    let relay = bench.spawn(bench.builder().target("*", slow))?;
    let id = bench.send_one(text("slow")).await?;
    bench.until("it begins", || inbox.count("slow") == 1).await?;
    let late = bench.ok(bench.outbox.cancel(id).await)?;
    bench.require(late == Cancelled::TooLate, "what is being delivered was cancelled")?;
    let late = bench.ok(bench.outbox.postpone(id, Duration::from_secs(1)).await)?;
    bench.require(late == Postponed::TooLate, "what is being delivered was postponed")?;
    relay.stop().await;
    bench.require(inbox.count("slow") == 1, "it was delivered again")
}

async fn what_waits_in_the_ring_can_be_cancelled_and_postponed<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    let sent = bench
        .send(vec![ordered("cancelled"), ordered("postponed"), ordered("last")])
        .await?;
    let cancelled = bench.ok(bench.outbox.cancel(sent[0].id()).await)?;
    bench.require(cancelled == Cancelled::Cancelled, "what waits could not be cancelled")?;
    let inbox = Inbox::default();
    let postponed = bench.ok(bench.outbox.postpone(sent[1].id(), Duration::from_millis(800)).await)?;
    bench.require(postponed == Postponed::Postponed, "what waits could not be postponed")?;
    let begun = Instant::now();
    let relay = bench.keeping(&inbox)?;
    bench.arrives(&inbox, &["postponed", "last"]).await?;
    bench.require(
        begun.elapsed() >= Duration::from_millis(700),
        "it was delivered too early",
    )?;
    relay.stop().await;
    Ok(())
}

async fn not_before_is_kept_beyond_the_lease_and_delivers_once<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    let inbox = Inbox::default();
    let (one, two) = (bench.keeping(&inbox)?, bench.keeping(&inbox)?);
    let delay = LEASE * 2;
    let sent = Instant::now();
    bench.send(vec![text("late").not_before(delay), text("now")]).await?;
    bench.arrives(&inbox, &["now", "late"]).await?;
    let arrived = inbox
        .0
        .lock()
        .iter()
        .find(|(text, ..)| text == "late")
        .map(|(.., at)| *at);
    // The store's clock and this one differ by a few milliseconds at most, and rounding is down.
    let early = arrived.is_none_or(|at| at < sent + delay - Duration::from_millis(20));
    bench.require(!early, "it was delivered before its time")?;
    sleep(LEASE * 2).await;
    bench.require(inbox.texts().len() == 2, "it was delivered twice")?;
    one.stop().await;
    two.stop().await;
    Ok(())
}

async fn not_before_keeps_its_place_in_its_key<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    for park_after in [Duration::ZERO, Duration::from_secs(60)] {
        let inbox = Inbox::default();
        let relay = failing(bench, &inbox, "", 0, options(), |it| it.park_after(park_after))?;
        bench
            .send(vec![
                ordered("later").not_before(Duration::from_millis(500)),
                ordered("behind"),
            ])
            .await?;
        bench.arrives(&inbox, &["later", "behind"]).await?;
        let attempts: Vec<u32> = inbox.0.lock().iter().map(|(_, attempt, _)| *attempt).collect();
        bench.require(
            attempts == [1, 1],
            format!("waiting was counted as an attempt: {attempts:?}"),
        )?;
        relay.stop().await;
    }
    Ok(())
}

async fn what_has_expired_is_not_delivered<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    bench
        .send(vec![
            ordered("expired").expires_after(Duration::from_millis(1)),
            ordered("kept"),
        ])
        .await?;
    sleep(Duration::from_millis(50)).await;
    let inbox = Inbox::default();
    let relay = bench.keeping(&inbox)?;
    bench.arrives(&inbox, &["kept"]).await?;
    bench
        .until("the expiry is counted", || relay.health().expired == 1)
        .await?;
    relay.stop().await;
    Ok(())
}

async fn an_unknown_topic_is_left_alone<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    let (notes, others) = (Inbox::default(), Inbox::default());
    let keep = |inbox: &Inbox| {
        let inbox = inbox.clone();
        move |delivery: Delivery| {
            inbox.note(&delivery);
            async { Ok::<(), DeliveryError>(()) }
        }
    };
    let relay = bench.spawn(bench.builder().target("note.*", keep(&notes)))?;
    bench.send(vec![Message::text("other", "kept"), text("known")]).await?;
    bench.arrives(&notes, &["known"]).await?;
    bench
        .until("what was left alone is counted", || relay.health().left_alone == 1)
        .await?;
    relay.stop().await;
    let relay = bench.spawn(bench.builder().group("others").target("other", keep(&others)))?;
    bench.arrives(&others, &["kept"]).await?;
    relay.stop().await;
    Ok(())
}

async fn each_of_several_targets_gets_it_and_only_what_failed_is_tried_again<S: OutboxStore + Clone>(
    bench: &Bench<S>,
) -> Checked {
    let (good, bad) = (Inbox::default(), Inbox::default());
    let target = |inbox: &Inbox, fails: bool| {
        let inbox = inbox.clone();
        move |delivery: Delivery| {
            inbox.note(&delivery);
            async move {
                if fails {
                    Err(DeliveryError::retry("away"))
                } else {
                    Ok(())
                }
            }
        }
    };
    let both = |fails: bool| {
        bench
            .builder()
            .target_with("*", target(&good, false), options().name("good"))
            .target_with("*", target(&bad, fails), options().name("bad"))
    };
    let relay = bench.spawn(both(true))?;
    bench.send_one(text("for all")).await?;
    bench.until("it is tried again", || bad.count("for all") >= 2).await?;
    relay.stop().await;
    let relay = bench.spawn(both(false))?;
    bench.until("it has ended", || relay.health().delivered == 1).await?;
    bench.require(good.count("for all") == 1, "a target that had it got it again")?;
    relay.stop().await;
    Ok(())
}

async fn a_batch_is_acknowledged_by_what_succeeded<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    struct Picky(Inbox);
    impl oneflight::outbox::Target for Picky {
        async fn deliver(&self, delivery: Delivery) -> Result<(), DeliveryError> {
            self.0.note(&delivery);
            match delivery.attempt() == 1 && delivery.payload().ends_with(b"odd") {
                true => Err(DeliveryError::retry("odd")),
                false => Ok(()),
            }
        }
    }
    let inbox = Inbox::default();
    let messages = (0..20).map(|number| text(&format!("{number} {}", if number % 2 == 0 { "even" } else { "odd" })));
    bench.send(messages.collect()).await?;
    let relay = bench.spawn(
        bench
            .builder()
            .target_with("*", Picky(inbox.clone()), options().batch(20)),
    )?;
    bench.until("all have ended", || relay.health().delivered == 20).await?;
    bench.require(
        inbox.texts().len() == 30,
        format!("{} deliveries instead of 30", inbox.texts().len()),
    )?;
    relay.stop().await;
    Ok(())
}

async fn a_slow_delivery_outlasts_the_lease_and_is_done_once<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    let inbox = Inbox::default();
    let slow = |inbox: &Inbox| {
        let inbox = inbox.clone();
        move |delivery: Delivery| {
            inbox.note(&delivery);
            async {
                sleep(LEASE * 3).await;
                Ok::<(), DeliveryError>(())
            }
        }
    };
    let one = bench.spawn(bench.builder().target("*", slow(&inbox)))?;
    bench
        .send((0..8).map(|number| text(&number.to_string())).collect())
        .await?;
    bench.until("all have begun", || inbox.texts().len() == 8).await?;
    let two = bench.spawn(bench.builder().target("*", slow(&inbox)))?;
    bench.until("all have ended", || one.health().delivered == 8).await?;
    sleep(LEASE).await;
    bench.require(
        inbox.texts().len() == 8,
        "a live relay's message was delivered by another one",
    )?;
    one.stop().await;
    two.stop().await;
    Ok(())
}

async fn a_stop_counts_as_no_attempt_and_frees_the_shards<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    let inbox = Inbox::default();
    let inside = inbox.clone();
    let hangs = move |delivery: Delivery| {
        inside.note(&delivery);
        std::future::pending::<Result<(), DeliveryError>>()
    };
    // With leases so long that nobody would take over in time.
    let long = Duration::from_secs(600);
    let relay = bench.spawn(
        bench
            .builder()
            .lease(long)
            .grace(Duration::from_millis(50))
            .target("*", hangs),
    )?;
    bench.send_one(text("stopped")).await?;
    bench.until("it begins", || inbox.texts().len() == 1).await?;
    relay.stop().await;
    let keeps = inbox.clone();
    let keep = move |delivery: Delivery| {
        keeps.note(&delivery);
        async { Ok::<(), DeliveryError>(()) }
    };
    let relay = bench.spawn(bench.builder().lease(long).target("*", keep))?;
    bench.arrives(&inbox, &["stopped", "stopped"]).await?;
    let attempts: Vec<u32> = inbox.0.lock().iter().map(|(_, attempt, _)| *attempt).collect();
    bench.require(
        attempts == [1, 1],
        format!("a stop was counted as an attempt: {attempts:?}"),
    )?;
    relay.stop().await;
    Ok(())
}

async fn relays_divide_the_messages_and_take_over_from_the_dead<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    let inbox = Inbox::default();
    let (one, two, three) = (bench.keeping(&inbox)?, bench.keeping(&inbox)?, bench.keeping(&inbox)?);
    let shares = || [&one, &two, &three].map(|relay| relay.health().shards);
    let fair = || shares().iter().all(|share| (20..=22).contains(share)) && shares().iter().sum::<usize>() == 64;
    bench.until("the shards are divided", fair).await?;
    bench
        .send((0..100).map(|number| text(&number.to_string())).collect())
        .await?;
    bench.until("all arrive", || inbox.texts().len() == 100).await?;
    let shared = || [&one, &two, &three].iter().all(|relay| relay.health().delivered > 0);
    bench
        .until("each relay that has shards has delivered something", shared)
        .await?;
    one.stop().await;
    two.stop().await;
    three.stop().await;
    // One joins, and dies without a word.
    let dies = bench.ok(bench.store.beat(beat(None)).await)?;
    bench.require(dies.shards.len() == 64, "a relay that is alone did not get all shards")?;
    let relay = bench.keeping(&inbox)?;
    bench.send_one(text("left behind")).await?;
    bench
        .until("another takes over", || inbox.count("left behind") == 1)
        .await?;
    relay.stop().await;
    Ok(())
}

fn beat(token: Option<RelayToken>) -> Beat {
    Beat {
        group: "default".into(),
        token,
        share: 64,
        gives_back: Vec::new(),
        dead: Vec::new(),
        cursor: None,
        shards: Vec::new(),
    }
}

/// Reads everything, as a relay that is done by hand.
async fn read_all<S: OutboxStore>(bench: &Bench<S>, shards: &[Shard], start: &Cursor) -> Result<Vec<i64>, Failure>
where
    S: Clone,
{
    let page = bench.ok(bench.store.fetch(shards, start, None, 1000).await)?;
    Ok(page.messages.iter().map(|message| message.position).collect())
}

async fn an_answer_after_its_lease_is_refused<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    bench.send_one(text("taken twice")).await?;
    let first = bench.ok(bench.store.beat(beat(None)).await)?;
    let positions = read_all(bench, &first.shards, &first.start).await?;
    bench.require(
        positions.len() == 1,
        format!("one message was sent, and {} were read", positions.len()),
    )?;
    let (store, group) = (&bench.store, "default");
    let taken = bench.ok(store.take(group, first.token, &first.shards, &positions).await)?;
    bench.require(taken.lost.is_empty(), "the owner's taking was refused")?;
    let second = bench.ok(store.beat(beat(None)).await)?;
    bench.require(second.shards.is_empty(), "a live relay's shards were given away")?;
    let mut takes_over = beat(Some(second.token));
    takes_over.dead = second.peers.clone();
    let second = bench.ok(store.beat(takes_over).await)?;
    bench.require(second.shards.len() == 64, "a dead relay's shards were not given away")?;
    let delivered = Settlement {
        delivered: positions.clone(),
        ..Settlement::default()
    };
    let refused = bench.ok(store.settle(group, first.token, &first.shards, &delivered).await)?;
    bench.require(refused.len() == 64, "a late acknowledgement was accepted")?;
    let refused = bench.ok(store.take(group, first.token, &first.shards, &positions).await)?;
    bench.require(!refused.lost.is_empty(), "an outdated relay has taken a message")?;
    let outdated = store.beat(beat(Some(first.token))).await;
    let is_outdated = matches!(outdated, Err(oneflight::store::StoreError::RelayOutdated));
    bench.require(is_outdated, "an outdated relay was not told")?;
    let again = read_all(bench, &second.shards, &second.start).await?;
    bench.require(again == positions, "the message is not there for the successor")?;
    let accepted = bench.ok(store.settle(group, second.token, &second.shards, &delivered).await)?;
    bench.require(accepted.is_empty(), "the successor was refused")?;
    bench.require(
        read_all(bench, &second.shards, &second.start).await?.is_empty(),
        "what has ended was read",
    )
}

async fn a_message_that_kills_its_relays_is_not_tried_for_ever<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    bench.send_one(text("deadly")).await?;
    for _ in 0..3 {
        let relay = bench.ok(bench.store.beat(beat(None)).await)?;
        let positions = read_all(bench, &relay.shards, &relay.start).await?;
        let taken = bench
            .store
            .take("default", relay.token, &relay.shards, &positions)
            .await;
        bench.ok(taken)?;
        // It died, and is gone at once.
        bench.ok(bench.store.leave("default", relay.token).await)?;
    }
    let inbox = Inbox::default();
    let relay = failing(bench, &inbox, "", 0, options().retry(quick().attempts(3)), |it| it)?;
    bench.until("it is dead", || relay.health().dead == 1).await?;
    bench.require(inbox.texts().is_empty(), "it was tried once more")?;
    relay.stop().await;
    Ok(())
}

async fn a_target_that_panics_or_hangs_is_one_that_failed<S: OutboxStore + Clone>(bench: &Bench<S>) -> Checked {
    let inbox = Inbox::default();
    let inside = inbox.clone();
    let odd = move |delivery: Delivery| {
        inside.note(&delivery);
        let (attempt, text) = (
            delivery.attempt(),
            String::from_utf8_lossy(delivery.payload()).into_owned(),
        );
        async move {
            match (attempt, text.as_str()) {
                (1, "hangs") => std::future::pending().await,
                (1, "panics") => std::panic::resume_unwind(Box::new("a target of the suite")),
                _ => Ok(()),
            }
        }
    };
    let limited = options().time_limit(Duration::from_millis(100));
    let relay = bench.spawn(bench.builder().target_with("*", odd, limited))?;
    bench.send(vec![text("hangs"), text("panics"), text("works")]).await?;
    bench.until("all have ended", || relay.health().delivered == 3).await?;
    bench.require(inbox.texts().len() == 5, "they were not tried again once")?;
    relay.stop().await;
    Ok(())
}
