//! The steps that wait for a message, and what is known of the last one that went out. It is kept under a lock, so nothing here wakes a task,
//! or drops what wakes one.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::runtime::Id;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::borrowed::Borrowed;
use super::shared::Step;
use oneflight::store::StoreError;

/// How long after a message the next one goes out, if that is not answered before.
const APART: Duration = Duration::from_millis(5);
/// The number of steps of one message. Each takes a place in the server's table of locks, which all connections share, and to which each adds
/// 64 (`max_locks_per_transaction`) unless set.
const MOST: usize = 64;
/// The bytes of the steps of one message.
const LARGEST: usize = 64 << 10;
/// The bytes of a step that may go with others. A message of few steps saves little, and takes as long a turn in the pool's queue.
pub(super) const SMALL: usize = 4 << 10;
/// How late the task that gathers may be, before the callers take their steps themselves.
pub(super) const LATE: Duration = Duration::from_millis(20);
/// How long that task waits for a connection before it leaves its steps to their callers: for a far server's answer, or for one that is made.
pub(super) const LENT_WITHIN: Duration = Duration::from_millis(250);
/// For how long steps go alone once the role was found to have no right to the procedures for several, or these not to be there.
const DENIED_FOR: Duration = Duration::from_secs(60);

/// How many messages go out on a connection until the pool has it back, which looks whether it is too old.
const IN_A_ROW: u32 = 64;

/// What a message says to one of its steps: nothing, if that has to be taken alone.
pub(super) type Told<A> = Result<Option<A>, StoreError>;

pub(super) struct Gathered<S: Step> {
    /// The last message, until it is answered.
    last: Option<Last>,
    /// In the order of their numbers.
    waiting: VecDeque<Waiting<S>>,
    /// Of all that wait.
    bytes: usize,
    seen_to: Option<SeenTo>,
    /// What the last message has left to the next one, while there is a task that sends that.
    kept: Option<Kept>,
    /// Until when nothing goes together.
    denied_until: Option<Instant>,
    /// How many steps, tasks and messages there have been.
    numbers: u64,
}

pub(super) struct Waiting<S: Step> {
    pub(super) number: u64,
    pub(super) step: S,
    /// How long its caller waits.
    pub(super) until: Instant,
    pub(super) caller: oneshot::Sender<Told<S::Answer>>,
}

struct Last {
    number: u64,
    sent: Instant,
}

/// A connection that stays out of the pool for another message.
pub(super) struct Kept {
    pub(super) connection: Borrowed,
    pub(super) runtime: Id,
    /// How many messages it had.
    pub(super) messages: u32,
}

/// The task that sends what waits.
struct SeenTo {
    number: u64,
    runtime: Id,
    /// From when on it has not done what it does by then.
    late_from: Instant,
    /// Whether it has looked for what is kept in vain, and stands in the pool's queue.
    asks_the_pool: bool,
}

impl<S: Step> Gathered<S> {
    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Whether a message need not wait for another one.
    fn is_free(&self, now: Instant) -> bool {
        self.last.as_ref().is_none_or(|last| now >= last.sent + APART)
    }

