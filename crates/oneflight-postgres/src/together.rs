//! Steps of several callers that go out together.
//!
//! ```text
//! nothing under way ──────────▶ taken by its caller alone
//! something is under way ─▶ gathered, until that is answered, and for 5 ms at the most ──▶ sent by a task, in one message
//!                              └──the task is late, or has no connection──▶ taken by its caller alone
//! ```
//!
//! What a message costs is mostly the same for one step and for several: its way there and back, a transaction, a commit that waits for the
//! disk. So the steps that are wanted while a message is under way share the next one.
//!
//! Nothing depends on an answer that does not come. A message goes out when one is answered, or [`APART`] after the last one did. A server
//! that is near has answered by then, so there is one message at a time. A far one has several under way, and no step waits longer than
//! that for another one's answer. Where a message is held up (a lock, a dead connection), so are its own steps, and no others. What is
//! under way beside it is bounded by the pool.
//!
//! To go together is never more than a shortcut. Each caller knows how to take its step alone, as if there were no others, and does so
//! whenever this has no answer for it:
//!
//! * The server has rejected the message. It was one transaction, of which nothing is kept; the one step that was the reason fails alone.
//! * The message says nothing of the step, because that could not be decided without waiting for somebody.
//! * The pool has no connection to lend, or the task is late: a worker whose task blocks runs nothing else, and a runtime may have ended.
//!   Until the step is taken out of the list, under its lock, nothing of it has gone out.
//! * The runtime is of one thread. It may rest for long, and callers on another one would wait for its tasks.
//!
//! A message whose answer is lost is different: that is the answer of each of its steps, as it would be if it had gone alone.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgPool, PgRow, Postgres};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

use super::borrowed::Borrowed;
use super::call::{Calls, Message, Value};
use super::errors::{is_rejected, late, unavailable};
use super::reserve::Reserve;
use super::statements::Statements;
use oneflight::identity::RequestIdentity;
use oneflight::store::StoreError;

/// How long after a message the next one goes out, if none is answered before.
const APART: Duration = Duration::from_millis(5);
/// The number of steps of one message. Each takes a place in the server's table of locks, and one connection adds 64 to that, unless set.
const MOST: usize = 64;
/// The bytes of the steps of one message. A larger step goes alone.
const LARGEST: usize = 64 << 10;
/// How late the task that gathers may be, before the callers take their steps themselves.
const LATE: Duration = Duration::from_millis(20);
/// How long that task waits for a connection.
pub(super) const LENT_WITHIN: Duration = Duration::from_millis(100);
/// No caller waits longer. So much can be added to an instant.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// How messages go to the server.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) pool: PgPool,
    pub(super) reserve: Reserve,
    pub(super) statements: Arc<Statements>,
    /// On which changes of records are notified.
    pub(super) channel: String,
    pub(super) prepares: bool,
}

impl Way {
    pub(super) fn message(&self, calls: &Calls, values: &[Value<'_>]) -> Message {
        calls.message(self.prepares, values)
    }
}

/// What a caller wants of the server, and others may want at once.
pub(super) trait Step: Send + Sync + Sized + 'static {
    type Answer: Send + 'static;

    fn id(&self) -> &RequestIdentity;

    fn bytes(&self) -> usize;

    /// Lends a connection for a message, within [`LENT_WITHIN`].
    fn lend(way: &Way) -> impl Future<Output = sqlx::Result<PoolConnection<Postgres>>> + Send;

    /// The message by which all are taken.
    fn message(way: &Way, steps: &[Self]) -> Message;

    /// Returns what is answered to each, or nothing where it has to be taken alone.
    fn answers(steps: &[Self], rows: &[PgRow]) -> Result<Vec<Option<Self::Answer>>, StoreError>;
}

/// What a message says to one of its steps: nothing, if that has to be taken alone.
type Told<A> = Result<Option<A>, StoreError>;

/// What became of a step.
pub(super) enum Taken<'a, S: Step> {
    Together(S::Answer),
    /// Nothing yet: its caller takes it now. As long as this is there, others gather.
    Alone(Option<UnderWay<'a, S>>),
}

/// The steps of one kind. Clones share them. See the module's documentation.
pub(super) struct Together<S: Step>(Arc<Inner<S>>);

struct Inner<S: Step> {
    gathered: Mutex<Gathered<S>>,
    /// Told whenever there is a message less under way.
    answered: Notify,
}

struct Gathered<S: Step> {
    under_way: usize,
    /// When the last message went out.
    last: Option<Instant>,
    /// In the order of their numbers.
    waiting: VecDeque<Waiting<S>>,
    seen_to: Option<SeenTo>,
    /// How many steps and tasks there have been.
    numbers: u64,
}

struct Waiting<S: Step> {
    number: u64,
    step: S,
    /// How long its caller waits.
    until: Instant,
    caller: oneshot::Sender<Told<S::Answer>>,
}

/// The task that sends what waits.
struct SeenTo {
    number: u64,
    begun: Instant,
    /// Whether it waits for a connection.
    asks: bool,
}

