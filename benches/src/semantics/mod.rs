//! What every peer does when things go wrong: tried, not read. Leader dropped, every caller dropped, work that panics,
//! a leader that is kept but never polled again, and one hot key raced by four tasks.
//!
//! Every wait has a limit, and every scenario a thread of its own, so that a peer that stalls, or blocks a thread, is
//! reported and does not hold up the rest.

mod race;
mod scenarios;

use crate::peers::{Peer, Side, Visitor, visit_all};
use serde::Serialize;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// How long the race for one hot key is.
const RACE: Duration = Duration::from_secs(3);
/// How long a scenario may take, its own limits included.
const LIMIT: Duration = Duration::from_secs(15);

/// The scenarios, in the order of [`Conduct::findings`].
pub const SCENARIOS: [&str; 5] = [
    "leader dropped, followers wait",
    "every caller dropped",
    "work panics",
    "leader held, never polled again",
    "one hot key raced by 4 tasks",
];

/// What one peer does.
#[derive(Clone, Debug, Serialize)]
pub struct Conduct {
    /// The peer.
    pub name: &'static str,
    /// The peer that it belongs to.
    pub side: Side,
    /// One for each scenario.
    pub findings: [Finding; 5],
}

/// What happened in one scenario.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// In words.
    pub what: String,
    /// Whether it is what one would wish of a mutation.
    pub verdict: Verdict,
}

/// Whether something is as one would wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Verdict {
    /// It is.
    Right,
    /// It is not: an execution too many, one cut in half, an old result, or a caller that waits for ever.
    Wrong,
}

impl Finding {
    fn right(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            verdict: Verdict::Right,
        }
    }

    fn wrong(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            verdict: Verdict::Wrong,
        }
    }
}

/// Tries every scenario on every peer, and tells of each peer as soon as it is through.
pub fn try_all(tell: &mut dyn FnMut(&Conduct)) -> Vec<Conduct> {
    // The panics are ours.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut trying = Trying {
        conducts: Vec::new(),
        tell,
    };
    visit_all(&mut trying);
    std::panic::set_hook(hook);
    trying.conducts
}

struct Trying<'t> {
    conducts: Vec<Conduct>,
    tell: &'t mut dyn FnMut(&Conduct),
}

impl Visitor<String> for Trying<'_> {
    fn visit<P: Peer<String>>(&mut self) {
        if P::SIDE == Side::Tuned {
            // The same code with another hasher.
            return;
        }
        let conduct = Conduct {
            name: P::NAME,
            side: P::SIDE,
            findings: [
                limited(scenarios::leader_dropped::<P>),
                limited(scenarios::all_dropped::<P>),
                limited(scenarios::work_panics::<P>),
                limited(scenarios::leader_held::<P>),
                limited(|| race::race::<P>(RACE)),
            ],
        };
        (self.tell)(&conduct);
        self.conducts.push(conduct);
    }
}

/// Runs a scenario on a thread of its own. If that blocks, it is left behind.
fn limited(scenario: impl FnOnce() -> Finding + Send + 'static) -> Finding {
    let (sender, receiver) = mpsc::channel();
    let run = move || {
        // Nothing listens any more if it took too long.
        let _ = sender.send(scenario());
    };
    let spawned = thread::Builder::new().name("scenario".to_owned()).spawn(run);
    spawned.expect("a thread for a scenario");
    match receiver.recv_timeout(LIMIT) {
        Ok(finding) => finding,
        Err(mpsc::RecvTimeoutError::Timeout) => Finding::wrong("blocks its thread"),
        Err(mpsc::RecvTimeoutError::Disconnected) => Finding::wrong("the scenario itself fell over"),
    }
}
