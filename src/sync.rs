//! The only place that knows the model checkers.
//!
//! Everything that decides which caller polls, which is woken and which frees is built from what this module provides: the
//! standard library's and `parking_lot`'s types in an ordinary build, loom's under `--cfg oneflight_loom`, shuttle's under
//! `--cfg oneflight_shuttle`. So models and random schedules explore the code that ships. The cfgs have names of their own,
//! because `--cfg loom` would also switch dependencies over (tokio among them), which must stay as they are.

mod bounds;
#[cfg(not(any(oneflight_loom, oneflight_shuttle)))]
mod workers;

pub(crate) use self::bounds::{deepest, few, first_round, round, together};
#[cfg(oneflight_loom)]
pub use self::bounds::{nest_at_most, wake_first, wake_in_rounds_of};

use std::sync::atomic::Ordering;

#[cfg(not(any(oneflight_loom, oneflight_shuttle)))]
pub(crate) use self::shipped::*;
#[cfg(not(any(oneflight_loom, oneflight_shuttle)))]
pub(crate) use self::workers::{current_runtime, drives_itself, number_of, own_runtime, spawn_for_any_worker};

#[cfg(oneflight_shuttle)]
pub(crate) use self::scheduled::*;

#[cfg(oneflight_loom)]
pub(crate) use self::modelled::*;
#[cfg(oneflight_loom)]
pub use self::modelled::{Runtime, join_tasks, run_as_worker, spawn_onto};
#[cfg(oneflight_shuttle)]
pub use self::scheduled::drop_left_tasks;

