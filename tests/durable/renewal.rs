//! Promise 10, of the renewal of a lease: it goes on where the work is, whatever becomes of the runtime on which it was
//! begun; or else the lease is lost, and the work can see that.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::lines::Lines;
use crate::scripted::{Fault, Op, Scripted};
use futures::FutureExt;
use oneflight::idempotency::{
    Context, Effect, Error, ErrorKind, Idempotency, IdempotencyBuilder, NotDone, Origin, Recovery, Reply, Resolution,
    Unfinished, Unknown,
};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::store::{MemoryStore, Store};
use oneflight::{Drive, FlightError};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Notify;
use tokio::time::sleep;

const LEASE: Duration = Duration::from_millis(600);

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

/// Work that counts how often it is executed, and waits.
#[derive(Clone, Default)]
struct Work {
    executions: Arc<AtomicU32>,
    finish: Arc<Notify>,
}

impl Work {
    fn executions(&self) -> u32 {
        self.executions.load(Ordering::SeqCst)
    }

    async fn begun(&self) {
        while self.executions() == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }

    fn run<S: Store>(
        &self,
        idem: &Idempotency<S>,
    ) -> impl Future<Output = Result<Reply<bool>, Error>> + Send + 'static {
        let (idem, work) = (idem.clone(), self.clone());
        async move {
            let executed = move |context: Context| async move {
                work.executions.fetch_add(1, Ordering::SeqCst);
                work.finish.notified().await;
                context.is_lease_lost()
            };
            idem.run(id("key"), executed).await
        }
    }

    /// Another process, which would run the work again, finds it in progress for so long.
    async fn is_not_run_again(&self, store: impl Store, wait: Duration) {
        let heir = Idempotency::builder(store).recovery(Recovery::Rerun).wait(wait).build();
        let error = heir.run(id("key"), |_| async {}).await.expect_err("it was run again");
        assert!(matches!(error.kind(), ErrorKind::InProgress { .. }), "{error:?}");
    }
}

