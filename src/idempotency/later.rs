//! Tasks that begin later, on the runtime on which they were asked for, unless they are taken back before. Most are.
//!
//! ```text
//!             ┌──taken back──▶ nothing was spawned
//! waiting ────┼──due─────────▶ begun
//!             └──its runtime is gone──▶ stranded
//! ```
//!
//! One task a runtime waits for whichever is due first, for as long as there is one. So what is taken back costs a place in
//! a line and no task of its own. This file knows when and where. It does not know what is begun.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::runtime::{Handle, Id};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::timer::until;

/// What begins later. Neither is called with a lock of this file's held.
pub(super) trait Waiting: Send + Sync {
    /// It is due. The runtime that it was to begin on is entered.
    fn begin(self: Arc<Self>);

    /// The runtime that it was to begin on is gone.
    fn strand(&self);
}

/// See the module's documentation. Clones share the lines.
#[derive(Clone, Default)]
pub(super) struct Later(Arc<Lines>);

type Lines = Mutex<HashMap<Id, Line>>;

/// What waits on one runtime. There is a task for each line, which ends with it.
struct Line {
    waiting: BTreeMap<Place, Arc<dyn Waiting>>,
    /// Tells those that are due at the same instant apart.
    last: u64,
    /// When the task looks again. It is woken to look earlier.
    looks: Instant,
    sooner: Arc<Notify>,
}

/// A place in a line.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    due: Instant,
    number: u64,
}

impl Later {
    /// Has this begun at an instant, on this runtime.
    pub(super) fn put(&self, runtime: &Handle, due: Instant, waiting: Arc<dyn Waiting>) -> Place {
        let on = runtime.id();
        let mut opened = None;
        let mut lines = self.0.lock();
        let line = lines.entry(on).or_insert_with(|| {
            let sooner = Arc::<Notify>::default();
            opened = Some(Arc::clone(&sooner));
            Line {
                waiting: BTreeMap::new(),
                last: 0,
                looks: due,
                sooner,
            }
        });
        line.last += 1;
        let place = Place { due, number: line.last };
        line.waiting.insert(place, waiting);
        if due < line.looks {
            line.looks = due;
            line.sooner.notify_one();
        }
        drop(lines);
        if let Some(sooner) = opened {
            // A runtime that is about to end drops this at once, and so strands the line.
            let lines = Arc::downgrade(&self.0);
            runtime.spawn(Watch { lines, on, sooner }.begin_what_is_due(due));
        }
        place
    }

    /// Takes back what waits there. It may have begun.
    pub(super) fn take_back(&self, on: Id, place: Place) {
        let mut lines = self.0.lock();
        let taken = lines.get_mut(&on).and_then(|line| line.waiting.remove(&place));
        // What it has is dropped when the lock is not held.
        drop(lines);
        drop(taken);
    }
}

/// The task of a line. Where it is dropped before its end, the runtime is gone.
struct Watch {
    lines: Weak<Lines>,
    on: Id,
    sooner: Arc<Notify>,
}

impl Watch {
    async fn begin_what_is_due(self, first: Instant) {
        let mut looks = first;
        loop {
            // Whether it is due or there is one that is sooner, is looked up.
            let _ = until(looks, self.sooner.notified()).await;
            let Some(lines) = self.lines.upgrade() else { return };
            let mut due = Vec::new();
            let next = {
                let mut lines = lines.lock();
                let own = lines.get_mut(&self.on).filter(|line| self.is_of(line));
                let Some(line) = own else { return };
                let now = Instant::now();
                while let Some(entry) = line.waiting.first_entry()
                    && entry.key().due <= now
                {
                    due.push(entry.remove());
                }
                match line.waiting.first_key_value() {
                    Some((place, _)) => {
                        line.looks = place.due;
                        Some(place.due)
                    }
                    None => {
                        lines.remove(&self.on);
                        None
                    }
                }
            };
            for waiting in due {
                waiting.begin();
            }
            match next {
                Some(next) => looks = next,
                None => return,
            }
        }
    }

    /// After the end of its line there may be another one on the same runtime.
    fn is_of(&self, line: &Line) -> bool {
        Arc::ptr_eq(&line.sooner, &self.sooner)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let Some(lines) = self.lines.upgrade() else { return };
        let mut lines = lines.lock();
        let line = match lines.get(&self.on).is_some_and(|line| self.is_of(line)) {
            true => lines.remove(&self.on),
            false => None,
        };
        drop(lines);
        for waiting in line.into_iter().flat_map(|line| line.waiting.into_values()) {
            waiting.strand();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::runtime::Builder;

    use super::*;

    #[derive(Default)]
    struct Counted {
        begun: AtomicUsize,
        stranded: AtomicUsize,
    }

    impl Waiting for Counted {
        fn begin(self: Arc<Self>) {
            self.begun.fetch_add(1, Ordering::SeqCst);
        }

        fn strand(&self) {
            self.stranded.fetch_add(1, Ordering::SeqCst);
        }
    }

    impl Counted {
        fn told(&self) -> (usize, usize) {
            (self.begun.load(Ordering::SeqCst), self.stranded.load(Ordering::SeqCst))
        }
    }

    fn seconds(seconds: u64) -> Instant {
        Instant::now() + Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn each_begins_when_it_is_due() {
        let (later, here) = (Later::default(), Handle::current());
        let [first, second, third] = [(); 3].map(|()| Arc::new(Counted::default()));
        let asked = Instant::now();
        later.put(&here, seconds(20), second.clone());
        // Sooner than what is waited for.
        later.put(&here, seconds(10), first.clone());
        let place = later.put(&here, seconds(15), third.clone());
        later.take_back(here.id(), place);
        for (at, begun) in [(9, [0, 0]), (11, [1, 0]), (19, [1, 0]), (21, [1, 1])] {
            tokio::time::sleep_until(asked + Duration::from_secs(at)).await;
            assert_eq!([first.told().0, second.told().0], begun, "after {at} s");
        }
        assert_eq!(third.told(), (0, 0));
        assert!(later.0.lock().is_empty(), "a line stays behind, or its task does");
        // There is a task again for what comes now.
        later.put(&here, seconds(1), third.clone());
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(third.told(), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_that_are_taken_back_leave_one_task_and_then_none() {
        let (later, here) = (Later::default(), Handle::current());
        let before = here.metrics().num_alive_tasks();
        for _ in 0..1_000 {
            let place = later.put(&here, seconds(10), Arc::new(Counted::default()));
            later.take_back(here.id(), place);
        }
        assert_eq!(here.metrics().num_alive_tasks(), before + 1);
        assert!(later.0.lock()[&here.id()].waiting.is_empty());
        tokio::time::sleep(Duration::from_secs(11)).await;
        assert_eq!(here.metrics().num_alive_tasks(), before);
    }

    #[test]
    fn the_end_of_a_runtime_strands_what_waits_on_it_and_nothing_else() {
        let [ends, stays] = [(); 2].map(|()| Builder::new_current_thread().enable_all().build().expect("a runtime"));
        let later = Later::default();
        let [on_it, elsewhere, late] = [(); 3].map(|()| Arc::new(Counted::default()));
        later.put(ends.handle(), seconds(10), on_it.clone());
        later.put(stays.handle(), seconds(10), elsewhere.clone());
        let handle = ends.handle().clone();
        drop(ends);
        assert_eq!((on_it.told(), elsewhere.told()), ((0, 1), (0, 0)));
        // It ended before this was asked for.
        later.put(&handle, seconds(10), late.clone());
        assert_eq!(late.told(), (0, 1));
        drop(later);
        drop(stays);
    }
}
