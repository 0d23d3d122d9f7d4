//! Promise 20, for what is durable: work knows the correlation id of the call that began it, whichever task polls it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

use std::time::Duration;

use common::Task;
use oneflight::correlation::{self, CorrelationId, CorrelationIdError};
use oneflight::idempotency::Idempotency;
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::store::MemoryStore;
use oneflight::{Drive, Origin};
use tokio::sync::oneshot;

const PATIENCE: Duration = Duration::from_secs(10);

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

fn correlation(text: &str) -> CorrelationId {
    CorrelationId::new(text).unwrap()
}

/// What the code that runs now is correlated by.
fn current() -> String {
    correlation::current().map_or_else(|| "none".to_owned(), |id| id.to_string())
}

/// Work that looks before and after it has waited.
async fn looks(go_on: oneshot::Receiver<()>) -> [String; 2] {
    let before = current();
    go_on.await.unwrap();
    [before, current()]
}

#[tokio::test]
async fn an_id_is_current_in_its_scope_and_nowhere_else() {
    assert_eq!(current(), "none");
    let inner = correlation::scope(correlation("inner"), async { current() });
    let nested = correlation::scope(correlation("outer"), async move {
        let before = current();
        let inner = inner.await;
        [before, inner, current()]
    });
    // Not before it is polled.
    assert_eq!(current(), "none");
    assert_eq!(nested.await, ["outer", "inner", "outer"]);
    assert_eq!(current(), "none");
    let inside = correlation::in_scope(correlation("sync"), current);
    assert_eq!([inside, current()], ["sync", "none"]);
}

#[tokio::test]
async fn what_a_scoped_future_drops_sees_the_id_as_well() {
    struct Tells(Option<oneshot::Sender<String>>);
    impl Drop for Tells {
        fn drop(&mut self) {
            let _ = self.0.take().unwrap().send(current());
        }
    }
    let (told, tells) = oneshot::channel();
    let mut task = Task::new(correlation::scope(correlation("c-1"), async move {
        let _tells = Tells(Some(told));
        std::future::pending::<()>().await;
    }));
    task.pending();
    task.drop();
    assert_eq!(tells.await.unwrap(), "c-1");
}

#[tokio::test]
async fn a_spawned_task_has_the_id_that_it_is_given() {
    let outer = async {
        let left_out = tokio::spawn(async { current() }).await.unwrap();
        let given = correlation::current().unwrap();
        let taken_along = tokio::spawn(correlation::scope(given, async { current() }))
            .await
            .unwrap();
        [left_out, taken_along]
    };
    assert_eq!(correlation::scope(correlation("c-1"), outer).await, ["none", "c-1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn work_sees_the_id_of_its_call_wherever_it_is_polled() {
    for drive in [Drive::Spawned, Drive::InPlace] {
        let idem = Idempotency::builder(MemoryStore::new()).drive(drive).build();
        let (go, waits) = oneshot::channel();
        let work = idem.run(id("order"), |_| {
            // The closure is called by the flight as well.
            assert_eq!(current(), "c-1");
            looks(waits)
        });
        let mut call = Box::pin(correlation::scope(correlation("c-1"), work));
        assert!(futures::poll!(&mut call).is_pending());
        go.send(()).unwrap();
        assert_eq!(*call.await.unwrap(), ["c-1", "c-1"], "{drive:?}");
    }
}

#[tokio::test]
async fn work_keeps_the_id_of_its_leader_when_a_follower_drives_it() {
    for leaders in [Some("leader"), None] {
        let idem = Idempotency::builder(MemoryStore::new()).drive(Drive::InPlace).build();
        let (go, waits) = oneshot::channel();
        let lead = idem.run(id("order"), move |_| looks(waits));
        let mut leader = Box::pin(async {
            match leaders {
                Some(id) => correlation::scope(correlation(id), lead).await,
                None => lead.await,
            }
        });
        assert!(futures::poll!(&mut leader).is_pending());
        let follow = idem.run(id("order"), |_| async { [String::new(), String::new()] });
        let mut follower = Box::pin(correlation::scope(correlation("follower"), follow));
        assert!(futures::poll!(&mut follower).is_pending());
        drop(leader);
        go.send(()).unwrap();
        let reply = tokio::time::timeout(PATIENCE, follower).await.unwrap().unwrap();
        let expected = leaders.unwrap_or("none");
        assert_eq!(*reply, [expected, expected]);
        assert_eq!(reply.origin(), Origin::Collapsed);
    }
}

#[tokio::test]
async fn abandoned_work_keeps_the_id_of_its_leader() {
    for drive in [Drive::Spawned, Drive::InPlace] {
        let idem = Idempotency::builder(MemoryStore::new()).drive(drive).build();
        let (begins, begun) = oneshot::channel();
        let (go, waits) = oneshot::channel();
        let work = idem.run(id("order"), move |_| async move {
            begins.send(()).unwrap();
            looks(waits).await
        });
        let call = correlation::scope(correlation("c-1"), work);
        // Dropped once the work has begun.
        tokio::select! {
            biased;
            begun = begun => begun.unwrap(),
            _ = call => panic!("it waits for the sender"),
        }
        go.send(()).unwrap();
        idem.drain().await;
        let replay = idem.run(id("order"), |_| async { [String::new(), String::new()] });
        let reply = correlation::scope(correlation("c-2"), replay).await.unwrap();
        assert_eq!(reply.origin(), Origin::Replayed);
        assert_eq!(*reply, ["c-1", "c-1"], "{drive:?}");
    }
}

#[test]
fn a_new_id_is_a_random_uuid() {
    let ids: Vec<String> = (0..64).map(|_| CorrelationId::random().to_string()).collect();
    for id in &ids {
        let lengths: Vec<usize> = id.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12], "{id}");
        assert!(
            id.bytes().all(|byte| matches!(byte, b'-' | b'0'..=b'9' | b'a'..=b'f')),
            "{id}"
        );
        // Version 4, variant 1: RFC 9562, section 5.4.
        assert_eq!(id.as_bytes()[14], b'4', "{id}");
        assert!(b"89ab".contains(&id.as_bytes()[19]), "{id}");
    }
    let different: std::collections::HashSet<_> = ids.iter().collect();
    assert_eq!(different.len(), ids.len());
}

#[test]
fn an_unacceptable_id_says_the_limit_and_never_the_content() {
    assert_eq!(CorrelationId::new(""), Err(CorrelationIdError::Empty));
    let error = CorrelationId::new("secret\nsecret").unwrap_err();
    assert_eq!(error, CorrelationIdError::Character { position: 6 });
    assert!(!error.to_string().contains("secret"), "{error}");
    let error = "y".repeat(200).parse::<CorrelationId>().unwrap_err();
    assert!(error.to_string().contains("128"), "{error}");
}