impl SeenTo {
    fn is_late(&self, now: Instant) -> bool {
        let lending = if self.asks { LENT_WITHIN } else { Duration::ZERO };
        now.duration_since(self.begun) > APART + LATE + lending
    }
}

enum Joined<A> {
    /// It is under way from now on.
    Alone,
    Waits {
        number: u64,
        answer: oneshot::Receiver<Told<A>>,
        /// The number of a task that is to be begun.
        begin: Option<u64>,
    },
}

/// Where a step is whose caller has waited for a while.
enum Found {
    /// It was waiting, and is taken out: its caller takes it now.
    Left,
    Waiting,
    UnderWay,
}

impl<S: Step> Together<S> {
    /// Has a step taken together with others, or returns that its caller is to take it.
    pub(super) async fn take(
        &self,
        way: impl FnOnce() -> Way,
        limit: Duration,
        step: impl FnOnce() -> S,
    ) -> Result<Taken<'_, S>, StoreError> {
        if !drives_itself() {
            return Ok(Taken::Alone(None));
        }
        let inner = &self.0;
        let until = Instant::now() + limit.min(LONGEST);
        let (number, mut answer) = match inner.join(until, step) {
            None => return Ok(Taken::Alone(None)),
            Some(Joined::Alone) => return Ok(Taken::Alone(Some(UnderWay(inner)))),
            Some(Joined::Waits { number, answer, begin }) => {
                if let Some(begin) = begin {
                    inner.begin(way(), begin);
                }
                (number, answer)
            }
        };
        let mut look = Instant::now() + LATE;
        loop {
            match timeout_at(look.min(until), &mut answer).await {
                Ok(Ok(told)) => return told.map(|answer| answer.map_or(Taken::Alone(None), Taken::Together)),
                Ok(Err(_)) => return Err(StoreError::unavailable("the task that was about to ask is gone")),
                Err(_) => {}
            }
            match inner.find(number, until) {
                Found::Left => return Ok(Taken::Alone(None)),
                Found::UnderWay if Instant::now() >= until => return Err(unavailable(late())),
                Found::UnderWay => look = until,
                Found::Waiting => look = Instant::now() + LATE,
            }
        }
    }
}

impl<S: Step> Inner<S> {
    /// Joins those that wait, if there is a message that can be waited for. Returns nothing if the step is too large for that.
    fn join(&self, until: Instant, step: impl FnOnce() -> S) -> Option<Joined<S::Answer>> {
        let mut gathered = self.gathered.lock();
        let now = Instant::now();
        let nobody_waits = gathered.waiting.is_empty() && gathered.seen_to.is_none();
        if nobody_waits && gathered.is_free(now) {
            gathered.goes_out(now);
            return Some(Joined::Alone);
        }
        let step = step();
        if step.bytes() > LARGEST {
            return None;
        }
        let begin = match &gathered.seen_to {
            Some(task) if !task.is_late(now) => None,
            _ => Some(gathered.see_to_it(now)),
        };
        let (caller, answer) = oneshot::channel();
        let number = gathered.number();
        gathered.waiting.push_back(Waiting {
            number,
            step,
            until,
            caller,
        });
        Some(Joined::Waits { number, answer, begin })
    }

    /// Looks for a step that waits, and takes it out if nobody sees to it any more, or its time is over.
    fn find(&self, number: u64, until: Instant) -> Found {
        let mut gathered = self.gathered.lock();
        let now = Instant::now();
        let Ok(place) = gathered.waiting.binary_search_by_key(&number, |it| it.number) else {
            return Found::UnderWay;
        };
        let is_seen_to = gathered.seen_to.as_ref().is_some_and(|task| !task.is_late(now));
        if is_seen_to && now < until {
            return Found::Waiting;
        }
        gathered.waiting.remove(place);
        Found::Left
    }

    fn begin(self: &Arc<Self>, way: Way, number: u64) {
        let task = Gathering {
            inner: Arc::clone(self),
            way,
            number,
        };
        tokio::spawn(task.run());
    }

    /// Waits until a message may go out.
    async fn turn(&self) {
        let mut answered = pin!(self.answered.notified());
        answered.as_mut().enable();
        let next = {
            let gathered = self.gathered.lock();
            if gathered.is_free(Instant::now()) {
                return;
            }
            gathered.last.map(|last| last + APART)
        };
        if let Some(next) = next {
            let _ = timeout_at(next, answered).await;
        }
    }
}

impl<S: Step> Gathered<S> {
    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Whether a message need not wait for another one.
    fn is_free(&self, now: Instant) -> bool {
        self.under_way == 0 || self.last.is_none_or(|last| now.duration_since(last) >= APART)
    }

    fn goes_out(&mut self, now: Instant) {
        self.under_way += 1;
        self.last = Some(now);
    }

    /// Has another task send what waits, and returns its number.
    fn see_to_it(&mut self, now: Instant) -> u64 {
        let number = self.number();
        self.seen_to = Some(SeenTo {
            number,
            begun: now,
            asks: false,
        });
        number
    }

