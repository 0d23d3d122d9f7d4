//! What a relay has read long ago, and of which the store remembers nothing any more.

use std::time::Duration;

use oneflight::outbox::{Message, Outbox};
use oneflight::store::outbox::{MessageId, OutboxStore, RelayToken, Settlement, Shard};
use oneflight_postgres::PostgresStore;

use super::{beat, count, send, server, store, text};

/// Reads, takes and settles, as one relay does.
struct Reader {
    store: PostgresStore,
    token: RelayToken,
    shards: Vec<Shard>,
}

impl Reader {
    async fn join(store: &PostgresStore) -> (Self, Vec<(MessageId, i64)>) {
        let joined = store.beat(beat(None, None, &[])).await.unwrap();
        let page = store.fetch(&joined.shards, &joined.start, None, 1000).await.unwrap();
        let known = page.messages.iter().map(|it| (it.id, it.position)).collect();
        let (store, token, shards) = (store.clone(), joined.token, joined.shards);
        (Self { store, token, shards }, known)
    }

    /// Takes messages. Returns those that were cancelled, and those that were postponed.
    async fn take(&self, messages: &[(MessageId, i64)]) -> (Vec<i64>, Vec<i64>) {
        let taken = self.store.take("default", self.token, &self.shards, messages).await;
        let taken = taken.unwrap();
        assert!(taken.lost.is_empty());
        (taken.cancelled, taken.postponed)
    }

    async fn deliver(&self, messages: &[(MessageId, i64)]) {
        assert_eq!(self.take(messages).await, (vec![], vec![]));
        let settlement = Settlement {
            delivered: messages.iter().map(|(_, position)| *position).collect(),
            ..Settlement::default()
        };
        let settled = self
            .store
            .settle("default", self.token, &self.shards, &settlement)
            .await;
        assert!(settled.unwrap().is_empty());
    }
}

/// Sends and delivers one message, and lets the partitions rotate.
async fn turn(reader: &Reader) {
    let id = send(&reader.store, text("later")).await.id();
    reader.deliver(&[(id, id.get())]).await;
    let passed = "UPDATE oneflight_rotation SET since = since - 20000";
    sqlx::query(passed).execute(reader.store.pool()).await.unwrap();
    for _ in 0..2 {
        reader.store.keep_house().await.unwrap();
    }
}

/// Goes on until nothing is remembered of what was withdrawn.
async fn forget(reader: &Reader) {
    for _ in 0..30 {
        if count(reader.store.pool(), "SELECT count(*) FROM oneflight_withdrawn").await == 0 {
            return;
        }
        turn(reader).await;
    }
    panic!("it is remembered for ever");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_cancelled_is_not_taken_though_its_room_was_given_back() {
    let store = store(&server().schema().await).await;
    let _ = send(&store, text("cancelled")).await;
    let (reader, known) = Reader::join(&store).await;
    let (id, position) = known[0];
    let _ = Outbox::new(store.clone()).cancel(id).await.unwrap();
    assert_eq!(reader.take(&known).await, (vec![position], vec![]));
    forget(&reader).await;
    assert_eq!(reader.take(&known).await, (vec![position], vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_brought_forward_counts_as_postponed_though_its_old_room_was_given_back() {
    let store = store(&server().schema().await).await;
    let _ = send(&store, text("waits").ordering_key("k")).await;
    let (reader, known) = Reader::join(&store).await;
    let moved = "SELECT count(*) FROM oneflight_messages WHERE id <> position";
    for _ in 0..30 {
        if count(store.pool(), moved).await > 0 {
            break;
        }
        turn(&reader).await;
    }
    let position = known[0].1;
    assert_eq!(reader.take(&known).await, (vec![], vec![position]));
    forget(&reader).await;
    assert_eq!(reader.take(&known).await, (vec![], vec![position]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sending_much_at_once_takes_few_locks_and_no_square_of_time() {
    let store = store(&server().schema().await).await;
    let outbox = Outbox::new(store.clone());
    let mut tx = store.pool().begin().await.unwrap();
    let begun = std::time::Instant::now();
    for batch in 0..3 {
        let many = (0..2000).map(|number| Message::text("note", "x").ordering_key(format!("{batch} {}", number % 10)));
        let sent = outbox.send_all(&mut tx, many).await.unwrap();
        assert_eq!(sent.len(), 2000);
    }
    let locks = sqlx::query_scalar::<_, i64>(
        "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'",
    );
    assert!(locks.fetch_one(&mut *tx).await.unwrap() <= 30);
    tx.commit().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}
