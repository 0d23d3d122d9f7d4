//! Which runtime a thread works for.

use parking_lot::Mutex;
use std::cell::Cell;
use tokio::runtime::{Handle, Id};

/// Returns the runtime of the current context, if there is one.
pub(crate) fn current_runtime() -> Option<Handle> {
    Handle::try_current().ok()
}

/// Returns whether the runtime has threads of its own that run its tasks. Other runtimes run tasks only while a thread is
/// inside their `block_on`.
pub(crate) fn drives_itself(runtime: &Handle) -> bool {
    runtime.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread
}

/// Spawns a task that another worker can take, too, if this one is blocked. What a worker spawns or wakes last is taken by itself
/// alone. So that is another task, which does nothing.
pub(crate) fn spawn_for_any_worker(runtime: &Handle, task: impl Future<Output = ()> + Send + 'static) {
    runtime.spawn(task);
    if drives_itself(runtime) {
        runtime.spawn(std::future::ready(()));
    }
}

/// The runtimes that have a number, by their numbers less one.
static NUMBERED: Mutex<Vec<Id>> = Mutex::new(Vec::new());

/// Returns a number from 1 to `most` for a runtime that drives itself, if there have been no more of them in this process, and
/// 0 for any other. No two runtimes that run at the same time have the same one.
pub(crate) fn number_of(runtime: &Handle, most: u32) -> u32 {
    if !drives_itself(runtime) {
        return 0;
    }
    let mut numbered = NUMBERED.lock();
    let place = match numbered.iter().position(|id| *id == runtime.id()) {
        Some(place) => place,
        None if numbered.len() >= most as usize => return 0,
        None => {
            numbered.push(runtime.id());
            numbered.len() - 1
        }
    };
    place as u32 + 1
}

/// What is known of a thread that is a worker.
#[derive(Clone, Copy)]
struct Worker {
    /// How often it was asked for its runtime.
    asked: u32,
    /// Which of the runtime's workers it was.
    index: usize,
    runtime: Option<Id>,
    /// The number of the runtime.
    number: u32,
}

thread_local! {
    static WORKER: Cell<Worker> = const { Cell::new(Worker { asked: 0, index: 0, runtime: None, number: 0 }) };
    /// How often this thread is still taken for no worker without being asked.
    static NO_WORKER: Cell<u32> = const { Cell::new(0) };
}

/// Of so many questions one is asked.
const OFTEN: u32 = 64;

/// Returns the number of the runtime of which this thread is a worker, or 0 if it is none, or if that is not certain.
///
/// To ask for the runtime counts a reference to it, which all workers would do. So what a thread was told is kept. A thread is a
/// worker of one runtime as a rule. (`block_in_place` within another runtime's context makes a thread of that one a worker, which may be
/// one of its own runtime later. It has another index then, most probably.) But what it is told may be another one that a future has
/// entered, so it asks many times at first, and now and then later. If it has been told of two, it counts as a worker of none from
/// then on. The first worker always asks: a runtime of one thread, which any thread may become for a while, has such a one as well.
///
/// A thread that has never been a worker, or that counts as one of none, counts as such for some calls more. It may become a worker
/// meanwhile, and the only harm is that it is not taken for one at once. One that has been a worker may only be waiting for a call
/// that blocks, and is asked the next time.
#[inline]
pub(crate) fn own_runtime(most: u32) -> u32 {
    let pause = NO_WORKER.get();
    if pause > 0 {
        NO_WORKER.set(pause - 1);
        return 0;
    }
    let number = ask(most);
    if number == 0 && WORKER.get().number == 0 {
        NO_WORKER.set(OFTEN - 1);
    }
    number
}

