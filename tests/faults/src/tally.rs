//! What a run comes to: one line for each store.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use crate::backend::{Backend, StoreName};
use crate::check::Finding;
use crate::kind::Kind;
use crate::messages::Part;
use crate::round::Round;

pub struct Tally {
    store: StoreName,
    part: Part,
    seed: u64,
    lease: Duration,
    rounds: BTreeMap<Kind, usize>,
    keys: usize,
    answers: usize,
    /// Calls that failed and were made again.
    failures: usize,
    effects: usize,
    taken_over: usize,
    in_doubt: usize,
    /// Attempts at messages, those that found them done already, and those that the receiver failed.
    attempts: usize,
    repeated: usize,
    failed: usize,
    redriven: usize,
    dead: usize,
    found: BTreeMap<Finding, usize>,
    longest: Duration,
    left_out: Vec<String>,
}

impl Tally {
    pub fn new(store: StoreName, part: Part, seed: u64, lease: Duration) -> Self {
        Self {
            store,
            part,
            seed,
            lease,
            rounds: BTreeMap::new(),
            keys: 0,
            answers: 0,
            failures: 0,
            effects: 0,
            taken_over: 0,
            in_doubt: 0,
            attempts: 0,
            repeated: 0,
            failed: 0,
            redriven: 0,
            dead: 0,
            found: BTreeMap::new(),
            longest: Duration::ZERO,
            left_out: Vec::new(),
        }
    }

    pub fn add<B: Backend>(&mut self, kind: Kind, struck: bool, round: &Round<'_, B>) {
        *self.rounds.entry(kind).or_default() += usize::from(struck);
        self.keys += round.order.keys.len();
        self.answers += round.ledger.answered.len();
        self.failures += round.ledger.failed.len();
        self.effects += round.findings.effects;
        self.taken_over += round.findings.taken_over;
        self.in_doubt += round.ledger.in_doubt.len();
        self.attempts += round.ledger.attempts;
        self.repeated += round.seen.repeated;
        self.failed += round.seen.failed;
        self.redriven += round.redriven;
        self.dead += round.dead;
        self.longest = self.longest.max(round.longest);
        for (finding, _) in &round.findings.found {
            *self.found.entry(*finding).or_default() += 1;
        }
    }

    /// Something that cannot be tried here.
    pub fn leave_out(&mut self, kind: Kind, why: &str) {
        self.left_out.push(format!("{} ({why})", kind.word()));
    }

    /// Rounds that struck nothing show nothing.
    pub fn too_few(&mut self, kind: Kind) {
        println!("{} {}: too few rounds struck anything", self.store.word(), kind.word());
        *self.found.entry(Finding::Wrong).or_default() += 1;
    }

    pub fn found(&self, finding: Finding) -> usize {
        self.found.get(&finding).copied().unwrap_or(0)
    }

    /// Whether something was tried, and nothing found.
    pub fn is_clean(&self) -> bool {
        self.found.is_empty() && self.rounds.values().any(|&rounds| rounds > 0)
    }

    pub fn line(&self) -> String {
        let mut line = format!("faults {} {}:", self.store.word(), self.part.word());
        let mut comma = "";
        for (kind, rounds) in &self.rounds {
            // Writing into a string does not fail.
            let _ = write!(line, "{comma} {} {rounds}", kind.word());
            comma = ",";
        }
        if !self.left_out.is_empty() {
            let _ = write!(line, "; LEFT OUT: {}", self.left_out.join(", "));
        }
        let _ = write!(
            line,
            "; {} keys, {} answers after {} failures, {} effects",
            self.keys, self.answers, self.failures, self.effects
        );
        let _ = match self.part {
            Part::Requests => write!(line, ", {} taken over, {} in doubt", self.taken_over, self.in_doubt),
            Part::Outbox => write!(
                line,
                " of messages in {} attempts ({} failed by the receiver, {} repeated), {} dead letters, {} more redriven",
                self.attempts, self.failed, self.repeated, self.dead, self.redriven
            ),
        };
        let found = |finding| self.found(finding);
        let _ = write!(
            line,
            "; {} lost, {} doubled",
            found(Finding::Lost),
            found(Finding::Doubled)
        );
        if self.part == Part::Outbox {
            let _ = write!(line, ", {} disordered", found(Finding::Disordered));
        }
        let _ = write!(
            line,
            ", {} stuck, {} wrong; all ended within {:.1} s of the fault (lease {:.1} s); seed {}",
            found(Finding::Stuck),
            found(Finding::Wrong),
            self.longest.as_secs_f64(),
            self.lease.as_secs_f64(),
            self.seed
        );
        line
    }
}
