//! Steps of several callers that go out together.
//!
//! ```text
//! the last message is answered ──▶ taken by its caller alone
//! it is under way ──▶ gathered, until that is answered, for 5 ms at the most, and no more than a message holds ──▶ sent by a task, in one message
//!                         └──the task is late, or has no connection──▶ taken by its caller alone
//! ```
//!
//! What a message costs is mostly the same for one step and for several: its way there and back, a transaction, a commit that waits for the
//! disk. So the steps that are wanted while a message is under way share the next one.
//!
//! Nothing depends on an answer that does not come. A message goes out when the last one is answered, or 5 ms after that went out, or when it
//! is full. A server that is near has answered by then, so there is one message at a time. A far one has several under way, and no step
//! waits longer than that for another one's answer. Where a message is held up (a lock, a dead connection), so are its own steps, and no
//! others. What is under way beside it is bounded by the pool.
//!
//! To go together is never more than a shortcut. Each caller knows how to take its step alone, as if there were no others, and does so
//! whenever this has no answer for it:
//!
//! * The server has rejected the message, and on another connection as well if the session may be at fault. It was one transaction, of
//!   which nothing is kept; the one step that was the reason fails alone. If the role has no right to the procedures for several, all
//!   steps go alone for a while.
//! * The message says nothing of the step, because that could not be decided without waiting for somebody.
//! * The pool is slow to lend a connection, or the task is late: a worker whose task blocks runs nothing else, and a runtime may have ended.
//!   Until the step is taken out of the list, under its lock, nothing of it has gone out. Where others have all connections, a caller
//!   could only queue behind the task, so the steps stay with that.
//! * The runtime is of one thread. It may rest for long, and callers on another one would wait for its tasks. Nor do callers of two
//!   runtimes share a message.
//!
//! A message that follows at once takes its connection over from the last one: what `sqlx`'s pool does before it lends (a round trip to test it, its
//! hooks) is done once for several. That is as long as the pool has others to lend, and for 64 messages.
//!
//! A message whose answer is lost is different: that is the answer of each of its steps, as it would be if it had gone alone.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Handle, Id, RuntimeFlavor};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::borrowed::Borrowed;
use super::errors::{
    is_conflict, is_of_the_session, is_perhaps_of_a_row, is_rejected, is_unusable, is_used_up, late, not_lent,
    unavailable,
};
use super::gathered::{Gathered, Kept, LATE, LENT_WITHIN, SMALL, Told, Waiting};
use super::shared::{Messenger, Step};
use oneflight::store::StoreError;
use sqlx::postgres::{PgPool, PgRow};

/// No caller waits longer. So much can be added to an instant.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// What became of a step.
pub(super) enum Taken<'a, S: Step> {
    Together(S::Answer),
    /// Nothing yet: its caller takes it now. As long as this is there, others gather, for a while.
    Alone(Option<UnderWay<'a, S>>),
}

/// The steps of one kind. Clones share them. See the module's documentation.
pub(super) struct Together<S: Step>(Arc<Inner<S>>);

struct Inner<S: Step> {
    gathered: Mutex<Gathered<S>>,
    /// Told when the last message is answered, or the next one is full.
    turn: Notify,
}

enum Joined<A> {
    /// It goes alone, though others may be under way.
    Apart,
    /// It is the message of this number from now on.
    Alone(u64),
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
    /// The same, and the caller's time is over.
    Late,
    Waiting,
    UnderWay,
}

impl<S: Step> Together<S> {
    /// Has a step taken together with others, or returns that its caller is to take it.
    pub(super) async fn take(
        &self,
        pool: &PgPool,
        messenger: impl FnOnce() -> Messenger,
        limit: Duration,
        step: impl FnOnce() -> S,
    ) -> Result<Taken<'_, S>, StoreError> {
        let Some(runtime) = runtime() else {
            return Ok(Taken::Alone(None));
        };
        let inner = &self.0;
        let until = Instant::now() + limit.min(LONGEST);
        let (number, mut answer) = match inner.join(runtime, until, step) {
            Joined::Apart => return Ok(Taken::Alone(None)),
            Joined::Alone(message) => return Ok(Taken::Alone(Some(UnderWay { inner, message }))),
            Joined::Waits { number, answer, begin } => {
                if let Some(begin) = begin {
                    inner.begin(messenger(), runtime, begin);
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
                // Nothing of it has gone out.
                Found::Late => return Err(unavailable(not_lent(pool))),
                Found::UnderWay if Instant::now() >= until => return Err(unavailable(late())),
                Found::UnderWay => look = until,
                Found::Waiting => look = Instant::now() + LATE,
            }
        }
    }
}

