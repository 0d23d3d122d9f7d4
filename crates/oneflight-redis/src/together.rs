//! Steps that go out together.
//!
//! ```text
//! nothing under way ─▶ sent by its caller
//! otherwise ─▶ gathered, until every task that can run has run and brought no more ──▶ sent by a task, in one message
//! ```
//!
//! What a call costs this process and the server is mostly the same for one step and for several: a message, tasks that
//! are woken, a script that is begun. So the steps of callers that run at the same time share it. None waits for the
//! answer of another one. The task that gathers gives way to those that can run now, again as long as they bring more within a
//! millisecond, and no longer: where the server is far away and the processor idle, each step goes out at once.
//!
//! The callers of one message are answered at the same time, and go on at the same time. So a message of several steps counts as
//! under way until they have: otherwise, the first of them would go alone each time.
//!
//! A worker whose task blocks runs nothing else, and what has given way there is not taken over by another one. So a step
//! that finds the task late begins another one, and so does one that was not sent for long. The first that has its turn sends.
//!
//! A caller could gather in its own place, which would save the task. But a caller may be kept and not polled, and it
//! would hold all others up.
//!
//! Claims of one message are one script, and so are completions, as far as their bytes are few. Each has an answer of its own. In a
//! cluster a script has the keys of one slot, so there each step goes alone; and so it does on a runtime of one thread. A server
//! that is asked for by itself may be in a cluster all the same: it says so before it runs anything.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redis::Value;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

use super::connection::{Answered, Way};
use super::errors::unavailable;
use super::layout::TOKEN;
use super::records::malformed;
use super::step::{Step, Steps};
use oneflight::store::StoreError;

mod pace;
#[cfg(test)]
mod tests;

use pace::Pace;

/// The number of steps of one script. The server does nothing else meanwhile, for some 0.3 ms where results are small.
const MOST: usize = 64;
/// The bytes of the steps of one script. A larger step goes alone: the server copies them, which takes some 4 ms for a
/// megabyte.
const LARGEST: usize = 64 << 10;

/// How late the task that gathers may be.
const LATE: Duration = Duration::from_millis(1);
/// How long a step waits before its caller sees to it that it is sent.
const PATIENCE: Duration = Duration::from_millis(20);
/// Shorter than that, and than the first limit of a message.
const BEAT: Duration = Duration::from_millis(10);

type Answer = Result<Answered, StoreError>;

/// See the module's documentation.
pub(super) struct Together(Arc<Inner>);

struct Inner {
    way: Way,
    gathered: Mutex<Gathered>,
    pace: Arc<Pace>,
}

/// A step with a number of its own, and the caller that waits for it.
struct Waiting {
    number: u64,
    step: Step,
    caller: oneshot::Sender<Answer>,
}

#[derive(Default)]
struct Gathered {
    /// The number of messages that are under way.
    under_way: usize,
    waiting: Vec<Waiting>,
    /// The task that sends what waits, by its number, and when it was begun.
    seen_to: Option<(u64, Instant)>,
    /// How many steps and tasks there have been.
    numbers: u64,
}

impl Gathered {
    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }
}

impl Together {
    pub(super) fn over(way: Way) -> Self {
        Self(Arc::new(Inner {
            way,
            gathered: Mutex::default(),
            pace: Pace::new(BEAT),
        }))
    }

    /// Takes a step, perhaps together with others.
    pub(super) async fn take(&self, step: Step) -> Answer {
        let inner = &self.0;
        if inner.way.connection.has_slots() || !drives_itself() {
            return Box::pin(inner.send_alone(step)).await;
        }
        inner.pace.step();
        let (number, mut answer) = match inner.join(step) {
            Joined::Alone(step) => {
                let _under_way = UnderWay(inner);
                // In a box, it is no part of what waits for a message, nor of the flights that this is a part of.
                return Box::pin(inner.send_alone(step)).await;
            }
            Joined::Waits(number, answer) => (number, answer),
        };
        let answered = loop {
            if let Some(task) = inner.begin() {
                tokio::spawn(task.send());
            }
            match timeout(PATIENCE, &mut answer).await {
                Ok(answered) => break answered,
                Err(_) if inner.is_waiting(number) => {}
                Err(_) => break answer.await,
            }
        };
        answered.map_err(|_| StoreError::unavailable("the runtime that was about to ask is gone"))?
    }
}

