//! What an observer of the whole world would have noted down: by this the model is judged. No step depends on it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::caller::{Value, Who};
use crate::server::Token;

/// The notes about the identity's present life, which ends with the retention of its record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ledger {
    /// The results that were ever completed, one bit each.
    pub completed: u16,
    /// The one that was completed in this life.
    pub result: Option<Value>,
    /// How often work in a transaction was committed in this life.
    pub effects: u8,
    /// How often more a first attempt may begin: once, and once more whenever one did nothing or an operator says so.
    pub allowance: i8,
    /// Tokens whose holder was taken over or gave the claim back, one bit each.
    pub outdated: u16,
    /// What must not happen and did, one bit each.
    pub broken: u8,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            completed: 0,
            result: None,
            effects: 0,
            allowance: 1,
            outdated: 0,
            broken: 0,
        }
    }
}

/// What must not happen, as far as it is seen in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// A claim was granted while another's ran.
    TwoHolders,
    /// A token that was outdated changed the record.
    Unfenced,
    /// A token was drawn that is not larger than all before it.
    TokenShrank,
    /// One request was completed with two results.
    TwoResults,
    /// Work of a later attempt began though no policy or operator had said so.
    RanUnasked,
}

impl Ledger {
    pub fn break_(&mut self, broken: Broken) {
        self.broken |= 1 << broken as u8;
    }

    #[must_use]
    pub fn is_broken(&self, broken: Broken) -> bool {
        self.broken & 1 << broken as u8 != 0
    }

    pub fn outdate(&mut self, token: Token) {
        self.outdated |= 1 << token;
    }

    #[must_use]
    pub fn is_outdated(&self, token: Token) -> bool {
        self.outdated & 1 << token != 0
    }

    /// A result was recorded, for every caller to see.
    pub fn complete(&mut self, value: Value) {
        if self.result.is_some_and(|result| result != value) {
            self.break_(Broken::TwoResults);
        }
        self.result = Some(value);
        self.completed |= value.bit();
    }

    #[must_use]
    pub fn was_completed(&self, value: Value) -> bool {
        self.completed & value.bit() != 0
    }

    /// Whether work of this caller's was ever recorded.
    #[must_use]
    pub fn was_completed_by(&self, who: Who) -> bool {
        self.was_completed(Value::Performed(who)) || self.was_completed(Value::Declined(who))
    }

    /// The retention is over: the identity is new, and what happens to it now is another matter.
    pub fn begin_anew(&mut self) {
        self.result = None;
        self.effects = 0;
        self.allowance = 1;
    }
}

macro_rules! sights {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// What is worth seeing: that it happens shows that the search gets there.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Sight { $($(#[$doc])* $name,)* }

        impl Sight {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// It, in words.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

sights! {
    /// A claim outside of a transaction was taken over.
    TookOver => "an expired claim was taken over",
    /// A transaction took over a claim.
    TransactionTookOver => "a transaction took over an expired claim, and was committed",
    /// `complete` by a token that was taken over.
    Fenced => "a holder who was taken over was refused as he completed",
    /// The background renewal found out.
    LostLease => "a holder learnt at a renewal that his claim is lost",
    /// A caller was answered so.
    InDoubt => "a caller was told that the request is in doubt",
    /// The policy said that the work was done.
    SaidCompleted => "a policy that was asked had a result recorded",
    /// A replay.
    Replayed => "a duplicate was answered from the record",
    /// The claim was there already.
    AskedAgain => "a claim whose answer was lost was found by asking again",
    /// `disown`.
    Disowned => "a claim that was taken without an answer was given back",
    /// A call that was left.
    GivenBack => "a claim that was granted when nobody waited for it any more was given back",
    /// A claim that arrived late.
    LateClaim => "a claim that came late was granted to somebody who did not wait for it any more",
    /// `with_running_lease`.
    RenewedFirst => "a claim whose grant was long under way was renewed before the work began",
    /// `end::record` after an error.
    RecordFound => "a result whose acknowledgement was lost was found recorded",
    /// The patience of `end::record` was over.
    Unrecorded => "a result could not be recorded in time",
    /// `settle`.
    SettledCommitted => "a commit without an answer was settled as committed",
    /// `settle`.
    SettledRolledBack => "a commit without an answer was settled as rolled back",
    /// `settle` ended an idle session.
    EndedIdle => "the session of a commit that never arrived was ended",
    /// The advisory lock was refused.
    LockRefused => "a claim met the lock of a transaction",
    /// `record` wrote nothing.
    CameBack => "a holder came back and rolled a transaction back that had taken over from him",
    /// The row's lock was waited for.
    WaitedForRow => "a holder came back while the transaction that took over was being committed",
    /// `REPEATABLE READ`.
    Conflict => "a transaction met a record that it could not see",
    /// The writer's lock was waited for in vain.
    LockedOut => "a caller gave up on the writer's lock",
    /// The operator settled it.
    Resolved => "an operator settled a request in doubt",
    /// The identity was new again.
    NewLife => "a record was past its retention, and the identity new",
    /// `purge` deleted something.
    Purged => "a record was purged",
    /// Work that did nothing.
    NotDone => "work did nothing, and the identity was new",
    /// What is declined in a transaction.
    Declined => "work in a transaction was declined for good, and that was recorded",
    /// A failure in a transaction.
    Failed => "work in a transaction failed and was rolled back",
}

/// How often each sight was seen during a search. Counted on the way, so that the states need not remember it.
#[derive(Debug)]
pub struct Sightings([AtomicU64; Sight::ALL.len()]);

impl Default for Sightings {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Sightings {
    pub(crate) fn note(&self, sight: Sight) {
        self.0[sight as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many transitions showed it.
    #[must_use]
    pub fn of(&self, sight: Sight) -> u64 {
        self.0[sight as usize].load(Ordering::Relaxed)
    }
}
