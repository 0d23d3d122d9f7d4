//! A caller: where its call stands, and what it has under way to the store.

use crate::server::{Row, Token};

/// A caller, by number. It is the number of its holder as well.
pub type Who = u8;

/// The holder that a caller is when it only records what its policy says.
pub const SAYS: Who = 4;

/// A result. Each caller has its own, so that it is seen whose was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// The caller's work did something.
    Performed(Who),
    /// The caller's work in a transaction was refused.
    Declined(Who),
    /// The caller was told, by its policy or as an operator, that this is the result.
    Said(Who),
}

impl Value {
    pub fn bit(self) -> u16 {
        1 << match self {
            Self::Performed(who) => who,
            Self::Declined(who) => 4 + who,
            Self::Said(who) => 8 + who,
        }
    }
}

/// What is asked of the store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Request {
    Claim {
        holder: Who,
        lease: u8,
        takeover: Takeover,
    },
    Renew {
        token: Token,
        lease: u8,
    },
    EndLease {
        token: Token,
        left: u8,
    },
    Complete {
        token: Token,
        value: Value,
    },
    Release {
        token: Token,
        operator: bool,
    },
    Load,
    /// As `Load`, but of what is past its retention as well.
    Read,
    Begin,
    Look {
        takeover: Takeover,
    },
    Record {
        value: Value,
        attempt: u8,
        seen: Option<Token>,
    },
    Commit,
    Status,
    EndIfIdle,
}

/// As `store::Takeover`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Takeover {
    Never,
    Expired,
    Of(Token),
}

/// What the store answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reply {
    Granted {
        token: Token,
        attempt: u8,
    },
    Completed(Value),
    InProgress,
    InDoubt(Token),
    Loaded(Option<Row>),
    Done,
    Outdated,
    /// A transaction is open.
    Began,
    /// What *look* found may be claimed.
    Looked {
        attempt: u8,
        seen: Option<Token>,
    },
    /// *record* found a row that it may not write over.
    CameBack,
    /// *record* found a row that the transaction cannot see.
    Conflict,
    /// The transaction is not over.
    Undecided,
    /// The transaction is over, and known to have been committed or not.
    Over {
        committed: bool,
    },
    /// The writer's lock was not to be had.
    Busy,
    /// `StoreError::Unavailable`: anything may have happened.
    Unavailable,
}

/// A question to the store, on its way.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub enum Rpc {
    #[default]
    None,
    Sent(Request),
    Got(Reply),
}

/// A claim as its holder knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Held {
    pub token: Token,
    pub attempt: u8,
}

/// Where a call stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum At {
    NotCalled,
    /// `Approach::ask`. `completing`: for a claim under which only a result is recorded.
    Asking {
        tries: u8,
        completing: bool,
    },
    /// `Approach::with_running_lease`.
    RenewingFirst {
        tries: u8,
    },
    /// `Approach::wait`.
    Waiting,
    /// `Approach::recover`, while the policy is asked.
    Recovering(Token),
    /// `Approach::locked_out`.
    LockedOut,
    /// The work runs, outside of a transaction.
    Working,
    /// `Lease::stop`, then the claim is given up, or let go.
    Stopping {
        give_up: bool,
        then: Answer,
    },
    /// `end::record`.
    Recording {
        value: Value,
        patience: u8,
    },
    /// `end::release`, or the operator's.
    Releasing {
        tries: u8,
        then: Answer,
    },
    /// `end::let_go`.
    LettingGo {
        tries: u8,
        then: Answer,
    },
    /// `end::disown`.
    Disowning {
        holder: Who,
        tries: u8,
        then: Answer,
    },
    /// `Statements::begin`.
    Beginning {
        dead: u8,
    },
    /// `PostgresStore::look`.
    Looking,
    /// The work runs in its transaction.
    WorkingInTx {
        attempt: u8,
        seen: Option<Token>,
    },
    /// `PostgresStore::end`.
    RecordingInTx(Value),
    /// `COMMIT`.
    Committing(Value),
    /// `PostgresStore::settle`; with nothing under way, between two questions.
    Settling(Value),
    /// `Idempotency::status`, as an operator.
    LookingUp,
    /// `Idempotency::resolve`, once the record was seen.
    Resolving,
    Answered(Answer),
    Dead,
}

/// What a caller was told in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    Executed(Value),
    Replayed(Value),
    /// `Error::InDoubt`.
    InDoubt,
    /// `Error::InProgress`, of a caller that did not get the writer's lock.
    InProgress,
    /// `Error::NotDone`.
    NotDone,
    /// `Error::RolledBack`.
    RolledBack,
    /// The work panicked outside of a transaction.
    Panicked,
    /// `Error::LeaseLost`.
    LeaseLost,
    /// `Error::Unrecorded`.
    Unrecorded,
    /// An error of the store with `Effect::Nothing`.
    Nothing,
    /// An error of the store with `Effect::Unknown`.
    Unknown,
    /// The operator's answer took effect, or was not needed.
    Resolved,
    /// The operator was told why not.
    NotResolved,
}

