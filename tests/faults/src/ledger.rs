//! What was heard in a round: which worker began what, and which calls have their answer.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;

use oneflight::idempotency::Origin;

use crate::crew::{Heard, Number};
use crate::messages::{Key, Known, Order, Said};

pub struct Begun {
    pub key: Key,
    pub attempt: u32,
    pub at: Instant,
}

pub struct Answered {
    pub key: Key,
    pub mark: String,
    pub attempt: u32,
    pub origin: Origin,
    pub phase: u32,
}

/// A call that failed, and was made again.
pub struct Failed {
    pub key: Key,
    pub known: Known,
    pub marks: Vec<String>,
    pub unrecorded: bool,
    pub why: String,
}

#[derive(Default)]
pub struct Ledger {
    phase: u32,
    pub begun: Vec<Begun>,
    pub answered: Vec<Answered>,
    pub in_doubt: HashSet<Key>,
    pub failed: Vec<Failed>,
    /// How many deliveries were begun.
    pub attempts: usize,
    /// How each relay was when it last said so.
    pub health: BTreeMap<Number, String>,
    /// What applications did to their connections.
    pub misuses: Vec<String>,
    /// When the last call was answered.
    pub last: Option<Instant>,
    /// The workers that are waited for.
    open: HashSet<Number>,
    /// How much each worker has said since the order.
    heard: HashMap<Number, usize>,
    /// How often those had misused a connection while they were waited for.
    misused: HashMap<Number, usize>,
    ready: HashSet<Number>,
    gone: HashSet<Number>,
    /// How many calls for a key a worker has answered.
    ended: HashMap<(Number, Key), usize>,
    /// The workers that ended without being told to.
    pub vanished: Vec<Number>,
}

impl Ledger {
    /// Begins to wait for an order's answers.
    pub fn begin(&mut self, phase: u32) {
        self.phase = phase;
        self.open.clear();
        self.heard.clear();
        self.misused.clear();
        self.ended.clear();
    }

    /// Waits for this worker.
    pub fn expect(&mut self, worker: Number) {
        self.open.insert(worker);
    }

    /// Waits for this worker no more.
    pub fn dismiss(&mut self, worker: Number) {
        self.open.remove(&worker);
    }

    pub fn is_open(&self, worker: Number) -> bool {
        self.open.contains(&worker)
    }

    pub fn is_over(&self) -> bool {
        self.open.is_empty()
    }

    /// How much a worker has said since it was told the order.
    pub fn heard_of(&self, worker: Number) -> usize {
        self.heard.get(&worker).copied().unwrap_or(0)
    }

    /// How often a worker has misused a connection while it had calls without an answer.
    pub fn misused(&self, worker: Number) -> usize {
        self.misused.get(&worker).copied().unwrap_or(0)
    }

    pub fn is_ready(&self, worker: Number) -> bool {
        self.ready.contains(&worker)
    }

    /// Whether all that a worker ever said was heard.
    pub fn is_gone(&self, worker: Number) -> bool {
        self.gone.contains(&worker)
    }

    /// The calls that have no answer.
    pub fn unanswered(&self, order: &Order) -> Vec<(Number, Key)> {
        let mut calls = Vec::new();
        for &worker in &self.open {
            for key in &order.keys {
                let ended = self.ended.get(&(worker, key.clone())).copied().unwrap_or(0);
                calls.extend((ended..order.duplicates).map(|_| (worker, key.clone())));
            }
        }
        calls
    }

    pub fn take(&mut self, heard: Heard) {
        let Heard { from, at, said } = heard;
        if let Said::Health { health } = said {
            self.health.insert(from, health);
            return;
        }
        *self.heard.entry(from).or_default() += 1;
        match said {
            Said::Ready { .. } => {
                self.ready.insert(from);
            }
            Said::Begun { key, attempt, .. } => self.begun.push(Begun { key, attempt, at }),
            Said::Answered {
                key,
                mark,
                attempt,
                origin,
            } => {
                self.end(from, &key, at);
                let phase = self.phase;
                self.answered.push(Answered {
                    key,
                    mark,
                    attempt,
                    origin,
                    phase,
                });
            }
            Said::InDoubt { key, .. } => {
                self.end(from, &key, at);
                self.in_doubt.insert(key);
            }
            Said::Left { key } => self.end(from, &key, at),
            Said::Delivers { .. } => self.attempts += 1,
            Said::Health { .. } => {}
            Said::Failed {
                key,
                known,
                marks,
                unrecorded,
                why,
            } => self.failed.push(Failed {
                key,
                known,
                marks,
                unrecorded,
                why,
            }),
            Said::Misused { how } => {
                *self.misused.entry(from).or_default() += 1;
                self.misuses.push(how);
            }
            Said::Done { phase } if phase == self.phase => {
                self.open.remove(&from);
            }
            Said::Done { .. } => {}
            Said::Gone => {
                self.gone.insert(from);
                if self.open.remove(&from) {
                    self.vanished.push(from);
                }
            }
        }
    }

    fn end(&mut self, worker: Number, key: &Key, at: Instant) {
        *self.ended.entry((worker, key.clone())).or_default() += 1;
        self.last = Some(at);
    }
}
