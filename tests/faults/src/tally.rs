//! What a run comes to: one line for each store.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use crate::backend::{Backend, StoreName};
use crate::check::Finding;
use crate::kind::Kind;
use crate::round::Round;

pub struct Tally {
    store: StoreName,
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
    found: BTreeMap<Finding, usize>,
    longest: Duration,
    left_out: Vec<String>,
}

impl Tally {
    pub fn new(store: StoreName, seed: u64, lease: Duration) -> Self {
        Self {
            store,
            seed,
            lease,
            rounds: BTreeMap::new(),
            keys: 0,
            answers: 0,
            failures: 0,
            effects: 0,
            taken_over: 0,
            in_doubt: 0,
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
        let mut line = format!("faults {}:", self.store.word());
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
            "; {} keys, {} answers after {} failures, {} effects, {} taken over, {} in doubt; {} lost, {} doubled, {} stuck, \
             {} wrong; all answered within {:.1} s of the fault (lease {:.1} s); seed {}",
            self.keys,
            self.answers,
            self.failures,
            self.effects,
            self.taken_over,
            self.in_doubt,
            self.found(Finding::Lost),
            self.found(Finding::Doubled),
            self.found(Finding::Stuck),
            self.found(Finding::Wrong),
            self.longest.as_secs_f64(),
            self.lease.as_secs_f64(),
            self.seed
        );
        line
    }
}
