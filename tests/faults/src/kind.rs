//! The kinds of faults, and what of them a store can suffer.

use clap::ValueEnum;

use crate::backend::StoreName;
use crate::messages::Part;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    /// A worker, or all of them, killed with `kill -9`.
    Kill,
    /// The connection cut: at any message or at a `COMMIT`, before it, in its middle, after it, or after its answer; or all
    /// connections at once.
    Cut,
    /// The server stopped, in good order or as by a crash, and started again.
    Restart,
    /// A worker stopped for longer than its lease, and then continued.
    Freeze,
    /// Workers whose clocks are an hour fast and slow; one of them is killed.
    Clock,
    /// No room on the disk for a while.
    Disk,
    /// The application gives `begin` of its own up half-way, on connections that the store shares with it.
    Begin,
    /// It gives connections back with transactions on them: open, failed, or of an old snapshot.
    Left,
    /// It changes the settings of sessions.
    Settings,
    /// It takes all connections of the pool, and keeps them for a while.
    Exhaust,
    /// The server ends the connections of all clients, several times.
    Disconnect,
    /// One of the above, or a kill, with a pooler before the server that lends a session to each client.
    PoolSession,
    /// The same with one that lends a session to each transaction.
    PoolTransaction,
    /// The service that messages are delivered to is away for a while.
    Target,
}

impl Kind {
    pub const ALL: [Self; 14] = [
        Self::Kill,
        Self::Cut,
        Self::Restart,
        Self::Freeze,
        Self::Clock,
        Self::Disk,
        Self::Begin,
        Self::Left,
        Self::Settings,
        Self::Exhaust,
        Self::Disconnect,
        Self::PoolSession,
        Self::PoolTransaction,
        Self::Target,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Cut => "cut",
            Self::Restart => "restart",
            Self::Freeze => "freeze",
            Self::Clock => "clock",
            Self::Disk => "disk",
            Self::Begin => "begin",
            Self::Left => "left",
            Self::Settings => "settings",
            Self::Exhaust => "exhaust",
            Self::Disconnect => "disconnect",
            Self::PoolSession => "pool-session",
            Self::PoolTransaction => "pool-transaction",
            Self::Target => "target",
        }
    }

    /// Whether it can happen to this store. SQLite's clock is that of its one machine, and a worker's database is in the
    /// worker: there is no client whose clock could be another one. What a full disk does to a server is the server's affair.
    /// Over Redis, our connection is not shared, and it has no outbox.
    pub fn concerns(self, store: StoreName, part: Part) -> bool {
        if part == Part::Outbox && store == StoreName::Redis {
            return false;
        }
        match self {
            Self::Kill | Self::Freeze => true,
            Self::Cut | Self::Restart | Self::Clock | Self::Disconnect => store != StoreName::Sqlite,
            Self::Disk => store == StoreName::Sqlite,
            Self::Begin | Self::Left | Self::Settings | Self::Exhaust => store != StoreName::Redis,
            Self::PoolSession | Self::PoolTransaction => store == StoreName::Postgres,
            Self::Target => part == Part::Outbox,
        }
    }

    /// How many rounds of it belong to a run with so many of the main ones: kills, and cuts and restarts together.
    pub fn rounds(self, rounds: usize) -> usize {
        match self {
            Self::Kill => rounds,
            Self::Cut => rounds - Self::Restart.rounds(rounds),
            Self::Restart => rounds.div_ceil(5),
            _ => rounds.div_ceil(10),
        }
    }
}
