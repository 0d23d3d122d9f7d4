//! Promise 20, for the outbox: what relays do is counted, under labels that have a bound, and a dead letter is told.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use metrics_util::debugging::DebuggingRecorder;
use oneflight::Message;
use oneflight::outbox::{Delivery, DeliveryError, Outbox, Relay, RelayBuilder, TargetOptions};
use oneflight::store::outbox::{Beat, OutboxStore};
use oneflight_sqlite::SqliteStore;
use parking_lot::Mutex;
use tokio::time::{sleep, timeout};

use crate::lines::{Lines, block_on};
use crate::recorder::{Broken, Described, Seen, listed, run_timed};

const LEASE: Duration = Duration::from_millis(300);

struct Shop {
    store: SqliteStore,
    _folder: tempfile::TempDir,
}

impl Shop {
    async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("shop.db")).await.unwrap();
        Self { store, _folder: folder }
    }

    async fn send(&self, messages: impl IntoIterator<Item = Message>) {
        let outbox = Outbox::new(self.store.clone());
        // Relays write meanwhile.
        let mut tx = self.store.pool().begin_with("BEGIN IMMEDIATE").await.unwrap();
        outbox.send_all(&mut tx, messages).await.unwrap();
        tx.commit().await.unwrap();
        outbox.wake();
    }

    fn relay(&self) -> RelayBuilder<SqliteStore> {
        Relay::builder(self.store.clone()).lease(LEASE)
    }
}

fn text(topic: &str) -> Message {
    Message::text(topic, "text")
}

async fn takes(_: Delivery) -> Result<(), DeliveryError> {
    Ok(())
}

async fn rejects(_: Delivery) -> Result<(), DeliveryError> {
    Err(DeliveryError::rejected("no such account"))
}

async fn hangs(_: Delivery) -> Result<(), DeliveryError> {
    pending().await
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let waits = async {
        while !holds() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), waits)
        .await
        .unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// Those that do not depend on how often a relay looked.
fn told(metrics: &Seen) -> BTreeMap<String, f64> {
    let mut told = metrics.now();
    told.retain(|name, _| !name.contains("_polls_") && !name.contains("_seconds"));
    told
}

fn map(expected: &[(&str, f64)]) -> BTreeMap<String, f64> {
    let expected = expected.iter();
    expected.map(|(name, value)| ((*name).to_owned(), *value)).collect()
}

