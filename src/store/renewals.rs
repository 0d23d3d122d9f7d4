//! Renewals of many leases in few round trips.
//!
//! ```text
//! quiet ──renewal──▶ gathering ──at once, or a window after the last──▶ sent, and gathering anew
//!   ▲                                                                     │
//!   └──────────── nothing came within a window ───────────────────────────┘
//! ```
//!
//! A process renews each of its leases at a third of its length, and may hold thousands. So they go out together: those
//! that come within a window of one another share a round trip. A window is a sixteenth of a third of the lease, so a
//! process has some sixteen round trips in a third, however many leases it holds. What is late by a window has five thirds
//! of that left to be renewed in. A renewal that comes after a quiet window is sent at once.
//!
//! # What must not hold others up
//!
//! * An answer that does not come: the task that gathers waits for none. What is sent has a task of its own.
//! * A caller that is dropped, or kept and never polled: it sends nothing for others. What it asked for is not sent
//!   either, unless that has happened when it is dropped.
//! * A runtime. The task that gathers runs where the first renewal was asked for. That runtime may rest, or end, or a
//!   worker of it may block with the task in its hands. So a renewal that was not taken two windows later looks whether
//!   the task is late, and begins another one where it waits itself. The last that was begun sends, and one before it ends
//!   when it gets its turn.

use std::fmt;
use std::future::Future;
use std::mem;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout_at};

use super::error::StoreError;
use crate::identity::RequestIdentity;
use crate::record::FencingToken;
use crate::timer::{self, within};

/// The number of windows in a lease: sixteen in a third of it.
const WINDOWS: u32 = 48;
/// The longest window: a lease may be of any length, and a claim that is given back waits for its renewal.
const LONGEST_WINDOW: Duration = Duration::from_secs(2);
/// How late the task that gathers may be.
const LATE: Duration = Duration::from_millis(20);

/// Renews many leases at once: the part of a store that [`Renewals`] send what they have gathered to.
pub trait RenewTogether: Send + Sync + 'static {
    /// The number of renewals that are sent together at most. More of them are sent side by side.
    const MOST: usize = 1_000;

    /// Renews these leases as [`Store::renew`](super::Store::renew) does each, and [answers](Renewal::answer) each.
    ///
    /// A renewal may be answered before others are. One that is dropped without an answer fails with
    /// [`StoreError::Unavailable`]. Two may be of the same claim.
    ///
    /// # Cancel safety
    ///
    /// The future runs in a task of its own, or in the place of a caller where there are no timers. It is dropped when that
    /// runtime ends.
    fn renew_together(&self, renewals: Vec<Renewal>) -> impl Future<Output = ()> + Send;
}

/// A lease that is to be renewed, and the caller that waits for the answer.
#[must_use = "a renewal that is not answered has failed"]
pub struct Renewal {
    id: RequestIdentity,
    token: FencingToken,
    lease: Duration,
    caller: oneshot::Sender<Result<(), StoreError>>,
}

impl Renewal {
    /// Returns the request whose claim has the lease.
    #[must_use]
    pub fn id(&self) -> &RequestIdentity {
        &self.id
    }

    /// Returns the token of the claim.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.token
    }

    /// Returns how long the lease is to last from now.
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// Tells the caller what came of it.
    pub fn answer(self, renewed: Result<(), StoreError>) {
        // The caller may be gone.
        let _ = self.caller.send(renewed);
    }
}

impl fmt::Debug for Renewal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewal")
            .field("id", &self.id)
            .field("token", &self.token)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

