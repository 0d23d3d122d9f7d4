//! The only place that knows of the model checkers.
//!
//! Everything that decides who polls, who is woken and who frees is built from what this module gives out: the
//! standard library's and `parking_lot`'s types in an ordinary build, loom's under `--cfg oneflight_loom`, shuttle's under
//! `--cfg oneflight_shuttle`. So models and random schedules explore the code that ships. The cfg has a name of its own because `--cfg loom` would switch over
//! dependencies (tokio among them) that are to stay as they are.

use std::sync::atomic::Ordering;

#[cfg(not(any(oneflight_loom, oneflight_shuttle)))]
pub(crate) use self::shipped::*;

#[cfg(oneflight_shuttle)]
pub(crate) use self::scheduled::*;

#[cfg(oneflight_loom)]
pub(crate) use self::modelled::*;
#[cfg(oneflight_loom)]
pub use self::modelled::{Runtime, join_tasks, spawn_onto};
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

    /// The process-wide value of `$init`, made when it is first asked for.
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

    /// A runtime that work can be spawned on.
    pub(crate) type Handle = tokio::runtime::Handle;

    /// The runtime of the current context, if there is one.
    pub(crate) fn current_runtime() -> Option<Handle> {
        Handle::try_current().ok()
    }

    /// Whether the runtime has threads of its own that run its tasks. Others do so only while somebody is inside their
    /// `block_on`.
    pub(crate) fn drives_itself(runtime: &Handle) -> bool {
        runtime.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread
    }
}

/// A checker's mutex without poisoning, as `parking_lot`'s is.
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

    /// What becomes of a task that is spawned in a model.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Runtime {
        /// It is a thread of its own, and callers may rely on that.
        Steady,
        /// It is a thread of its own, and callers may not rely on that.
        Driven,
        /// It is polled so often, and then kept.
        Left {
            /// How often.
            polls: usize,
        },
    }

    std::thread_local! {
        static RUNTIME: std::cell::Cell<Runtime> = const { std::cell::Cell::new(Runtime::Steady) };
    }

    /// Says what becomes of tasks in the models of this thread.
    pub fn spawn_onto(runtime: Runtime) {
        RUNTIME.set(runtime);
    }

    type Task = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

    global! {
        static TASKS: Mutex<(Vec<loom::thread::JoinHandle<()>>, Vec<Task>)> = Mutex::new((Vec::new(), Vec::new()));
    }

    /// In a model, tasks are threads.
    pub(crate) async fn yield_now() {
        loom::thread::yield_now();
    }

    /// In a model, a spawned task is a thread of its own, unless its runtime is left.
    #[derive(Clone)]
    pub struct Handle;

    impl Handle {
        pub(crate) fn spawn<F: Future<Output = ()> + Send + 'static>(&self, task: F) {
            let Runtime::Left { polls } = RUNTIME.get() else {
                let thread = loom::thread::spawn(move || loom::future::block_on(task));
                TASKS.lock().0.push(thread);
                return;
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

    /// Nothing depends on where it is polled in a model.
    pub(crate) struct Entered<'a>(#[allow(dead_code, reason = "borrows, as the shipped one does")] &'a Handle);

    pub(crate) fn drives_itself(_runtime: &Handle) -> bool {
        RUNTIME.get() == Runtime::Steady
    }

    /// Waits for the tasks that were spawned in this execution of a model, and drops those that were left.
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

    /// A cell that notices when it is used by two at once.
    pub(crate) struct UnsafeCell<T: ?Sized> {
        /// The readers, or -1 for a writer.
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
        /// Tasks of a runtime that is not driven.
        static LEFT: Mutex<Vec<Task>> = Mutex::new(Vec::new());
    }

    /// Under random schedules, a spawned task is one of shuttle's. One of four runtimes is steady, two may stand still
    /// and do not, and one does.
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

    /// Nothing depends on where it is polled here.
    pub(crate) struct Entered<'a>(#[allow(dead_code, reason = "borrows, as the shipped one does")] &'a Handle);

    pub(crate) fn drives_itself(runtime: &Handle) -> bool {
        runtime.0 == 0
    }

    /// Drops the tasks of the runtime that is not driven, as its end does.
    pub fn drop_left_tasks() {
        let left = std::mem::take(&mut *LEFT.lock());
        drop(left);
    }

    pub(crate) fn current_runtime() -> Option<Handle> {
        let any = shuttle::rand::RngCore::next_u32(&mut shuttle::rand::thread_rng());
        Some(Handle((any % 4) as u8))
    }
}

/// Reads an atomic.
#[cfg(not(oneflight_loom))]
#[inline(always)]
pub(crate) fn load(atomic: &AtomicU32, order: Ordering) -> u32 {
    atomic.load(order)
}

/// Reads an atomic, as the model is told to by `ONEFLIGHT_LOADS`: plainly, so that what is read may be stale as the memory
/// model allows; or, with `newest`, by a read-modify-write that changes nothing. The checker remembers one access to an
/// atomic, so a plain load that stands before a compare-exchange hides from it that the exchange could have come
/// earlier, and it does not try that order. The models are run both ways.
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

/// What a pointer may be at the moment: a guess, for a compare-exchange to begin with.
#[cfg(not(oneflight_loom))]
#[inline(always)]
pub(crate) fn glance<T>(pointer: &AtomicPtr<T>) -> *mut T {
    pointer.load(Ordering::Relaxed)
}

/// The same in a model, where all guesses are one: the exchange fails if it is wrong, and what is tried then is right.
#[cfg(oneflight_loom)]
pub(crate) fn glance<T>(_pointer: &AtomicPtr<T>) -> *mut T {
    std::ptr::null_mut()
}

/// What a number is, roughly.
#[cfg(not(oneflight_loom))]
#[inline(always)]
pub(crate) fn estimate(number: &AtomicU32) -> u32 {
    number.load(Ordering::Relaxed)
}

/// The same in a model, where all estimates are one: what depends on them is not to matter.
#[cfg(oneflight_loom)]
pub(crate) fn estimate(_number: &AtomicU32) -> u32 {
    1
}

/// How many callers are woken before their waker makes way for others: some ten microseconds' worth.
#[cfg(not(oneflight_loom))]
pub(crate) const fn round() -> usize {
    512
}

#[cfg(oneflight_loom)]
std::thread_local! {
    static ROUND: std::cell::Cell<usize> = const { std::cell::Cell::new(usize::MAX) };
}

#[cfg(oneflight_loom)]
pub(crate) fn round() -> usize {
    ROUND.get()
}

/// In the models of this thread, so many callers are woken before their waker makes way.
#[cfg(oneflight_loom)]
pub fn wake_in_rounds_of(callers: usize) {
    ROUND.set(callers);
}

/// How many polls of work, or wake-ups and ends of flights, may stand one inside the other on one stack. Much more than calls
/// are nested by design, and little enough for a stack of two megabytes.
#[cfg(not(oneflight_loom))]
pub(crate) const fn deepest() -> u32 {
    16
}

#[cfg(oneflight_loom)]
std::thread_local! {
    static DEEPEST: std::cell::Cell<u32> = const { std::cell::Cell::new(u32::MAX) };
}

#[cfg(oneflight_loom)]
pub(crate) fn deepest() -> u32 {
    DEEPEST.get()
}

/// In the models of this thread, so many may stand one inside the other.
#[cfg(oneflight_loom)]
pub fn nest_at_most(deepest: u32) {
    DEEPEST.set(deepest);
}
