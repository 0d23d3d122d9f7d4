//! What is asked of the writer while it is busy. It waits here, and is done together in the next turn.
//!
//! ```text
//! nothing has the turn ────▶ under way, in its caller's place
//! something has the turn ──▶ waits ──taken──▶ begun ──▶ answered
//!                              └──patience over, caller gone──▶ left
//! ```
//!
//! Until it is begun, a caller may leave: then it is certain that nothing was done. Leaving and taking are decided under
//! one lock.
//!
//! What is under way in its caller's place has the turn, and a caller may be kept and not polled. So it is shared: what
//! is at the gate of the turn polls it as well.

use std::collections::{HashSet, VecDeque};
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;
use tracing::Span;

use super::busy::Patience;
use super::change::Change;
use super::queue::{Rank, Urgent};
use oneflight::identity::RequestIdentity;
use oneflight::record::FencingToken;
use oneflight::store::{ClaimRequest, StoreError};

/// The number of requests of one transaction. A renewal waits for one: some milliseconds.
const MOST: usize = 1_000;
/// The bytes of the results of one transaction. A larger one goes alone.
pub(super) const LARGEST: usize = 64 << 10;

/// How long a wake-up that was lost is waited for.
const LOST_WAKE_UP: Duration = Duration::from_millis(20);

/// What is asked of the writer.
#[derive(Clone)]
pub(super) enum Wanted {
    /// A claim of what has no record, as far as was seen.
    Claim(Arc<ClaimRequest>),
    Change(Arc<Change>),
    /// A change that is not made together with others.
    Alone(Arc<Change>),
}

/// What two of one transaction do not have in common, so that each answer is of one of them.
#[derive(PartialEq, Eq, Hash)]
enum Of {
    Request(RequestIdentity),
    Claim(Option<FencingToken>),
}

impl Wanted {
    fn bytes(&self) -> usize {
        match self {
            Self::Claim(_) => 0,
            Self::Change(change) | Self::Alone(change) => change.bytes(),
        }
    }

    fn goes_alone(&self) -> bool {
        matches!(self, Self::Alone(_))
    }

    fn of(&self) -> Of {
        match self {
            Self::Claim(request) => Of::Request(request.id.clone()),
            Self::Change(change) | Self::Alone(change) => Of::Claim(change.token()),
        }
    }
}

/// What became of what was asked.
#[derive(Clone)]
pub(super) enum Answer {
    /// It was claimed, under this token.
    Claimed(FencingToken),
    /// So many rows were changed.
    Changed(u64),
    /// Nothing was done, and it is to be asked for alone: there is more to decide, or something is wrong with it or
    /// with another one.
    Alone,
    /// Another process has the database's lock, and nothing was done.
    Busy,
    Failed(StoreError),
}

/// One that waits.
pub(super) struct Waiting {
    number: u64,
    pub(super) wanted: Wanted,
    /// Its caller's.
    pub(super) span: Span,
    asked: Instant,
    limit: Option<Duration>,
    /// How long it waits for the database's lock, from when it was first taken.
    pub(super) patience: Option<Patience>,
    answer: oneshot::Sender<Answer>,
    /// Of what concerns a lease, until it has its turn.
    urgent: Option<Urgent>,
}

impl Waiting {
    /// Answers the caller, if it is there.
    pub(super) fn tell(self, answer: Answer) {
        let _ = self.answer.send(answer);
    }

    pub(super) fn is_left(&self) -> bool {
        self.answer.is_closed()
    }

    /// Waits until the caller has left.
    pub(super) async fn left(&mut self) {
        self.answer.closed().await;
    }

    /// The limit of its own, and how long it has waited.
    pub(super) fn limit(&self) -> (Option<Duration>, Duration) {
        (self.limit, self.asked.elapsed())
    }
}

/// Those of one rank that wait, in order.
#[derive(Default)]
pub(super) struct Line {
    waiting: Mutex<(u64, VecDeque<Waiting>)>,
    comes: Notify,
}

