//! What waits to be sent, and the tasks that send it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Handle, Id, RuntimeFlavor};
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout_at};

use super::renewal::{RenewTogether, Renewal};
use crate::unwind::quietly;

/// The number of windows in a lease: sixteen in a third of it.
const WINDOWS: u32 = 48;
/// The longest window: a lease may be of any length.
const LONGEST_WINDOW: Duration = Duration::from_secs(2);
/// How late the task that gathers may be.
pub(super) const LATE: Duration = Duration::from_millis(20);
/// The number of renewals that are sent together at most. More of them are sent side by side.
const MOST: usize = 1_000;

pub(super) fn window(lease: Duration) -> Duration {
    (lease / WINDOWS).min(LONGEST_WINDOW)
}

/// Where a renewal waits: on a runtime that runs only while somebody is inside of it, or on any other.
type Place = Option<Id>;

fn place_of(runtime: &Handle) -> Place {
    (runtime.runtime_flavor() != RuntimeFlavor::MultiThread).then(|| runtime.id())
}

/// Returns whether a task takes what waits at a place. What others asked for must not depend on a runtime that may rest.
fn takes(task: Place, place: Place) -> bool {
    task.is_none() || task == place
}

pub(super) struct Inner<R> {
    way: R,
    gathered: Mutex<Gathered>,
}

#[derive(Default)]
struct Gathered {
    /// By their numbers.
    waiting: Vec<Waiting>,
    /// How many there have been.
    asked: u64,
    /// When the task of a place has sent last, unless that is longer ago than a window can be.
    sent: Vec<(Place, Instant)>,
    /// One at most for each place.
    tasks: Vec<Task>,
}

struct Waiting {
    number: u64,
    place: Place,
    renewal: Renewal,
}

/// A task that gathers.
struct Task {
    place: Place,
    /// When it sends what waits.
    sends: Instant,
    /// There is one that is to be sent sooner. No other task has this one.
    sooner: Arc<Notify>,
}

/// What is to be done so that a renewal is sent.
enum Todo {
    Wake(Arc<Notify>),
    Begin { gives_way: bool, sooner: Arc<Notify> },
}

enum Next {
    At(Instant),
    Send(Vec<Waiting>),
    End,
}

/// What nobody wants any more. To drop it closes spans, of which a subscriber of the user's is told. So that is done without the lock,
/// after what is wanted was sent.
#[derive(Default)]
struct Unwanted(Vec<Waiting>);

impl Drop for Unwanted {
    fn drop(&mut self) {
        for waiting in self.0.drain(..) {
            quietly(|| drop(waiting));
        }
    }
}

impl Gathered {
    fn position(&self, number: u64) -> Option<usize> {
        self.waiting
            .binary_search_by_key(&number, |waiting| waiting.number)
            .ok()
    }

    /// When a renewal of a lease is to be sent that waits at a place: a window after it could have gone along. What was sent
    /// without those of this place is of no concern.
    fn due(&self, now: Instant, place: Place, lease: Duration) -> Instant {
        let those = self.sent.iter().filter(|(task, _)| takes(*task, place));
        let last = those.map(|(_, sent)| *sent).max();
        last.map_or(now, |last| now.max(last + window(lease)))
    }

    /// When the first of those is to be sent that a task takes.
    fn first_due(&self, now: Instant, task: Place) -> Option<Instant> {
        let its_own = self.waiting.iter().filter(|waiting| takes(task, waiting.place));
        its_own
            .map(|waiting| self.due(now, waiting.place, waiting.renewal.lease()))
            .min()
    }

    /// Sees to it that a task takes a renewal, in time, unless one has. Its caller waits at this place now.
    fn see_to_it(&mut self, number: u64, place: Place) -> Option<Todo> {
        let at = self.position(number)?;
        self.waiting[at].place = place;
        let now = Instant::now();
        let due = self.due(now, place, self.waiting[at].renewal.lease());
        let those = self.tasks.iter_mut().filter(|task| takes(task.place, place));
        let (late, in_time): (Vec<_>, Vec<_>) = those.partition(|task| task.sends + LATE < now);
        if let Some(task) = in_time.into_iter().min_by_key(|task| task.sends) {
            let is_sooner = due < task.sends;
            task.sends = task.sends.min(due);
            return is_sooner.then(|| Todo::Wake(Arc::clone(&task.sooner)));
        }
        let gives_way = late.is_empty();
        let sooner = Arc::<Notify>::default();
        let sends = self.first_due(now, place).unwrap_or(due);
        self.tasks.retain(|task| task.place != place);
        self.tasks.push(Task {
            place,
            sends,
            sooner: Arc::clone(&sooner),
        });
        Some(Todo::Begin { gives_way, sooner })
    }

