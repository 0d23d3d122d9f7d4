//! What an operator asks of an outbox, however long it takes, is in no relay's way.

use oneflight::store::outbox::{MessageQuery, OutboxStore, OutboxUpkeep};
use oneflight_postgres::PostgresStore;
use sqlx::PgPool;
use tokio::task::JoinHandle;
use tokio::time::{Duration, sleep, timeout};

use crate::postgres::{Schema, server};
use crate::support::{LONG, count, send, store, text};

/// Looks that wait for a lock on the messages, and that lock, as a migration has it.
struct Looks {
    store: PostgresStore,
    elsewhere: PgPool,
    lock: sqlx::Transaction<'static, sqlx::Postgres>,
}

impl Looks {
    async fn new(schema: &Schema) -> Self {
        let (store, elsewhere) = (store(schema).await, schema.pool(2));
        let _ = send(&store, text("one")).await;
        let mut lock = elsewhere.begin().await.unwrap();
        sqlx::raw_sql("LOCK TABLE oneflight_messages IN ACCESS EXCLUSIVE MODE")
            .execute(&mut *lock)
            .await
            .unwrap();
        Self { store, elsewhere, lock }
    }

    fn begin(&self) -> JoinHandle<usize> {
        let store = self.store.clone();
        tokio::spawn(async move {
            let query = MessageQuery {
                limit: 10,
                ..MessageQuery::default()
            };
            store.messages(query).await.unwrap().len()
        })
    }

    /// Waits until so many of them wait in the server, of which each has a session.
    async fn until_they_wait(&self, sessions: i64) {
        let waiting = "SELECT count(*) FROM pg_locks
                       WHERE NOT granted AND relation = to_regclass('oneflight_messages')";
        let wait = async {
            while count(&self.elsewhere, waiting).await < sessions {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LONG, wait).await.expect("they do not wait");
    }

    /// Asks as a relay does, over the connections that looks have as well.
    async fn ask_as_a_relay(&self) {
        let asked = timeout(LONG, self.store.dead_letters(10, None)).await;
        assert!(asked.expect("relays wait for looks").unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_many_look_relays_find_a_connection() {
    let looks = Looks::new(&server().schema().await).await;
    let begun: Vec<_> = (0..8).map(|_| looks.begin()).collect();
    looks.until_they_wait(1).await;
    looks.ask_as_a_relay().await;
    looks.lock.rollback().await.unwrap();
    for look in begun {
        assert_eq!(look.await.unwrap(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_that_is_dropped_keeps_no_connection_from_relays() {
    let looks = Looks::new(&server().schema().await).await;
    // More than there are connections.
    for dropped in 1..=4 {
        let look = looks.begin();
        looks.until_they_wait(dropped).await;
        look.abort();
        assert!(look.await.unwrap_err().is_cancelled());
    }
    looks.ask_as_a_relay().await;
    let last = looks.begin();
    looks.until_they_wait(5).await;
    looks.lock.rollback().await.unwrap();
    assert_eq!(last.await.unwrap(), 1);
}