#[test]
fn messages_are_counted_by_pattern_and_what_became_of_them() {
    let recorder = DebuggingRecorder::new();
    let metrics = Seen::by(&recorder);
    run_timed(&recorder, async {
        let shop = Shop::open().await;
        shop.send((0..3).map(|number| text(&format!("mail.{number}")))).await;
        shop.send([
            text("charge"),
            text("nobody's"),
            text("mail.old").expires_after(Duration::from_millis(1)),
        ])
        .await;
        sleep(Duration::from_millis(20)).await;
        let relay = shop.relay().target("mail.*", takes).target("charge", rejects);
        let relay = relay.build().unwrap().spawn();
        until("all have ended", || {
            let health = relay.health();
            (health.delivered, health.dead, health.expired) == (3, 1, 1)
        })
        .await;
        let health = relay.health();
        let seen = metrics.now();
        for (name, expected) in [
            (r#"oneflight_outbox_polls_total{group="default"}"#, health.polls),
            (
                r#"oneflight_outbox_empty_polls_total{group="default"}"#,
                health.empty_polls,
            ),
            (r#"oneflight_outbox_shards{group="default"}"#, 64),
        ] {
            assert_eq!(seen.get(name).copied().unwrap_or_default(), expected as f64, "{name}");
        }
        relay.stop().await;
    });
    let expected = map(&[
        (
            r#"oneflight_outbox_attempts_total{group="default",topic="mail.*"}"#,
            3.0,
        ),
        (
            r#"oneflight_outbox_delivered_total{group="default",topic="mail.*"}"#,
            3.0,
        ),
        (r#"oneflight_outbox_expired_total{group="default",topic="mail.*"}"#, 1.0),
        (
            r#"oneflight_outbox_attempts_total{group="default",topic="charge"}"#,
            1.0,
        ),
        (r#"oneflight_outbox_dead_total{group="default",topic="charge"}"#, 1.0),
        (r#"oneflight_outbox_left_alone_total{group="default"}"#, 1.0),
    ]);
    // No gauge is left of a relay that has stopped.
    assert_eq!(told(&metrics), expected);
}

/// Prometheus takes a counter that appears as one that has not increased.
#[test]
fn what_is_counted_of_a_relay_is_there_with_zero_before_it_counts() {
    let names: Vec<_> = listed(include_str!("../../../../src/telemetry/relays.md"))
        .into_keys()
        .collect();
    let recorder = DebuggingRecorder::new();
    let metrics = Seen::by(&recorder);
    run_timed(&recorder, async {
        let shop = Shop::open().await;
        // It has no store to ask: nothing is counted by what it does.
        shop.store.pool().close().await;
        let relay = shop.relay().target("mail.*", takes).build().unwrap().spawn();
        let all = metrics.all();
        for name in names {
            assert!(
                all.keys().any(|series| series.starts_with(&format!("{name}{{"))),
                "{name} in {all:#?}"
            );
        }
        let dead = r#"oneflight_outbox_dead_total{group="default",topic="mail.*"}"#;
        assert_eq!(all.get(dead), Some(&0.0), "{all:#?}");
        drop(relay);
    });
}

#[test]
fn backlog_age_and_open_circuits_rise_and_fall() {
    let recorder = DebuggingRecorder::new();
    let metrics = Seen::by(&recorder);
    run_timed(&recorder, async {
        let shop = Shop::open().await;
        let fails = |_: Delivery| async { Err::<(), _>(DeliveryError::retry("not now")) };
        let opens = TargetOptions::new().name("bank").circuit_breaker(1);
        let relay = shop.relay().group("orders").grace(Duration::ZERO);
        let relay = relay.target("mail.*", hangs).target_with("charge", fails, opens);
        let relay = relay.build().unwrap().spawn();
        shop.send([text("mail.a"), text("mail.b"), text("charge")]).await;
        until("it is open", || relay.health().open_circuits == ["bank"]).await;
        until("both have begun", || relay.health().in_flight == 2).await;
        sleep(LEASE * 2).await;
        let seen = metrics.now();
        for (name, expected) in [
            (r#"oneflight_outbox_backlog{group="orders",topic="mail.*"}"#, 2.0),
            (r#"oneflight_outbox_backlog{group="orders",topic="charge"}"#, 1.0),
            (r#"oneflight_outbox_in_flight{group="orders",target="mail.*#1"}"#, 2.0),
            (r#"oneflight_outbox_open_circuits{group="orders",target="bank"}"#, 1.0),
        ] {
            assert_eq!(seen.get(name), Some(&expected), "{name} in {seen:#?}");
        }
        relay.stop().await;
    });
    let gauges: Vec<_> = told(&metrics)
        .into_iter()
        .filter(|(name, _)| !name.contains("_total"))
        .collect();
    assert_eq!(gauges, []);
}

#[test]
fn the_age_is_that_of_the_oldest_message_and_nothing_once_all_have_ended() {
    let recorder = DebuggingRecorder::new();
    let gauge = r#"oneflight_outbox_oldest_seconds{group="default",topic="mail.*"}"#;
    // A gauge that is set is no sum: each snapshot tells the last one.
    let snapshotter = recorder.snapshotter();
    let age = || {
        let all = snapshotter.snapshot().into_vec();
        let found = all
            .into_iter()
            .find(|(key, ..)| key.key().name() == "oneflight_outbox_oldest_seconds");
        found.map(|(.., value)| match value {
            metrics_util::debugging::DebugValue::Gauge(value) => value.into_inner(),
            other => panic!("{gauge}: {other:?}"),
        })
    };
    run_timed(&recorder, async {
        let shop = Shop::open().await;
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let waits = Arc::clone(&gate);
        let target = move |_: Delivery| {
            let waits = Arc::clone(&waits);
            async move {
                waits.acquire().await.unwrap().forget();
                Ok::<(), DeliveryError>(())
            }
        };
        shop.send([text("mail.first")]).await;
        sleep(Duration::from_millis(1500)).await;
        shop.send([text("mail.second")]).await;
        let relay = shop.relay().target("mail.*", target).build().unwrap().spawn();
        until("both have begun", || relay.health().in_flight == 2).await;
        let seen = age().unwrap();
        assert!((1.4..20.0).contains(&seen), "{seen}");
        let told = relay.health().oldest["mail.*"].as_secs_f64();
        assert!((told - seen).abs() < 5.0, "{told} and {seen}");
        gate.add_permits(2);
        until("both have ended", || relay.health().backlog == 0).await;
        assert_eq!(age(), Some(0.0));
        relay.stop().await;
    });
}

/// It was not looked for where there were more than ten thousand, which is when it is asked for.
#[test]
fn the_age_of_a_large_backlog_is_known() {
    let recorder = DebuggingRecorder::new();
    run_timed(&recorder, async {
        let shop = Shop::open().await;
        shop.send((0..10_500).map(|_| text("mail"))).await;
        sleep(Duration::from_millis(100)).await;
        let relay = shop.relay().buffer(20_000, 1 << 30).grace(Duration::ZERO);
        let relay = relay.target("mail", hangs).build().unwrap().spawn();
        until("all are read", || relay.health().backlog == 10_500).await;
        until("their age is known", || {
            relay
                .health()
                .oldest
                .get("mail")
                .is_some_and(|age| *age > Duration::from_secs(2))
        })
        .await;
        relay.stop().await;
    });
}

fn beat(token: Option<oneflight::store::outbox::RelayToken>) -> Beat {
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

#[test]
fn leases_that_are_over_and_shards_that_are_lost_are_counted() {
    let recorder = DebuggingRecorder::new();
    let metrics = Seen::by(&recorder);
    run_timed(&recorder, async {
        let shop = Shop::open().await;
        // One that joins and shows no sign of life again.
        shop.store.beat(beat(None)).await.unwrap();
        let relay = shop.relay().target("*", takes).build().unwrap().spawn();
        until("it has taken over", || relay.health().shards == 64).await;
        // And one that takes this one for dead.
        let mut takes_over = beat(None);
        loop {
            let other = shop.store.beat(takes_over.clone()).await.unwrap();
            if other.shards.len() == 64 {
                break;
            }
            takes_over = beat(Some(other.token));
            takes_over.dead = other.peers.clone();
        }
        until("it knows", || relay.health().lost > 0).await;
        relay.stop().await;
    });
    let seen = told(&metrics);
    let name = r#"oneflight_outbox_lease_expiries_total{group="default"}"#;
    assert_eq!(seen.get(name), Some(&1.0), "{seen:#?}");
    let name = r#"oneflight_outbox_shards_lost_total{group="default"}"#;
    assert_eq!(seen.get(name), Some(&64.0), "{seen:#?}");
}

#[test]
fn what_the_store_does_not_answer_is_counted() {
    let recorder = DebuggingRecorder::new();
    let metrics = Seen::by(&recorder);
    run_timed(&recorder, async {
        let shop = Shop::open().await;
        let relay = shop.relay().grace(Duration::ZERO).target("*", takes);
        let relay = relay.build().unwrap().spawn();
        until("it is there", || relay.health().shards == 64).await;
        let breaks = sqlx::query("ALTER TABLE oneflight_messages RENAME TO elsewhere");
        breaks.execute(shop.store.pool()).await.unwrap();
        let name = r#"oneflight_outbox_store_errors_total{group="default"}"#;
        until("it is counted", || metrics.now().contains_key(name)).await;
        assert!(!relay.health().is_connected);
        relay.stop().await;
    });
}

#[test]
fn the_table_lists_what_a_recorder_is_told() {
    let recorder = DebuggingRecorder::new();
    let told = run_timed(&recorder, async {
        let shop = Shop::open().await;
        Described::during(|| drop(shop.relay().target("*", takes).build().unwrap()))
    });
    assert!(told.values().all(|(_, help)| !help.is_empty()), "{told:#?}");
    let told: BTreeMap<_, _> = told
        .into_iter()
        .map(|(name, (kind, _))| (name, kind.to_owned()))
        .collect();
    let table = include_str!("../../../../src/telemetry/relays.md");
    assert_eq!(listed(table), told);
}

#[test]
fn a_recorder_that_panics_disturbs_no_relay() {
    run_timed(&Broken, async {
        let shop = Shop::open().await;
        let relay = shop.relay().target("mail", takes).target("charge", rejects);
        let relay = relay.build().unwrap().spawn();
        shop.send([text("mail"), text("charge"), text("nobody's")]).await;
        until("both have ended", || {
            relay.health().delivered == 1 && relay.health().dead == 1
        })
        .await;
        relay.stop().await;
    });
}

#[test]
fn a_dead_letter_is_told_once_it_is_recorded() {
    let lines = Lines::default();
    let deaths = Arc::new(Mutex::new(Vec::new()));
    block_on(&lines, async {
        let shop = Shop::open().await;
        let hears = Arc::clone(&deaths);
        let relay = shop.relay().target("charge.*", rejects).on_dead_letter(move |letter| {
            hears.lock().push(letter.clone());
            panic!("what is told panics");
        });
        let relay = relay.build().unwrap().spawn();
        let message = Message::text("charge.card", "a secret")
            .ordering_key("order 7")
            .key("k-1");
        shop.send([message]).await;
        until("it is told", || !deaths.lock().is_empty()).await;
        // It is there by then.
        let outbox = Outbox::new(shop.store.clone());
        let dead = outbox.dead_letters(10, None).await.unwrap();
        let told = deaths.lock().clone();
        let [(dead, told)] = dead.iter().zip(&told).collect::<Vec<_>>()[..] else {
            panic!("{dead:?}, {told:?}")
        };
        assert_eq!((dead.id, &dead.topic, &dead.key), (told.id, &told.topic, &told.key));
        assert_eq!((&dead.ordering_key, dead.blocks), (&told.ordering_key, told.blocks));
        assert_eq!((dead.attempts, &dead.error), (told.attempts, &told.error));
        assert_eq!(dead.payload, told.payload);
        // The relay goes on after what is told has panicked.
        shop.send([text("charge.bank")]).await;
        until("the next one is told", || deaths.lock().len() == 2).await;
        relay.stop().await;
    });
    let told = lines.with("a message is a dead letter");
    assert_eq!(told.len(), 2, "{told:#?}");
    let id = deaths.lock()[0].id.get();
    for part in [
        "ERROR",
        &format!(" id={id} "),
        "topic=\"charge.*\"",
        "attempts=1",
        "no such account",
    ] {
        assert!(told[0].contains(part), "{part} in {}", told[0]);
    }
    assert!(!told[0].contains("secret"), "{}", told[0]);
}
