//! Deliberate bugs, by which the model shows that it can fail. Each is let in alone; `tests/bugs.rs` says which property
//! has to find it.

/// What is done wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// `complete` asks whether a claim is held, but not by whom.
    CompleteWithoutToken,
    /// `renew` asks whether a claim is held, but not by whom.
    RenewWithoutToken,
    /// A holder that takes over keeps the token of the dead one.
    TakeoverKeepsToken,
    /// A token is one more than the record's, so that it begins anew when the record is gone.
    TokenFromRecord,
    /// A lease is held against the clock of the machine that asks, which may be fast.
    ClientClock,
    /// An expired lease is "in progress" to a caller that may not take over.
    DeafToExpiry,
    /// A later attempt that did nothing makes the identity new, whatever an earlier one did.
    ReleaseLaterAttempt,
    /// `purge` deletes what is in progress, once its lease is over.
    PurgeInProgress,
    /// A transaction looks at the record before it has the lock, and not again.
    LookBeforeLock,
    /// `record` writes over whatever stands there.
    BlindRecord,
    /// `record` is seen by others before the commit.
    RecordOutsideTransaction,
    /// A lost commit is settled by a look at the record, without asking whether the transaction is over.
    BareLook,
    /// A lost commit is taken for a rollback.
    LostMeansRolledBack,
    /// A lost commit is settled by the record alone, although it may be past its retention by then.
    SettlesWhatMayBeGone,
    /// The claim under which a policy's result is recorded is asked for as the holder that would work.
    SaysAsWorker,
    /// A caller that is left while a claim is under way drops it.
    DropsClaim,
    /// After an error, a result is not looked up: the work is said to have done nothing.
    ErrorMeansUndone,
}
