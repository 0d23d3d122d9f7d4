//! Landing a flight with many callers keeps the thread for no long time: it wakes a round of them, and these or a task wake the
//! rest, whichever runtime is blocked or not driven.

use oneflight::{Drive, Group};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// More than a few rounds.
const CALLERS: usize = 4_000;
/// What a round may be at most.
const ROUND: usize = 600;

#[derive(Default)]
struct Count(AtomicUsize);

impl Count {
    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

type Call<'a> = Pin<Box<dyn Future<Output = u32> + 'a>>;

/// A flight whose leader is to be polled once more, and its followers, which wait.
struct Crowd<'a> {
    leader: Call<'a>,
    followers: Vec<Call<'a>>,
    woken: Arc<Count>,
}

impl<'a> Crowd<'a> {
    fn wait(group: &'a Group<u8, u32>) -> Self {
        let woken = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&woken));
        let (open, opened) = oneshot::channel();
        let call = |work: Option<oneshot::Receiver<()>>| -> Call<'a> {
            Box::pin(async move {
                let run = group.run(1, || async move {
                    work.expect("a follower's work is not begun").await.unwrap();
                    7
                });
                run.await.unwrap().value
            })
        };
        let mut leader = call(Some(opened));
        assert!(poll(&mut leader, Waker::noop()).is_pending());
        let followers = (0..CALLERS).map(|_| {
            let mut follower = call(None);
            assert!(poll(&mut follower, &waker).is_pending());
            follower
        });
        let followers = followers.collect();
        open.send(()).unwrap();
        // The first follower was the flight's standby.
        let woken_for_the_work = woken.get();
        assert!(
            woken_for_the_work <= 2,
            "{woken_for_the_work} callers were woken for the work"
        );
        woken.0.store(0, Ordering::Relaxed);
        Self {
            leader,
            followers,
            woken,
        }
    }

    fn land(&mut self) {
        assert_eq!(poll(&mut self.leader, Waker::noop()), Poll::Ready(7));
    }

    /// Every caller that waited was told, and gets the result.
    fn finish(mut self) {
        // A caller that was woken for the work was not in the list any more.
        assert!(
            self.woken.get() >= CALLERS - 2,
            "{} of {CALLERS} were woken",
            self.woken.get()
        );
        for follower in &mut self.followers {
            assert_eq!(poll(follower, Waker::noop()), Poll::Ready(7));
        }
    }
}

fn poll(call: &mut Call<'_>, waker: &Waker) -> Poll<u32> {
    call.as_mut().poll(&mut Context::from_waker(waker))
}

#[tokio::test]
async fn others_run_between_the_rounds() {
    let group = Group::new();
    let mut crowd = Crowd::wait(&group);
    crowd.land();
    let mut before = crowd.woken.get();
    assert!((1..=ROUND).contains(&before), "landing woke {before}");
    assert_eq!(group.in_flight(), 0, "the flight is over, whoever has been told");
    while before < CALLERS - 2 {
        tokio::task::yield_now().await;
        let now = crowd.woken.get();
        assert!(
            (before + 1..=before + ROUND).contains(&now),
            "from {before} to {now} in one round"
        );
        before = now;
    }
    crowd.finish();
}

#[test]
fn without_a_runtime_everybody_is_woken_at_once() {
    let group = Group::new();
    let mut crowd = Crowd::wait(&group);
    crowd.land();
    crowd.finish();
}

#[test]
fn a_runtime_that_shuts_down_wakes_the_rest() {
    let group = Group::new();
    let mut crowd = Crowd::wait(&group);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    {
        let _entered = runtime.enter();
        crowd.land();
    }
    assert!(crowd.woken.get() <= ROUND);
    drop(runtime);
    crowd.finish();
}

#[test]
fn a_runtime_that_nobody_drives_holds_nobody_up() {
    let group = Group::new();
    let mut crowd = Crowd::wait(&group);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    {
        let _entered = runtime.enter();
        crowd.land();
    }
    for (index, follower) in crowd.followers.iter_mut().enumerate() {
        assert!(
            crowd.woken.get() + 2 > index,
            "follower {index} is not woken, and nobody is left to do it"
        );
        assert_eq!(poll(follower, Waker::noop()), Poll::Ready(7));
    }
    drop(runtime);
}