#[cfg(not(any(oneflight_loom, oneflight_shuttle)))]
mod shipped {
    pub(crate) use parking_lot::Mutex;
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize};

    /// [`std::cell::UnsafeCell`] behind loom's interface, which names each access.
    #[derive(Debug)]
    #[repr(transparent)]
    pub(crate) struct UnsafeCell<T: ?Sized>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }
    }

    impl<T: ?Sized> UnsafeCell<T> {
        #[inline(always)]
        pub(crate) fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
            read(self.0.get())
        }

        #[inline(always)]
        pub(crate) fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
            write(self.0.get())
        }
    }

    /// Declares a process-wide value, which is made of `$init` when it is first used.
    macro_rules! global {
        ($(#[$meta:meta])* static $name:ident: $type:ty = $init:expr;) => {
            $(#[$meta])*
            static $name: std::sync::LazyLock<$type> = std::sync::LazyLock::new(|| $init);
        };
    }
    pub(crate) use global;

    macro_rules! per_thread {
        (static $name:ident: $type:ty = $init:expr;) => {
            std::thread_local! {
                static $name: $type = const { $init };
            }
        };
    }
    pub(crate) use per_thread;

    /// Lets the other tasks of the runtime run.
    pub(crate) use tokio::task::yield_now;

    /// A handle of a runtime that work can be spawned on.
    pub(crate) type Handle = tokio::runtime::Handle;
}

/// Declares the checker's mutex, without poisoning, as `parking_lot`'s is.
#[cfg(any(oneflight_loom, oneflight_shuttle))]
macro_rules! mutex_of {
    ($checker:ident) => {
        #[derive(Debug)]
        pub(crate) struct Mutex<T>($checker::sync::Mutex<T>);

        impl<T> Mutex<T> {
            pub(crate) fn new(value: T) -> Self {
                Self($checker::sync::Mutex::new(value))
            }

            pub(crate) fn lock(&self) -> $checker::sync::MutexGuard<'_, T> {
                match self.0.lock() {
                    Ok(guard) => guard,
                    Err(poisoned) => poisoned.into_inner(),
                }
            }
        }
    };
}
#[cfg(oneflight_loom)]
mod modelled {
    pub(crate) use loom::cell::UnsafeCell;
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize};
    use std::fmt;
    use std::future::Future;

    mutex_of!(loom);

    macro_rules! global {
        ($(#[$meta:meta])* static $name:ident: $type:ty = $init:expr;) => {
            loom::lazy_static! {
                $(#[$meta])*
                static ref $name: $type = $init;
            }
        };
    }
    pub(crate) use global;

    macro_rules! per_thread {
        (static $name:ident: $type:ty = $init:expr;) => {
            loom::thread_local! {
                static $name: $type = $init;
            }
        };
    }
    pub(crate) use per_thread;

    /// How a task that is spawned in a model is run.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Runtime {
        /// In a thread of its own, and callers may rely on that.
        Steady,
        /// In a thread of its own, and callers may not rely on that.
        Driven,
        /// It is polled a number of times, and then kept.
        Left {
            /// The number of polls.
            polls: usize,
        },
        /// It is kept, although callers may rely on it: all threads of its runtime are blocked.
        Blocked,
    }

    std::thread_local! {
        static RUNTIME: std::cell::Cell<Runtime> = const { std::cell::Cell::new(Runtime::Steady) };
    }

    /// Sets how tasks in the models of this thread are run.
    pub fn spawn_onto(runtime: Runtime) {
        RUNTIME.set(runtime);
    }

    type Task = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

    global! {
        static TASKS: Mutex<(Vec<loom::thread::JoinHandle<()>>, Vec<Task>)> = Mutex::new((Vec::new(), Vec::new()));
    }

    /// In a model, tasks are threads, so the thread yields.
    pub(crate) async fn yield_now() {
        loom::thread::yield_now();
    }

    /// Spawns tasks in a model: each is a thread of its own, unless it is to be [left](Runtime::Left).
    #[derive(Clone)]
    pub struct Handle;

    impl Handle {
        pub(crate) fn spawn<F: Future<Output = ()> + Send + 'static>(&self, task: F) {
            let polls = match RUNTIME.get() {
                Runtime::Left { polls } => polls,
                Runtime::Blocked => 0,
                Runtime::Steady | Runtime::Driven => {
                    let thread = loom::thread::spawn(move || loom::future::block_on(task));
                    TASKS.lock().0.push(thread);
                    return;
                }
            };
            let mut task: Task = Box::pin(task);
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            if !(0..polls).any(|_| task.as_mut().poll(&mut cx).is_ready()) {
                TASKS.lock().1.push(task);
            }
        }

        pub(crate) fn enter(&self) -> Entered<'_> {
            Entered(self)
        }
    }

    /// The guard of an entered runtime. In a model nothing depends on it.
    pub(crate) struct Entered<'a>(#[allow(dead_code, reason = "borrows, as the shipped one does")] &'a Handle);

    pub(crate) fn drives_itself(_runtime: &Handle) -> bool {
        matches!(RUNTIME.get(), Runtime::Steady | Runtime::Blocked)
    }

    /// Returns 1 for the runtime of a model's tasks, if it drives itself.
    pub(crate) fn number_of(runtime: &Handle, _most: u32) -> u32 {
        drives_itself(runtime).into()
    }

    per_thread! {
        static IS_WORKER: std::cell::Cell<bool> = std::cell::Cell::new(false);
    }

    /// Sets whether this thread of a model counts as a worker of the runtime of the model's tasks.
    pub fn run_as_worker(is: bool) {
        IS_WORKER.with(|is_worker| is_worker.set(is));
    }

    pub(crate) fn own_runtime(_most: u32) -> u32 {
        IS_WORKER.with(std::cell::Cell::get).into()
    }

    /// Drops the tasks that were left in this execution of a model, and waits for the others.
    pub fn join_tasks() {
        let (threads, left) = std::mem::take(&mut *TASKS.lock());
        drop(left);
        for task in threads {
            task.join().expect("a task panicked");
        }
    }

    impl fmt::Debug for Handle {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Handle")
        }
    }

    pub(crate) fn current_runtime() -> Option<Handle> {
        Some(Handle)
    }
}