enum Joined {
    /// It is under way from now on.
    Alone(Step),
    Waits(u64, oneshot::Receiver<Answer>),
}

impl Inner {
    async fn send_alone(&self, step: Step) -> Answer {
        let way = &self.way;
        let given = Steps(std::slice::from_ref(&step));
        way.connection.run(&given, way.patience, way.acknowledgement).await
    }

    fn join(&self, step: Step) -> Joined {
        let mut gathered = self.gathered.lock();
        if gathered.under_way == 0 && gathered.seen_to.is_none() {
            gathered.under_way = 1;
            return Joined::Alone(step);
        }
        let (caller, answer) = oneshot::channel();
        let number = gathered.number();
        gathered.waiting.push(Waiting { number, step, caller });
        Joined::Waits(number, answer)
    }

    fn is_waiting(&self, number: u64) -> bool {
        let gathered = self.gathered.lock();
        gathered.waiting.iter().any(|waiting| waiting.number == number)
    }

    /// Gives way to the tasks that can run, again as long as they bring more: but not to those of a busy worker for long.
    async fn give_way(&self, begun: Instant) {
        let (mut before, mut waiting) = (0, 1);
        while before < waiting && waiting < MOST && begun.elapsed() < LATE {
            yield_now().await;
            before = waiting;
            waiting = self.gathered.lock().waiting.len();
        }
    }

    /// Begins a task that sends what waits, unless there is one that is not late.
    fn begin(self: &Arc<Self>) -> Option<Gathering> {
        let mut gathered = self.gathered.lock();
        let begun = Instant::now();
        let gives_way = match gathered.seen_to {
            Some((_, before)) if begun.duration_since(before) < LATE => return None,
            // It may have been sent since.
            _ if gathered.waiting.is_empty() => return None,
            before => before.is_none(),
        };
        let number = gathered.number();
        gathered.seen_to = Some((number, begun));
        Some(Gathering {
            inner: Arc::clone(self),
            number,
            begun,
            gives_way,
        })
    }
}

/// Returns whether a task gets its turn here, whatever becomes of the caller. A runtime of one thread may rest for long, and
/// callers on another one would wait for it.
fn drives_itself() -> bool {
    Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread)
}

/// A message is under way as long as this is there.
struct UnderWay<'a>(&'a Inner);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.gathered.lock().under_way -= 1;
    }
}

/// A task that sends what waits. If its runtime ends before that and there is no later one, what waits is given up, and the
/// next step begins another one.
struct Gathering {
    inner: Arc<Inner>,
    number: u64,
    begun: Instant,
    gives_way: bool,
}

impl Gathering {
    async fn send(self) {
        if self.gives_way {
            self.inner.give_way(self.begun).await;
        }
        let Some(waiting) = self.take() else { return };
        let _under_way = UnderWay(&self.inner);
        let are_several = waiting.len() > 1;
        self.ask_and_tell(waiting).await;
        if are_several {
            // They go on now, and what they ask next is gathered.
            yield_now().await;
        }
    }

    /// Takes what waits, to be sent in one message. A task that was replaced does so too, if it has its turn before the later
    /// one: where workers are busy, each may be replaced before its turn.
    fn take(&self) -> Option<Vec<Waiting>> {
        let mut gathered = self.inner.gathered.lock();
        if gathered.waiting.is_empty() {
            return None;
        }
        gathered.seen_to = None;
        gathered.under_way += 1;
        Some(std::mem::take(&mut gathered.waiting))
    }

