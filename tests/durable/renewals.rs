//! `Renewals`: however many leases a process holds, they are renewed in a few round trips, and nobody holds them up.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use crate::lines::Lines;
use futures::future::join_all;
use oneflight::idempotency::{Idempotency, NotDone, Unfinished, Unknown};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::record::{FencingToken, Record, RecordedResult};
use oneflight::store::{
    Claim, ClaimOutcome, ClaimRequest, MemoryStore, RenewTogether, Renewal, RenewalParts, Renewals, Store, StoreError,
};
use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::Instrument;

/// Its window is 2 s.
pub const LEASE: Duration = Duration::from_secs(96);
/// More than anything here takes.
pub const LONG: Duration = Duration::from_secs(60);

/// The tokens of each message, in the order in which these were sent.
#[derive(Clone, Default)]
pub struct Server {
    messages: Arc<Mutex<Vec<Vec<u64>>>>,
    /// Whether there is no answer for now.
    is_silent: Arc<AtomicBool>,
    /// Whether an answer takes some turns.
    is_slow: Arc<AtomicBool>,
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
        tracing::info!(
            "sends {:?}",
            renewals.iter().map(|it| it.token().get()).collect::<Vec<_>>()
        );
        if self.is_slow.load(Ordering::SeqCst) {
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
        }
        if self.is_silent.load(Ordering::SeqCst) {
            pending::<()>().await;
        }
        for renewal in renewals {
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
    pub fn messages(&self) -> Vec<Vec<u64>> {
        self.messages.lock().clone()
    }
}

pub fn id() -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), "a7f3").unwrap()
}

pub fn gathered() -> (Server, Renewals<Server>) {
    let server = Server::default();
    (server.clone(), Renewals::over(server))
}

pub async fn renew(renewals: &Renewals<Server>, token: u64, lease: Duration) -> Result<(), StoreError> {
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

pub fn runtime() -> Runtime {
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

/// The queue of the tasks of a runtime is long, and renewals go on coming.
#[test]
fn a_runtime_that_has_more_to_do_than_it_can_sends_them_all_the_same() {
    let (server, renewals) = gathered();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    // Longer than a task that gathers may be late, and the window is shorter.
    let (round, lease) = (Duration::from_millis(40), Duration::from_millis(480));
    let renewed = runtime.block_on(async {
        let busy = JoinSet::from_iter((0..200).map(|_| async move {
            loop {
                std::thread::sleep(round / 200);
                tokio::task::yield_now().await;
            }
        }));
        let coming = JoinSet::from_iter((0..25).map(|token| {
            let renewals = renewals.clone();
            async move {
                sleep(round / 4 * u32::try_from(token).unwrap()).await;
                renew(&renewals, token, lease).await
            }
        }));
        let renewed = timeout(LONG / 2, coming.join_all()).await;
        drop(busy);
        renewed
    });
    assert!(renewed.expect("none is sent").iter().all(Result::is_ok));
    assert_eq!(server.messages().concat().len(), 25);
}

/// A runtime of one thread is left in the middle of a message.
#[test]
fn a_runtime_that_rests_takes_nothing_that_others_wait_for() {
    let (server, renewals) = gathered();
    let (runs, rests) = (runtime(), Builder::new_current_thread().enable_all().build().unwrap());
    server.is_slow.store(true, Ordering::SeqCst);
    let there = rests.block_on(async {
        let there = renewing(&renewals, 1, LEASE).await;
        let (renewals, (asks, asked)) = (renewals.clone(), mpsc::channel());
        let here = runs.spawn(async move {
            let here = renewing(&renewals, 2, LEASE).await;
            asks.send(()).unwrap();
            here.await.unwrap()
        });
        asked.recv().unwrap();
        while server.messages().concat().iter().all(|token| *token != 1) {
            tokio::task::yield_now().await;
        }
        (there, here)
    });
    let (there, here) = there;
    runs.block_on(async { timeout(LONG / 6, here).await })
        .expect("it waits for a runtime that rests")
        .unwrap()
        .unwrap();
    rests.block_on(there).unwrap().unwrap();
    // The other runtime may have sent both.
    let mut sent = server.messages().concat();
    sent.sort_unstable();
    assert_eq!(sent, [1, 2]);
}

#[tokio::test]
async fn what_goes_alone_is_in_the_span_of_its_request() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.subscriber());
    let (server, renewals) = gathered();
    let of = |token| renew(&renewals, token, LEASE).instrument(tracing::info_span!("request", token));
    of(1).await.unwrap();
    assert!(lines.the("sends [1]").contains("request{token=1}"));
    join_all([of(2), of(3)]).await;
    assert!(!lines.the("sends [2, 3]").contains("request"));
    assert_eq!(server.messages().len(), 2);
}

/// Asks for so many at once, has this done with what is sent, and returns what became of them.
async fn parted(many: u64, done: impl AsyncFn(Vec<Renewal>)) -> Vec<Result<(), StoreError>> {
    struct Hands(tokio::sync::mpsc::UnboundedSender<Vec<Renewal>>);
    impl RenewTogether for Hands {
        async fn renew_together(&self, renewals: Vec<Renewal>) {
            self.0.send(renewals).unwrap();
        }
    }
    let (hands, mut handed) = tokio::sync::mpsc::unbounded_channel();
    let (renewals, id) = (Renewals::over(Hands(hands)), id());
    let asked = join_all((0..many).map(|token| renewals.renew(&id, FencingToken::new(token), LEASE)));
    let (renewed, ()) = tokio::join!(asked, async { done(handed.recv().await.unwrap()).await });
    renewed
}