#[cfg(oneflight_shuttle)]
mod scheduled {
    pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize};
    use std::fmt;
    use std::future::Future;

    mutex_of!(shuttle);

    /// A cell that panics if it is written while it is used.
    pub(crate) struct UnsafeCell<T: ?Sized> {
        /// The number of readers, or -1 for a writer.
        users: std::sync::atomic::AtomicIsize,
        value: std::cell::UnsafeCell<T>,
    }

    impl<T> UnsafeCell<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self {
                users: std::sync::atomic::AtomicIsize::new(0),
                value: std::cell::UnsafeCell::new(value),
            }
        }

        pub(crate) fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
            let before = self.users.fetch_add(1, SeqCst);
            assert!(before >= 0, "read while it is written");
            let _over = Over(&self.users, 1);
            read(self.value.get())
        }

        pub(crate) fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
            let before = self.users.fetch_sub(1, SeqCst);
            assert!(before == 0, "written while it is used");
            let _over = Over(&self.users, -1);
            write(self.value.get())
        }
    }

    use std::sync::atomic::Ordering::SeqCst;

    struct Over<'a>(&'a std::sync::atomic::AtomicIsize, isize);

    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(self.1, SeqCst);
        }
    }

    impl<T: ?Sized> fmt::Debug for UnsafeCell<T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("UnsafeCell")
        }
    }

    macro_rules! global {
        ($(#[$meta:meta])* static $name:ident: $type:ty = $init:expr;) => {
            shuttle::lazy_static! {
                $(#[$meta])*
                static ref $name: $type = $init;
            }
        };
    }
    pub(crate) use global;

    macro_rules! per_thread {
        (static $name:ident: $type:ty = $init:expr;) => {
            shuttle::thread_local! {
                static $name: $type = $init;
            }
        };
    }
    pub(crate) use per_thread;

    pub(crate) use shuttle::future::yield_now;

    type Task = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

    global! {
        /// The tasks of a runtime that is not driven.
        static LEFT: Mutex<Vec<Task>> = Mutex::new(Vec::new());
    }

    /// Spawns tasks under random schedules: each is one of shuttle's. Of four runtimes one is steady, two may stand still and
    /// do not, and one stands still.
    #[derive(Clone, Debug)]
    pub struct Handle(u8);

    impl Handle {
        pub(crate) fn spawn<F: Future<Output = ()> + Send + 'static>(&self, task: F) {
            if self.0 == 3 {
                LEFT.lock().push(Box::pin(task));
            } else {
                drop(shuttle::future::spawn(task));
            }
        }

        pub(crate) fn enter(&self) -> Entered<'_> {
            Entered(self)
        }
    }

    /// The guard of an entered runtime. Under random schedules nothing depends on it.
    pub(crate) struct Entered<'a>(#[allow(dead_code, reason = "borrows, as the shipped one does")] &'a Handle);

    pub(crate) fn drives_itself(runtime: &Handle) -> bool {
        runtime.0 == 0
    }

    pub(crate) fn number_of(runtime: &Handle, _most: u32) -> u32 {
        drives_itself(runtime).into()
    }

    per_thread! {
        static IS_WORKER: bool = shuttle::rand::RngCore::next_u32(&mut shuttle::rand::thread_rng()) % 8 > 0;
    }

    /// A thread is a worker of the steady runtime or not, by chance.
    pub(crate) fn own_runtime(_most: u32) -> u32 {
        IS_WORKER.with(|is_worker| u32::from(*is_worker))
    }

    /// Drops the tasks of the runtime that stands still, as the end of a runtime does.
    pub fn drop_left_tasks() {
        let left = std::mem::take(&mut *LEFT.lock());
        drop(left);
    }

    pub(crate) fn current_runtime() -> Option<Handle> {
        let any = shuttle::rand::RngCore::next_u32(&mut shuttle::rand::thread_rng());
        Some(Handle((any % 4) as u8))
    }
}

#[cfg(any(oneflight_loom, oneflight_shuttle))]
pub(crate) fn spawn_for_any_worker(runtime: &Handle, task: impl Future<Output = ()> + Send + 'static) {
    runtime.spawn(task);
}

/// Reads an atomic.
#[cfg(not(oneflight_loom))]
#[inline(always)]
pub(crate) fn load(atomic: &AtomicU32, order: Ordering) -> u32 {
    atomic.load(order)
}

/// Reads an atomic in the way that `ONEFLIGHT_LOADS` says: by a plain load, which may be stale as the memory model allows, or,
/// with `newest`, by a read-modify-write that changes nothing.
///
/// The checker remembers one access to an atomic. So a plain load before a compare-exchange hides from it that the exchange
/// could have come earlier, and it does not try that order. The models are run both ways.
#[cfg(oneflight_loom)]
pub(crate) fn load(atomic: &AtomicU32, order: Ordering) -> u32 {
    static NEWEST: std::sync::LazyLock<bool> =
        std::sync::LazyLock::new(|| std::env::var("ONEFLIGHT_LOADS").is_ok_and(|loads| loads == "newest"));
    if *NEWEST {
        atomic.fetch_add(0, order)
    } else {
        atomic.load(order)
    }
}

/// Returns a guess at a pointer's value, for a compare-exchange to begin with.
#[cfg(not(oneflight_loom))]
#[inline(always)]
pub(crate) fn glance<T>(pointer: &AtomicPtr<T>) -> *mut T {
    pointer.load(Ordering::Relaxed)
}

/// Returns null in a model: if the guess is wrong, the exchange fails, and the next one is tried with the right value.
#[cfg(oneflight_loom)]
pub(crate) fn glance<T>(_pointer: &AtomicPtr<T>) -> *mut T {
    std::ptr::null_mut()
}

/// Returns roughly what a number is.
#[cfg(not(oneflight_loom))]
#[inline(always)]
pub(crate) fn estimate(number: &AtomicU32) -> u32 {
    number.load(Ordering::Relaxed)
}

/// Returns one in a model: nothing that matters may depend on an estimate.
#[cfg(oneflight_loom)]
pub(crate) fn estimate(_number: &AtomicU32) -> u32 {
    1
}
