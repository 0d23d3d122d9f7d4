//! Promise 4: work that every caller has left runs to its end, or is cancelled by policy.

use crate::common::{CountsDrop, Gate, Tally, Task};
use oneflight::{Drive, Group, OnAbandon, Role};
use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

fn gated(gate: &Gate, done: &Tally) -> impl FnOnce() -> std::pin::Pin<Box<dyn Future<Output = usize> + Send>> + use<> {
    let (gate, done) = (gate.clone(), done.clone());
    move || {
        Box::pin(async move {
            gate.pass().await;
            gate.pass().await;
            done.add()
        })
    }
}

#[tokio::test]
async fn every_caller_dropped_and_the_work_still_finishes_once() {
    let group: Group<u8, usize> = Group::new();
    let (gate, done) = (Gate::new(), Tally::default());
    let mut callers: Vec<_> = (0..3).map(|_| Task::new(group.run(1, gated(&gate, &done)))).collect();
    callers.iter_mut().for_each(Task::pending);
    gate.open(1);
    callers.iter_mut().for_each(Task::pending);
    drop(callers);
    assert_eq!(group.in_flight(), 1);
    gate.open(1);
    group.drain().await;
    assert_eq!((done.get(), group.in_flight()), (1, 0));
    let stats = group.stats();
    assert_eq!(
        (stats.led, stats.abandoned, stats.finished_unattended, stats.cancelled),
        (1, 1, 1, 0)
    );
}

#[tokio::test]
async fn whoever_comes_while_it_finishes_joins_it() {
    let group: Group<u8, usize> = Group::new();
    let (gate, done) = (Gate::new(), Tally::default());
    let mut first = Task::new(group.run(1, gated(&gate, &done)));
    first.pending();
    first.drop();
    let mut late = Box::pin(group.run(1, || async { 0 }));
    assert!(futures::poll!(&mut late).is_pending());
    gate.open(2);
    let outcome = late.await.unwrap();
    assert_eq!((outcome.value, outcome.role), (1, Role::Follower));
    assert_eq!(done.get(), 1);
    let stats = group.stats();
    assert_eq!((stats.abandoned, stats.finished_unattended), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_calls_that_time_out_leave_nothing_half_done() {
    let group: Group<usize, usize> = Group::new();
    let (begun, done) = (Tally::default(), Tally::default());
    let tasks: Vec<_> = (0..1_000)
        .map(|key| {
            let (group, begun, done) = (group.clone(), begun.clone(), done.clone());
            tokio::spawn(async move {
                let work = move || async move {
                    begun.add();
                    tokio::time::sleep(Duration::from_millis(3)).await;
                    done.add()
                };
                let _ = tokio::time::timeout(Duration::from_millis(1), group.run(key, work)).await;
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    group.drain().await;
    assert_eq!(begun.get(), done.get());
    assert!(group.stats().abandoned > 0);
}

#[tokio::test]
async fn cancel_by_policy_drops_the_work_before_the_key_is_free() {
    let dropped = Tally::default();
    for per_call in [false, true] {
        let group: Group<u8, usize> = match per_call {
            true => Group::new(),
            false => Group::builder().on_abandon(OnAbandon::Cancel).build(),
        };
        let (gate, done) = (Gate::new(), Tally::default());
        let guard = CountsDrop(dropped.clone());
        let work = gated(&gate, &done);
        let call = group.run(1, move || async move {
            let _guard = guard;
            work().await
        });
        let mut caller = Task::new(match per_call {
            true => call.on_abandon(OnAbandon::Cancel),
            false => call,
        });
        caller.pending();
        caller.drop();
        assert_eq!((dropped.get(), group.in_flight()), (1 + usize::from(per_call), 0));
        assert_eq!(group.run(1, || async { 5 }).await.unwrap().value, 5);
        let stats = group.stats();
        assert_eq!((stats.cancelled, stats.abandoned, done.get()), (1, 0, 0));
    }
}

#[test]
fn outside_a_runtime_it_is_cancelled_and_counted() {
    let group: Group<u8, usize> = Group::new();
    let (gate, done, dropped) = (Gate::new(), Tally::default(), Tally::default());
    let guard = CountsDrop(dropped.clone());
    let work = gated(&gate, &done);
    let mut caller = Task::new(group.run(1, move || async move {
        let _guard = guard;
        work().await
    }));
    caller.pending();
    caller.drop();
    assert_eq!((dropped.get(), group.in_flight()), (1, 0));
    let stats = group.stats();
    assert_eq!((stats.cancelled, stats.abandoned), (1, 0));
}

#[test]
fn outside_a_runtime_the_groups_own_handle_is_used() {
    let (runtime, group) = crate::group_with_a_runtime();
    let (gate, done) = (Gate::new(), Tally::default());
    let mut caller = Task::new(group.run(1, gated(&gate, &done)));
    caller.pending();
    caller.drop();
    gate.open(2);
    runtime.block_on(group.drain());
    assert_eq!(done.get(), 1);
}

#[test]
fn a_runtime_that_shuts_down_cancels_and_leaves_no_entry() {
    let group: Group<u8, usize> = Group::new();
    let (gate, done) = (Gate::new(), Tally::default());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut caller = Task::new(group.run(1, gated(&gate, &done)));
        caller.pending();
        caller.drop();
        tokio::task::yield_now().await;
        assert_eq!(group.stats().abandoned, 1);
    });
    drop(runtime);
    assert_eq!((group.in_flight(), done.get()), (0, 0));
    assert_eq!(group.stats().cancelled, 1);
}

#[test]
fn callers_elsewhere_take_the_work_back_from_a_runtime_that_shuts_down() {
    let group: Group<u8, usize> = Group::new();
    let (gate, done) = (Gate::new(), Tally::default());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut elsewhere = runtime.block_on(async {
        let mut caller = Task::new(group.run(1, gated(&gate, &done)));
        caller.pending();
        caller.drop();
        let mut elsewhere = Task::new(group.run(1, || async { 0 }));
        elsewhere.pending();
        elsewhere
    });
    drop(runtime);
    assert!(elsewhere.wakes() > 0, "he was not told");
    elsewhere.pending();
    assert_eq!(group.stats().handed_over, 1);
    gate.open(2);
    assert_eq!(elsewhere.ready().unwrap().value, 1);
    assert_eq!((done.get(), group.in_flight()), (1, 0));
}

#[tokio::test]
async fn the_group_may_go_while_abandoned_work_runs() {
    let (gate, done) = (Gate::new(), Tally::default());
    {
        let group: Group<u8, usize> = Group::new();
        let mut caller = Task::new(group.run(1, gated(&gate, &done)));
        caller.pending();
        caller.drop();
    }
    gate.open(2);
    while done.get() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(done.get(), 1);
}

/// The task has polled the work, is woken for nothing, and a follower stands behind it: its next wake-up is its own.
#[test]
fn an_attendant_that_was_woken_for_nothing_is_woken_again() {
    let group: Group<u8, usize> = Group::new();
    let (gate, done) = (Gate::new(), Tally::default());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut first = Task::new(group.run(1, gated(&gate, &done)));
        first.pending();
        first.drop();
        settle().await;
        let mut late = Task::new(group.run(1, || async { 0 }));
        late.pending();
        gate.open(1);
        settle().await;
        late.pending();
        gate.open(1);
        settle().await;
        assert!(late.wakes() > 0);
        assert_eq!(late.ready().unwrap().value, 1);
    });
    assert_eq!(done.get(), 1);
}

#[test]
fn spawned_work_that_is_aborted_while_it_is_made_is_dropped() {
    let group: Group<u8, usize> = Group::new();
    let dropped = Tally::default();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (inner, guard) = (group.clone(), CountsDrop(dropped.clone()));
        let call = group.run(1, move || {
            assert!(inner.abort(&1));
            async move {
                let _guard = guard;
                std::future::pending().await
            }
        });
        let mut call = Task::new(call.drive(oneflight::Drive::Spawned));
        let _ = call.poll();
    });
    drop(runtime);
    assert_eq!((group.in_flight(), dropped.get(), group.stats().aborted), (0, 1, 1));
}

