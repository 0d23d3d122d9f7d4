//! A target that mails by `lettre`, as a shop would write it: tried again until the server has the mail, and the message's key in
//! `Message-ID`, by which a mail that comes twice is known to be one.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../../../../examples/checkout/outside/sink.rs"]
#[allow(dead_code, reason = "the checkout uses the rest")]
mod sink;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};
use oneflight::outbox::{Delivery, DeliveryError, Outbox, RelayHandle, Retry, TargetOptions};
use oneflight::{Idempotency, Message, Relay, RequestIdentity, Rollback, Scope};
use oneflight_sqlite::SqliteStore;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use self::sink::Mail;

// ---- What a user writes.

type Mailer = AsyncSmtpTransport<Tokio1Executor>;

fn mailer(server: SocketAddr) -> Mailer {
    // A real server gets `Mailer::relay`, which speaks TLS, and credentials.
    Mailer::builder_dangerous(server.ip().to_string())
        .port(server.port())
        .build()
}

async fn mail(mailer: Mailer, delivery: Delivery) -> Result<(), DeliveryError> {
    let order: u32 = delivery.json()?;
    let mail = lettre::Message::builder()
        .from("shop@shop.example".parse()?)
        .to("customer@home.example".parse()?)
        .message_id(Some(format!("<{}@shop.example>", delivery.key())))
        .subject(format!("Receipt of order {order}"))
        .body(format!("Thank you for order {order}."))?;
    match mailer.send(mail).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_permanent() => Err(DeliveryError::rejected(error)),
        Err(error) => Err(error.into()),
    }
}

fn relay(store: &SqliteStore, server: SocketAddr) -> RelayHandle {
    let mailer = mailer(server);
    let retry = Retry::new()
        .first_pause(Duration::from_millis(50))
        .longest_pause(Duration::from_millis(200));
    Relay::builder(store.clone())
        .target_with(
            "mail.*",
            move |delivery| mail(mailer.clone(), delivery),
            TargetOptions::new().retry(retry).circuit_breaker(1_000),
        )
        .build()
        .unwrap()
        .spawn()
}

async fn place(store: &SqliteStore, key: &str, pays: bool) -> bool {
    let id = RequestIdentity::new(Scope::new("shop").route("POST /orders"), key).unwrap();
    let idem = Idempotency::builder(store.clone()).build();
    let placed = idem.run_in_tx(id, move |mut tx| async move {
        let _ = tx
            .send(Message::new("mail.receipt", &7)?.ordering_key("order-7"))
            .await?;
        if pays {
            Ok(())
        } else {
            Err(Rollback::failed("no money"))
        }
    });
    placed.await.is_ok()
}

// ---- What it is tried with.

struct Shop {
    store: SqliteStore,
    _folder: TempDir,
}

impl Shop {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("shop.db")).await.unwrap();
        Self { store, _folder: folder }
    }

    /// The `Message-ID` that the key of the one message makes.
    async fn message_id(&self) -> String {
        let keys = sqlx::query_scalar::<_, String>("SELECT key FROM oneflight_messages");
        let key = keys.fetch_one(self.store.pool()).await.unwrap();
        format!("<{key}@shop.example>")
    }
}

/// A mail server that says this to the first mails, which it keeps, and accepts those after them.
struct Server {
    kept: Arc<Mutex<Vec<Mail>>>,
    task: JoinHandle<()>,
}

impl Server {
    fn on(listener: TcpListener, replies: &'static [&'static str]) -> Self {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let keeps = Arc::clone(&kept);
        let keep = move |mail: Mail| {
            let mut kept = keeps.lock().unwrap();
            let reply = replies.get(kept.len()).map(|reply| (*reply).to_owned());
            kept.push(mail);
            async { reply.map_or(Ok(()), Err) }
        };
        let task = tokio::spawn(sink::serve(listener, keep));
        Self { kept, task }
    }

    fn kept(&self) -> Vec<Mail> {
        self.kept.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let waits = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), waits).await;
    assert!(waited.is_ok(), "never: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_is_mailed_under_the_key_of_its_message_and_none_for_what_was_rolled_back() {
    let (shop, (listener, address)) = (Shop::new().await, listener().await);
    let server = Server::on(listener, &[]);
    let relay = relay(&shop.store, address);
    assert!(!place(&shop.store, "b8e4", false).await);
    // Asked for twice, placed once.
    for _ in 0..2 {
        assert!(place(&shop.store, "a7f3", true).await);
    }
    until("it is delivered", || relay.health().delivered == 1).await;
    relay.stop().await;
    let kept = server.kept();
    let [mail] = kept.as_slice() else { panic!("{kept:?}") };
    assert_eq!(mail.header("Message-ID"), Some(&*shop.message_id().await));
    assert_eq!(mail.header("Subject"), Some("Receipt of order 7"));
    assert_eq!(
        (&*mail.sender, &*mail.recipient),
        ("shop@shop.example", "customer@home.example")
    );
    assert_eq!(mail.body.trim_end(), "Thank you for order 7.");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_gets_its_mail_when_it_is_back() {
    let (shop, (closed, address)) = (Shop::new().await, listener().await);
    drop(closed);
    let relay = relay(&shop.store, address);
    assert!(place(&shop.store, "a7f3", true).await);
    until("it is tried again", || relay.health().attempts >= 2).await;
    assert_eq!(relay.health().delivered, 0);

    let server = Server::on(TcpListener::bind(address).await.unwrap(), &[]);
    until("it is delivered", || relay.health().delivered == 1).await;
    relay.stop().await;
    let kept = server.kept();
    let [mail] = kept.as_slice() else { panic!("{kept:?}") };
    assert_eq!(mail.header("Message-ID"), Some(&*shop.message_id().await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_comes_twice_has_one_message_id() {
    let (shop, (listener, address)) = (Shop::new().await, listener().await);
    // It has the mail, and says that it has not: as one that dies before it answers.
    let server = Server::on(listener, &["451 try again"]);
    let relay = relay(&shop.store, address);
    assert!(place(&shop.store, "a7f3", true).await);
    until("it is delivered", || relay.health().delivered == 1).await;
    relay.stop().await;
    let ids: Vec<_> = server
        .kept()
        .iter()
        .filter_map(|mail| mail.header("Message-ID").map(str::to_owned))
        .collect();
    let id = shop.message_id().await;
    assert_eq!(ids, [id.clone(), id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_is_refused_for_good_is_a_dead_letter() {
    let (shop, (listener, address)) = (Shop::new().await, listener().await);
    let server = Server::on(listener, &["550 no such mailbox"]);
    let relay = relay(&shop.store, address);
    assert!(place(&shop.store, "a7f3", true).await);
    until("it is dead", || relay.health().dead == 1).await;
    let outbox = Outbox::new(shop.store.clone());
    let dead = outbox.dead_letters(10, None).await.unwrap();
    assert_eq!(dead.len(), 1, "{dead:?}");
    assert!(dead[0].error.contains("no such mailbox"), "{}", dead[0].error);
    assert!(outbox.redrive(dead[0].id).await.unwrap());
    until("it is delivered", || relay.health().delivered == 1).await;
    relay.stop().await;
    assert_eq!(server.kept().len(), 2);
}
