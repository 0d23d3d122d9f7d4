//! What a relay and a send cost, counted in the log of the server.

use std::sync::Arc;
use std::time::Duration;

use oneflight::outbox::{Delivery, DeliveryError, Outbox, Relay};
use tokio::time::{Instant, sleep};

use crate::postgres::Server;
use crate::support::{Texts, send, store, text, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_relay_asks_one_question_in_five_seconds() {
    let own = Server::start("-c fsync=off -c log_statement=all");
    let store = store(&own.schema().await).await;
    let texts = Texts::default();
    let keeps = Arc::clone(&texts);
    let keep = move |_: Delivery| {
        keeps.lock().push(String::new());
        async { Ok::<(), DeliveryError>(()) }
    };
    let relay = Relay::builder(store.clone()).target("*", keep).build().unwrap().spawn();
    let _ = send(&store, text("one")).await;
    until("it arrives", || texts.lock().len() == 1).await;
    // Until the room of what was delivered is looked after.
    sleep(Duration::from_secs(27)).await;
    let statements = || {
        own.log()
            .lines()
            .filter(|line| line.contains("execute") || line.contains("statement:"))
            .count()
    };
    let (before, begun) = (statements(), Instant::now());
    sleep(Duration::from_secs(16)).await;
    let asked = statements() - before;
    let allowed = begun.elapsed().as_secs() / 5 + 1;
    let log = own.log();
    let last: Vec<_> = log.lines().filter(|line| line.contains("LOG:")).skip(before).collect();
    assert!(asked as u64 <= allowed, "{asked} questions: {last:#?}");
    assert!(asked >= 2, "it showed no sign of life");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_send_is_one_statement_and_no_notification() {
    let own = Server::start("-c fsync=off -c log_statement=all");
    let store = store(&own.schema().await).await;
    let outbox = Outbox::new(store.clone());
    let mut tx = store.pool().begin().await.unwrap();
    let statements = || {
        own.log()
            .lines()
            .filter(|line| line.contains("execute") || line.contains("statement:"))
            .count()
    };
    sleep(Duration::from_millis(200)).await;
    let (before, logged) = (statements(), own.log().len());
    outbox
        .send_all(&mut tx, (0..10).map(|number| text(&number.to_string())))
        .await
        .unwrap();
    tx.commit().await.unwrap();
    sleep(Duration::from_millis(200)).await;
    assert_eq!(statements() - before, 2, "{}", own.log());
    assert!(!own.log()[logged..].to_lowercase().contains("notify"));
}