#[inline(never)]
fn ask(most: u32) -> u32 {
    let mut own = WORKER.get();
    if own.asked > 0 && own.number == 0 {
        return 0;
    }
    let Some(index) = tokio::runtime::worker_index() else {
        return 0;
    };
    if index == 0 || index != own.index || own.asked < OFTEN || own.asked.is_multiple_of(OFTEN) {
        let runtime = current_runtime();
        let id = runtime.as_ref().map(Handle::id);
        if own.asked == 0 {
            own.runtime = id;
            own.number = runtime.map_or(0, |runtime| number_of(&runtime, most));
        } else if own.runtime != id {
            own.number = 0;
        }
    }
    own.index = index;
    own.asked = own.asked.wrapping_add(1).max(1);
    WORKER.set(own);
    own.number
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::runtime::{Builder, Runtime};

    const MOST: u32 = 2_000;

    fn threads(workers: usize) -> Runtime {
        Builder::new_multi_thread().worker_threads(workers).build().unwrap()
    }

    /// What a task of this runtime is told.
    fn on<R: Send + 'static>(runtime: &Runtime, ask: impl FnOnce() -> R + Send + 'static) -> R {
        runtime.block_on(runtime.spawn(async move { ask() })).unwrap()
    }

    #[test]
    fn a_worker_knows_its_runtime_and_nothing_else_has_one() {
        let (one, other) = (threads(1), threads(2));
        let single = Builder::new_current_thread().build().unwrap();
        let number = number_of(one.handle(), MOST);
        assert!(number > 0);
        for _ in 0..1_000 {
            assert_eq!(on(&one, || own_runtime(MOST)), number);
        }
        assert_eq!(on(&other, || own_runtime(MOST)), number_of(other.handle(), MOST));
        assert_ne!(number_of(other.handle(), MOST), number);
        assert_eq!(number_of(single.handle(), MOST), 0);
        assert_eq!(single.block_on(async { own_runtime(MOST) }), 0);
        assert_eq!(one.block_on(async { own_runtime(MOST) }), 0);
        assert_eq!(own_runtime(MOST), 0);
    }

    #[test]
    fn a_runtime_that_comes_too_late_has_no_number() {
        let (one, other) = (threads(1), threads(1));
        let number = number_of(one.handle(), MOST);
        assert_eq!(
            number_of(other.handle(), 1),
            0,
            "one has the only number, or another test's runtime"
        );
        assert_eq!(number_of(one.handle(), 1), number, "it is kept");
        assert_eq!(on(&other, || own_runtime(1)), 0);
    }

    #[test]
    fn a_worker_that_is_told_of_two_runtimes_has_none() {
        let (one, other) = (threads(1), threads(1));
        let number = number_of(other.handle(), MOST);
        let entered = other.handle().clone();
        let told = on(&one, move || {
            let _entered = entered.enter();
            own_runtime(MOST)
        });
        assert_eq!(told, number, "not known to be another's");
        assert_eq!(on(&one, || own_runtime(MOST)), 0);
        assert_eq!(on(&one, || own_runtime(MOST)), 0);
    }

    #[test]
    fn a_thread_that_was_a_worker_is_none_in_a_runtime_of_its_own() {
        let one = threads(1);
        let told = on(&one, || {
            assert!(own_runtime(MOST) > 0);
            // It is dropped in there as well, since that blocks.
            tokio::task::block_in_place(|| {
                let single = Builder::new_current_thread().build().unwrap();
                single.block_on(async { own_runtime(MOST) })
            })
        });
        assert_eq!(told, 0);
    }

    #[test]
    fn a_worker_that_has_waited_for_a_call_that_blocks_is_one_again() {
        // So that the thread has its place back: nobody else can have taken it for long.
        let one = threads(1);
        let number = number_of(one.handle(), MOST);
        let told = (0..100).find_map(|_| {
            on(&one, || {
                let before = own_runtime(MOST);
                let meanwhile =
                    tokio::task::block_in_place(|| futures::executor::block_on(async { own_runtime(MOST) }));
                let same_thread = tokio::runtime::worker_index().is_some();
                same_thread.then(|| (before, meanwhile, own_runtime(MOST)))
            })
        });
        assert_eq!(told, Some((number, 0, number)));
    }
}