/// What settles between two steps of a test: the tasks of a runtime with one thread.
async fn settle() {
    for _ in 0..5 {
        tokio::task::yield_now().await;
    }
}

/// What a test waits for that cannot wait for it otherwise.
async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn followers_of_a_task_are_woken_for_the_result_only() {
    for drive in [Drive::InPlace, Drive::Spawned] {
        let group: Group<u8, usize> = Group::new();
        let (gate, steps) = (Gate::new(), Tally::default());
        let mut first = Task::new({
            let (gate, steps) = (gate.clone(), steps.clone());
            let work = move || async move {
                for _ in 0..2 {
                    gate.pass().await;
                    steps.add();
                }
                1
            };
            group.run(1, work).drive(drive)
        });
        first.pending();
        first.drop();
        let mut followers: Vec<_> = (0..3).map(|_| Task::new(group.run(1, || async { 0 }))).collect();
        followers.iter_mut().for_each(Task::pending);
        gate.open(1);
        until(|| steps.get() == 1).await;
        // Polled again, they leave the work to its task all the same.
        followers.iter_mut().for_each(Task::pending);
        assert!(followers.iter().all(|follower| follower.wakes() == 0), "{drive:?}");
        gate.open(1);
        until(|| followers.iter().all(|follower| follower.wakes() > 0)).await;
        for mut follower in followers {
            assert_eq!(follower.wakes(), 1);
            assert_eq!(follower.ready().unwrap().value, 1);
        }
        let stats = group.stats();
        assert_eq!((stats.abandoned, stats.finished_unattended), (1, 0));
        // A task goes on with the work: that is no other caller.
        assert_eq!((stats.handed_over, stats.taken_over), (0, 0));
    }
}

