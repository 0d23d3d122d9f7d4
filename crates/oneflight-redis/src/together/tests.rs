//! Which task sends what waits, and for what it waits itself: each rule alone, without a server.

use std::task::Poll;

use futures_util::poll;
use redis::Client;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};

use super::super::connection::RedisConnection;
use super::super::scripts::CLAIM;
use super::*;

/// Nobody answers there, and nobody is asked.
fn inner() -> Arc<Inner> {
    let client = Client::open("redis://127.0.0.1:1/").unwrap();
    let connection = ConnectionManager::new_lazy_with_config(client, ConnectionManagerConfig::new()).unwrap();
    let way = Way {
        connection: RedisConnection::from(connection),
        patience: PATIENCE,
        acknowledgement: None,
    };
    Together::over(way).0
}

fn step() -> Step {
    Step::new(&CLAIM, b"0", 0)
}

/// Adds a step that waits.
fn wait(inner: &Inner) -> oneshot::Receiver<Answer> {
    match inner.join(step()) {
        Joined::Waits(_, answer) => answer,
        Joined::Alone(_) => panic!("it does not wait"),
    }
}

/// Has one step under way, so that others wait.
fn with_one_under_way() -> Arc<Inner> {
    let inner = inner();
    assert!(matches!(inner.join(step()), Joined::Alone(_)));
    inner
}

/// Begins a task, which is late soon.
fn begin_and_be_late(inner: &Arc<Inner>) -> Gathering {
    let task = inner.begin().unwrap();
    assert!(inner.begin().is_none() || task.begun.elapsed() >= LATE);
    while task.begun.elapsed() < LATE {
        std::hint::spin_loop();
    }
    task
}

#[tokio::test]
async fn the_first_task_that_has_its_turn_sends_although_it_was_replaced() {
    let inner = with_one_under_way();
    let _answers = [wait(&inner), wait(&inner)];
    let [first, second, third] = [0; 3].map(|_| begin_and_be_late(&inner));
    assert_eq!(second.take().unwrap().len(), 2);
    assert!(first.take().is_none());
    let _answer = wait(&inner);
    assert_eq!(third.take().unwrap().len(), 1);
}

#[tokio::test]
async fn only_the_last_task_gives_up_what_waits() {
    let inner = with_one_under_way();
    let mut answer = wait(&inner);
    let [first, second] = [0; 2].map(|_| begin_and_be_late(&inner));
    drop(first);
    assert!(poll!(&mut answer).is_pending());
    drop(second);
    assert!(answer.await.is_err());
    // The next one begins another task.
    let _answer = wait(&inner);
    assert!(inner.begin().is_some());
}

#[tokio::test]
async fn a_task_gives_way_as_long_as_more_comes() {
    let inner = with_one_under_way();
    let mut answers = vec![wait(&inner)];
    // It is never late.
    let begun = Instant::now() + Duration::from_secs(3_600);
    let mut gives_way = std::pin::pin!(inner.give_way(begun));
    for _ in 0..5 {
        answers.push(wait(&inner));
        assert_eq!(poll!(&mut gives_way), Poll::Pending);
    }
    assert_eq!(poll!(&mut gives_way), Poll::Ready(()));
}

#[tokio::test]
async fn a_task_that_was_given_its_turn_late_gives_way_no_more() {
    let inner = with_one_under_way();
    let _answers = [wait(&inner), wait(&inner)];
    let begun = Instant::now();
    let mut gives_way = std::pin::pin!(inner.give_way(begun));
    let _ = poll!(&mut gives_way);
    while begun.elapsed() < LATE {
        std::hint::spin_loop();
    }
    assert_eq!(poll!(&mut gives_way), Poll::Ready(()));
}