/// Gathers the renewals of one process, and sends those together that come at about the same time. Clones share what is
/// gathered.
///
/// However many leases a process holds, it renews them in some sixteen round trips in a third of a lease: those that come
/// within a forty-eighth of the lease, and 2 s at most, go out together. A renewal that comes alone is sent at once.
///
/// A store has one of these, and its [`renew`](super::Store::renew) is a call of [`Renewals::renew`].
///
/// # Examples
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
///
/// use futures::future::join_all;
/// use oneflight::record::FencingToken;
/// use oneflight::store::{Renewal, Renewals, RenewTogether, StoreError};
/// use oneflight::{RequestIdentity, Scope};
///
/// /// The way to a server of your own.
/// struct Server;
///
/// impl RenewTogether for Server {
///     async fn renew_together(&self, renewals: Vec<Renewal>) {
///         // Here is one round trip, which says for each whether the claim is still its holder's.
///         for renewal in renewals {
///             match renewal.token().get() {
///                 13 => {
///                     let token = renewal.token();
///                     renewal.answer(Err(StoreError::Outdated { token }));
///                 }
///                 _ => renewal.answer(Ok(())),
///             }
///         }
///     }
/// }
///
/// let renewals = Renewals::over(Server);
/// let id = RequestIdentity::new(Scope::new("tenant-7"), "a7f3")?;
/// let lease = Duration::from_secs(10);
/// let renew = |token| renewals.renew(&id, FencingToken::new(token), lease);
///
/// let renewed = join_all([renew(12), renew(13)]).await;
/// assert!(renewed[0].is_ok());
/// assert!(matches!(renewed[1], Err(StoreError::Outdated { .. })));
/// # Ok(()) }
/// ```
pub struct Renewals<R>(Arc<Inner<R>>);

struct Inner<R> {
    way: R,
    gathered: Mutex<Gathered>,
}

#[derive(Default)]
struct Gathered {
    /// Each with a number, which grows.
    waiting: Vec<(u64, Renewal)>,
    /// How many there have been.
    asked: u64,
    /// When some were sent.
    last: Option<Instant>,
    task: Option<Task>,
}

/// The task that gathers.
struct Task {
    /// When it sends what waits.
    sends: Instant,
    /// There is one that is to be sent sooner. No other task has this one.
    sooner: Arc<Notify>,
}

impl<R: RenewTogether> Renewals<R> {
    /// Makes a place to gather in, over a way to renew.
    #[must_use]
    pub fn over(way: R) -> Self {
        let gathered = Mutex::default();
        Self(Arc::new(Inner { way, gathered }))
    }

    /// Renews a lease, together with others.
    ///
    /// Where nothing runs tasks with timers, it is renewed alone and at once.
    ///
    /// # Errors
    ///
    /// * What the renewal was [answered](Renewal::answer) with.
    /// * [`StoreError::Unavailable`] if it was given up, most likely since a runtime has ended.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped. The lease is then renewed, or is not; other renewals are not concerned.
    pub async fn renew(&self, id: &RequestIdentity, token: FencingToken, lease: Duration) -> Result<(), StoreError> {
        let (caller, mut answer) = oneshot::channel();
        let number = self.0.gather(Renewal {
            id: id.clone(),
            token,
            lease,
            caller,
        });
        let answered = loop {
            match timer::runtime() {
                Ok(runtime) => self.0.see_to_it(&runtime),
                Err(_) => self.0.send_alone(number).await,
            }
            match within(2 * window(lease) + LATE, &mut answer).await {
                Some(answered) => break answered,
                None if self.0.place(number).is_some() => {}
                None => break answer.await,
            }
        };
        answered.map_err(|_| {
            StoreError::unavailable("the renewal was given up: a runtime has ended, or the store panicked")
        })?
    }
}

impl<R> Clone for Renewals<R> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<R> fmt::Debug for Renewals<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewals").finish_non_exhaustive()
    }
}

fn window(lease: Duration) -> Duration {
    (lease / WINDOWS).min(LONGEST_WINDOW)
}

impl Gathered {
    /// When a renewal of a lease is to be sent.
    fn due(&self, now: Instant, lease: Duration) -> Instant {
        self.last.map_or(now, |last| now.max(last + window(lease)))
    }

    fn shortest(&self) -> Option<Duration> {
        self.waiting.iter().map(|(_, renewal)| renewal.lease).min()
    }
}

impl<R: RenewTogether> Inner<R> {
    /// Has a renewal wait, and returns its number.
    fn gather(&self, renewal: Renewal) -> u64 {
        let (number, sooner) = {
            let mut gathered = self.gathered.lock();
            gathered.asked += 1;
            let (number, due) = (gathered.asked, gathered.due(Instant::now(), renewal.lease));
            gathered.waiting.push((number, renewal));
            let task = gathered.task.as_mut().filter(|task| due < task.sends);
            let sooner = task.map(|task| {
                task.sends = due;
                Arc::clone(&task.sooner)
            });
            (number, sooner)
        };
        if let Some(sooner) = sooner {
            sooner.notify_one();
        }
        number
    }