#[tokio::test]
async fn one_follower_stands_by_for_a_task_that_may_not_be_polled() {
    for drive in [Drive::InPlace, Drive::Spawned] {
        let group: Group<u8, usize> = Group::new();
        let (gate, done) = (Gate::new(), Tally::default());
        let mut first = Task::new(group.run(1, gated(&gate, &done)).drive(drive));
        first.pending();
        first.drop();
        settle().await;
        let mut followers: Vec<_> = (0..3).map(|_| Task::new(group.run(1, || async { 0 }))).collect();
        followers.iter_mut().for_each(Task::pending);
        let wakes = |followers: &[Task<_>]| followers.iter().map(Task::wakes).sum::<usize>();
        gate.open(1);
        settle().await;
        assert_eq!(wakes(&followers), 1, "{drive:?}");
        // The caller that is polled now finds that the task has come.
        followers.iter_mut().for_each(Task::pending);
        assert_eq!(wakes(&followers), 1, "{drive:?}");
        gate.open(1);
        settle().await;
        for mut follower in followers {
            assert_eq!(follower.ready().unwrap().value, 1);
        }
        let stats = group.stats();
        assert_eq!((stats.handed_over, stats.taken_over), (0, 0), "{drive:?}");
    }
}

#[test]
fn spawned_work_whose_runtime_is_left_while_it_is_made_is_driven_by_its_callers() {
    let group: Group<u8, usize> = Group::new();
    let (gate, done, made) = (Gate::new(), Tally::default(), Arc::new(()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (entered, work, held) = (runtime.enter(), gated(&gate, &done), Arc::clone(&made));
    let call = group.run(1, move || {
        drop(entered);
        async move {
            let _held = held;
            work().await
        }
    });
    let mut leader = Task::new(call.drive(Drive::Spawned));
    leader.pending();
    let mut follower = Task::new(group.run(1, || async { 0 }));
    follower.pending();
    gate.open(1);
    leader.drop();
    follower.pending();
    gate.open(1);
    assert_eq!(follower.ready().unwrap().value, 1);
    assert_eq!((group.in_flight(), Arc::strong_count(&made)), (0, 1));
    let stats = group.stats();
    assert_eq!((stats.abandoned, stats.finished_unattended), (0, 0));
}

/// Work that has been aborted, and goes on to its next await, in a task, drops the last caller that waits for it.
#[tokio::test]
async fn who_leaves_last_after_an_abort_cancels_nothing() {
    for on_abandon in [OnAbandon::Finish, OnAbandon::Cancel] {
        let group: Group<u8, usize> = Group::new();
        type Call = Pin<Box<dyn Future<Output = ()> + Send>>;
        let caller: Arc<Mutex<Option<Call>>> = Arc::default();
        let call = {
            let (outer, inner, caller) = (group.clone(), group.clone(), Arc::clone(&caller));
            async move {
                let work = || async move {
                    assert!(inner.abort(&1));
                    drop(caller.lock().unwrap().take());
                    std::future::pending().await
                };
                let call = outer.run(1, work).drive(Drive::Spawned).on_abandon(on_abandon);
                let _ = call.await;
            }
        };
        let mut call: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(call);
        assert!(futures::poll!(&mut call).is_pending());
        *caller.lock().unwrap() = Some(call);
        settle().await;
        assert!(caller.lock().unwrap().is_none());
        assert_eq!(group.in_flight(), 0);
        let stats = group.stats();
        assert_eq!(
            (stats.aborted, stats.cancelled, stats.abandoned),
            (1, 0, 0),
            "{on_abandon:?}"
        );
    }
}

/// A key whose comparison takes its time when it is told to: under the lock of its shard, before its call joins.
struct Slow(bool, mpsc::Sender<()>);

impl Hash for Slow {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl PartialEq for Slow {
    fn eq(&self, other: &Self) -> bool {
        if self.0 || other.0 {
            let _ = self.1.send(());
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }
}

impl Eq for Slow {}

#[tokio::test]
async fn a_call_that_joins_as_the_last_caller_leaves_keeps_the_work() {
    for on_abandon in [OnAbandon::Finish, OnAbandon::Cancel] {
        let group: Group<Slow, usize> = Group::builder().on_abandon(on_abandon).build();
        let (gate, done) = (Gate::new(), Tally::default());
        let (tell, told) = mpsc::channel();
        let mut last = Task::new(group.run(Slow(false, tell.clone()), gated(&gate, &done)));
        last.pending();
        std::thread::scope(|scope| {
            let (group, gate) = (&group, &gate);
            let joins = scope.spawn(move || {
                let mut joins = Task::new(group.run(Slow(true, tell), || async { 0 }));
                joins.pending();
                joins
            });
            told.recv().unwrap();
            // It is the last as far as it can see, and has to wait for the lock to be sure.
            last.drop();
            let mut joins = joins.join().unwrap();
            gate.open(2);
            assert_eq!(joins.ready().unwrap().value, 1, "{on_abandon:?}");
        });
        let stats = group.stats();
        assert_eq!((stats.abandoned, stats.cancelled), (0, 0), "{on_abandon:?}");
    }
}

#[test]
fn a_builder_shows_the_policies_by_their_names() {
    let builder = Group::<u8, u8>::builder()
        .on_abandon(OnAbandon::Cancel)
        .drive(Drive::Spawned);
    let shown = format!("{builder:?}");
    assert!(shown.contains("on_abandon: Cancel, drive: Spawned"), "{shown}");
}
