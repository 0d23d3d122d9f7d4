//! Promise: an order is charged once and mailed once, after its commit and whatever dies; and not at all if it was rolled back.

use crate::server as redis;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::checkout_support::{Request, Server, StandIn, number, report, storm};
use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, SqliteConnection};

const TEA: &str = r#"{"item": "tea", "quantity": 2}"#;

fn order(key: &str) -> Request {
    Request::order().key(key).json(TEA)
}

async fn look_into(file: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(file);
    options.busy_timeout(Duration::from_secs(5)).connect().await.unwrap()
}

/// Where the stand-ins of a service on this file keep what they did.
fn ledger(db: &Path) -> PathBuf {
    db.with_extension("outside.db")
}

/// What the ledger has: the keys of the charges, and the ids of the mails.
async fn left(ledger: &Path) -> (Vec<String>, Vec<String>) {
    let mut ledger = look_into(ledger).await;
    let charges = sqlx::query_scalar("SELECT idempotency_key FROM charges ORDER BY rowid");
    let charges = charges.fetch_all(&mut ledger).await.unwrap();
    let mails = sqlx::query_scalar("SELECT message_id FROM mails ORDER BY rowid");
    (charges, mails.fetch_all(&mut ledger).await.unwrap())
}

/// Waits until the ledger has so many of both.
async fn until_left(ledger: &Path, number: usize) -> (Vec<String>, Vec<String>) {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let (charges, mails) = left(ledger).await;
        if charges.len() >= number && mails.len() >= number {
            return (charges, mails);
        }
        assert!(Instant::now() < until, "only {charges:?} and {mails:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_order_is_charged_and_mailed_once_under_the_keys_of_its_messages() {
    let directory = tempfile::tempdir().unwrap();
    let db = directory.path().join("shop.db");
    let server = Server::start(&db, 0, &["--delay-ms", "0"]);
    for _ in 0..3 {
        assert_eq!(server.send(&order("k-1")).status, 201);
    }
    assert_eq!(server.send(&order("k-2")).status, 201);
    let left = until_left(&ledger(&db), 2).await;

    let mut shop = look_into(&db).await;
    let mut keys = async |topic: &str| -> Vec<String> {
        let keys = sqlx::query_scalar("SELECT key FROM oneflight_messages WHERE topic = $1 ORDER BY id").bind(topic);
        keys.fetch_all(&mut shop).await.unwrap()
    };
    let (mut charges, mut mails) = left;
    let (mut charged, mailed) = (keys("payment.charge").await, keys("mail.receipt").await);
    let mut mailed: Vec<_> = mailed.iter().map(|key| format!("<{key}@shop.example>")).collect();
    for keys in [&mut charges, &mut mails, &mut charged, &mut mailed] {
        keys.sort();
    }
    assert_eq!((charges.len(), mails.len()), (2, 2));
    assert_eq!((charges, mails), (charged, mailed));
    let figures = server.send(&Request::get("/figures")).json();
    assert_eq!(
        (&figures["charges"], &figures["mails"]),
        (&2.into(), &2.into()),
        "{figures}"
    );
}

#[tokio::test]
async fn an_order_that_is_rolled_back_is_neither_charged_nor_mailed() {
    let directory = tempfile::tempdir().unwrap();
    let db = directory.path().join("shop.db");
    let server = Server::start(&db, 0, &["--delay-ms", "0"]);
    let mut shop = look_into(&db).await;
    // The row is there, and so is the message of the charge, when the transaction fails.
    let refuse = "CREATE TRIGGER refuse AFTER INSERT ON oneflight_messages WHEN NEW.topic = 'mail.receipt' \
                  BEGIN SELECT RAISE(ABORT, 'refused'); END";
    sqlx::raw_sql(refuse).execute(&mut shop).await.unwrap();
    let refused = server.send(&order("k-1"));
    assert_eq!(refused.json()["effect"], "nothing", "{refused:?}");
    assert_eq!(server.orders(), 0);

    sqlx::raw_sql("DROP TRIGGER refuse").execute(&mut shop).await.unwrap();
    assert_eq!(server.send(&order("k-2")).status, 201);
    until_left(&ledger(&db), 1).await;
    let references =
        sqlx::query_scalar::<_, String>("SELECT reference FROM charges UNION ALL SELECT reference FROM mails");
    let references = references.fetch_all(&mut look_into(&ledger(&db)).await).await.unwrap();
    assert_eq!(references, ["k-2", "k-2"]);
}

#[tokio::test]
async fn what_a_killed_service_has_committed_is_delivered_by_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let db = directory.path().join("shop.db");
    // Nothing listens there: the order stands all the same.
    let away = ["--payments", "127.0.0.1:1", "--mail", "127.0.0.1:1"];
    let mut server = Server::start(&db, 0, &[&["--delay-ms", "0"], &away[..]].concat());
    assert_eq!(server.send(&order("k-1")).status, 201);
    server.process.kill();

    let ledger = directory.path().join("ledger.db");
    let [payments, mail] = ["payments", "mail"].map(|name| StandIn::start(name, &ledger, 0));
    let (at, mail_at) = (payments.address.to_string(), mail.address.to_string());
    let _next = Server::start(&db, 0, &["--payments", &at, "--mail", &mail_at]);
    let (charges, mails) = until_left(&ledger, 1).await;
    assert_eq!((charges.len(), mails.len()), (1, 1));
}

