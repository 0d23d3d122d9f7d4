//! `Renewals`: however many leases a process holds, they are renewed in a few round trips, and nobody holds them up.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use futures::future::join_all;
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::record::FencingToken;
use oneflight::store::{RenewTogether, Renewal, Renewals, StoreError};
use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// Its window is 2 s.
const LEASE: Duration = Duration::from_secs(96);
/// More than anything here takes.
const LONG: Duration = Duration::from_secs(60);

/// The tokens of each message, in the order in which these were sent.
#[derive(Clone, Default)]
struct Server {
    messages: Arc<Mutex<Vec<Vec<u64>>>>,
    /// Whether there is no answer for now.
    is_silent: Arc<AtomicBool>,
}

/// It is outdated.
const OUTDATED: u64 = 1_000_001;
/// It is not answered.
const DROPPED: u64 = 1_000_002;
/// The store panics.
const PANICS: u64 = 1_000_003;

impl RenewTogether for Server {
    async fn renew_together(&self, renewals: Vec<Renewal>) {
        let tokens = renewals.iter().map(|it| it.token().get()).collect();
        self.messages.lock().push(tokens);
        if self.is_silent.load(Ordering::SeqCst) {
            pending::<()>().await;
        }
        for renewal in renewals {
            assert_eq!(renewal.id(), &id());
            let token = renewal.token();
            match token.get() {
                OUTDATED => renewal.answer(Err(StoreError::Outdated { token })),
                DROPPED => drop(renewal),
                PANICS => panic!("the store panics"),
                _ => renewal.answer(Ok(())),
            }
        }
    }
}

impl Server {
    fn messages(&self) -> Vec<Vec<u64>> {
        self.messages.lock().clone()
    }
}

fn id() -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), "a7f3").unwrap()
}

fn gathered() -> (Server, Renewals<Server>) {
    let server = Server::default();
    (server.clone(), Renewals::over(server))
}

async fn renew(renewals: &Renewals<Server>, token: u64, lease: Duration) -> Result<(), StoreError> {
    renewals.renew(&id(), FencingToken::new(token), lease).await
}