impl<S: Step> Inner<S> {
    /// Joins those that wait, if there is a message that can be waited for.
    fn join(&self, runtime: Id, until: Instant, step: impl FnOnce() -> S) -> Joined<S::Answer> {
        if let Some(message) = self.gathered.lock().goes_out_at_once(Instant::now()) {
            return Joined::Alone(message);
        }
        let step = step();
        if step.bytes() > SMALL {
            return Joined::Apart;
        }
        let (caller, answer) = oneshot::channel();
        let (number, begin, is_full) = {
            let mut gathered = self.gathered.lock();
            let now = Instant::now();
            if gathered.keeps_apart(runtime, now) {
                return Joined::Apart;
            }
            if let Some(message) = gathered.goes_out_at_once(now) {
                return Joined::Alone(message);
            }
            let begin = (!gathered.is_seen_to(now)).then(|| gathered.see_to_it(runtime, now));
            (gathered.push(step, until, caller), begin, gathered.is_full())
        };
        if is_full {
            self.turn.notify_waiters();
        }
        Joined::Waits { number, answer, begin }
    }

    /// Looks for a step that waits, and takes it out if nobody sees to it any more, or its time is over.
    fn find(&self, number: u64, until: Instant) -> Found {
        let (found, _taken_out) = {
            let mut gathered = self.gathered.lock();
            let now = Instant::now();
            match gathered.is_waiting(number) {
                false => (Found::UnderWay, None),
                true if now >= until => (Found::Late, gathered.remove(number)),
                true if gathered.is_seen_to(now) => (Found::Waiting, None),
                true => (Found::Left, gathered.remove(number)),
            }
        };
        found
    }

    fn begin(self: &Arc<Self>, messenger: Messenger, runtime: Id, number: u64) {
        let task = Gathering {
            inner: Arc::clone(self),
            messenger,
            runtime,
            number,
        };
        tokio::spawn(task.run());
    }

    /// Waits until a message may go out.
    async fn turn(&self) {
        let mut turn = pin!(self.turn.notified());
        turn.as_mut().enable();
        let until = self.gathered.lock().turn(Instant::now());
        if let Some(until) = until {
            let _ = timeout_at(until, turn).await;
        }
    }
}

/// Returns the runtime if a task gets its turn here, whatever becomes of the caller.
fn runtime() -> Option<Id> {
    let runtime = Handle::try_current().ok()?;
    (runtime.runtime_flavor() == RuntimeFlavor::MultiThread).then(|| runtime.id())
}

/// A message is under way as long as this is there.
pub(super) struct UnderWay<'a, S: Step> {
    inner: &'a Inner<S>,
    message: u64,
}

impl<S: Step> Drop for UnderWay<'_, S> {
    fn drop(&mut self) {
        let is_turn = self.inner.gathered.lock().is_answered(self.message);
        if is_turn {
            self.inner.turn.notify_waiters();
        }
    }
}

/// A task that sends what waits, unless that is left to one that was begun later.
struct Gathering<S: Step> {
    inner: Arc<Inner<S>>,
    messenger: Messenger,
    runtime: Id,
    number: u64,
}

impl<S: Step> Gathering<S> {
    async fn run(self) {
        self.inner.turn().await;
        if !self.asks() {
            return;
        }
        let Some(lent) = self.lent().await else {
            return;
        };
        let Some((_under_way, waiting)) = self.next() else {
            lent.connection.give_back();
            return;
        };
        self.send(lent, waiting).await;
    }

    /// Whether it is still this task that sends, and there is something to send. From now on it waits for a connection.
    fn asks(&self) -> bool {
        self.inner.gathered.lock().asks(self.number, Instant::now())
    }

    /// Takes what the last message has left, or waits for a connection of the pool, after a while for its own sake: to stop while the pool
    /// tests or makes it would close it.
    async fn lent(&self) -> Option<Kept> {
        let kept = self.inner.gathered.lock().kept_for(self.number, self.runtime);
        if kept.is_some() {
            return kept;
        }
        let pool = &self.messenger.way.pool;
        let mut lending = pin!(Borrowed::lent(self.messenger.patience, pool, S::lend(&self.messenger)));
        loop {
            match timeout(LENT_WITHIN, &mut lending).await {
                Ok(Ok(connection)) => return Some(self.kept(connection, 0)),
                Ok(Err(_)) => {
                    self.leave_all();
                    return None;
                }
                // The callers would only queue behind this.
                Err(_) if is_used_up(pool) => drop(self.asks()),
                Err(_) => self.leave_all(),
            }
        }
    }

