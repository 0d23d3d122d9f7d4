//! Why a message is not delivered: [`Explanation`].
//!
//! What is known is asked for first; what follows from it is decided here, without a store.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::store::outbox::{MessageEntry, MessageId, MessageState, RelayEntry, RelayToken};

/// How many messages before another one are counted at most.
pub(super) const COUNTED: usize = 1000;

/// Why a message is not delivered, as far as the store knows.
///
/// Shown as text, it says what to do, a line a reason.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explanation {
    /// The message.
    pub message: MessageEntry,
    /// What keeps it, what weighs most first. There is always one.
    pub reasons: Vec<Reason>,
}

/// What keeps a message from being delivered. Shown as text, it says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// It was delivered, was cancelled, or has expired.
    Ended {
        /// How long ago.
        ago: Duration,
    },
    /// It is a dead letter.
    Dead {
        /// How often it was tried.
        attempts: u32,
        /// What the last attempt said.
        error: String,
    },
    /// Its topic is paused.
    Paused {
        /// The topic.
        topic: Arc<str>,
    },
    /// A message of its ordering key that was sent before it has not ended.
    Behind {
        /// That message.
        id: MessageId,
        /// What keeps that one.
        why: Vec<Reason>,
    },
    /// It is not due.
    NotDue {
        /// In how long it is.
        due_in: Duration,
        /// What the last attempt said, if it was tried.
        error: Option<String>,
    },
    /// It has expired, or was cancelled in its place, and no relay has noted it.
    Expired,
    /// A relay has taken it, and has not told what became of it.
    Taken {
        /// The relay.
        by: RelayToken,
        /// Whether it is alive.
        life: Life,
    },
    /// No relay shows a sign of life.
    NoRelay {
        /// The topic, which a relay has to have a target for.
        topic: Arc<str>,
    },
    /// Nothing keeps it, and relays are there.
    Turn {
        /// The topic.
        topic: Arc<str>,
        /// How many messages of its topic wait that were sent before it. No more than 1000 are counted.
        before: usize,
    },
}

/// What is known of a relay's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Life {
    /// It has shown a sign of life.
    Lives,
    /// It has shown none for as long as it was watched.
    Silent {
        /// How long that was.
        watched: Duration,
    },
    /// It has left, or was taken for dead.
    Gone,
}

/// Which relays there are, and which of them showed a sign of life while they were watched.
#[derive(Debug, Default)]
pub(super) struct Crew {
    pub(super) relays: Vec<RelayEntry>,
    pub(super) alive: Vec<RelayToken>,
    pub(super) watched: Duration,
}

impl Crew {
    fn life(&self, token: RelayToken) -> Life {
        if self.alive.contains(&token) {
            Life::Lives
        } else if self.relays.iter().any(|relay| relay.token == token) {
            Life::Silent { watched: self.watched }
        } else {
            Life::Gone
        }
    }
}

/// What is known beside a message.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The topics that are paused.
    pub(super) paused: Vec<Arc<str>>,
    pub(super) crew: Crew,
    /// The first message of its ordering key that has not ended, if it is another one.
    pub(super) first: Option<MessageEntry>,
    /// How many of its topic wait that were sent before it.
    pub(super) before: usize,
}

/// Returns the first of these messages of an ordering key for which the one of this number waits.
pub(super) fn first_before(id: MessageId, others: impl IntoIterator<Item = MessageEntry>) -> Option<MessageEntry> {
    let holds_up = |other: &MessageEntry| match other.state {
        MessageState::Waiting => true,
        MessageState::Parked | MessageState::Dead => other.blocks,
        MessageState::Ended => false,
    };
    let before = others.into_iter().filter(|other| other.id < id && holds_up(other));
    before.min_by_key(|other| other.id)
}