    /// Takes what is to be sent now, or says when the next is to be. Says that this is the end if nothing came, or another
    /// task will send the next. One that was late, and so has another one in its place, sends what is due now: the other may
    /// get its turn as late.
    fn take(&mut self, place: Place, by: &Arc<Notify>) -> (Next, Unwanted) {
        let mut unwanted = Unwanted::default();
        let Some(at) = self.tasks.iter().position(|task| task.place == place) else {
            return (Next::End, unwanted);
        };
        let (now, task) = (Instant::now(), &self.tasks[at]);
        if task.sends > now {
            return match Arc::ptr_eq(&task.sooner, by) {
                true => (Next::At(task.sends), unwanted),
                false => (Next::End, unwanted),
            };
        }
        // What was asked for by a caller that is gone may be long out of date.
        unwanted
            .0
            .extend(self.waiting.extract_if(.., |waiting| !waiting.renewal.is_wanted()));
        let taken: Vec<_> = self
            .waiting
            .extract_if(.., |waiting| takes(place, waiting.place))
            .collect();
        let Some(shortest) = taken.iter().map(|waiting| waiting.renewal.lease()).min() else {
            self.tasks.swap_remove(at);
            return (Next::End, unwanted);
        };
        self.sent
            .retain(|(task, sent)| *task != place && *sent + LONGEST_WINDOW > now);
        self.sent.push((place, now));
        // Others may come until then, which say when they are due.
        self.tasks[at].sends = now + window(shortest);
        (Next::Send(taken), unwanted)
    }
}

impl<R: RenewTogether> Inner<R> {
    pub(super) fn over(way: R) -> Self {
        let gathered = Mutex::default();
        Self { way, gathered }
    }

    /// Has a renewal wait, and returns its number.
    pub(super) fn gather(&self, renewal: Renewal) -> u64 {
        let mut gathered = self.gathered.lock();
        gathered.asked += 1;
        let number = gathered.asked;
        gathered.waiting.push(Waiting {
            number,
            place: None,
            renewal,
        });
        number
    }

    /// Sees to it that a renewal is taken in time, unless it was. Its caller is on this runtime now.
    pub(super) fn see_to_it(self: &Arc<Self>, number: u64, runtime: &Handle) {
        let place = place_of(runtime);
        let todo = self.gathered.lock().see_to_it(number, place);
        match todo {
            None => {}
            Some(Todo::Wake(sooner)) => sooner.notify_one(),
            Some(Todo::Begin { gives_way, sooner }) => {
                let inner = Arc::downgrade(self);
                let task = Gathering { inner, place, sooner };
                drop(runtime.spawn(task.run(gives_way)));
            }
        }
    }

    pub(super) fn is_waiting(&self, number: u64) -> bool {
        self.gathered.lock().position(number).is_some()
    }

    /// Takes a renewal back, if none has taken it.
    pub(super) fn take_back(&self, number: u64) -> Option<Renewal> {
        let mut gathered = self.gathered.lock();
        let at = gathered.position(number)?;
        Some(gathered.waiting.remove(at).renewal)
    }

    /// Sends a renewal in the place of its caller, if none has taken it.
    pub(super) async fn send_alone(&self, number: u64) {
        let renewal = self.take_back(number);
        if let Some(renewal) = renewal {
            self.way.renew_together(vec![renewal]).await;
        }
    }
}

/// What the task does.
struct Gathering<R> {
    inner: Weak<Inner<R>>,
    place: Place,
    sooner: Arc<Notify>,
}

impl<R: RenewTogether> Gathering<R> {
    async fn run(self, gives_way: bool) {
        if gives_way {
            // Those that are due at the same moment come before that.
            yield_now().await;
        }
        loop {
            let Some(inner) = self.inner.upgrade() else { return };
            let (next, _unwanted) = inner.gathered.lock().take(self.place, &self.sooner);
            match next {
                Next::At(sends) => {
                    drop(inner);
                    let _ = timeout_at(sends, self.sooner.notified()).await;
                }
                Next::Send(renewals) => send(&inner, renewals),
                Next::End => return,
            }
        }
    }
}

/// What the task has not sent when its runtime ends waits for another one.
impl<R> Drop for Gathering<R> {
    fn drop(&mut self) {
        let Some(inner) = self.inner.upgrade() else { return };
        let mut gathered = inner.gathered.lock();
        gathered.tasks.retain(|task| !Arc::ptr_eq(&task.sooner, &self.sooner));
    }
}

/// Sends renewals, in tasks of this runtime.
fn send<R: RenewTogether>(inner: &Arc<Inner<R>>, renewals: Vec<Waiting>) {
    let mut renewals = renewals.into_iter().map(|waiting| waiting.renewal).peekable();
    while renewals.peek().is_some() {
        let some: Vec<_> = renewals.by_ref().take(MOST).collect();
        // What is sent together is of no request.
        let span = match &some[..] {
            [alone] => Some(alone.span()),
            _ => None,
        };
        let inner = Arc::clone(inner);
        let sent = async move { inner.way.renew_together(some).await };
        match span {
            Some(span) => drop(tokio::spawn(span.around(sent))),
            None => drop(tokio::spawn(sent)),
        }
    }
}