/// Renews in a task, and returns once that waits or is done.
async fn renewing(
    renewals: &Renewals<Server>,
    token: u64,
    lease: Duration,
) -> tokio::task::JoinHandle<Result<(), StoreError>> {
    let renewals = renewals.clone();
    let (polls, polled) = oneshot::channel();
    let task = tokio::spawn(async move {
        let id = id();
        let mut renewed = Box::pin(renewals.renew(&id, FencingToken::new(token), lease));
        let first = futures::poll!(&mut renewed);
        let _ = polls.send(());
        match first {
            std::task::Poll::Ready(renewed) => renewed,
            std::task::Poll::Pending => renewed.await,
        }
    });
    polled.await.unwrap();
    task
}

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_leases_are_renewed_in_twenty_round_trips_a_third() {
    const LEASES: u64 = 10_000;
    for lease in [
        Duration::from_millis(600),
        Duration::from_secs(10),
        Duration::from_secs(96),
    ] {
        let (server, renewals) = gathered();
        let mut renewing = JoinSet::new();
        for token in 0..LEASES {
            let renewals = renewals.clone();
            let then = (lease / 3).mul_f64(fastrand::f64());
            renewing.spawn(async move {
                sleep(then).await;
                let asked = Instant::now();
                renew(&renewals, token, lease).await.unwrap();
                asked.elapsed()
            });
        }
        let waited = renewing.join_all().await.into_iter().max().unwrap();
        let messages = server.messages();
        assert!(messages.len() <= 20, "{lease:?}: {}", messages.len());
        // A timer of tokio's is up to a millisecond late.
        assert!(waited <= lease / 48 + Duration::from_millis(2), "{lease:?}: {waited:?}");
        let mut tokens: Vec<_> = messages.concat();
        tokens.sort_unstable();
        assert!(tokens.into_iter().eq(0..LEASES), "{lease:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_comes_alone_is_sent_at_once_and_others_wait_for_one_another() {
    let (server, renewals) = gathered();
    let begun = Instant::now();
    renew(&renewals, 1, LEASE).await.unwrap();
    assert_eq!(begun.elapsed(), Duration::ZERO);
    let both = join_all([renew(&renewals, 2, LEASE), renew(&renewals, 3, LEASE)]);
    assert!(both.await.iter().all(Result::is_ok));
    assert!(begun.elapsed() >= LEASE / 48, "{:?}", begun.elapsed());
    // After a window in which nothing came, and after a long time.
    for (token, quiet) in [(4, LEASE / 47), (5, LEASE * 7)] {
        sleep(quiet).await;
        let begun = Instant::now();
        renew(&renewals, token, LEASE).await.unwrap();
        assert_eq!(begun.elapsed(), Duration::ZERO, "{token}");
    }
    assert_eq!(server.messages(), [vec![1], vec![2, 3], vec![4], vec![5]]);
}

#[tokio::test(start_paused = true)]
async fn a_short_lease_is_not_kept_waiting_by_a_long_one() {
    let (server, renewals) = gathered();
    renew(&renewals, 1, LEASE).await.unwrap();
    let long = renewing(&renewals, 2, LEASE).await;
    // The task that gathers waits by now.
    sleep(LEASE / 480).await;
    let (begun, short) = (Instant::now(), LEASE / 60);
    renew(&renewals, 3, short).await.unwrap();
    assert!(begun.elapsed() <= short / 48, "{:?}", begun.elapsed());
    long.await.unwrap().unwrap();
    assert_eq!(server.messages(), [vec![1], vec![2, 3]]);
}

#[tokio::test(start_paused = true)]
async fn many_go_side_by_side_a_thousand_together() {
    let (server, renewals) = gathered();
    let renewed = join_all((0..2_500).map(|token| renew(&renewals, token, LEASE)));
    assert!(renewed.await.iter().all(Result::is_ok));
    let messages = server.messages();
    assert_eq!(messages.iter().map(Vec::len).collect::<Vec<_>>(), [1_000, 1_000, 500]);
}

#[tokio::test(start_paused = true)]
async fn each_has_its_own_answer() {
    let (server, renewals) = gathered();
    let renewed = join_all([1, OUTDATED, DROPPED, 2].map(|token| renew(&renewals, token, LEASE))).await;
    assert_eq!(server.messages(), [vec![1, OUTDATED, DROPPED, 2]]);
    assert!(renewed[0].is_ok() && renewed[3].is_ok(), "{renewed:?}");
    assert!(matches!(renewed[1], Err(StoreError::Outdated { token }) if token.get() == OUTDATED));
    assert!(matches!(renewed[2], Err(StoreError::Unavailable { .. })));
    // A store that panics costs none of the later ones.
    let renewed = join_all([PANICS, 3].map(|token| renew(&renewals, token, LEASE))).await;
    assert!(
        renewed
            .iter()
            .all(|it| matches!(it, Err(StoreError::Unavailable { .. }))),
        "{renewed:?}"
    );
    renew(&renewals, 4, LEASE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_does_not_come_holds_no_other_renewal_up() {
    let (server, renewals) = gathered();
    server.is_silent.store(true, Ordering::SeqCst);
    let silent = renewing(&renewals, 1, LEASE).await;
    sleep(LEASE / 480).await;
    server.is_silent.store(false, Ordering::SeqCst);
    timeout(LEASE / 40, renew(&renewals, 2, LEASE)).await.unwrap().unwrap();
    assert!(!silent.is_finished());
    assert_eq!(server.messages(), [vec![1], vec![2]]);
}

#[tokio::test(start_paused = true)]
async fn what_a_caller_asked_for_that_is_gone_is_not_sent_and_others_are() {
    let (server, renewals) = gathered();
    let id = id();
    let asks = |token| Box::pin(renewals.renew(&id, FencingToken::new(token), LEASE));
    renew(&renewals, 1, LEASE).await.unwrap();
    // One that is kept and not polled is sent.
    let (mut gone, mut kept) = (asks(2), asks(3));
    assert!(futures::poll!(&mut gone).is_pending() && futures::poll!(&mut kept).is_pending());
    drop(gone);
    renew(&renewals, 4, LEASE).await.unwrap();
    assert_eq!(server.messages(), [vec![1], vec![3, 4]]);
    kept.await.unwrap();
    // And so it is if it alone began the task.
    sleep(LEASE).await;
    let mut gone = asks(5);
    assert!(futures::poll!(&mut gone).is_pending());
    drop(gone);
    sleep(LEASE).await;
    renew(&renewals, 6, LEASE).await.unwrap();
    assert_eq!(server.messages().last(), Some(&vec![6]));
}

#[test]
fn a_renewal_goes_on_where_the_runtime_of_the_one_before_has_ended() {
    let (server, renewals) = gathered();
    let (stays, ends) = (runtime(), runtime());
    // The first is sent at once, and the task that has done so gathers the others.
    ends.block_on(renew(&renewals, 1, LEASE)).unwrap();
    let there = ends.block_on(renewing(&renewals, 2, LEASE));
    let here = stays.block_on(renewing(&renewals, 3, LEASE));
    assert!(!there.is_finished() && !here.is_finished());
    drop(ends);
    let renewed = stays.block_on(async { timeout(LONG, here).await });
    renewed.unwrap().unwrap().unwrap();
    stays.block_on(renew(&renewals, 4, LEASE)).unwrap();
    // The second was dropped with its runtime.
    assert_eq!(server.messages(), [vec![1], vec![3], vec![4]]);
}

#[test]
fn a_runtime_that_rests_holds_no_renewal_up_and_parts_none() {
    let (server, renewals) = gathered();
    let (runs, rests) = (runtime(), Builder::new_current_thread().enable_all().build().unwrap());
    let same = id();
    // The task that gathers is begun on a runtime that does not run any more.
    let mut asked = Box::pin(renewals.renew(&same, FencingToken::new(0), LEASE));
    rests.block_on(async { assert!(futures::poll!(&mut asked).is_pending()) });
    let renewed =
        runs.block_on(async { timeout(LONG, join_all((1..=100).map(|token| renew(&renewals, token, LEASE)))).await });
    assert!(renewed.unwrap().iter().all(Result::is_ok));
    assert_eq!(server.messages().concat(), Vec::from_iter(0..=100));
    assert!(server.messages().len() <= 3, "{:?}", server.messages());
    // The task finds another one in its place when it runs again.
    rests.block_on(asked).unwrap();
    runs.block_on(renew(&renewals, 101, LEASE)).unwrap();
    assert_eq!(server.messages().concat(), Vec::from_iter(0..=101));
}

#[test]
fn a_worker_that_blocks_holds_no_renewal_up() {
    let (server, renewals) = gathered();
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let ((asks, asked), (leaves, left)) = (mpsc::channel(), mpsc::channel::<()>());
    let blocked = runtime.spawn({
        let renewals = renewals.clone();
        async move {
            let id = id();
            let mut renewed = Box::pin(renewals.renew(&id, FencingToken::new(1), LEASE));
            // What was spawned last waits for this worker, and no other one takes it over.
            assert!(futures::poll!(&mut renewed).is_pending());
            asks.send(()).unwrap();
            left.recv().unwrap();
            renewed.await
        }
    });
    asked.recv().unwrap();
    let renewed = runtime.block_on(async { timeout(LONG, renew(&renewals, 2, LEASE)).await });
    renewed.unwrap().unwrap();
    assert_eq!(server.messages().concat(), [1, 2]);
    leaves.send(()).unwrap();
    runtime.block_on(blocked).unwrap().unwrap();
}

#[test]
fn where_there_is_no_runtime_a_renewal_is_sent_by_its_caller() {
    let (server, renewals) = gathered();
    let renewed = futures::executor::block_on(join_all([1, 2].map(|token| renew(&renewals, token, LEASE))));
    assert!(renewed.iter().all(Result::is_ok));
    assert_eq!(server.messages(), [[1], [2]]);
}