/// Returns what keeps a message.
pub(super) fn reasons(message: &MessageEntry, known: &Known) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if message.state == MessageState::Ended {
        let ago = message.ended.unwrap_or_default();
        return vec![Reason::Ended { ago }];
    }
    if message.state == MessageState::Dead {
        reasons.push(Reason::Dead {
            attempts: message.attempts,
            error: message.error.clone().unwrap_or_default(),
        });
    }
    if known.paused.contains(&message.topic) {
        let topic = Arc::clone(&message.topic);
        reasons.push(Reason::Paused { topic });
    }
    if message.state == MessageState::Dead {
        return reasons;
    }
    if let Some(first) = &known.first {
        let alone = Known {
            paused: known.paused.clone(),
            crew: Crew {
                relays: known.crew.relays.clone(),
                alive: known.crew.alive.clone(),
                watched: known.crew.watched,
            },
            ..Known::default()
        };
        let why = self::reasons(first, &alone);
        reasons.push(Reason::Behind { id: first.id, why });
    }
    if let Some(due_in) = message.due_in {
        let error = message.error.clone();
        reasons.push(Reason::NotDue { due_in, error });
    }
    if message.expires_in == Some(Duration::ZERO) {
        reasons.push(Reason::Expired);
    }
    if let Some(by) = message.taken_by {
        let life = known.crew.life(by);
        reasons.push(Reason::Taken { by, life });
    }
    let topic = Arc::clone(&message.topic);
    if known.crew.alive.is_empty() {
        reasons.push(Reason::NoRelay { topic });
    } else if reasons.is_empty() {
        let before = known.before;
        reasons.push(Reason::Turn { topic, before });
    }
    reasons
}

/// A time as a person says it.
fn said(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{} ms", time.as_millis()),
        seconds @ 1..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended { ago } => write!(
                f,
                "it ended {} ago: it was delivered, was cancelled, or has expired; there is nothing to do",
                said(*ago)
            ),
            Self::Dead { attempts, error } => write!(
                f,
                "it is a dead letter (attempts: {attempts}; the last one said: {error}); mend the cause and redrive it, or \
                 cancel it"
            ),
            Self::Paused { topic } => write!(f, "its topic {topic} is paused; resume the topic"),
            Self::Behind { id, why } => {
                write!(f, "it waits for message {id} of its ordering key; of that one: ")?;
                match why.first() {
                    Some(why) => why.fmt(f),
                    None => f.write_str("nothing is known"),
                }
            }
            Self::NotDue { due_in, error: None } => {
                write!(f, "it is due in {}; wait, or cancel it", said(*due_in))
            }
            Self::NotDue {
                due_in,
                error: Some(error),
            } => write!(
                f,
                "it is tried again in {} (the last attempt said: {error}); mend the cause, or cancel it",
                said(*due_in)
            ),
            Self::Expired => f.write_str("it has expired or was cancelled, and ends as soon as a relay comes to it"),
            Self::Taken { by, life: Life::Lives } => write!(
                f,
                "relay {} is delivering it and is alive; wait, and if it takes long, look at its target",
                by.get()
            ),
            Self::Taken {
                by,
                life: Life::Silent { watched },
            } => write!(
                f,
                "relay {} has taken it and has shown no sign of life for {}; when its lease is over, another relay takes over: \
                 see that one runs",
                by.get(),
                said(*watched)
            ),
            Self::Taken { by, life: Life::Gone } => write!(
                f,
                "relay {} had taken it and is gone; the next relay tries it again: see that one runs",
                by.get()
            ),
            Self::NoRelay { topic } => write!(
                f,
                "no relay shows a sign of life; start one that has a target for {topic}"
            ),
            Self::Turn { topic, before } => {
                let more = if *before >= COUNTED { " or more" } else { "" };
                write!(
                    f,
                    "it waits its turn: {before}{more} of its topic were sent before it; if that number stands still, see whether \
                     the relays have a target for {topic}, and whether its circuit is open"
                )
            }
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "message {} of {}", self.message.id, self.message.topic)?;
        self.reasons.iter().try_for_each(|reason| write!(f, "\n- {reason}"))
    }
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
