//! What requests send: notes, each the payload of a message, which tells the receiver all that is checked.
//!
//! What a request sends follows from its key, but for two things: the mark of the execution, by which a note of a transaction
//! that was rolled back is known, and its number within its ordering key, which the transaction draws from a row that it keeps
//! locked until its commit. So numbers are in the order of commits, whatever the outbox makes of them.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use fastrand::Rng;
use oneflight::Message;
use serde::{Deserialize, Serialize};

use crate::messages::{Key, Manner};

/// How many requests of a round send messages, and how many ordering keys they share.
pub const SENDERS: usize = 10;
const LANES: usize = 3;

/// What kind of side effect a note is, and how its receiver treats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Topic {
    /// For one target. A dead letter holds its ordering key up.
    Charge,
    /// For one target. A dead letter is skipped.
    Mail,
    /// For two targets.
    Audit,
}

impl Topic {
    pub fn word(self) -> &'static str {
        match self {
            Self::Charge => "charge.card",
            Self::Mail => "mail.receipt",
            Self::Audit => "audit.entry",
        }
    }

    /// The paths at the receiver.
    pub fn paths(self) -> &'static [&'static str] {
        match self {
            Self::Charge => &["/charge"],
            Self::Mail => &["/mail"],
            Self::Audit => &["/books", "/archive"],
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The request that sends it.
    pub key: Key,
    /// The how-manieth of the request.
    pub part: usize,
    /// The execution that sends it.
    pub mark: String,
    pub topic: Topic,
    /// The ordering key.
    pub lane: Option<String>,
    /// The how-manieth of its ordering key, in the order of commits.
    pub number: i64,
    /// The receiver refuses it for good.
    pub is_refused: bool,
    /// It is not to be delivered before.
    pub delay: Option<Duration>,
}

impl Note {
    /// What a request sends, those of one ordering key after each other: the locks of two requests are taken in one order.
    pub fn of(key: &Key, mark: &str) -> Vec<Self> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let mut random = Rng::with_seed(hasher.finish());
        let notes = (0..random.usize(1..4)).map(|part| {
            let topic = [Topic::Charge, Topic::Mail, Topic::Audit][random.usize(..3)];
            let lane = (random.u8(..4) > 0).then(|| format!("{}.lane-{}", key.round, random.usize(..LANES)));
            Self {
                key: key.clone(),
                part,
                mark: mark.to_owned(),
                topic,
                lane,
                number: 0,
                is_refused: topic != Topic::Audit && random.u8(..12) == 0,
                delay: (random.u8(..10) == 0).then(|| Duration::from_millis(random.u64(50..600))),
            }
        });
        let mut notes: Vec<Self> = notes.collect();
        notes.sort_by(|one, other| one.lane.cmp(&other.lane));
        notes
    }

    pub fn message(&self) -> Message {
        let message = Message::new(self.topic.word(), self).expect("a note can be written");
        let message = match &self.lane {
            Some(lane) => message.ordering_key(lane),
            None => message,
        };
        match self.delay {
            Some(delay) => message.not_before(delay),
            None => message,
        }
    }

    /// Whether it ends as a dead letter that nobody redrives.
    pub fn dies(&self) -> bool {
        self.is_refused && self.topic == Topic::Mail
    }
}

/// Whether the business declines the request: what it would have sent must not arrive.
pub fn is_declined(key: &Key) -> bool {
    key.manner == Manner::Outbox && key.number == SENDERS - 1
}

/// How many deliveries a round comes to.
pub fn deliveries(keys: &[Key]) -> usize {
    let senders = keys
        .iter()
        .filter(|key| key.manner == Manner::Outbox && !is_declined(key));
    let notes = senders.flat_map(|key| Note::of(key, ""));
    notes
        .filter(|note| !note.dies())
        .map(|note| note.topic.paths().len())
        .sum()
}