    /// Has steps taken in one message, and tells each caller its answer.
    async fn ask_and_tell(&self, waiting: Vec<Waiting>) {
        let connection = &self.inner.way.connection;
        let groups = in_groups(waiting);
        let answers = self.ask(&groups).await;
        let mut alone = Vec::new();
        for (group, answer) in groups.into_iter().zip(answers) {
            match group.steps.len() > 1 && connection.has_refused_slots(&answer) {
                true => alone.extend(group.apart()),
                false => group.tell(answer),
            }
        }
        if alone.is_empty() {
            return;
        }
        let answers = self.ask(&alone).await;
        for (step, answer) in alone.into_iter().zip(answers) {
            step.tell(answer);
        }
    }

    /// Has groups of steps taken, in one message. Returns an answer for each group.
    async fn ask(&self, groups: &[Group]) -> Vec<Answer> {
        let way = &self.inner.way;
        let given: Vec<_> = groups.iter().map(|group| Steps(&group.steps)).collect();
        way.connection.run_all(&given, way.patience, way.acknowledgement).await
    }
}

impl Drop for Gathering {
    fn drop(&mut self) {
        let given_up = {
            let mut gathered = self.inner.gathered.lock();
            // That of a task which was begun later is left to it, and so is what came after this one had its turn.
            if gathered.seen_to.is_none_or(|(number, _)| number != self.number) {
                return;
            }
            gathered.seen_to = None;
            std::mem::take(&mut gathered.waiting)
        };
        drop(given_up);
    }
}

/// Steps of one script, and the callers that wait for them.
#[derive(Default)]
struct Group {
    steps: Vec<Step>,
    callers: Vec<oneshot::Sender<Answer>>,
    bytes: usize,
}

impl Group {
    fn has_room_for(&self, step: &Step) -> bool {
        let script = self.steps[0].script();
        let is_of_one = script.takes_several && std::ptr::eq(script, step.script());
        is_of_one && self.steps.len() < MOST && self.bytes + step.size() <= LARGEST
    }

    fn add(&mut self, Waiting { step, caller, .. }: Waiting) {
        self.bytes += step.size();
        self.steps.push(step);
        self.callers.push(caller);
    }

    /// Returns a group for each step.
    fn apart(self) -> impl Iterator<Item = Self> {
        self.steps.into_iter().zip(self.callers).map(|(step, caller)| Self {
            bytes: step.size(),
            steps: vec![step],
            callers: vec![caller],
        })
    }

    /// Tells each caller its answer. It may be gone.
    fn tell(self, answer: Answer) {
        let answers = each(answer, self.callers.len());
        for (caller, answer) in self.callers.into_iter().zip(answers) {
            let _ = caller.send(answer);
        }
    }
}

/// Puts the steps of one script together.
fn in_groups(all: Vec<Waiting>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for waiting in all {
        match groups.iter_mut().find(|group| group.has_room_for(&waiting.step)) {
            Some(group) => group.add(waiting),
            None => {
                let mut group = Group::default();
                group.add(waiting);
                groups.push(group);
            }
        }
    }
    groups
}

/// Returns the answer to each of so many steps.
fn each(answer: Answer, steps: usize) -> Vec<Answer> {
    let Answered { value, acknowledged } = match answer {
        Ok(answered) if steps == 1 => return vec![Ok(answered)],
        Ok(answered) => answered,
        Err(error) => return (0..steps).map(|_| Err(error.clone())).collect(),
    };
    let same = |value| {
        let acknowledged = acknowledged.clone();
        Ok(Answered { value, acknowledged })
    };
    match value {
        // All are recorded.
        Value::Int(1) => (0..steps).map(|_| same(Value::Int(1))).collect(),
        // All are claims of what is new, and these are their tokens.
        Value::BulkString(tokens) if tokens.len() == steps * TOKEN.len() => {
            let tokens = tokens.chunks_exact(TOKEN.len());
            tokens.map(|token| same(Value::BulkString(token.to_vec()))).collect()
        }
        Value::Array(parts) if parts.len() == steps => {
            let answered = parts
                .into_iter()
                .map(|part| same(part.extract_error().map_err(unavailable)?));
            answered.collect()
        }
        _ => (0..steps).map(|_| Err(malformed())).collect(),
    }
}