impl Line {
    /// Lines up. The caller's place ends with what is returned.
    pub(super) fn join(&self, wanted: Wanted, limit: Option<Duration>, urgent: Option<Urgent>) -> Asker<'_> {
        let (answer, answered) = oneshot::channel();
        let number = {
            let mut waiting = self.waiting.lock();
            waiting.0 += 1;
            let number = waiting.0;
            waiting.1.push_back(Waiting {
                number,
                wanted,
                span: Span::current(),
                asked: Instant::now(),
                limit,
                patience: None,
                answer,
                urgent,
            });
            number
        };
        self.comes.notify_one();
        Asker {
            line: self,
            number,
            answered,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.lock().1.is_empty()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.waiting.lock().1.len()
    }

    #[cfg(test)]
    pub(super) fn is_locked(&self) -> bool {
        self.waiting.is_locked()
    }

    /// Takes those that go together next, or one that goes alone. Each is begun: its caller cannot leave any more.
    pub(super) fn take(&self) -> Vec<Waiting> {
        let (mut taken, mut repeated, mut of, mut bytes) = (Vec::new(), Vec::new(), HashSet::new(), 0);
        let mut waiting = self.waiting.lock();
        while let Some(first) = waiting.1.front() {
            bytes += first.wanted.bytes();
            let goes_alone = first.wanted.goes_alone();
            if taken.len() == MOST || ((bytes > LARGEST || goes_alone) && !taken.is_empty()) {
                break;
            }
            let Some(first) = waiting.1.pop_front() else { break };
            match of.insert(first.wanted.of()) {
                true => taken.push(first),
                false => repeated.push(first),
            }
            if goes_alone {
                break;
            }
        }
        // What is woken runs code of others', which may come back here.
        drop(waiting);
        for it in &mut taken {
            it.urgent = None;
        }
        // Each is decided after the other one.
        repeated.into_iter().for_each(|it| it.tell(Answer::Alone));
        taken
    }

    /// Tells those that had asked by then that nothing can be done.
    pub(super) fn fail(&self, asked_by: Instant, error: &StoreError) {
        let asked = asked(&mut self.waiting.lock().1, asked_by);
        for it in asked {
            it.tell(Answer::Failed(error.clone()));
        }
    }

    /// Tells the first of those that had asked by then that it cannot be done, and has each of the others find out. What goes
    /// alone stays for that.
    pub(super) fn fail_one(&self, asked_by: Instant, error: &StoreError) {
        let mut waiting = self.waiting.lock();
        let mut asked = asked(&mut waiting.1, asked_by).into_iter();
        let first = asked.next();
        let (stay, others): (Vec<_>, Vec<_>) = asked.partition(|it| it.wanted.goes_alone());
        stay.into_iter().rev().for_each(|it| waiting.1.push_front(it));
        drop(waiting);
        if let Some(first) = first {
            first.tell(Answer::Failed(error.clone()));
        }
        others.into_iter().for_each(|it| it.tell(Answer::Alone));
    }
}

/// Takes those that had asked by then.
fn asked(waiting: &mut VecDeque<Waiting>, by: Instant) -> Vec<Waiting> {
    let many = waiting.partition_point(|it| it.asked <= by);
    waiting.drain(..many).collect()
}

/// A caller that waits. It leaves when this is dropped.
pub(super) struct Asker<'l> {
    line: &'l Line,
    number: u64,
    pub(super) answered: oneshot::Receiver<Answer>,
}

impl Asker<'_> {
    /// Leaves, unless what was asked is begun. Returns whether it is certain that nothing was or will be done.
    pub(super) fn leave(&self) -> bool {
        let mut waiting = self.line.waiting.lock();
        let place = waiting.1.binary_search_by_key(&self.number, |it| it.number);
        let left = place.ok().and_then(|place| waiting.1.remove(place));
        // What is woken by it runs code of others', which may come back here.
        drop(waiting);
        left.is_some()
    }
}

