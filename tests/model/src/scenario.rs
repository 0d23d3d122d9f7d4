//! Which callers take part and what may go wrong: the bounds of a search.

use crate::bug::Bug;
use crate::ledger::Sight;

/// For how many ticks a claim holds. A third of it is less than one tick, and the whole is more.
pub const LEASE: u8 = 2;
/// For how many ticks what a panic left is let alone, where the policy says what follows: one lease, as unless set.
pub const SETTLE: u8 = LEASE;
/// For how many ticks a result is kept.
pub const RETENTION: u8 = 1;

/// How a store keeps two operations from meeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// Each operation is one step; a transaction holds the advisory lock. PostgreSQL, `READ COMMITTED`; without
    /// transactions, also the store in memory.
    Locks,
    /// The same in `REPEATABLE READ`.
    Snapshots,
    /// A transaction shuts out all writers. SQLite.
    OneWriter,
}

/// What to do about a request whose holder died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Nothing, until an operator resolves it.
    Hold,
    /// Run again.
    Rerun,
    /// Any of the three answers, each time.
    Ask,
}

/// A process with one call, or an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `Idempotency::run` and `try_run`.
    Run,
    /// `Idempotency::run_in_tx`, which runs again once after a conflict.
    RunInTx,
    /// `Idempotency::resolve`, to say that it was done.
    ResolveCompleted,
    /// `Idempotency::resolve`, to say that it may be run again.
    ResolveRerun,
}

/// One search: exhaustive within what it says here.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What it is called.
    pub name: &'static str,
    /// The store.
    pub store: Store,
    /// The policy of all callers.
    pub recovery: Recovery,
    /// The callers that take part.
    pub callers: &'static [Kind],
    /// How many processes may crash.
    pub crashes: u8,
    /// How many messages, either way, may be lost or late.
    pub losses: u8,
    /// Whether work outside of a transaction may also do nothing, or panic.
    pub work_fails: bool,
    /// Whether calls may be left before their work has begun.
    pub leaves: bool,
    /// What has to happen in it at least once.
    pub must_see: &'static [Sight],
    /// Whether it belongs to the long form only.
    pub long: bool,
    /// What is done wrongly.
    pub bug: Option<Bug>,
}

impl Scenario {
    /// The same with a bug let in.
    #[must_use]
    pub fn with(mut self, bug: Bug) -> Self {
        self.bug = Some(bug);
        self
    }
}

const fn scenario(name: &'static str, store: Store, recovery: Recovery, callers: &'static [Kind]) -> Scenario {
    Scenario {
        name,
        store,
        recovery,
        callers,
        crashes: 0,
        losses: 0,
        leaves: false,
        must_see: &[],
        work_fails: true,
        long: false,
        bug: None,
    }
}

impl Scenario {
    /// With so many processes that crash, and messages that are lost or late.
    const fn faults(mut self, crashes: u8, losses: u8) -> Self {
        self.crashes = crashes;
        self.losses = losses;
        self
    }

    /// With work that only ever does what it is for, which leaves room for more of the others.
    const fn of_good_work(mut self) -> Self {
        self.work_fails = false;
        self
    }

    /// With calls that may be left before their work has begun.
    const fn with_leavers(mut self) -> Self {
        self.leaves = true;
        self
    }

    /// For the long form only.
    const fn long(mut self) -> Self {
        self.long = true;
        self
    }

    const fn shows(mut self, sights: &'static [Sight]) -> Self {
        self.must_see = sights;
        self
    }
}

/// All of them.
#[must_use]
pub fn all() -> Vec<Scenario> {
    let (lease, transaction, mixed) = (outside(), in_transactions(), mixed());
    lease.into_iter().chain(transaction).chain(mixed).collect()
}

/// Claims that are held by a lease.
fn outside() -> Vec<Scenario> {
    use Kind::{ResolveCompleted, ResolveRerun, Run};
    use Recovery::{Ask, Hold, Rerun};
    use Sight as S;
    let claims = |name, recovery, callers| scenario(name, Store::Locks, recovery, callers);
    vec![
        claims("lease-hold", Hold, &[Run, Run]).faults(1, 1).shows(&[
            S::InDoubt,
            S::Replayed,
            S::AskedAgain,
            S::LateClaim,
            S::RenewedFirst,
            S::RecordFound,
            S::Unrecorded,
            S::NotDone,
            S::NewLife,
            S::Purged,
        ]),
        claims("lease-rerun", Rerun, &[Run, Run])
            .faults(1, 1)
            .shows(&[S::TookOver, S::Fenced, S::LostLease]),
        claims("lease-ask", Ask, &[Run, Run])
            .faults(0, 1)
            .of_good_work()
            .shows(&[S::SaidCompleted, S::InDoubt, S::TookOver]),
        claims("lease-three", Hold, &[Run, Run, Run])
            .of_good_work()
            .shows(&[S::InDoubt, S::Replayed]),
        claims("lease-leave", Hold, &[Run, Run])
            .of_good_work()
            .with_leavers()
            .shows(&[S::GivenBack]),
        claims("lease-leave-lost", Rerun, &[Run, Run])
            .faults(0, 1)
            .of_good_work()
            .with_leavers()
            .shows(&[S::GivenBack, S::Disowned]),
        claims("lease-leave-ask", Ask, &[Run, Run])
            .of_good_work()
            .with_leavers()
            .shows(&[S::GivenBack, S::SaidCompleted]),
        claims("resolve-completed", Hold, &[Run, ResolveCompleted])
            .faults(1, 1)
            .shows(&[S::Resolved]),
        claims("resolve-rerun", Hold, &[Run, Run, ResolveRerun]).shows(&[S::Resolved, S::Fenced]),
        // The same with more faults, or more processes.
        claims("lease-hold-more", Hold, &[Run, Run])
            .faults(1, 2)
            .shows(&[S::Disowned])
            .long(),
        claims("lease-ask-more", Ask, &[Run, Run])
            .faults(1, 1)
            .shows(&[S::SaidCompleted])
            .long(),
        claims("lease-leave-ask-more", Ask, &[Run, Run])
            .faults(0, 1)
            .of_good_work()
            .with_leavers()
            .shows(&[S::GivenBack, S::SaidCompleted, S::Disowned])
            .long(),
        claims("lease-three-more", Rerun, &[Run, Run, Run])
            .shows(&[S::TookOver])
            .long(),
        claims("resolve-completed-more", Hold, &[Run, Run, ResolveCompleted])
            .faults(0, 1)
            .shows(&[S::Resolved])
            .long(),
        claims("resolve-rerun-more", Hold, &[Run, Run, ResolveRerun])
            .faults(0, 1)
            .shows(&[S::Resolved])
            .long(),
    ]
}