    /// Begins a task that gathers, unless nothing waits or there is one that is not late.
    fn see_to_it(self: &Arc<Self>, runtime: &Handle) {
        let sooner = {
            let mut gathered = self.gathered.lock();
            let now = Instant::now();
            let Some(shortest) = gathered.shortest_unless_seen_to(now) else {
                return;
            };
            let sooner = Arc::<Notify>::default();
            gathered.task = Some(Task {
                sends: gathered.due(now, shortest),
                sooner: Arc::clone(&sooner),
            });
            sooner
        };
        let inner = Arc::downgrade(self);
        runtime.spawn(Gathering { inner, sooner }.run());
    }

    /// Returns where a renewal stands among those that wait.
    fn place(&self, number: u64) -> Option<usize> {
        self.gathered.lock().place(number)
    }

    async fn send_alone(&self, number: u64) {
        let renewal = {
            let mut gathered = self.gathered.lock();
            gathered.place(number).map(|place| gathered.waiting.remove(place))
        };
        if let Some((_, renewal)) = renewal {
            self.way.renew_together(vec![renewal]).await;
        }
    }

    /// Takes what is to be sent now by a task, or says when the next is to be. Says that this is the end if nothing came,
    /// or another task is there.
    fn take(&self, by: &Arc<Notify>) -> Next {
        let mut gathered = self.gathered.lock();
        let now = Instant::now();
        let Some(task) = gathered.task.as_mut().filter(|task| Arc::ptr_eq(&task.sooner, by)) else {
            return Next::End;
        };
        if task.sends > now {
            return Next::At(task.sends);
        }
        // What was asked for by a caller that is gone may be long out of date.
        gathered.waiting.retain(|(_, renewal)| !renewal.caller.is_closed());
        let Some(shortest) = gathered.shortest() else {
            gathered.task = None;
            return Next::End;
        };
        gathered.last = Some(now);
        // Others may come until then, which say when they are due.
        let sends = gathered.due(now, shortest);
        if let Some(task) = &mut gathered.task {
            task.sends = sends;
        }
        Next::Send(mem::take(&mut gathered.waiting))
    }
}

impl Gathered {
    fn place(&self, number: u64) -> Option<usize> {
        self.waiting.binary_search_by_key(&number, |(number, _)| *number).ok()
    }

    /// Returns the shortest of the leases that wait for a task to be begun.
    fn shortest_unless_seen_to(&self, now: Instant) -> Option<Duration> {
        match &self.task {
            Some(task) if now <= task.sends + LATE => None,
            Some(_) | None => self.shortest(),
        }
    }
}

enum Next {
    At(Instant),
    Send(Vec<(u64, Renewal)>),
    End,
}

/// What the task does.
struct Gathering<R> {
    inner: Weak<Inner<R>>,
    sooner: Arc<Notify>,
}

impl<R: RenewTogether> Gathering<R> {
    async fn run(self) {
        // Those that are due at the same moment come before that.
        yield_now().await;
        loop {
            let Some(inner) = self.inner.upgrade() else { return };
            match inner.take(&self.sooner) {
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
        if gathered
            .task
            .as_ref()
            .is_some_and(|task| Arc::ptr_eq(&task.sooner, &self.sooner))
        {
            gathered.task = None;
        }
    }
}

/// Sends renewals, in tasks of this runtime.
fn send<R: RenewTogether>(inner: &Arc<Inner<R>>, renewals: Vec<(u64, Renewal)>) {
    let mut renewals = renewals.into_iter().map(|(_, renewal)| renewal).peekable();
    while renewals.peek().is_some() {
        let (inner, some) = (Arc::clone(inner), renewals.by_ref().take(R::MOST.max(1)).collect());
        tokio::spawn(async move { inner.way.renew_together(some).await });
    }
}