    /// The steps of the next message. Callers that are gone want nothing any more.
    fn next(&mut self) -> Vec<Waiting<S>> {
        let (mut steps, mut bytes) = (Vec::new(), 0);
        while let Some(first) = self.waiting.front() {
            bytes += first.step.bytes();
            if steps.len() == MOST || bytes > LARGEST {
                break;
            }
            steps.extend(self.waiting.pop_front().filter(|it| !it.caller.is_closed()));
        }
        // In the one order in which all of ours lock rows.
        steps.sort_by(|one, other| order(&one.step).cmp(&order(&other.step)));
        steps
    }
}

fn order(step: &impl Step) -> (&str, &str) {
    (step.id().scope(), step.id().key())
}

/// Returns whether a task gets its turn here, whatever becomes of the caller.
fn drives_itself() -> bool {
    Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread)
}

/// A message is under way as long as this is there.
pub(super) struct UnderWay<'a, S: Step>(&'a Inner<S>);

impl<S: Step> Drop for UnderWay<'_, S> {
    fn drop(&mut self) {
        self.0.gathered.lock().under_way -= 1;
        self.0.answered.notify_waiters();
    }
}

/// A task that sends what waits, unless that is left to one that was begun later.
struct Gathering<S: Step> {
    inner: Arc<Inner<S>>,
    way: Way,
    number: u64,
}

impl<S: Step> Gathering<S> {
    async fn run(self) {
        self.inner.turn().await;
        if !self.asks() {
            return;
        }
        let pool = &self.way.pool;
        let lent = Borrowed::lent(LENT_WITHIN, pool, S::lend(&self.way)).await;
        let Ok(connection) = lent else {
            self.leave_all();
            return;
        };
        let Some((_under_way, waiting)) = self.next() else {
            connection.give_back();
            return;
        };
        self.send(connection, waiting).await;
    }

    /// Whether it is still this task that sends, and there is something to send. From now on it waits for a connection.
    fn asks(&self) -> bool {
        let mut gathered = self.inner.gathered.lock();
        let Some(mut task) = gathered.seen_to.take_if(|task| task.number == self.number) else {
            return false;
        };
        if gathered.waiting.is_empty() {
            return false;
        }
        task.asks = true;
        gathered.seen_to = Some(task);
        true
    }

    /// Takes the next message's steps out, and has another task see to the rest.
    fn next(&self) -> Option<(UnderWay<'_, S>, Vec<Waiting<S>>)> {
        let (steps, begin) = {
            let mut gathered = self.inner.gathered.lock();
            gathered.seen_to.take_if(|task| task.number == self.number)?;
            let (steps, now) = (gathered.next(), Instant::now());
            let begin = (!gathered.waiting.is_empty()).then(|| gathered.see_to_it(now));
            if !steps.is_empty() {
                gathered.goes_out(now);
            }
            (steps, begin)
        };
        let under_way = (!steps.is_empty()).then(|| UnderWay(&*self.inner));
        if let Some(begin) = begin {
            self.inner.begin(self.way.clone(), begin);
        }
        Some((under_way?, steps))
    }

    /// Leaves all that wait to their callers.
    fn leave_all(&self) {
        let waiting = {
            let mut gathered = self.inner.gathered.lock();
            let Some(_) = gathered.seen_to.take_if(|task| task.number == self.number) else {
                return;
            };
            std::mem::take(&mut gathered.waiting)
        };
        for it in waiting {
            // The caller may be gone.
            let _ = it.caller.send(Ok(None));
        }
    }

    async fn send(&self, connection: Borrowed, waiting: Vec<Waiting<S>>) {
        let now = Instant::now();
        let until = waiting.iter().map(|it| it.until).max().unwrap_or(now);
        let parts = waiting.into_iter().map(|it| (it.step, it.caller));
        let (steps, callers): (Vec<S>, Vec<_>) = parts.unzip();
        let message = S::message(&self.way, &steps);
        let rows = connection
            .ask_and_let_go(until.saturating_duration_since(now), message)
            .await;
        let told = match rows {
            Ok(rows) => S::answers(&steps, &rows).map(|answers| answers.into_iter().map(Ok).collect()),
            // Of a transaction that failed nothing is kept.
            Err(error) if is_rejected(&error) => Ok(callers.iter().map(|_| Ok(None)).collect()),
            Err(error) => Err(unavailable(error)),
        };
        let told: Vec<_> =
            told.unwrap_or_else(|error: StoreError| callers.iter().map(|_| Err(error.clone())).collect());
        for (caller, told) in callers.into_iter().zip(told) {
            // The caller may be gone.
            let _ = caller.send(told);
        }
    }
}

impl<S: Step> Drop for Gathering<S> {
    fn drop(&mut self) {
        // Its runtime has ended.
        let mut gathered = self.inner.gathered.lock();
        gathered.seen_to.take_if(|task| task.number == self.number);
    }
}

impl<S: Step> Clone for Together<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: Step> Default for Together<S> {
    fn default() -> Self {
        let gathered = Mutex::new(Gathered {
            under_way: 0,
            last: None,
            waiting: VecDeque::new(),
            seen_to: None,
            numbers: 0,
        });
        let answered = Notify::new();
        Self(Arc::new(Inner { gathered, answered }))
    }
}