/// Claims that are held by a transaction.
fn in_transactions() -> Vec<Scenario> {
    use Kind::RunInTx;
    use Sight as S;
    use Store::{Locks, OneWriter, Snapshots};
    const TWO: &[Kind] = &[RunInTx, RunInTx];
    const THREE: &[Kind] = &[RunInTx, RunInTx, RunInTx];
    let claims = |name, store, callers| scenario(name, store, Recovery::Hold, callers);
    vec![
        claims("tx-locks", Locks, TWO).faults(1, 2).shows(&[
            S::LockRefused,
            S::SettledCommitted,
            S::SettledRolledBack,
            S::EndedIdle,
            S::Declined,
            S::Failed,
        ]),
        claims("tx-locks-three", Locks, THREE)
            .faults(1, 1)
            .shows(&[S::LockRefused]),
        claims("tx-snapshots", Snapshots, TWO)
            .faults(1, 1)
            .shows(&[S::Conflict, S::SettledCommitted]),
        claims("tx-writer", OneWriter, TWO).faults(1, 2).shows(&[
            S::LockedOut,
            S::SettledCommitted,
            S::SettledRolledBack,
        ]),
        // The same with more faults, or more processes.
        claims("tx-locks-more", Locks, TWO)
            .faults(2, 3)
            .shows(&[S::Failed])
            .long(),
        claims("tx-locks-three-more", Locks, THREE)
            .faults(1, 2)
            .shows(&[S::LockRefused])
            .long(),
        claims("tx-snapshots-more", Snapshots, TWO)
            .faults(2, 2)
            .shows(&[S::Conflict])
            .long(),
        claims("tx-writer-more", OneWriter, THREE)
            .faults(2, 2)
            .shows(&[S::LockedOut])
            .long(),
    ]
}

/// Both ways of claiming, of one identity.
fn mixed() -> Vec<Scenario> {
    use Kind::{ResolveRerun, Run, RunInTx};
    use Recovery::{Ask, Hold, Rerun};
    use Sight as S;
    use Store::{Locks, OneWriter, Snapshots};
    const TWO: &[Kind] = &[Run, RunInTx];
    vec![
        scenario("mixed-locks", Locks, Rerun, TWO).faults(1, 1).shows(&[
            S::TransactionTookOver,
            S::CameBack,
            S::WaitedForRow,
            S::Fenced,
            S::LockRefused,
        ]),
        scenario("mixed-snapshots", Snapshots, Rerun, TWO)
            .faults(0, 1)
            .shows(&[S::TransactionTookOver, S::Conflict]),
        scenario("mixed-writer", OneWriter, Rerun, TWO).faults(1, 1).shows(&[
            S::TransactionTookOver,
            S::Fenced,
            S::LockedOut,
        ]),
        scenario("mixed-resolve", Locks, Hold, &[Run, RunInTx, ResolveRerun]).shows(&[S::Resolved, S::LockRefused]),
        // The same with more faults, or more processes.
        scenario("mixed-locks-more", Locks, Rerun, TWO)
            .faults(1, 2)
            .shows(&[S::CameBack, S::SettledCommitted])
            .long(),
        scenario("mixed-ask-more", Locks, Ask, TWO)
            .faults(1, 1)
            .shows(&[S::SaidCompleted, S::TransactionTookOver])
            .long(),
        scenario("mixed-snapshots-more", Snapshots, Rerun, TWO)
            .faults(1, 1)
            .shows(&[S::Conflict])
            .long(),
        scenario("mixed-writer-more", OneWriter, Rerun, TWO)
            .faults(1, 2)
            .shows(&[S::LockedOut])
            .long(),
        scenario("mixed-three-more", Locks, Rerun, &[Run, Run, RunInTx])
            .of_good_work()
            .shows(&[S::CameBack])
            .long(),
    ]
}

/// The one with this name.
#[must_use]
pub fn named(name: &str) -> Option<Scenario> {
    all().into_iter().find(|scenario| scenario.name == name)
}