    /// Takes the next message's steps out, and has another task see to the rest.
    fn next(&self) -> Option<(UnderWay<'_, S>, Vec<Waiting<S>>)> {
        let (message, steps, _gone, begin) = {
            let mut gathered = self.inner.gathered.lock();
            // A task that was late sends as well: another one has to stand in the pool's queue for as long as it has stood.
            gathered.sends(self.number, self.runtime)?;
            let ((steps, gone), now) = (gathered.next(), Instant::now());
            let message = (!steps.is_empty()).then(|| gathered.goes_out(now));
            let is_left = !gathered.is_empty() && !gathered.is_seen_to(now);
            let begin = is_left.then(|| gathered.see_to_it(self.runtime, now));
            (message, steps, gone, begin)
        };
        let inner = &*self.inner;
        let under_way = message.map(|message| UnderWay { inner, message });
        if let Some(begin) = begin {
            self.inner.begin(self.messenger.clone(), self.runtime, begin);
        }
        Some((under_way?, steps))
    }

    /// Leaves all that wait to their callers.
    fn leave_all(&self) {
        let waiting = {
            let mut gathered = self.inner.gathered.lock();
            if !gathered.ends(self.number) {
                return;
            }
            gathered.take()
        };
        for it in waiting {
            // The caller may be gone.
            let _ = it.caller.send(Ok(None));
        }
    }

    fn kept(&self, connection: Borrowed, messages: u32) -> Kept {
        Kept {
            connection,
            runtime: self.runtime,
            messages,
        }
    }

    /// Leaves a connection to the task that sends next: what follows at once need not have the pool test it anew. Only as long as the pool has
    /// others to lend, so that nobody waits for this one.
    fn leave(&self, left: Kept) {
        let left = match self.messenger.way.pool.num_idle() {
            0 => Some(left),
            _ => self.inner.gathered.lock().keep(left, Instant::now()),
        };
        if let Some(left) = left {
            left.connection.give_back();
        }
    }

    async fn send(&self, lent: Kept, waiting: Vec<Waiting<S>>) {
        let now = Instant::now();
        let until = waiting.iter().map(|it| it.until).max().unwrap_or(now);
        let parts = waiting.into_iter().map(|it| (it.step, it.caller));
        let (steps, callers): (Vec<S>, Vec<_>) = parts.unzip();
        let (messages, mut left) = (lent.messages + 1, None);
        let told = match self.put(lent.connection, until, &steps).await {
            Ok((rows, connection)) => {
                left = Some(self.kept(connection, messages));
                S::answers(&steps, &rows).map(|answers| answers.into_iter().map(Ok).collect())
            }
            Err(error) if self.is_left_to_callers(&error) => Ok(callers.iter().map(|_| Ok(None)).collect()),
            Err(error) => Err(unavailable(error)),
        };
        let told: Vec<_> =
            told.unwrap_or_else(|error: StoreError| callers.iter().map(|_| Err(error.clone())).collect());
        if let Some(left) = left {
            self.leave(left);
        }
        for (caller, told) in callers.into_iter().zip(told) {
            // The caller may be gone.
            let _ = caller.send(told);
        }
    }

    /// Puts the message to the server, once more on another connection if the session may be at fault.
    async fn put(&self, connection: Borrowed, until: Instant, steps: &[S]) -> sqlx::Result<(Vec<PgRow>, Borrowed)> {
        let left = || until.saturating_duration_since(Instant::now());
        let error = match connection
            .ask_and_keep(left(), S::message(&self.messenger, steps))
            .await
        {
            Err(error) if is_rejected(&error) && (is_of_the_session(&error) || is_conflict(&error)) => error,
            answered => return answered,
        };
        match Borrowed::lent(left(), &self.messenger.way.pool, S::lend(&self.messenger)).await {
            Ok(another) => another.ask_and_keep(left(), S::message(&self.messenger, steps)).await,
            Err(_) => Err(error),
        }
    }

    /// Whether nothing is kept of a message that failed so, and each of its steps may be answered alone.
    fn is_left_to_callers(&self, error: &sqlx::Error) -> bool {
        if !is_rejected(error) {
            return false;
        }
        if is_unusable(error) {
            self.inner.gathered.lock().deny(Instant::now());
            tracing::warn!(target: "oneflight", %error, "claims and completions go alone for a while: the procedure for several is not there, or is not for this role");
        }
        is_of_the_session(error) || is_conflict(error) || is_perhaps_of_a_row(error)
    }
}

impl<S: Step> Drop for Gathering<S> {
    fn drop(&mut self) {
        let left = {
            let mut gathered = self.inner.gathered.lock();
            gathered.ends(self.number);
            gathered.kept_for_nobody(self.runtime)
        };
        // The pool spawns what takes it back. If the runtime has ended, it is closed.
        if let (Some(left), Ok(_)) = (left, Handle::try_current()) {
            left.connection.give_back();
        }
    }
}

impl<S: Step> Clone for Together<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: Step> Default for Together<S> {
    fn default() -> Self {
        let (gathered, turn) = (Mutex::default(), Notify::new());
        Self(Arc::new(Inner { gathered, turn }))
    }
}
