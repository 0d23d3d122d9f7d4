//! What a relay knows of the messages that it has read: which of them may be delivered.
//!
//! ```text
//! add ──▶ waiting ──first of its key, and due──▶ ready ──▶ taken ──▶ ended
//!            ▲                                              │ └────▶ parked: its key waits, or not
//!            └──────────── failed: after a pause ───────────┘
//! ```
//!
//! The first message of an ordering key that has not ended is the only one that may be ready. A message that is parked
//! and blocks its key counts as one that has not ended, though it is not here.
//!
//! A message that is not delivered soon is kept without its content, which is read again when it is.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::paused::{Paused, Topics};
use crate::store::outbox::{MessageId, Shard, StoredMessage};

/// A message that is due later than this is kept without its content.
const SOON: Duration = Duration::from_secs(1);

/// A message that has not ended.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: MessageId,
    pub(super) topic: Arc<str>,
    pub(super) position: i64,
    pub(super) shard: Shard,
    pub(super) route: usize,
    /// Which targets have yet to get it.
    pub(super) class: usize,
    /// The length of its payload.
    pub(super) bytes: usize,
    pub(super) attempts: u32,
    pub(super) expires: Option<Instant>,
    pub(super) is_cancelled: bool,
    pub(super) sent: Instant,
    /// The targets that have it.
    pub(super) done: Vec<String>,
    pub(super) lane: Option<Arc<str>>,
    pub(super) content: Option<Arc<StoredMessage>>,
    /// Its content was read again.
    is_reloaded: bool,
    due: Option<Instant>,
    pub(super) state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    Ready,
    Taken,
}

/// The messages of one ordering key.
#[derive(Debug, Default)]
struct Lane {
    here: BTreeSet<MessageId>,
    parked: BTreeSet<MessageId>,
    /// How many are taken: one that is delivered, and those that are about to be parked.
    taken: usize,
}

/// How much is here with its content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

impl std::ops::Add for Load {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            messages: self.messages + other.messages,
            bytes: self.bytes + other.bytes,
        }
    }
}

impl Load {
    fn take_in(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes;
    }

    fn remove(&mut self, bytes: usize) {
        self.messages -= 1;
        self.bytes -= bytes;
    }

    /// Whether there is room for one more.
    pub(super) fn is_below(&self, limit: Self) -> bool {
        self.messages < limit.messages && self.bytes < limit.bytes
    }
}

/// All that has been read and has not ended.
#[derive(Debug, Default)]
pub(super) struct Book {
    entries: HashMap<MessageId, Entry>,
    lanes: HashMap<Arc<str>, Lane>,
    /// By class.
    ready: Vec<VecDeque<MessageId>>,
    pauses: BinaryHeap<Reverse<(Instant, MessageId)>>,
    pub(super) paused: Paused,
    topics: Topics,
    limit: Load,
    loaded: Load,
    /// By route.
    loads: Vec<Load>,
    /// How many there are, by route.
    counts: Vec<usize>,
    /// The bytes that were read again, by route.
    reloaded: Vec<usize>,
    /// How often content was looked for to drop it.
    #[cfg(test)]
    unloads: u64,
}

impl Entry {
    /// How long its pause still lasts, if it does.
    pub(super) fn due_in(&self, now: Instant) -> Option<Duration> {
        self.due.filter(|due| *due > now).map(|due| due - now)
    }
}

