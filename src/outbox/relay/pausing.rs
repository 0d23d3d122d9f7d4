//! Topics of which nothing is delivered until they are resumed.
//!
//! ```text
//!            ┌── without an ordering key ──▶ passed over ──resumed──▶ all is read once more
//! read ──────┤
//!            └── with one ──▶ in the book ──first of its key──▶ held ──resumed──▶ ready
//! ```
//!
//! A message of a paused topic is in the book only if others wait for it, and without its content. So however many there are,
//! they leave the room to other topics. What has been taken before goes on. What expires meanwhile ends.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::time::Instant;

use super::book::{Book, Entry, State};
use super::paused::Paused;
use super::run::Runner;
use crate::store::outbox::{MessageId, OutboxStore};

impl Book {
    /// Has these topics paused, and no others. Returns whether the store has messages of a topic that was resumed which have to be
    /// read once more.
    pub(super) fn pause(&mut self, topics: HashSet<Arc<str>>, now: Instant) -> bool {
        if topics == self.paused.topics {
            return false;
        }
        let before = std::mem::replace(&mut self.paused.topics, topics);
        let waits = |entry: &&Entry| {
            entry.state != State::Taken && self.paused.has(&entry.topic) && !before.contains(&entry.topic)
        };
        let now_paused: Vec<MessageId> = self.entries().filter(waits).map(|entry| entry.id).collect();
        for id in self.first_of_each_lane(&now_paused) {
            self.unload_behind(id);
        }
        for id in now_paused {
            self.hold(id, now);
        }
        for id in std::mem::take(&mut self.paused.held) {
            self.consider(id, now);
        }
        let passed_over = self.paused.passed_over.len();
        let Paused {
            topics,
            passed_over: over,
            ..
        } = &mut self.paused;
        over.retain(|topic| topics.contains(topic));
        over.len() < passed_over
    }

    /// Returns those of these messages that have no other one of them before them under their ordering keys.
    fn first_of_each_lane(&mut self, ids: &[MessageId]) -> Vec<MessageId> {
        let mut first = HashMap::<Arc<str>, MessageId>::new();
        for id in ids {
            if let Some(lane) = self.entry_mut(*id).and_then(|entry| entry.lane.clone()) {
                first
                    .entry(lane)
                    .and_modify(|first| *first = (*first).min(*id))
                    .or_insert(*id);
            }
        }
        first.into_values().collect()
    }

    /// A message that waits is of a topic that is paused now. What waits behind it is without its content already.
    fn hold(&mut self, id: MessageId, now: Instant) {
        let Some(entry) = self.entry_mut(id) else {
            return;
        };
        entry.state = State::Waiting;
        if entry.lane.is_some() {
            self.consider(id, now);
        } else {
            let topic = Arc::clone(&entry.topic);
            self.end(id, now);
            self.paused.passed_over.insert(topic);
        }
    }
}

impl<S: OutboxStore> Runner<S> {
    /// Takes in which topics are paused.
    pub(super) fn pause(&mut self, paused: &[Arc<str>]) {
        let topics: HashSet<Arc<str>> = paused.iter().cloned().collect();
        let of_ours = |topic: &&Arc<str>| self.routes.of(topic).is_some();
        self.health.paused = paused.iter().filter(of_ours).map(ToString::to_string).collect();
        if self.book.pause(topics, Instant::now())
            && let Some(start) = &self.start
        {
            self.reading.restart(start);
        }
    }

    /// How many topics of each route are paused.
    pub(super) fn paused_of(&self, route: usize) -> usize {
        let paused = self.health.paused.iter();
        paused.filter(|topic| self.routes.of(topic) == Some(route)).count()
    }
}