impl Drop for Asker<'_> {
    fn drop(&mut self) {
        if !self.answered.is_terminated() {
            self.leave();
        }
    }
}

type UnderWay = BoxFuture<'static, Answer>;

/// All that is asked of one writer.
#[derive(Default)]
pub(super) struct Gathered {
    leases: Line,
    claims: Line,
    /// What has the turn, if it is done in its caller's place.
    under_way: Mutex<Option<WeakShared<UnderWay>>>,
    begun: Notify,
    /// Whether there is a thread that does what waits.
    pub(super) has_thread: AtomicBool,
    is_closed: AtomicBool,
    closes: Notify,
}

impl Gathered {
    /// Those that are done together in a turn of this rank.
    pub(super) fn line(&self, rank: Rank) -> &Line {
        match rank {
            Rank::Lease => &self.leases,
            Rank::Step | Rank::Work | Rank::Business => &self.claims,
        }
    }

    /// Waits until somebody is in line. Returns whether the store is still in use.
    pub(super) async fn comes(&self, rank: Rank) -> bool {
        let line = self.line(rank);
        loop {
            let comes = line.comes.notified();
            if self.is_closed.load(Ordering::SeqCst) {
                return false;
            }
            if !line.is_empty() {
                return true;
            }
            comes.await;
        }
    }

    /// Waits until the store is not in use any more.
    pub(super) async fn ends(&self) {
        let mut closes = pin!(self.closes.notified());
        // From here on it is not missed.
        closes.as_mut().enable();
        if !self.is_closed.load(Ordering::SeqCst) {
            closes.await;
        }
    }

    /// Has those that wait ask alone.
    pub(super) fn leave_alone(&self) {
        for line in [&self.leases, &self.claims] {
            loop {
                let taken = line.take();
                if taken.is_empty() {
                    break;
                }
                taken.into_iter().for_each(|it| it.tell(Answer::Alone));
            }
        }
    }

    /// Shares what is done in a turn in its caller's place.
    pub(super) fn share(&self, work: impl Future<Output = Answer> + Send + 'static) -> Shared<UnderWay> {
        let shared = work.boxed().shared();
        *self.under_way.lock() = shared.downgrade();
        self.begun.notify_waiters();
        shared
    }

    /// Returns what notes, when it is dropped, that it is over. Its turn ends after that.
    pub(super) fn until_over(self: &Arc<Self>) -> impl Drop + Send + use<> {
        Over(Arc::clone(self))
    }

    /// Polls what is under way in its caller's place, whatever becomes of the caller.
    pub(super) async fn see_to_it(&self) -> Infallible {
        loop {
            let mut begun = pin!(self.begun.notified());
            // From here on none is missed.
            begun.as_mut().enable();
            let under_way = self.under_way.lock().as_ref().and_then(WeakShared::upgrade);
            match under_way {
                Some(under_way) => drop(over(under_way).await),
                None => begun.await,
            }
        }
    }
}

/// Waits until what is under way is over. It is polled anew now and then: a wake-up that comes while one of those that share it is
/// polling, and that is then not polled again, would be lost.
pub(super) async fn over(under_way: Shared<UnderWay>) -> Answer {
    loop {
        if let Ok(answer) = timeout(LOST_WAKE_UP, under_way.clone()).await {
            return answer;
        }
    }
}

struct Over(Arc<Gathered>);

impl Drop for Over {
    fn drop(&mut self) {
        *self.0.under_way.lock() = None;
    }
}

/// The store that asks is in use as long as this is there.
pub(super) struct InUse(pub(super) Arc<Gathered>);

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.is_closed.store(true, Ordering::SeqCst);
        self.0.leases.comes.notify_one();
        self.0.claims.comes.notify_one();
        self.0.closes.notify_waiters();
    }
}