impl Book {
    /// Keeps so much with its content. What is read beyond it is kept without.
    pub(super) fn new(routes: usize, limit: Load) -> Self {
        Self {
            limit,
            loads: vec![Load::default(); routes],
            counts: vec![0; routes],
            reloaded: vec![0; routes],
            ..Self::default()
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many there are of one route.
    pub(super) fn count_of(&self, route: usize) -> usize {
        self.counts[route]
    }

    /// How much is here with its content.
    pub(super) fn loaded(&self) -> Load {
        self.loaded
    }

    /// The same, of one route.
    pub(super) fn load_of(&self, route: usize) -> Load {
        self.loads[route]
    }

    /// How many bytes of a route were read again.
    pub(super) fn reloaded(&self, route: usize) -> usize {
        self.reloaded[route]
    }

    pub(super) fn entry(&self, id: MessageId) -> Option<&Entry> {
        self.entries.get(&id)
    }

    pub(super) fn entry_mut(&mut self, id: MessageId) -> Option<&mut Entry> {
        self.entries.get_mut(&id)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Adds a message that was read. One that is here already has perhaps another place now.
    pub(super) fn add(&mut self, message: StoredMessage, (route, class): (usize, usize), now: Instant) {
        let id = message.id;
        if let Some(known) = self.entries.get_mut(&id) {
            if known.state != State::Taken {
                known.position = message.position;
                // It was postponed, then cancelled, and came back only to let its key go on.
                if message.is_cancelled {
                    (known.is_cancelled, known.expires, known.due) = (true, Some(now), None);
                    self.consider(id, now);
                }
            }
            return;
        }
        if self.paused.passes_over(&message) {
            return;
        }
        let lane = message.ordering_key.clone();
        if let Some(lane) = &lane {
            let lane = self.lanes.entry(Arc::clone(lane)).or_default();
            lane.parked.remove(&id);
            lane.here.insert(id);
        }
        let due = message.due_in.filter(|due| !due.is_zero()).map(|due| now + due);
        let mut entry = Entry {
            id,
            topic: self.topics.of(&message.topic),
            position: message.position,
            shard: message.shard,
            route,
            class,
            bytes: message.payload_bytes,
            is_reloaded: false,
            attempts: message.attempts,
            expires: message.expires_in.map(|left| now + left),
            is_cancelled: message.is_cancelled,
            sent: now.checked_sub(message.age).unwrap_or(now),
            done: message.done.clone(),
            lane: lane.clone(),
            content: None,
            due,
            state: State::Waiting,
        };
        let soon = due.is_none_or(|due| due < now + SOON);
        let has_room = message.is_whole() && self.loaded.is_below(self.limit);
        let is_paused = self.paused.has(&entry.topic);
        if soon && has_room && !is_paused && lane.as_ref().is_none_or(|lane| !self.is_held_up(lane, id)) {
            self.loaded.take_in(entry.bytes);
            self.loads[route].take_in(entry.bytes);
            entry.content = Some(Arc::new(message));
        }
        self.entries.insert(id, entry);
        self.counts[route] += 1;
        self.consider(id, now);
    }

    /// Notes a message that is elsewhere, and for which its key waits.
    pub(super) fn block(&mut self, lane: Arc<str>, id: MessageId) {
        // What is here is not parked.
        if !self.entries.contains_key(&id) {
            self.lanes.entry(lane).or_default().parked.insert(id);
        }
    }

    /// A message for which its key waited has ended elsewhere.
    pub(super) fn unblock(&mut self, key: &Arc<str>, id: MessageId, now: Instant) {
        let Some(lane) = self.lanes.get_mut(key) else {
            return;
        };
        lane.parked.remove(&id);
        let next = lane.here.first().copied();
        if lane.here.is_empty() && lane.parked.is_empty() {
            self.lanes.remove(key);
        }
        if let Some(next) = next {
            self.consider(next, now);
        }
    }

    /// Whether something before this message does not end soon.
    fn is_held_up(&self, lane: &Arc<str>, id: MessageId) -> bool {
        let Some(lane) = self.lanes.get(lane) else {
            return false;
        };
        let parked = lane.parked.first().is_some_and(|first| *first < id);
        let waits = lane
            .here
            .first()
            .filter(|first| **first != id)
            .and_then(|first| self.entries.get(first));
        let is_long = |first: &Entry| first.due.is_some() || self.paused.has(&first.topic);
        parked || waits.is_some_and(|first| first.state == State::Waiting && is_long(first))
    }

    /// Makes a message ready if it may be.
    pub(super) fn consider(&mut self, id: MessageId, now: Instant) {
        let Some(entry) = self.entries.get(&id) else {
            return;
        };
        if entry.state != State::Waiting {
            return;
        }
        if !self.is_first(entry) {
            return;
        }
        match entry.due {
            Some(due) if due > now => self.pauses.push(Reverse((due, id))),
            _ if self.paused.holds(id, &entry.topic, entry.expires, now) => {
                self.pauses.extend(entry.expires.map(|at| Reverse((at, id))))
            }
            _ => {
                let class = entry.class;
                if let Some(entry) = self.entries.get_mut(&id) {
                    (entry.state, entry.due) = (State::Ready, None);
                }
                if self.ready.len() <= class {
                    self.ready.resize_with(class + 1, VecDeque::new);
                }
                self.ready[class].push_back(id);
            }
        }
    }

    /// Whether nothing of its key comes before this message, or is taken.
    fn is_first(&self, entry: &Entry) -> bool {
        let lane = entry.lane.as_ref().and_then(|lane| self.lanes.get(lane));
        lane.is_none_or(|lane| {
            let parked = lane.parked.first().is_some_and(|parked| *parked < entry.id);
            lane.here.first() == Some(&entry.id) && !parked && lane.taken == 0
        })
    }

    /// Makes those ready whose pause is over.
    pub(super) fn wake(&mut self, now: Instant) {
        while let Some(Reverse((due, id))) = self.pauses.peek().copied()
            && due <= now
        {
            self.pauses.pop();
            self.consider(id, now);
        }
    }

    /// When the next pause is over.
    pub(super) fn next_pause(&self) -> Option<Instant> {
        self.pauses.peek().map(|Reverse((due, _))| *due)
    }

    /// Whether a message of this class is ready.
    pub(super) fn is_ready(&self, class: usize) -> bool {
        self.ready.get(class).is_some_and(|ready| !ready.is_empty())
    }

    /// Returns the next message of a class that may be delivered, and counts it as taken.
    pub(super) fn pop(&mut self, class: usize) -> Option<MessageId> {
        while let Some(id) = self.ready.get_mut(class)?.pop_front() {
            let is_ready = |entry: &&Entry| entry.state == State::Ready && entry.class == class;
            let Some(entry) = self.entries.get(&id).filter(is_ready) else {
                continue;
            };
            // One that belongs before it may have been read since.
            let state = match self.is_first(entry) {
                true => State::Taken,
                false => State::Waiting,
            };
            self.set(id, state);
            if state == State::Taken {
                return Some(id);
            }
        }
        None
    }

    /// Takes a message that waits, wherever it stands. Returns whether there is such a one.
    pub(super) fn seize(&mut self, id: MessageId) -> bool {
        let waits = self.entries.get(&id).is_some_and(|entry| entry.state == State::Waiting);
        if waits {
            self.set(id, State::Taken);
        }
        waits
    }

    fn set(&mut self, id: MessageId, state: State) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let was = std::mem::replace(&mut entry.state, state);
        if let Some(lane) = entry.lane.as_ref().and_then(|lane| self.lanes.get_mut(lane)) {
            lane.taken += usize::from(state == State::Taken);
            lane.taken -= usize::from(was == State::Taken);
        }
    }

    /// The first message of the ordering key of this one, or the message itself if it has none.
    fn first_beside(&self, id: MessageId) -> MessageId {
        let lane = self
            .entries
            .get(&id)
            .and_then(|entry| self.lanes.get(entry.lane.as_ref()?));
        lane.and_then(|lane| lane.here.first().copied()).unwrap_or(id)
    }

    /// Gives a message back that was not delivered after all.
    pub(super) fn give_back(&mut self, id: MessageId, now: Instant) {
        self.unload_again(id);
        self.set(id, State::Waiting);
        // One that belongs before it may have been read since.
        self.consider(self.first_beside(id), now);
    }

    /// Keeps content that was read again.
    pub(super) fn load(&mut self, message: StoredMessage) {
        if let Some(entry) = self.entries.get_mut(&message.id)
            && entry.content.is_none()
        {
            self.reloaded[entry.route] += entry.bytes;
            entry.is_reloaded = true;
            entry.content = Some(Arc::new(message));
        }
    }

    /// Has a message wait after an attempt that failed.
    pub(super) fn fail(&mut self, id: MessageId, pause: Duration, now: Instant) {
        match pause >= SOON {
            true => self.unload_behind(id),
            false => self.unload_again(id),
        }
        self.set(id, State::Waiting);
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.due = Some(now + pause);
            self.consider(self.first_beside(id), now);
        }
    }

    /// Drops the content of a message and of what waits behind it, so that others have the room.
    pub(super) fn unload_behind(&mut self, id: MessageId) {
        let lane = self
            .entries
            .get(&id)
            .and_then(|entry| self.lanes.get(entry.lane.as_ref()?));
        let behind: Vec<MessageId> = lane.map_or_else(Vec::new, |lane| lane.here.range(id..).copied().collect());
        self.unload(id);
        for id in behind {
            self.unload(id);
        }
    }

    /// A message has ended.
    pub(super) fn end(&mut self, id: MessageId, now: Instant) {
        self.unload(id);
        self.paused.forget(id);
        let Some(entry) = self.entries.remove(&id) else {
            return;
        };
        self.counts[entry.route] -= 1;
        let Some(key) = entry.lane else {
            return;
        };
        let mut next = None;
        if let Some(lane) = self.lanes.get_mut(&key) {
            lane.here.remove(&id);
            lane.taken -= usize::from(entry.state == State::Taken);
            next = lane.here.first().copied();
            if lane.here.is_empty() && lane.parked.is_empty() {
                self.lanes.remove(&key);
            }
        }
        if let Some(next) = next {
            self.consider(next, now);
        }
    }

    /// A message is parked, and its key waits for it, or not.
    pub(super) fn park(&mut self, id: MessageId, blocks: bool, now: Instant) {
        let lane = self.entries.get(&id).and_then(|entry| entry.lane.clone());
        if let (true, Some(lane)) = (blocks, lane) {
            self.unload_behind(id);
            self.lanes.entry(lane).or_default().parked.insert(id);
        }
        self.end(id, now);
    }

    fn unload(&mut self, id: MessageId) {
        #[cfg(test)]
        {
            self.unloads += 1;
        }
        if let Some(entry) = self.entries.get_mut(&id)
            && entry.content.take().is_some()
        {
            match std::mem::take(&mut entry.is_reloaded) {
                true => self.reloaded[entry.route] -= entry.bytes,
                false => {
                    self.loaded.remove(entry.bytes);
                    self.loads[entry.route].remove(entry.bytes);
                }
            }
        }
    }

    /// Drops content that was read again: it is here only while it is being delivered.
    fn unload_again(&mut self, id: MessageId) {
        if self.entries.get(&id).is_some_and(|entry| entry.is_reloaded) {
            self.unload(id);
        }
    }

    /// Forgets all messages of these shards, whose ordering keys are another relay's now.
    pub(super) fn forget(&mut self, shards: &HashSet<Shard>) {
        let gone: Vec<_> = self
            .entries
            .values()
            .filter(|entry| shards.contains(&entry.shard))
            .map(|it| it.id)
            .collect();
        for id in gone {
            self.unload(id);
            self.paused.forget(id);
            if let Some(entry) = self.entries.remove(&id) {
                self.counts[entry.route] -= 1;
            }
        }
        self.lanes
            .retain(|key, _| !shards.contains(&crate::store::outbox::shard_of(key)));
    }
}

#[cfg(test)]
#[path = "book_tests.rs"]
mod tests;