#[test]
fn who_leaves_without_his_result_passes_the_word_on() {
    let group = Group::new();
    let mut crowd = Crowd::wait(&group);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    {
        let _entered = runtime.enter();
        crowd.land();
    }
    let told = crowd.woken.get();
    assert!(told <= ROUND);
    crowd.followers.drain(..told);
    assert_eq!(crowd.woken.get(), 2 * told);
    drop(runtime);
}

#[tokio::test]
async fn the_task_that_wakes_the_rest_ends_with_the_last_of_them() {
    let group = Group::new();
    let mut crowd = Crowd::wait(&group);
    crowd.land();
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert_eq!(tasks(), 1);
    for _ in 0..=CALLERS / 500 {
        tokio::task::yield_now().await;
    }
    assert_eq!(tasks(), 0);
    crowd.finish();
}

#[tokio::test]
async fn a_task_that_lands_a_flight_wakes_in_rounds_too() {
    let group: Group<u8, u32> = Group::builder().drive(Drive::Spawned).build();
    let woken = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut callers: Vec<_> = (0..CALLERS)
        .map(|_| Box::pin(group.run(1, || std::future::ready(7))))
        .collect();
    for caller in &mut callers {
        assert!(caller.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    // Each came before the task, and is to look again should that not come.
    let first = woken.get();
    assert_eq!(first, CALLERS);
    let mut before = first;
    for _ in 0..=CALLERS / 500 {
        tokio::task::yield_now().await;
        let now = woken.get();
        // The task that lands the flight and the one that wakes the rest may both have had their turn.
        assert!(now <= before + 2 * ROUND, "from {before} to {now} in one round");
        before = now;
    }
    assert_eq!(before - first, CALLERS);
}

#[test]
fn who_has_his_result_before_he_is_told_is_not_told_any_more() {
    let group: Group<u8, u32> = Group::new();
    let (open, opened) = oneshot::channel::<()>();
    let mut leader = Box::pin(group.run(1, || async move {
        opened.await.unwrap();
        7
    }));
    let mut noop = Context::from_waker(Waker::noop());
    assert!(leader.as_mut().poll(&mut noop).is_pending());
    let call = || Box::pin(group.run(1, || async { 0 }));
    let mut before: Vec<_> = (0..ROUND).map(|_| call()).collect();
    for follower in &mut before {
        assert!(follower.as_mut().poll(&mut noop).is_pending());
    }
    let woken = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut early = call();
    assert!(early.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    open.send(()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    {
        let _entered = runtime.enter();
        assert!(leader.as_mut().poll(&mut noop).is_ready());
    }
    assert!(early.as_mut().poll(&mut noop).is_ready());
    drop(runtime);
    assert_eq!(woken.get(), 0, "he was woken for what he has");
}

/// A group whose key 1 is in flight on a runtime of two workers. The leader blocks its worker as soon as it has its result.
struct Blocking {
    /// Dropped to let the worker go on. It stands first, so that a test that fails does not wait for the runtime's end.
    blocks: mpsc::Sender<()>,
    group: Group<u8, u32>,
    runtime: Runtime,
    open: oneshot::Sender<()>,
    /// Says that the leader has its result.
    landed: mpsc::Receiver<()>,
    /// The number of callers that have joined.
    joined: Arc<AtomicUsize>,
}

impl Blocking {
    fn begin() -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(2).build().unwrap();
        let group: Group<u8, u32> = Group::new();
        let (open, opened) = oneshot::channel();
        let (begins, begun) = mpsc::channel();
        let (lands, landed) = mpsc::channel();
        let blocks = {
            let group = group.clone();
            block_after(&runtime, async move {
                let run = group.run(1, || async move {
                    begins.send(()).unwrap();
                    opened.await.unwrap();
                    7
                });
                assert_eq!(run.await.unwrap().value, 7);
                lands.send(()).unwrap();
            })
        };
        begun.recv().unwrap();
        Self {
            group,
            runtime,
            open,
            landed,
            blocks,
            joined: Arc::default(),
        }
    }

    /// Spawns callers that join.
    fn join_on(&self, runtime: &Handle, callers: usize) -> Vec<JoinHandle<u32>> {
        let join = || {
            let group = self.group.clone();
            runtime.spawn(self.counted(async move { group.run(1, || async { 0 }).await.unwrap().value }))
        };
        (0..callers).map(|_| join()).collect()
    }

    /// Counts the caller as one that has joined when it has been polled once.
    fn counted<C: Future>(&self, caller: C) -> impl Future<Output = C::Output> + use<C> {
        let joined = Arc::clone(&self.joined);
        async move {
            let mut caller = std::pin::pin!(caller);
            let mut is_new = true;
            std::future::poll_fn(|cx| {
                let polled = caller.as_mut().poll(cx);
                joined.fetch_add(usize::from(std::mem::take(&mut is_new)), Ordering::Release);
                polled
            })
            .await
        }
    }

    /// Blocks the worker that is not to poll the leader, until what is returned is dropped.
    fn block_the_other_worker(&self) -> mpsc::Sender<()> {
        let (blocks, is_blocked) = mpsc::channel();
        let other = block_after(&self.runtime, async move { blocks.send(()).unwrap() });
        is_blocked.recv().unwrap();
        other
    }

    fn await_joined(&self, callers: usize) {
        while self.joined.load(Ordering::Acquire) < callers {
            std::thread::yield_now();
        }
    }
}

/// Spawns a task that blocks its worker after `act`, until what is returned is dropped.
fn block_after(runtime: &Runtime, act: impl Future<Output = ()> + Send + 'static) -> mpsc::Sender<()> {
    let (blocks, blocked) = mpsc::channel::<()>();
    runtime.spawn(async move {
        act.await;
        assert!(blocked.recv().is_err());
    });
    blocks
}

async fn all_have_it(callers: Vec<JoinHandle<u32>>) {
    let all = async {
        for caller in callers {
            assert_eq!(caller.await.unwrap(), 7);
        }
    };
    let ended = timeout(Duration::from_secs(60), all).await;
    ended.expect("a caller that is polled is not woken");
}

/// Callers join on the runtime that lands the flight, and elsewhere, so many each time. The former are not polled then.
fn callers_elsewhere_are_woken_beside_blocked_ones(joining: impl Iterator<Item = (usize, usize)>) {
    let flight = Blocking::begin();
    let elsewhere = Builder::new_current_thread().enable_time().build().unwrap();
    let (mut here, mut callers) = (Vec::new(), Vec::new());
    for (so_many_here, so_many_elsewhere) in joining {
        here.extend(flight.join_on(flight.runtime.handle(), so_many_here));
        flight.await_joined(here.len() + callers.len());
        callers.extend(flight.join_on(elsewhere.handle(), so_many_elsewhere));
        elsewhere.block_on(async {
            while flight.joined.load(Ordering::Acquire) < here.len() + callers.len() {
                tokio::task::yield_now().await;
            }
        });
    }
    let other = flight.block_the_other_worker();
    // The other runtime is not driven now, so the leader goes on with the work.
    flight.open.send(()).unwrap();
    flight.landed.recv().unwrap();
    elsewhere.block_on(all_have_it(callers));
    drop((other, flight.blocks));
    elsewhere.block_on(all_have_it(here));
}

#[test]
fn callers_elsewhere_are_woken_while_the_runtime_that_landed_the_flight_is_blocked() {
    callers_elsewhere_are_woken_beside_blocked_ones(std::iter::once((200, 1_000)));
}

#[test]
fn callers_elsewhere_are_woken_though_blocked_ones_are_strewn_among_them() {
    callers_elsewhere_are_woken_beside_blocked_ones(std::iter::repeat_n((2, 20), 100));
}

/// Work that waits for a flight is polled on the runtime at first, and a caller elsewhere stands by for it.
#[test]
fn a_call_inside_work_is_woken_for_a_caller_of_that_work_elsewhere() {
    let flight = Blocking::begin();
    let mut here = flight.join_on(flight.runtime.handle(), 200);
    flight.await_joined(200);
    let outer = || {
        let group = flight.group.clone();
        flight.counted(async move {
            let inner = group.clone();
            let work = || async move { inner.run(1, || async { 0 }).await.unwrap().value };
            group.run(2, work).await.unwrap().value
        })
    };
    here.push(flight.runtime.spawn(outer()));
    flight.await_joined(201);
    // It has the work polled with a waker for all its callers, and leaves.
    let first_follower = outer();
    let polled = flight.runtime.spawn(async move {
        let mut first_follower = Box::pin(first_follower);
        assert!(futures::poll!(first_follower.as_mut()).is_pending());
    });
    let elsewhere = Builder::new_current_thread().enable_time().build().unwrap();
    elsewhere.block_on(polled).unwrap();
    let caller = elsewhere.spawn(outer());
    elsewhere.block_on(async {
        while flight.joined.load(Ordering::Acquire) < 203 {
            tokio::task::yield_now().await;
        }
    });
    let other = flight.block_the_other_worker();
    flight.open.send(()).unwrap();
    flight.landed.recv().unwrap();
    elsewhere.block_on(all_have_it(vec![caller]));
    drop((other, flight.blocks));
    elsewhere.block_on(all_have_it(here));
}

#[test]
fn callers_are_woken_while_the_worker_that_landed_the_flight_is_blocked() {
    let flight = Blocking::begin();
    let callers = flight.join_on(flight.runtime.handle(), CALLERS);
    flight.await_joined(CALLERS);
    flight.open.send(()).unwrap();
    let elsewhere = Builder::new_current_thread().enable_time().build().unwrap();
    elsewhere.block_on(all_have_it(callers));
    drop(flight.blocks);
    flight.landed.recv().unwrap();
}

#[test]
fn callers_are_woken_beside_idle_ones_while_the_worker_that_landed_the_flight_is_blocked() {
    const IDLE: usize = 100;
    let flight = Blocking::begin();
    let (release, _) = tokio::sync::broadcast::channel::<()>(1);
    // They are the first to be woken, and are not polled again.
    for _ in 0..IDLE {
        let (group, joined, mut released) = (flight.group.clone(), Arc::clone(&flight.joined), release.subscribe());
        flight.runtime.spawn(async move {
            let mut run = std::pin::pin!(group.run(1, || async { 0 }));
            assert!(futures::poll!(run.as_mut()).is_pending());
            joined.fetch_add(1, Ordering::Release);
            assert!(released.recv().await.is_err());
        });
    }
    flight.await_joined(IDLE);
    let callers = flight.join_on(flight.runtime.handle(), CALLERS);
    flight.await_joined(IDLE + CALLERS);
    flight.open.send(()).unwrap();
    let elsewhere = Builder::new_current_thread().enable_time().build().unwrap();
    elsewhere.block_on(all_have_it(callers));
    drop((flight.blocks, release));
    flight.landed.recv().unwrap();
}

type Spawned = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A task of an executor that has gone: who wakes it drops it.
struct Orphan(Mutex<Option<Spawned>>);

impl Wake for Orphan {
    fn wake(self: Arc<Self>) {
        let task = self.0.lock().unwrap().take();
        drop(task);
    }
}

/// A task that is polled where it is woken.
struct Inline(Mutex<Option<Spawned>>);

impl Wake for Inline {
    fn wake(self: Arc<Self>) {
        let task = self.0.lock().unwrap().take();
        if let Some(mut task) = task
            && task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending()
        {
            panic!("it was woken and has no result");
        }
    }
}

/// A flight lands that has so many callers in tasks of this kind, on a runtime that is not driven. A task is its own waker.
fn wakes_in_a_bounded_stack<W: Wake + Send + Sync + 'static>(make: fn() -> W, put: fn(&W, Spawned)) {
    const DEEP: usize = 20_000;
    let group: Group<u8, u32> = Group::new();
    let (open, opened) = oneshot::channel();
    let mut leader = Box::pin(group.run(1, || async move {
        opened.await.unwrap();
        7
    }));
    let mut noop = Context::from_waker(Waker::noop());
    assert!(leader.as_mut().poll(&mut noop).is_pending());
    // It is woken for the work.
    let mut standby = Box::pin(group.run(1, || async { 0 }));
    assert!(standby.as_mut().poll(&mut noop).is_pending());
    let alive = Arc::new(());
    for _ in 0..DEEP {
        let (group, alive) = (group.clone(), Arc::clone(&alive));
        let mut task: Spawned = Box::pin(async move {
            let _alive = alive;
            assert_eq!(group.run(1, || async { 0 }).await.unwrap().value, 7);
        });
        let waker = Arc::new(make());
        let polled = task
            .as_mut()
            .poll(&mut Context::from_waker(&Waker::from(Arc::clone(&waker))));
        assert!(polled.is_pending());
        put(&waker, task);
    }
    open.send(()).unwrap();
    let runtime = Builder::new_current_thread().build().unwrap();
    {
        let _entered = runtime.enter();
        assert!(leader.as_mut().poll(&mut noop).is_ready());
    }
    assert_eq!(Arc::strong_count(&alive), 1, "each that goes wakes another one");
    assert!(standby.as_mut().poll(&mut noop).is_ready());
}

#[test]
fn callers_that_are_dropped_as_they_are_woken_take_a_bounded_part_of_the_stack() {
    wakes_in_a_bounded_stack(
        || Orphan(Mutex::new(None)),
        |waker, task| *waker.0.lock().unwrap() = Some(task),
    );
}

#[test]
fn callers_that_are_polled_as_they_are_woken_take_a_bounded_part_of_the_stack() {
    wakes_in_a_bounded_stack(
        || Inline(Mutex::new(None)),
        |waker, task| *waker.0.lock().unwrap() = Some(task),
    );
}

/// A task that is polled where it is woken, and again if it is woken meanwhile.
struct Looping(Mutex<Slot>);

struct Slot {
    task: Option<Spawned>,
    woken: bool,
}

impl Wake for Looping {
    fn wake(self: Arc<Self>) {
        let mut slot = self.0.lock().unwrap();
        slot.woken = true;
        let Some(mut task) = slot.task.take() else { return };
        let waker = Waker::from(Arc::clone(&self));
        while std::mem::take(&mut slot.woken) {
            drop(slot);
            if task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                return;
            }
            slot = self.0.lock().unwrap();
        }
        slot.task = Some(task);
    }
}

#[test]
fn work_that_wakes_itself_is_polled_in_a_bounded_part_of_the_stack() {
    const DEEP: usize = 20_000;
    let group: Group<u8, u32> = Group::new();
    let (open, opened) = oneshot::channel();
    let mut leader = Box::pin(group.run(1, || async move {
        opened.await.unwrap();
        let mut polls = 0;
        std::future::poll_fn(|cx| {
            polls += 1;
            cx.waker().wake_by_ref();
            match polls > DEEP {
                true => Poll::Ready(7),
                false => Poll::Pending,
            }
        })
        .await
    }));
    assert!(
        leader
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_pending()
    );
    let told = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..DEEP)
        .map(|_| {
            let (group, told) = (group.clone(), Arc::clone(&told));
            let task: Spawned = Box::pin(async move {
                assert_eq!(group.run(1, || async { 0 }).await.unwrap().value, 7);
                told.fetch_add(1, Ordering::Relaxed);
            });
            let caller = Arc::new(Looping(Mutex::new(Slot {
                task: Some(task),
                woken: false,
            })));
            Arc::clone(&caller).wake();
            caller
        })
        .collect();
    open.send(()).unwrap();
    assert_eq!(told.load(Ordering::Relaxed), DEEP);
    drop(callers);
}
