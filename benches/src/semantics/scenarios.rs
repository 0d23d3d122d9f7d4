//! The scenarios with a script. All callers are tasks of a runtime of one thread, and the work stands at a gate, half-way,
//! when something happens to them.

use super::Finding;
use crate::gate::{End, Gate, PANIC};
use crate::key::Key;
use crate::peers::{Peer, Value};
use crate::signal::Signals;
use std::future::Future;
use std::task::Context;
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::timeout;

/// A caller that has no answer after that long has none.
const PATIENCE: Duration = Duration::from_secs(1);
/// Steps that work takes before it ends.
const STEPS: u64 = 2;
const LEADER: Value = 1;
const FOLLOWERS: [Value; 2] = [2, 3];
const NEXT: Value = 4;

/// What a caller got.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Value(Value),
    Error(String),
    Panic,
    Nothing,
}

/// The stage of a scenario.
struct Stage<P> {
    peer: P,
    gate: &'static Gate,
}

impl<P: Peer<String>> Stage<P> {
    fn run<S: Future<Output = Finding>>(scenario: impl FnOnce(Self) -> S) -> Finding {
        let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
        let stage = Self {
            peer: P::new(),
            gate: Gate::leak(),
        };
        runtime.block_on(scenario(stage))
    }

    /// A call as a task, polled until it waits. Its own work would end with the number of the caller.
    async fn call(&self, caller: Value, end: End) -> JoinHandle<Result<Value, String>> {
        let (peer, gate) = (self.peer.clone(), self.gate);
        let task = tokio::spawn(async move {
            let work = gate.work_that_ends(end, caller, STEPS);
            P::outcome(peer.call(String::numbered(0), work).await)
        });
        settle().await;
        task
    }

    async fn followers(&self) -> [JoinHandle<Result<Value, String>>; 2] {
        let [first, second] = FOLLOWERS;
        [self.call(first, End::Value).await, self.call(second, End::Value).await]
    }

    async fn step(&self) {
        self.gate.step();
        settle().await;
    }
}

/// Lets every task run until it waits.
async fn settle() {
    for _ in 0..64 {
        yield_now().await;
    }
}

async fn answer(task: JoinHandle<Result<Value, String>>) -> Answer {
    match timeout(PATIENCE, task).await {
        Ok(Ok(Ok(value))) => Answer::Value(value),
        Ok(Ok(Err(error))) => Answer::Error(error),
        Ok(Err(_)) => Answer::Panic,
        Err(_) => Answer::Nothing,
    }
}

async fn answers<const N: usize>(tasks: [JoinHandle<Result<Value, String>>; N]) -> Vec<Answer> {
    let mut answers = Vec::with_capacity(N);
    for task in tasks {
        answers.push(answer(task).await);
    }
    answers
}

/// How often work was run, for the callers that waited on after the leader.
fn continued<P>(stage: &Stage<P>, answers: &[Answer]) -> Finding {
    let runs = stage.gate.begun();
    if answers.contains(&Answer::Nothing) {
        Finding::wrong("stalls")
    } else if runs > 1 {
        Finding::wrong(format!("runs again: {runs} runs"))
    } else if answers.iter().all(|answer| *answer == Answer::Value(LEADER)) {
        Finding::right("goes on, once")
    } else {
        Finding::wrong(format!("followers get {answers:?}"))
    }
}

pub(super) fn leader_dropped<P: Peer<String>>() -> Finding {
    Stage::<P>::run(|stage| async move {
        let leader = stage.call(LEADER, End::Value).await;
        let followers = stage.followers().await;
        stage.step().await;
        leader.abort();
        settle().await;
        stage.step().await;
        continued(&stage, &answers(followers).await)
    })
}

pub(super) fn leader_held<P: Peer<String>>() -> Finding {
    Stage::<P>::run(|stage| async move {
        let (signals, gate) = (Signals::new(1), stage.gate);
        let work = gate.work(LEADER, STEPS);
        let mut leader = Box::pin(stage.peer.call(String::numbered(0), work));
        let polled = leader.as_mut().poll(&mut Context::from_waker(signals.waker(0)));
        assert!(polled.is_pending() && gate.begun() == 1, "{}: nobody leads", P::NAME);
        let followers = stage.followers().await;
        stage.step().await;
        stage.step().await;
        let finding = continued(&stage, &answers(followers).await);
        drop(leader);
        finding
    })
}

pub(super) fn all_dropped<P: Peer<String>>() -> Finding {
    Stage::<P>::run(|stage| async move {
        let leader = stage.call(LEADER, End::Value).await;
        let followers = stage.followers().await;
        stage.step().await;
        leader.abort();
        followers.iter().for_each(JoinHandle::abort);
        settle().await;
        stage.step().await;
        let (ended, cancelled) = (stage.gate.ended(), stage.gate.cancelled());
        let is_left = stage.peer.entries().is_some_and(|entries| entries > 0);
        let next = answer(stage.call(NEXT, End::Value).await).await;
        match (ended, cancelled, next) {
            (1, _, Answer::Value(NEXT)) => Finding::right("finishes"),
            (1, _, next) => Finding::wrong(format!("finishes; the next call gets {next:?}")),
            (_, 1.., Answer::Value(NEXT)) if is_left => Finding::wrong("cancelled, entry left"),
            (_, 1.., Answer::Value(NEXT)) => Finding::wrong("cancelled"),
            (_, 1.., next) => Finding::wrong(format!("cancelled; the next call gets {next:?}")),
            (_, _, Answer::Value(LEADER)) => Finding::wrong("frozen half-way; the next call resumes it"),
            (_, _, next) => Finding::wrong(format!("frozen half-way; the next call gets {next:?}")),
        }
    })
}

pub(super) fn work_panics<P: Peer<String>>() -> Finding {
    Stage::<P>::run(|stage| async move {
        let leader = stage.call(LEADER, End::Panic).await;
        let followers = stage.followers().await;
        stage.step().await;
        stage.step().await;
        let leader = answer(leader).await;
        let followers = answers(followers).await;
        let runs = stage.gate.begun();
        let next = answer(stage.call(NEXT, End::Value).await).await;
        let key = match &next {
            Answer::Value(NEXT) => "key free",
            Answer::Panic => "key dead: the next call panics",
            Answer::Nothing => "key dead: the next call stalls",
            _ => "the next call gets something else",
        };
        let is_told = |answer: &Answer| matches!(answer, Answer::Error(message) if message.contains(PANIC));
        let what = if followers.contains(&Answer::Nothing) {
            "followers stall".to_owned()
        } else if runs > 1 {
            format!("followers run it again: {runs} runs")
        } else if followers.iter().chain([&leader]).all(is_told) {
            "error with message to all, once".to_owned()
        } else if followers.iter().all(|answer| *answer == Answer::Panic) {
            "all panic".to_owned()
        } else {
            format!("leader {leader:?}, followers {followers:?}")
        };
        let finding = format!("{what}, {key}");
        match (runs, next) {
            (1, Answer::Value(NEXT)) if is_told(&leader) && followers.iter().all(is_told) => Finding::right(finding),
            _ => Finding::wrong(finding),
        }
    })
}