#[tokio::test]
async fn a_relay_in_a_process_of_its_own_delivers_what_services_send() {
    let directory = tempfile::tempdir().unwrap();
    let db = directory.path().join("shop.db");
    let away = ["--payments", "127.0.0.1:1", "--mail", "127.0.0.1:1"];
    let mut server = Server::start(&db, 0, &[&["--delay-ms", "0"], &away[..]].concat());
    assert_eq!(server.send(&order("k-1")).status, 201);
    server.process.terminate();
    assert!(server.process.wait(Duration::from_secs(20)).success());
    // Its stand-ins are its own, since it is not told of others.
    let _relay = StandIn::spawn(&["relay", "--db", db.to_str().unwrap()]);
    let (charges, mails) = until_left(&ledger(&db), 1).await;
    assert_eq!((charges.len(), mails.len()), (1, 1));
}

const KEYS: u64 = 60;

/// A storm in which processes die, on two services.
fn storm_with_kills(place: &[&str]) -> (Value, bool) {
    let size = [
        "--keys",
        "60",
        "--duplicates",
        "20",
        "--processes",
        "2",
        "--kills",
        "10",
    ];
    let output = storm(&[&size[..], &["--json", "--seed", "7"], place].concat());
    eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(!output.stdout.is_empty(), "no report");
    (report(&output.stdout), output.status.success())
}

fn assert_charges_mails_orders_and_keys_are_as_many((report, success): (Value, bool)) {
    assert_eq!(number(&report, "kills"), 10, "{report}");
    for name in ["keys", "orders", "charges", "mails"] {
        assert_eq!(number(&report, name), KEYS, "{name} in {report}");
    }
    for name in [
        "keys_charged_several",
        "keys_not_charged",
        "keys_mailed_several",
        "keys_not_mailed",
    ] {
        assert_eq!(number(&report, name), 0, "{name} in {report}");
    }
    // Services were among the killed: requests broke off.
    assert!(number(&report, "retries") > 0, "{report}");
    assert!(success, "{report}");
}

#[test]
fn killed_at_random_services_relays_and_targets_leave_a_charge_and_a_mail_for_each_key_over_sqlite() {
    assert_charges_mails_orders_and_keys_are_as_many(storm_with_kills(&[]));
}

#[tokio::test]
async fn killed_at_random_services_relays_and_targets_leave_a_charge_and_a_mail_for_each_key_over_postgres() {
    let url = crate::processes::database().await;
    let storm = storm_with_kills(&["--store", "postgres", "--url", &url]);
    assert_charges_mails_orders_and_keys_are_as_many(storm);
}

#[test]
fn without_oneflight_an_order_is_charged_and_mailed_more_than_once() {
    let output = storm(&["--keys", "50", "--duplicates", "10", "--json", "--seed", "1", "--naive"]);
    let report = report(&output.stdout);
    for name in ["orders", "charges", "mails"] {
        assert!(number(&report, name) > 50, "{name} in {report}");
    }
    for name in ["keys_charged_several", "keys_mailed_several"] {
        assert!(number(&report, name) > 0, "{name} in {report}");
    }
}

#[test]
fn over_redis_nothing_is_sent_and_the_table_says_so() {
    let place = ["--store", "redis", "--url", &redis::server().url()];
    let size = ["--keys", "5", "--duplicates", "4"];
    let output = storm(&[&size[..], &place].concat());
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{table}");
    assert!(table.contains("Redis has no outbox"), "{table}");
    let output = storm(&[&size[..], &place, &["--json"]].concat());
    let report = report(&output.stdout);
    assert_eq!(report.get("charges"), None, "{report}");
}