/// A process with its call.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    pub at: At,
    pub rpc: Rpc,
    /// What the task that keeps the lease has under way.
    pub renewal: Rpc,
    pub takeover: Takeover,
    pub held: Option<Held>,
    /// Ticks since the instant from which the lease counts, by the caller's own monotonic clock.
    pub since: u8,
    /// Ticks since the present question was asked.
    pub asked: u8,
    /// Whether an answer to a claim was lost, so that it may be granted, or be granted late.
    pub unsure: bool,
    /// Whether the call is not waited for any more, so that what it is granted is given back.
    pub left: bool,
    /// Whether a renewal learnt that the claim is lost.
    pub lost: bool,
    /// Whether `end::record` has asked what became of its attempt.
    pub looking_up: bool,
    /// Whether the transaction whose commit was not answered is known to have been committed, once it is over.
    pub fate: bool,
    /// Whether as much time has passed since the transaction's result was recorded as it is kept.
    pub outlived: bool,
    /// What *look* granted before the lock was tried: only with a bug.
    pub granted_early: Option<(u8, Option<Token>)>,
    /// Whether the policy said that the work may be run again.
    pub said_rerun: bool,
    /// Whether a transaction of this call was run again after a conflict.
    pub retried: bool,
    /// Whether the claim is of the identity's present life.
    pub of_this_life: bool,
}

impl Caller {
    pub fn new() -> Self {
        Self {
            at: At::NotCalled,
            rpc: Rpc::None,
            renewal: Rpc::None,
            takeover: Takeover::Never,
            held: None,
            since: 0,
            asked: 0,
            unsure: false,
            left: false,
            lost: false,
            looking_up: false,
            fate: false,
            outlived: false,
            granted_early: None,
            said_rerun: false,
            retried: false,
            of_this_life: false,
        }
    }

    /// Whether nothing more comes of it.
    pub fn is_over(&self) -> bool {
        matches!(self.at, At::Answered(_) | At::Dead)
    }

    /// Whether the result of a transaction is recorded, or about to be, and nothing is known of its commit.
    pub fn is_committing(&self) -> bool {
        matches!(self.at, At::RecordingInTx(_) | At::Committing(_) | At::Settling(_))
    }

    /// Sends a question.
    pub fn send(&mut self, request: Request) {
        self.rpc = Rpc::Sent(request);
    }

    /// Forgets what no later step looks at, so that states that differ in it only are one.
    pub fn forget(&mut self) {
        let fresh = Self::new();
        if self.is_over() {
            *self = Self {
                at: self.at.clone(),
                ..fresh
            };
            return;
        }
        if !matches!(self.at, At::Asking { .. } | At::RenewingFirst { .. }) {
            self.since = 0;
        }
        if !matches!(self.at, At::RenewingFirst { .. }) {
            self.asked = 0;
        }
        if !self.is_committing() {
            self.outlived = false;
        }
    }

    /// Shows all tokens.
    pub fn tokens(&mut self, see: &mut impl FnMut(&mut Token)) {
        for rpc in [&mut self.rpc, &mut self.renewal] {
            match rpc {
                Rpc::None => {}
                Rpc::Sent(request) => request.tokens(see),
                Rpc::Got(Reply::Granted { token, .. } | Reply::InDoubt(token)) => see(token),
                Rpc::Got(Reply::Loaded(Some(row))) => see(&mut row.token),
                Rpc::Got(Reply::Looked { seen: Some(seen), .. }) => see(seen),
                Rpc::Got(_) => {}
            }
        }
        if let Takeover::Of(token) = &mut self.takeover {
            see(token);
        }
        if let Some(held) = &mut self.held {
            see(&mut held.token);
        }
        if let Some((_, Some(seen))) = &mut self.granted_early {
            see(seen);
        }
        match &mut self.at {
            At::Recovering(token) | At::WorkingInTx { seen: Some(token), .. } => see(token),
            _ => {}
        }
    }
}

impl Request {
    /// Whether it does not matter that it arrives late.
    pub fn is_question(&self) -> bool {
        matches!(
            self,
            Self::Load | Self::Read | Self::Status | Self::EndIfIdle | Self::Look { .. }
        )
    }

    /// Whether it is a statement of the caller's transaction.
    pub fn is_of_session(&self) -> bool {
        matches!(
            self,
            Self::Begin | Self::Look { .. } | Self::Record { .. } | Self::Commit
        )
    }

    pub fn tokens(&mut self, see: &mut impl FnMut(&mut Token)) {
        match self {
            Self::Renew { token, .. }
            | Self::EndLease { token, .. }
            | Self::Complete { token, .. }
            | Self::Release { token, .. } => see(token),
            Self::Claim { takeover, .. } | Self::Look { takeover } => {
                if let Takeover::Of(token) = takeover {
                    see(token);
                }
            }
            Self::Record { seen: Some(seen), .. } => see(seen),
            _ => {}
        }
    }
}
