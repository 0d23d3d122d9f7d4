//! The desk of an outbox: what there is, why it is not delivered, and what changes when a person says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use oneflight::correlation::CorrelationId;
use oneflight::outbox::{DeliveryError, Retry, TargetOptions};
use oneflight::store::outbox::OutboxUpkeep;
use oneflight::{Idempotency, Message, Relay, RequestIdentity, Scope};
use oneflight_postgres::PostgresStore;
use oneflight_sqlite::SqliteStore;
use serde_json::json;

use crate::desk::Desk;
use crate::{postgres, redis};

/// Whether a target takes what it is given.
#[derive(Clone, Default)]
pub struct Mood(Arc<AtomicBool>);

impl Mood {
    fn mends(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Sends messages in one transaction.
pub async fn send<S: OutboxUpkeep + Clone>(store: &S, messages: Vec<Message>) {
    let idem = Idempotency::builder(store.clone()).build();
    let key = CorrelationId::random();
    let id = RequestIdentity::new(Scope::new("test"), key.as_str()).unwrap();
    let sent = idem.run_in_tx(id, |mut tx| async move {
        for message in messages {
            let _ = tx.send(message).await?;
        }
        Ok(())
    });
    let _ = sent.await.unwrap();
}

/// A relay whose target rejects everything while it is in a bad mood.
pub fn relay<S: OutboxUpkeep + Clone>(store: &S, mood: &Mood) -> oneflight::outbox::RelayHandle {
    let mood = mood.clone();
    let target = move |_| {
        let mood = mood.clone();
        async move {
            match mood.0.load(Ordering::SeqCst) {
                true => Ok(()),
                false => Err(DeliveryError::rejected("550 no such mailbox")),
            }
        }
    };
    let options = TargetOptions::new().retry(Retry::new().attempts(1));
    Relay::builder(store.clone())
        .target_with("mail.*", target, options)
        .build()
        .unwrap()
        .spawn()
}

async fn waited<T>(what: &str, mut looked: impl AsyncFnMut() -> Option<T>) -> T {
    let waited = async {
        loop {
            if let Some(found) = looked().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waited)
        .await
        .unwrap_or_else(|_| panic!("waited in vain until {what}"))
}

pub async fn until_dead<S: OutboxUpkeep>(store: &S, count: usize) -> Vec<i64> {
    waited("they are dead", async || {
        let dead = store.dead_letters(1_000, None).await.unwrap();
        (dead.len() == count).then(|| dead.iter().map(|it| it.id.get()).collect())
    })
    .await
}

/// The program runs where the relay has its turn meanwhile.
pub async fn at<T: Send + 'static>(desk: &Arc<Desk>, does: impl FnOnce(&Desk) -> T + Send + 'static) -> T {
    let desk = Arc::clone(desk);
    tokio::task::spawn_blocking(move || does(&desk)).await.unwrap()
}

async fn the_way_of_a_dead_letter<S: OutboxUpkeep + Clone>(desk: Desk, store: S) {
    let desk = Arc::new(desk);
    let letters = (0..4).map(|at| {
        let topic = if at < 3 { "mail.receipt" } else { "mail.offer" };
        Message::text(topic, format!("to {at}\u{1b}[2J")).correlation_id(CorrelationId::new("edge-5f2c").unwrap())
    });
    send(&store, letters.collect()).await;
    let mood = Mood::default();
    let relay = relay(&store, &mood);
    let dead = until_dead(&store, 4).await;

    let ids = dead.clone();
    at(&desk, move |desk| {
        let told = desk.json(["outbox", "list", "--json"]);
        let of = |topic: &str| {
            told["topics"]
                .as_array()
                .unwrap()
                .iter()
                .find(|it| it["topic"] == topic)
                .unwrap()
                .clone()
        };
        assert_eq!(of("mail.receipt")["dead"], json!(3), "{told}");
        assert_eq!(of("mail.offer")["waiting"], json!(0), "{told}");
        assert_eq!(told["relays"].as_array().unwrap().len(), 1, "{told}");
        assert_eq!(told["relays"][0]["alive"], json!(true), "{told}");

        let shown = desk.ok(["outbox", "dead", "--topic", "mail.offer"]);
        assert!(
            shown.out.contains("550 no such mailbox") && shown.out.contains("edge-5f2c"),
            "{shown:?}"
        );
        assert!(!shown.out.contains("to 3"), "{shown:?}");
        let shown = desk.ok(["outbox", "dead", "--payload"]);
        // A payload gives the terminal no command.
        assert!(
            shown.out.contains("to 3\\u{1b}[2J") && !shown.out.contains('\u{1b}'),
            "{shown:?}"
        );
        let listed = desk.json(["outbox", "list", "--state", "dead", "--topic", "mail.receipt", "--json"]);
        assert_eq!(listed.as_array().unwrap().len(), 3, "{listed}");
        assert!(
            listed.as_array().unwrap().iter().all(|it| it["payload"].is_null()),
            "{listed}"
        );

        let id = ids[0].to_string();
        let explained = desk.ok(["outbox", "explain", &id]);
        assert!(
            explained
                .out
                .contains("it is a dead letter (attempts: 1; the last one said: 550"),
            "{explained:?}"
        );
        assert!(
            explained.out.contains(&format!("oneflight outbox redrive {id}")),
            "{explained:?}"
        );

        // Nothing is changed without consent, and there is no terminal here to give it on.
        let asked = desk.run(["outbox", "redrive", &id]);
        assert_eq!(asked.code, Some(64), "{asked:?}");
        assert!(
            asked.err.contains("550 no such mailbox") && asked.err.contains("--yes"),
            "{asked:?}"
        );
        assert_eq!(desk.run(["outbox", "redrive"]).code, Some(64));
        assert_eq!(
            desk.run(["outbox", "redrive", "--all", "--yes", "--rate", "fast"]).code,
            Some(64)
        );
        assert_eq!(
            desk.run(["outbox", "redrive", "--topic", "mail.none", "--yes"]).code,
            Some(1)
        );
    })
    .await;
    assert_eq!(until_dead(&store, 4).await, dead);

    mood.mends();
    let (first, second) = (dead[0].to_string(), dead[1].to_string());
    at(&desk, move |desk| {
        let cancelled = desk.json(["outbox", "cancel", &second, "--yes", "--json"]);
        assert_eq!(
            cancelled,
            json!({"id": second.parse::<i64>().unwrap(), "cancelled": true})
        );
        assert_eq!(desk.run(["outbox", "cancel", &second, "--yes"]).code, Some(1));
        assert_eq!(desk.run(["outbox", "redrive", &second, "--yes"]).code, Some(1));
        desk.ok(["outbox", "redrive", &first, "--yes"]);
    })
    .await;
    until_dead(&store, 2).await;
    let redriven = at(&desk, |desk| {
        desk.json(["outbox", "redrive", "--all", "--rate", "20/s", "--yes", "--json"])
    })
    .await;
    assert_eq!(redriven, json!({"redriven": 2}));
    until_dead(&store, 0).await;
    waited("all are delivered", async || {
        (relay.health().delivered == 3).then_some(())
    })
    .await;
    relay.stop().await;
    let nothing = at(&desk, |desk| desk.run(["outbox", "redrive", "--all", "--yes"])).await;
    assert_eq!(nothing.code, Some(1), "{nothing:?}");
}

pub async fn sqlite() -> (Desk, SqliteStore) {
    let desk = Desk::sqlite();
    let store = SqliteStore::open(&desk.store).await.unwrap();
    (desk, store)
}

async fn over_postgres() -> (Desk, PostgresStore) {
    let desk = Desk::postgres(postgres::server()).await;
    let store = PostgresStore::options()
        .schema(desk.schema())
        .open(&desk.store)
        .await
        .unwrap();
    (desk, store)
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_found_explained_cancelled_and_redriven() {
    let (desk, store) = sqlite().await;
    the_way_of_a_dead_letter(desk, store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_postgres_dead_letters_are_found_explained_cancelled_and_redriven() {
    let (desk, store) = over_postgres().await;
    the_way_of_a_dead_letter(desk, store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_topic_waits_until_it_is_resumed() {
    let (desk, store) = sqlite().await;
    let desk = Arc::new(desk);
    at(&desk, |desk| {
        let paused = desk.ok(["outbox", "pause", "mail.receipt", "--yes"]);
        assert!(paused.out.contains("is paused"), "{paused:?}");
        let again = desk.json(["outbox", "pause", "mail.receipt", "--yes", "--json"]);
        assert_eq!(
            again,
            json!({"topic": "mail.receipt", "paused": true, "changed": false, "known": false})
        );
        assert_eq!(desk.run(["outbox", "resume", "mail.offer", "--yes"]).code, Some(1));
    })
    .await;
    send(
        &store,
        vec![Message::text("mail.receipt", "a"), Message::text("mail.offer", "b")],
    )
    .await;
    let mood = Mood::default();
    mood.mends();
    let relay = relay(&store, &mood);
    waited("the other topic is delivered", async || {
        (relay.health().delivered == 1).then_some(())
    })
    .await;
    at(&desk, |desk| {
        let listed = desk.json(["outbox", "list", "--topic", "mail.receipt", "--json"]);
        assert_eq!(listed[0]["state"], "waiting", "{listed}");
        let explained = desk.ok(["outbox", "explain", &listed[0]["id"].to_string()]);
        assert!(
            explained.out.contains("its topic mail.receipt is paused"),
            "{explained:?}"
        );
        assert!(
            explained.out.contains("oneflight outbox resume mail.receipt"),
            "{explained:?}"
        );
        assert!(desk.ok(["outbox", "list"]).out.contains("paused"));
        let resumed = desk.json(["outbox", "resume", "mail.receipt", "--yes", "--json"]);
        assert_eq!(
            resumed,
            json!({"topic": "mail.receipt", "paused": false, "changed": true, "known": true})
        );
    })
    .await;
    waited("it is delivered", async || {
        (relay.health().delivered == 2).then_some(())
    })
    .await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_shows_no_sign_of_life_is_marked() {
    let (desk, store) = sqlite().await;
    let desk = Arc::new(desk);
    let relay = Relay::builder(store.clone())
        .lease(Duration::from_secs(3_600))
        .target("mail.*", |_: oneflight::outbox::Delivery| async { Ok(()) })
        .build()
        .unwrap()
        .spawn();
    waited("it is there", async || {
        (!store.relays().await.unwrap().is_empty()).then_some(())
    })
    .await;
    at(&desk, |desk| {
        let listed = desk.json(["outbox", "list", "--watch", "1s", "--json"]);
        assert_eq!(listed["relays"][0]["alive"], json!(false), "{listed}");
        let listed = desk.ok(["outbox", "list", "--watch", "1s"]);
        assert!(
            listed.out.contains("none for 1s") && listed.out.contains("is dead, unless"),
            "{listed:?}"
        );
        let listed = desk.json(["outbox", "list", "--watch", "0s", "--json"]);
        assert!(listed["relays"][0]["alive"].is_null(), "{listed}");
    })
    .await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_holds_a_message_up_is_named() {
    let (desk, store) = sqlite().await;
    let desk = Arc::new(desk);
    let blocked = vec![
        Message::text("parcel.label", "1")
            .ordering_key("order-7")
            .not_before(Duration::from_secs(3_600)),
        Message::text("parcel.label", "2").ordering_key("order-7"),
    ];
    send(&store, blocked).await;
    at(&desk, |desk| {
        let listed = desk.json(["outbox", "list", "--ordering-key", "order-7", "--json"]);
        let [first, second] = [0, 1].map(|at| listed[at]["id"].to_string());
        let explained = desk.json(["outbox", "explain", &second, "--json"]);
        let reasons = explained["reasons"].to_string();
        assert!(
            reasons.contains(&format!("it waits for message {first} of its ordering key")),
            "{explained}"
        );
        assert!(reasons.contains("no relay shows a sign of life"), "{explained}");
        assert!(explained["message"]["payload"].is_null(), "{explained}");
        let explained = desk.ok(["outbox", "explain", &first]);
        assert!(explained.out.contains("it is due in 59 min"), "{explained:?}");
        let missing = desk.run(["outbox", "explain", "4711"]);
        assert_eq!(missing.code, Some(1), "{missing:?}");
    })
    .await;
}

#[test]
fn redis_has_no_outbox_and_says_so() {
    let desk = Desk::redis(redis::server());
    for arguments in [&["outbox", "list"][..], &["outbox", "pause", "mail", "--yes"]] {
        let ran = desk.run(arguments);
        assert_eq!(ran.code, Some(64), "{ran:?}");
        assert!(ran.err.contains("Redis keeps no outbox"), "{ran:?}");
    }
}