    /// Whether a message would take no more.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= MOST || self.bytes > LARGEST
    }

    /// Until when what waits has to, if it has to.
    pub(super) fn turn(&self, now: Instant) -> Option<Instant> {
        if self.is_free(now) || self.is_full() {
            return None;
        }
        self.last.as_ref().map(|last| last.sent + APART)
    }

    /// Returns the number of a message that goes out now, if there is nothing to wait for.
    pub(super) fn goes_out_at_once(&mut self, now: Instant) -> Option<u64> {
        let nobody_waits = self.waiting.is_empty() && !self.is_seen_to(now);
        (nobody_waits && self.is_free(now)).then(|| self.goes_out(now))
    }

    pub(super) fn goes_out(&mut self, now: Instant) -> u64 {
        let number = self.number();
        self.last = Some(Last { number, sent: now });
        number
    }

    /// Returns whether what waits for a message has waited for this one.
    pub(super) fn is_answered(&mut self, message: u64) -> bool {
        self.last.take_if(|last| last.number == message).is_some()
    }

    /// Whether a step of this runtime goes alone, without waiting for others: they go alone too, or wait for another runtime's task.
    pub(super) fn keeps_apart(&self, runtime: Id, now: Instant) -> bool {
        let elsewhere = |task: &SeenTo| task.runtime != runtime && now < task.late_from;
        self.denied_until.is_some_and(|until| now < until) || self.seen_to.as_ref().is_some_and(elsewhere)
    }

    pub(super) fn deny(&mut self, now: Instant) {
        self.denied_until = Some(now + DENIED_FOR);
    }

    /// Has a step wait, and returns its number.
    pub(super) fn push(&mut self, step: S, until: Instant, caller: oneshot::Sender<Told<S::Answer>>) -> u64 {
        let number = self.number();
        self.bytes += step.bytes();
        self.waiting.push_back(Waiting {
            number,
            step,
            until,
            caller,
        });
        number
    }

    pub(super) fn is_waiting(&self, number: u64) -> bool {
        self.waiting.binary_search_by_key(&number, |it| it.number).is_ok()
    }

    /// Takes one out that waits. To drop it wakes its caller.
    pub(super) fn remove(&mut self, number: u64) -> Option<Waiting<S>> {
        let place = self.waiting.binary_search_by_key(&number, |it| it.number).ok()?;
        let waiting = self.waiting.remove(place)?;
        self.bytes -= waiting.step.bytes();
        Some(waiting)
    }

    /// Takes all out that wait.
    pub(super) fn take(&mut self) -> VecDeque<Waiting<S>> {
        self.bytes = 0;
        std::mem::take(&mut self.waiting)
    }

    /// The steps of the next message, and those of callers that are gone, which want nothing any more.
    pub(super) fn next(&mut self) -> (Vec<Waiting<S>>, Vec<Waiting<S>>) {
        let (mut steps, mut gone, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some(first) = self.waiting.front() {
            let more = first.step.bytes();
            if steps.len() == MOST || bytes + more > LARGEST {
                break;
            }
            self.bytes -= more;
            let Some(next) = self.waiting.pop_front() else { break };
            if next.caller.is_closed() {
                gone.push(next);
            } else {
                bytes += more;
                steps.push(next);
            }
        }
        (steps, gone)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether there is a task that will send what waits.
    pub(super) fn is_seen_to(&self, now: Instant) -> bool {
        self.seen_to.as_ref().is_some_and(|task| now < task.late_from)
    }

    /// Has another task send what waits, and returns its number.
    pub(super) fn see_to_it(&mut self, runtime: Id, now: Instant) -> u64 {
        let number = self.number();
        self.seen_to = Some(SeenTo {
            number,
            runtime,
            late_from: now + APART + LATE,
            asks_the_pool: false,
        });
        number
    }

    /// This task waits for a connection, if there still is something that it has to send.
    pub(super) fn asks(&mut self, task: u64, now: Instant) -> bool {
        if self.is_empty() {
            self.ends(task);
            return false;
        }
        let seen_to = self.seen_to.as_mut().filter(|it| it.number == task);
        seen_to.map(|it| it.late_from = now + LENT_WITHIN + LATE).is_some()
    }

    /// Returns something if this task may send, now that it has a connection: it had to, or nobody of another runtime has to.
    pub(super) fn sends(&mut self, task: u64, runtime: Id) -> Option<()> {
        let may_send = self.ends(task) || self.seen_to.as_ref().is_none_or(|it| it.runtime == runtime);
        may_send.then_some(())
    }

    /// Keeps a connection for the task that sends next, and returns it if there is none of this runtime that could take it.
    pub(super) fn keep(&mut self, kept: Kept, now: Instant) -> Option<Kept> {
        let may_take_it = |task: &SeenTo| task.runtime == kept.runtime && !task.asks_the_pool && now < task.late_from;
        let is_awaited = self.kept.is_none() && self.seen_to.as_ref().is_some_and(may_take_it);
        if kept.messages >= IN_A_ROW || !is_awaited {
            return Some(kept);
        }
        self.kept = Some(kept);
        None
    }

    /// Takes what is kept, for this task of this runtime. If there is nothing, the task asks the pool, and nothing is kept for it any more:
    /// what the pool is given back comes to it in its turn.
    pub(super) fn kept_for(&mut self, task: u64, runtime: Id) -> Option<Kept> {
        let kept = self.kept(runtime);
        if let Some(seen_to) = self.seen_to.as_mut().filter(|it| it.number == task && kept.is_none()) {
            seen_to.asks_the_pool = true;
        }
        kept
    }

    /// Takes what is kept for a task of this runtime.
    fn kept(&mut self, runtime: Id) -> Option<Kept> {
        self.kept.take_if(|kept| kept.runtime == runtime)
    }

    /// The same, unless there is a task of this runtime that will take it. Each task that ends asks for it, so nothing is kept for long.
    pub(super) fn kept_for_nobody(&mut self, runtime: Id) -> Option<Kept> {
        match &self.seen_to {
            Some(task) if task.runtime == runtime => None,
            _ => self.kept(runtime),
        }
    }

    /// Returns whether it was still this task that had to send what waits. It no longer has to.
    pub(super) fn ends(&mut self, task: u64) -> bool {
        self.seen_to.take_if(|it| it.number == task).is_some()
    }
}

impl<S: Step> Default for Gathered<S> {
    fn default() -> Self {
        Self {
            last: None,
            waiting: VecDeque::new(),
            bytes: 0,
            seen_to: None,
            kept: None,
            denied_until: None,
            numbers: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use sqlx::pool::PoolConnection;
    use sqlx::postgres::{PgRow, Postgres};
    use tokio::runtime::{Builder, Handle};

    use super::super::call::Message;
    use super::super::shared::Messenger;
    use super::*;

    /// A step of so many bytes.
    struct Bytes(usize);

    impl Step for Bytes {
        type Answer = ();

        fn bytes(&self) -> usize {
            self.0
        }

        fn lend(messenger: &Messenger) -> impl Future<Output = sqlx::Result<PoolConnection<Postgres>>> + Send {
            messenger.way.pool.acquire()
        }

        fn message(_: &Messenger, _: &[Self]) -> Message {
            Message::outside("SELECT")
        }

        fn answers(steps: &[Self], _: &[PgRow]) -> Result<Vec<Option<()>>, StoreError> {
            Ok(vec![None; steps.len()])
        }
    }

    fn push(gathered: &mut Gathered<Bytes>, bytes: usize, now: Instant) -> oneshot::Receiver<Told<()>> {
        let (caller, answer) = oneshot::channel();
        gathered.push(Bytes(bytes), now + LATE, caller);
        answer
    }

    #[test]
    fn what_fills_a_message_waits_for_no_turn() {
        for (bytes, held) in [(40 << 10, 1), (SMALL, 16), (1, MOST)] {
            let (mut gathered, now) = (Gathered::default(), Instant::now());
            gathered.goes_out(now);
            let mut callers = Vec::new();
            while !gathered.is_full() {
                assert_eq!(gathered.turn(now), Some(now + APART));
                callers.push(push(&mut gathered, bytes, now));
            }
            assert_eq!(gathered.turn(now), None);
            assert_eq!(gathered.next().0.len(), held);
            assert!(!gathered.is_full());
        }
    }

    #[test]
    fn who_is_gone_takes_no_place_in_a_message() {
        let (mut gathered, now) = (Gathered::default(), Instant::now());
        for _ in 0..MOST {
            drop(push(&mut gathered, LARGEST, now));
        }
        let _answer = push(&mut gathered, LARGEST, now);
        let (steps, gone) = gathered.next();
        assert_eq!((steps.len(), gone.len()), (1, MOST));
        assert!(gathered.is_empty() && !gathered.is_full());
    }

    #[test]
    fn a_message_that_is_stuck_is_waited_for_once() {
        let (mut gathered, now) = (Gathered::<Bytes>::default(), Instant::now());
        let stuck = gathered.goes_out_at_once(now).unwrap();
        assert_eq!(gathered.goes_out_at_once(now), None);
        let later = now + APART;
        for _ in 0..3 {
            // Each goes out as the one before is answered.
            let next = gathered.goes_out_at_once(later).unwrap();
            assert_eq!(gathered.goes_out_at_once(later), None);
            assert!(gathered.is_answered(next));
        }
        assert!(!gathered.is_answered(stuck));
    }

    #[test]
    fn a_lone_step_waits_for_no_task_that_is_late() {
        let runtime = Builder::new_current_thread().build().unwrap().handle().id();
        let (mut gathered, now) = (Gathered::<Bytes>::default(), Instant::now());
        gathered.see_to_it(runtime, now);
        assert_eq!(gathered.goes_out_at_once(now), None);
        assert!(gathered.goes_out_at_once(now + APART + LATE).is_some());
    }

    #[tokio::test]
    async fn a_task_that_was_late_sends_for_its_own_runtime() {
        let (own, other) = (Handle::current().id(), Builder::new_current_thread().build().unwrap());
        let (mut gathered, now) = (Gathered::<Bytes>::default(), Instant::now());
        let late = gathered.see_to_it(own, now);
        let next = gathered.see_to_it(own, now);
        assert!(gathered.sends(late, own).is_some());
        assert!(gathered.is_seen_to(now), "by the next one");
        let elsewhere = gathered.see_to_it(other.handle().id(), now);
        assert!(gathered.sends(next, own).is_none());
        assert!(gathered.sends(elsewhere, other.handle().id()).is_some());
        assert!(!gathered.is_seen_to(now));
        assert!(gathered.sends(late, own).is_some(), "what nobody sees to");
        std::thread::spawn(move || drop(other)).join().unwrap();
    }

    #[tokio::test]
    async fn a_step_shares_no_message_with_another_runtime_nor_where_it_is_denied() {
        let (own, other) = (Handle::current().id(), Builder::new_current_thread().build().unwrap());
        let (mut gathered, now) = (Gathered::<Bytes>::default(), Instant::now());
        let task = gathered.see_to_it(other.handle().id(), now);
        assert!(gathered.keeps_apart(own, now));
        assert!(!gathered.keeps_apart(other.handle().id(), now));
        assert!(!gathered.keeps_apart(own, now + APART + LATE));
        assert!(gathered.ends(task));
        assert!(!gathered.keeps_apart(own, now));
        gathered.deny(now);
        assert!(gathered.keeps_apart(own, now));
        assert!(!gathered.keeps_apart(own, now + DENIED_FOR));
        std::thread::spawn(move || drop(other)).join().unwrap();
    }
}
