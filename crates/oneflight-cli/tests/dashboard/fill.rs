//! A file that the library has filled: what an operator finds on a bad day, and what an attacker would like it to be read as.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use oneflight::correlation::{self, CorrelationId};
use oneflight::idempotency::Step;
use oneflight::outbox::{Delivery, DeliveryError, Retry, TargetOptions};
use oneflight::record::FencingToken;
use oneflight::store::outbox::OutboxUpkeep;
use oneflight::store::{OutboxStore, Store};
use oneflight::{Idempotency, Message, Relay, RequestIdentity, ResultExt, Scope};
use oneflight_sqlite::SqliteStore;

/// What runs if it is taken for markup.
pub const MARKUP: &str = "<img src=x onerror=\"window.broken=1\">";
/// The same, for what stands in a script.
pub const CLOSING: &str = "</script><script>window.broken=2</script>";
/// The same, for what stands in an attribute.
pub const QUOTES: &str = "tenant\"'><svg onload=window.broken=3>";
/// The correlation id of the order whose mail is dead.
pub const ORDER: &str = "edge-5f2c";
/// Nobody is to see this.
pub const SECRET: &str = "4111-1111-1111-1111";

pub struct Filled {
    pub path: PathBuf,
    pub store: SqliteStore,
    pub idem: Idempotency<SqliteStore>,
    _directory: tempfile::TempDir,
}

pub fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7").route("POST /orders"), key).unwrap()
}

/// An identity that is made to do harm.
pub fn harmful() -> RequestIdentity {
    RequestIdentity::new(Scope::new(QUOTES), MARKUP).unwrap()
}

/// An empty store, in a directory of its own.
pub async fn empty() -> Filled {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("orders.db");
    let store = SqliteStore::open(&path).await.unwrap();
    Filled {
        idem: Idempotency::builder(store.clone()).settle(Duration::ZERO).build(),
        path,
        store,
        _directory: directory,
    }
}

impl Filled {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves a request in doubt, as a holder does that does not know what it did.
    pub async fn doubt(&self, id: RequestIdentity) {
        let call = self.idem.try_run(id.clone(), |_| async {
            Ok(Err::<String, _>("the line broke off").or_unknown()?)
        });
        let _ = call.await.map(|_| ()).unwrap_err();
        let doubts = self.store.in_doubt(100, None).await.unwrap();
        assert!(doubts.iter().any(|doubt| doubt.id == id), "{doubts:?}");
    }

    /// An order with two messages, under a correlation id.
    pub async fn order(&self, key: &str, correlation: &str, topics: &[&str]) {
        let correlation = CorrelationId::new(correlation).unwrap();
        let topics: Vec<_> = topics.iter().map(|topic| (*topic).to_owned()).collect();
        let call = self.idem.run_in_tx(id(key), move |mut tx| async move {
            for topic in topics {
                let _ = tx.send(Message::text(topic, SECRET)).await?;
            }
            Ok(SECRET.to_owned())
        });
        let _ = correlation::scope(correlation, call).await.unwrap();
    }

    /// Delivers what there is, to targets that reject everything.
    pub async fn reject_all(&self, letters: usize) {
        let rejects =
            |_: Delivery| async { Err::<(), _>(DeliveryError::rejected(format!("550 no such mailbox {CLOSING}"))) };
        let options = || TargetOptions::new().retry(Retry::new().attempts(1));
        let relay = Relay::builder(self.store.clone())
            .target_with("mail.*", rejects, options())
            .target_with("crm.*", rejects, options())
            .build()
            .unwrap()
            .spawn();
        let end = tokio::time::Instant::now() + crate::support::PATIENCE;
        while self.store.dead_letters(100, None).await.unwrap().len() < letters {
            assert!(tokio::time::Instant::now() < end, "the letters are never dead");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        relay.stop().await;
    }

    /// A mutation that is held, since a step of it has not told what it did.
    pub async fn held_steps(&self, key: &str) {
        let orders = self.idem.with_workflow("place_order");
        let call = orders.run_steps(id(key), &7, |steps| async move {
            steps.run("reserve", |_| async { Ok::<_, std::io::Error>(1) }).await?;
            let charge = Step::new("charge").at_most_once();
            steps.run(charge, |_| async { Err::<u32, _>("timed out") }).await
        });
        let _ = call.await.map(|_| ()).unwrap_err();
    }

    /// Requests that were answered.
    pub async fn answered(&self, count: usize) {
        let one = |number: usize| {
            let call = self
                .idem
                .run_in_tx(id(&format!("order-{number:05}")), move |_| async move { Ok(number) });
            async move { call.await.map(|_| ()) }
        };
        let calls = futures::stream::iter((0..count).map(one)).buffer_unordered(32);
        calls.try_collect::<()>().await.unwrap();
    }
}

impl Filled {
    pub async fn is_paused(&self, topic: &str) -> bool {
        let backlog = self.store.backlog().await.unwrap();
        backlog.iter().any(|found| &*found.topic == topic && found.is_paused)
    }

    /// The token of the attempt that a record is of.
    pub async fn token(&self, id: &RequestIdentity) -> FencingToken {
        self.store.load(id).await.unwrap().unwrap().token
    }
}