#[tokio::test(start_paused = true)]
async fn few_that_are_at_fault_cost_few_messages_and_many_a_bounded_number() {
    for (many_are_at_fault, most) in [
        (vec![0], 21),
        (vec![617], 21),
        (vec![3, 500, 998], 60),
        (Vec::from_iter(0..1_000), 1_100),
    ] {
        let messages = std::cell::Cell::new(0);
        let renewed = parted(1_000, async |renewals| {
            let mut parts = RenewalParts::of(renewals);
            while let Some(part) = parts.next() {
                messages.set(messages.get() + 1);
                match part.iter().any(|it| many_are_at_fault.contains(&it.token().get())) {
                    true if part.len() > 1 => parts.failed(part),
                    true => part.into_iter().for_each(|it| it.answer(Err(StoreError::NoConnection))),
                    false => part.into_iter().for_each(|it| it.answer(Ok(()))),
                }
            }
        });
        for (token, renewed) in (0..).zip(renewed.await) {
            assert_eq!(renewed.is_err(), many_are_at_fault.contains(&token), "{token}");
        }
        assert!(messages.get() <= most, "{}", messages.get());
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_wanted_any_more_is_not_sent_alone_nor_in_parts() {
    let (hands, handed) = oneshot::channel();
    struct Hands(Mutex<Option<oneshot::Sender<Vec<Renewal>>>>);
    impl RenewTogether for Hands {
        async fn renew_together(&self, renewals: Vec<Renewal>) {
            let hands = self.0.lock().take().unwrap();
            hands.send(renewals).unwrap();
        }
    }
    let (renewals, id) = (Renewals::over(Hands(Mutex::new(Some(hands)))), id());
    let asks = |token| Box::pin(renewals.renew(&id, FencingToken::new(token), LEASE));
    let mut asked = [1, 2, 3, 4].map(asks);
    for asked in &mut asked {
        assert!(futures::poll!(asked).is_pending());
    }
    let mut sent = handed.await.unwrap();
    let [first, second, third, fourth] = asked;
    let alone = sent.remove(0);
    let mut answered = Box::pin(alone.answer_with(pending()));
    assert!(futures::poll!(&mut answered).is_pending());
    drop((first, third));
    answered.await;
    assert_eq!(
        sent.iter().map(Renewal::is_wanted).collect::<Vec<_>>(),
        [true, false, true]
    );
    let mut parts = RenewalParts::of(sent);
    let left = parts.next().unwrap();
    assert_eq!(left.iter().map(|it| it.token().get()).collect::<Vec<_>>(), [2, 4]);
    assert!(parts.next().is_none());
    left.into_iter().for_each(|it| it.answer(Ok(())));
    assert!(second.await.is_ok() && fourth.await.is_ok());
}

/// In memory, with renewals that are gathered.
#[derive(Clone)]
struct Gathers {
    memory: MemoryStore,
    renewals: Renewals<Server>,
    asked: Arc<AtomicUsize>,
}

impl Store for Gathers {
    async fn claim(&self, request: ClaimRequest) -> Result<ClaimOutcome, StoreError> {
        self.memory.claim(request).await
    }

    async fn renew(&self, id: &RequestIdentity, token: FencingToken, lease: Duration) -> Result<(), StoreError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.renewals.renew(id, token, lease).await?;
        self.memory.renew(id, token, lease).await
    }

    async fn end_lease(&self, id: &RequestIdentity, token: FencingToken, left: Duration) -> Result<(), StoreError> {
        self.memory.end_lease(id, token, left).await
    }

    async fn complete(&self, claim: Claim, result: RecordedResult, retention: Duration) -> Result<(), StoreError> {
        self.memory.complete(claim, result, retention).await
    }

    async fn release(&self, claim: Claim) -> Result<(), StoreError> {
        self.memory.release(claim).await
    }

    async fn load(&self, id: &RequestIdentity) -> Result<Option<Record>, StoreError> {
        self.memory.load(id).await
    }

    async fn purge(&self, limit: usize) -> Result<usize, StoreError> {
        self.memory.purge(limit).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_ends_does_not_wait_for_a_renewal_that_was_not_sent() {
    #[derive(Clone, Copy, Debug)]
    enum End {
        Completes,
        GivesBack,
        IsInDoubt,
    }
    for end in [End::Completes, End::GivesBack, End::IsInDoubt] {
        let (server, renewals) = gathered();
        let store = Gathers {
            memory: MemoryStore::new(),
            renewals,
            asked: Arc::default(),
        };
        let idem = Idempotency::builder(store.clone()).lease(LEASE).build();
        let other = tokio::spawn({
            let idem = Idempotency::builder(store.clone()).lease(LEASE).build();
            async move { idem.run(id(), |_| sleep(LEASE / 2)).await.map(drop) }
        });
        sleep(LEASE / 96).await;
        let (over, is_over) = oneshot::channel();
        let work = async move |_| {
            // That of the other is sent at once, and this one's waits for a window to be over.
            while store.asked.load(Ordering::SeqCst) < 2 {
                sleep(Duration::from_millis(1)).await;
            }
            over.send(Instant::now()).unwrap();
            match end {
                End::Completes => Ok(()),
                End::GivesBack => Err(Unfinished::from(NotDone::because("not now"))),
                End::IsInDoubt => Err(Unfinished::from(Unknown::because("no answer"))),
            }
        };
        let ended = idem
            .try_run(RequestIdentity::new(Scope::new("tenant-7"), "ends").unwrap(), work)
            .await;
        assert_eq!(ended.is_ok(), matches!(end, End::Completes), "{ended:?}");
        idem.drain().await;
        let waited = is_over.await.unwrap().elapsed();
        assert!(waited < LEASE / 480, "{end:?}: {waited:?}");
        assert_eq!(server.messages().concat().len(), 1, "{end:?}");
        other.abort();
    }
}