fn process<S: Store>(store: S) -> IdempotencyBuilder<S> {
    Idempotency::builder(store).lease(LEASE)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_renewed_where_the_work_goes_on_when_its_runtime_is_gone() {
    for drive in [Drive::InPlace, Drive::Spawned] {
        let (store, work) = (MemoryStore::new(), Work::default());
        let idem = process(store.clone()).drive(drive).build();
        let first = runtime();
        let leader = first.spawn(work.run(&idem));
        work.begun().await;
        let follower = tokio::spawn(work.run(&idem));
        while idem.stats().joined == 0 {
            sleep(Duration::from_millis(1)).await;
        }
        first.shutdown_background();
        assert!(leader.await.unwrap_err().is_cancelled());

        work.is_not_run_again(store, LEASE * 4).await;
        work.finish.notify_one();
        let reply = follower.await.unwrap().unwrap();
        assert!(!*reply, "{drive:?}: the lease was lost");
    }
}

/// Work whose runtime goes away comes to this end. Returns the error of a caller elsewhere, once the claim has ended.
async fn ends_when_its_runtime_is_gone<S: Store>(idem: &Idempotency<S>, end: Unfinished) -> Error {
    let work = Work::default();
    let call = || {
        let (idem, work, end) = (idem.clone(), work.clone(), end.clone());
        async move {
            let executed = move |_: Context| async move {
                work.executions.fetch_add(1, Ordering::SeqCst);
                work.finish.notified().await;
                Err::<(), _>(end)
            };
            idem.try_run(id("key"), executed).await
        }
    };
    let first = runtime();
    let leader = first.spawn(call());
    work.begun().await;
    let follower = tokio::spawn(call());
    while idem.stats().joined == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    first.shutdown_background();
    assert!(leader.await.unwrap_err().is_cancelled());
    work.finish.notify_one();
    let error = follower.await.unwrap().expect_err("it has no value");
    assert_eq!(work.executions(), 1);
    idem.drain().await;
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_is_given_back_where_the_work_ends_when_its_runtime_is_gone() {
    for drive in [Drive::InPlace, Drive::Spawned] {
        let idem = process(MemoryStore::new()).drive(drive).build();
        let error = ends_when_its_runtime_is_gone(&idem, NotDone::because("refused").into()).await;
        assert_eq!(error.effect(), Effect::Nothing, "{drive:?}");
        let left = idem.status(&id("key")).await.unwrap();
        assert!(left.is_none(), "{drive:?}: {left:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_work_left_is_given_its_time_to_settle_when_its_runtime_is_gone() {
    let settle = LEASE * 100;
    for drive in [Drive::InPlace, Drive::Spawned] {
        let ask = Recovery::ask(|_| async { Resolution::Rerun });
        let idem = process(MemoryStore::new())
            .drive(drive)
            .settle(settle)
            .recovery(ask)
            .build();
        let error = ends_when_its_runtime_is_gone(&idem, Unknown::because("no answer").into()).await;
        assert_eq!(error.retry_after(), Some(settle), "{drive:?}");
        let record = idem.status(&id("key")).await.unwrap().expect("it is in progress");
        let left = record.lease_remaining().expect("it has no result");
        assert!(left > settle / 2, "{drive:?}: the policy is asked in {left:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_renewed_where_the_work_goes_on_when_its_runtime_is_not_driven() {
    let (store, work) = (MemoryStore::new(), Work::default());
    let idem = process(store.clone()).drive(Drive::InPlace).build();
    let idle = Builder::new_current_thread().enable_all().build().unwrap();
    let leading = work.run(&idem);
    let (idle, mut leader) = tokio::task::spawn_blocking(move || {
        let mut leader = Box::pin(leading);
        idle.block_on(async { assert!((&mut leader).now_or_never().is_none()) });
        (idle, leader)
    })
    .await
    .unwrap();
    assert_eq!(work.executions(), 1);
    let follower = tokio::spawn(work.run(&idem));

    work.is_not_run_again(store, LEASE * 4).await;
    work.finish.notify_one();
    assert!(!*follower.await.unwrap().unwrap(), "the lease was lost");
    assert!(!*leader.as_mut().now_or_never().expect("it is done").unwrap());
    idle.shutdown_background();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_does_not_run_out_while_its_renewal_is_stopped_on_a_runtime_that_is_not_driven() {
    let lease = LEASE * 5;
    let idem = process(MemoryStore::new())
        .lease(lease)
        .settle(lease * 20)
        .drive(Drive::InPlace)
        .build();
    let work = Work::default();
    let call = || {
        let (idem, work) = (idem.clone(), work.clone());
        async move {
            let executed = move |_: Context| async move {
                work.executions.fetch_add(1, Ordering::SeqCst);
                work.finish.notified().await;
                Err::<(), Unfinished>(Unknown::because("no answer").into())
            };
            idem.try_run(id("key"), executed).await
        }
    };
    let idle = Builder::new_current_thread().enable_all().build().unwrap();
    let leading = call();
    let (idle, leader) = tokio::task::spawn_blocking(move || {
        let mut leader = Box::pin(leading);
        idle.block_on(async { assert!((&mut leader).now_or_never().is_none()) });
        (idle, leader)
    })
    .await
    .unwrap();
    assert_eq!(work.executions(), 1);
    let follower = tokio::spawn(call());
    // Before it is noticed that the lease is not renewed.
    sleep(lease / 4).await;
    work.finish.notify_one();

    let over = Instant::now() + lease * 2;
    while Instant::now() < over {
        let record = idem.status(&id("key")).await.unwrap().expect("it is in progress");
        let left = record.lease_remaining().expect("it has no result");
        assert!(!left.is_zero(), "the policy may be asked before it has settled");
        sleep(lease / 100).await;
    }
    let error = follower.await.unwrap().expect_err("it has no value");
    assert!(matches!(error.kind(), ErrorKind::Unknown(_)), "{error:?}");
    drop(leader);
    idle.shutdown_background();
}

#[test]
fn where_nobody_can_renew_a_lease_the_work_learns_that_it_is_lost() {
    let lines = Lines::default();
    // It is not by the clock that it is lost.
    let idem = process(MemoryStore::new())
        .lease(LEASE * 1_000)
        .drive(Drive::InPlace)
        .build();
    let begun = Arc::new(AtomicU32::new(0));
    let call = || {
        let (idem, begun) = (idem.clone(), Arc::clone(&begun));
        async move {
            let work = move |context: Context| async move {
                begun.store(1, Ordering::SeqCst);
                context.lease_lost().await;
                context.is_lease_lost()
            };
            idem.run(id("key"), work).await
        }
    };
    let first = runtime();
    first.spawn(call());
    while begun.load(Ordering::SeqCst) == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    // No runtime polls this one.
    let mut follower = Box::pin(call());
    assert!((&mut follower).now_or_never().is_none());
    first.shutdown_background();
    let subscriber = lines.subscriber();
    let (tells, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let reply = tracing::subscriber::with_default(subscriber, || futures::executor::block_on(follower));
        tells.send(*reply.unwrap()).unwrap();
    });
    assert!(told.recv_timeout(LEASE * 100).expect("it is not told"));
    assert!(lines.the("is not renewed any more").contains("WARN"));
}

#[test]
fn that_a_lease_is_over_can_be_seen_although_nothing_runs() {
    let idem = process(MemoryStore::new()).drive(Drive::InPlace).build();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let (tells, told) = std::sync::mpsc::channel();
    let work = move |context: Context| async move {
        tells.send(context).unwrap();
        std::future::pending::<()>().await;
    };
    let mut call = Box::pin(idem.run(id("key"), work));
    runtime.block_on(async { assert!((&mut call).now_or_never().is_none()) });
    let context = told.recv().unwrap();
    assert!(!context.is_lease_lost());
    let begun = Instant::now();
    while !context.is_lease_lost() && begun.elapsed() < LEASE * 10 {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(context.is_lease_lost());
    // No holder took over: once it is renewed it is not lost any more.
    runtime.block_on(async {
        while context.is_lease_lost() && begun.elapsed() < LEASE * 50 {
            sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(!context.is_lease_lost());
    // After the end of the execution there is nothing left to lose.
    drop(call);
    std::thread::sleep(LEASE * 2);
    assert!(!context.is_lease_lost());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_panics_fails_or_is_silent_as_it_renews_is_asked_again() {
    // So long that there is time to print what was panicked with.
    let lease = LEASE * 5;
    let faults = [
        &[Fault::Panics, Fault::Panics][..],
        &[Fault::DoneAndPanics, Fault::DoneAndPanics],
        &[Fault::Fails, Fault::Fails],
        &[Fault::AnswerLost, Fault::AnswerLost],
        &[Fault::Hangs],
    ];
    let all = faults.map(|fault| async move {
        let (store, work) = (Scripted::new(), Work::default());
        store.next(Op::Renew, fault);
        let running = tokio::spawn(work.run(&process(store.clone()).lease(lease).build()));
        work.begun().await;
        work.is_not_run_again(store.clone(), lease * 2).await;
        assert!(store.calls(Op::Renew) > 3, "{fault:?}");
        work.finish.notify_one();
        let reply = running.await.unwrap().unwrap();
        assert_eq!((*reply, reply.origin()), (false, Origin::Executed), "{fault:?}");
    });
    futures::future::join_all(all).await;
}

#[test]
fn a_runtime_without_timers_is_refused_before_anything_is_asked() {
    for drive in [Drive::InPlace, Drive::Spawned] {
        let runtime = Builder::new_current_thread().build().unwrap();
        let store = Scripted::new();
        let idem = Idempotency::builder(store.clone()).drive(drive).build();
        let refused = |error: Error| {
            assert!(
                matches!(error.kind(), ErrorKind::Flight(FlightError::NoTimers)),
                "{error:?}"
            );
            assert_eq!(error.effect(), Effect::Nothing);
            let advice = error.to_string();
            assert!(advice.contains("enable_time"), "{advice}");
        };
        let call = idem.run(id("run"), |_| async { 1 });
        refused(runtime.block_on(call).unwrap_err());
        let call = idem.run_in_tx(id("run in tx"), |_| async { Ok(1) });
        refused(runtime.block_on(call).unwrap_err());
        assert_eq!(store.calls(Op::Claim) + store.calls(Op::Begin), 0);
    }
}

/// Work that never waits cannot be polled meanwhile, such as that of a driver that blocks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_renewed_while_the_first_poll_of_the_work_blocks() {
    let (store, work) = (MemoryStore::new(), Work::default());
    let idem = process(store.clone()).build();
    let blocked = tokio::spawn({
        let work = work.clone();
        async move {
            let executed = move |context: Context| async move {
                work.executions.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(LEASE * 3);
                context.is_lease_lost()
            };
            idem.run(id("key"), executed).await
        }
    });
    work.begun().await;
    work.is_not_run_again(store, LEASE * 2).await;
    assert!(!*blocked.await.unwrap().unwrap(), "the lease was lost");
}

/// Work that is over before its lease is to be renewed has no task of its own for that.
#[tokio::test(flavor = "current_thread")]
async fn a_thousand_leases_that_are_over_soon_cost_one_task() {
    let idem = process(MemoryStore::new())
        .lease(Duration::from_secs(60))
        .drive(Drive::InPlace)
        .build();
    let spawned = Handle::current().metrics();
    let before = spawned.num_alive_tasks();
    let mut most = before;
    for call in 0..1_000 {
        let at_work = spawned.clone();
        let executed = move |_| async move { at_work.num_alive_tasks() };
        most = most.max(*idem.run(id(&call.to_string()), executed).await.unwrap());
        tokio::task::yield_now().await;
    }
    assert_eq!(most, before + 1);
    assert_eq!(
        spawned.num_alive_tasks(),
        before + 1,
        "it waits for the first that is to be renewed"
    );
}
