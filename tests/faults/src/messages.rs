//! What the driver and its workers say to each other: one JSON object a line, over the standard input and output of the worker.
//!
//! ```text
//! worker: Ready ─▶ driver: Order ─▶ worker: Begun, Failed, Answered, InDoubt … Done ─▶ driver: the next Order
//! relay:  Ready, Delivers …
//! ```
//!
//! A worker that is killed says nothing more; what it had said is still read from its pipe.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use oneflight::idempotency::Origin;
use oneflight::identity::{RequestIdentity, Scope};
use serde::{Deserialize, Serialize};

use crate::backend::StoreName;

/// How a request is executed, and what is done about a holder that died.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Manner {
    InTransaction,
    Refuse,
    Rerun,
    Ask,
    /// In steps, and asked for until there is an answer.
    Steps,
    /// In steps, and asked for once: a completer goes on with it.
    Unattended,
    /// In a transaction that sends messages.
    Outbox,
}

impl Manner {
    pub fn has_steps(self) -> bool {
        matches!(self, Self::Steps | Self::Unattended)
    }
}

/// What the rounds of a run are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
pub enum Part {
    /// Requests of each manner but one, and their effects.
    Requests,
    /// Requests of [`Manner::Outbox`], the relays that deliver what they send, and the service that it is delivered to.
    Outbox,
}

impl Part {
    pub const ALL: [Self; 2] = [Self::Requests, Self::Outbox];

    pub fn word(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Outbox => "outbox",
        }
    }
}

/// What a worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// It calls for keys.
    Service,
    /// It delivers messages.
    Relay,
}

/// Whose connections a worker's store uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pool {
    /// As the store opens them, where it does.
    Own,
    /// Those of a pool of the application's.
    Lent,
    /// The same, through a pooler that lends a session to each transaction.
    Shared,
}

/// What a worker's application does to connections that it shares with the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Misuse {
    Begin,
    Left,
    Settings,
    Exhaust,
}

/// What a worker is started with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Post {
    pub part: Part,
    pub role: Role,
    pub store: StoreName,
    pub url: String,
    pub pool: Pool,
    pub world: PathBuf,
    pub lease: Duration,
    /// Where messages are delivered to.
    pub receiver: String,
    pub sabotage: Option<Sabotage>,
}

/// What a worker does wrong with the first key of each manner, for the checker to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sabotage {
    /// It answers and does nothing.
    Forget,
    /// It does it twice.
    Double,
    /// It never answers.
    Hang,
    /// It sends without ordering keys, with all keys.
    Disorder,
    /// It sends what another execution would have sent, which was rolled back.
    Astray,
}

/// A request of a round.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    pub round: String,
    pub manner: Manner,
    pub number: usize,
}

impl Key {
    pub fn text(&self) -> String {
        format!("{}.{:?}.{}", self.round, self.manner, self.number)
    }

    pub fn id(&self) -> RequestIdentity {
        let scope = Scope::new("faults").route(format!("POST /{:?}", self.manner));
        let id = RequestIdentity::new(scope, self.text()).expect("the key is a key");
        id.with_fingerprint(self.text())
    }
}

/// Call for all these keys, each so many times, at once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    pub keys: Vec<Key>,
    pub duplicates: usize,
    pub seed: u64,
    /// The longest pause within the work, of which there are two.
    pub pace: Duration,
    /// Counts the orders of a round.
    pub phase: u32,
    /// What the application does meanwhile, and how often.
    pub misuse: Option<(Misuse, usize)>,
}

impl Order {
    pub fn calls(&self) -> usize {
        self.keys.len() * self.duplicates
    }
}

/// What is known of the mutation when a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Known {
    Nothing,
    Done,
    Unknown,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Said {
    /// With the worker's clock, in seconds since the epoch.
    Ready { clock: u64 },
    /// The work runs. The mark is this execution's own.
    Begun { key: Key, attempt: u32, mark: String },
    Answered {
        key: Key,
        mark: String,
        attempt: u32,
        origin: Origin,
    },
    /// The answer of [`Manner::Refuse`] about a holder that died.
    InDoubt { key: Key, attempt: u32 },
    /// The caller of [`Manner::Unattended`] does not come back.
    Left { key: Key },
    /// A relay begins an attempt at a message of this request.
    Delivers { key: Key },
    /// How a relay is, said now and then.
    Health { health: String },
    /// The call is made again.
    Failed {
        key: Key,
        known: Known,
        /// The executions that this call began.
        marks: Vec<String>,
        /// The work was done and could not be recorded.
        unrecorded: bool,
        why: String,
    },
    /// The application has misused a connection like this.
    Misused { how: String },
    /// All calls of an order have ended.
    Done { phase: u32 },
    /// The process is gone. Said by the crew, not by the worker.
    Gone,
}
