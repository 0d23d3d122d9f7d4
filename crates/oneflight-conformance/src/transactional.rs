//! What a store must do whose own transaction the work runs in: the checks, one function a promise, named after it.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Barrier, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::failure::{Failure, name};
use super::probe::{LONG, result};
use oneflight::identity::{Fingerprint, RequestIdentity, Scope};
use oneflight::record::RecordedResult;
use oneflight::store::{
    Claim, ClaimOutcome, ClaimRequest, Denied, Ending, Store, StoreError, Takeover, TransactionalStore,
};

const CROWD: usize = 32;
/// How long a transaction that was dropped may hold its claim.
const FREE_WITHIN: Duration = Duration::from_secs(10);

type Checked = Result<(), Failure>;
type Outcome<R> = Result<ClaimOutcome<R>, StoreError>;

/// The future of writing to a [`Ledger`].
pub type Written<'c> = Pin<Box<dyn Future<Output = Result<(), Box<dyn Error + Send + Sync>>> + Send + 'c>>;

/// An empty store, and an empty table of the test's own in the same database. Clones share it.
pub trait Ledger: Clone + Send + Sync + 'static {
    /// What is checked.
    type Store: TransactionalStore;

    /// The store.
    fn store(&self) -> &Self::Store;

    /// Inserts a row into the table, in the transaction of this connection.
    fn write<'c>(&self, connection: &'c mut <Self::Store as TransactionalStore>::Connection) -> Written<'c>;

    /// How many rows of the table are committed.
    fn rows(&self) -> impl Future<Output = Result<u64, StoreError>> + Send;
}

/// Runs the suite of what [`TransactionalStore`] promises. `make` returns an empty store and table.
///
/// ```
/// use oneflight::store::{StoreError, TransactionalStore};
/// use oneflight_conformance::{Failure, Ledger, Written, run_transactional};
/// use std::io;
///
/// /// Stands for the connection of your store's driver.
/// struct Connection;
///
/// impl Connection {
///     async fn execute(&mut self, _sql: &str) -> io::Result<()> {
///         Ok(())
///     }
/// }
///
/// /// Stands for a query on a connection of its own.
/// async fn count(_sql: &str) -> io::Result<u64> {
///     Ok(0)
/// }
///
/// #[derive(Clone)]
/// struct Orders<S>(S);
///
/// impl<S: TransactionalStore<Connection = Connection> + Clone> Ledger for Orders<S> {
///     type Store = S;
///
///     fn store(&self) -> &S {
///         &self.0
///     }
///
///     fn write<'c>(&self, connection: &'c mut Connection) -> Written<'c> {
///         Box::pin(async move {
///             connection.execute("INSERT INTO orders DEFAULT VALUES").await?;
///             Ok(())
///         })
///     }
///
///     async fn rows(&self) -> Result<u64, StoreError> {
///         count("SELECT count(*) FROM orders").await.map_err(StoreError::unavailable)
///     }
/// }
///
/// /// `open` makes a new database each time, with an empty table of orders.
/// async fn check<S>(open: impl AsyncFn() -> S) -> Result<(), Failure>
/// where
///     S: TransactionalStore<Connection = Connection> + Clone,
/// {
///     run_transactional(async || Orders(open().await)).await
/// }
/// ```
///
/// # Errors
///
/// Returns the first promise that is not kept.
pub async fn run_transactional<L: Ledger>(make: impl AsyncFn() -> L) -> Result<(), Failure> {
    macro_rules! check {
        ($($name:ident),* $(,)?) => {$(
            // In a box: all of them together are more than a thread's stack has.
            let ledger = Box::pin(make()).await;
            Box::pin($name(&Desk { ledger, check: stringify!($name) })).await?;
        )*};
    }
    check!(
        rows_and_record_are_one_commit,
        what_is_declined_is_recorded_without_its_rows,
        what_is_rolled_back_leaves_nothing,
        one_of_many_executes,
        another_fingerprint_is_a_conflict,
        a_claim_outside_is_respected,
        a_transaction_is_respected_outside,
        what_is_in_doubt_is_taken_over_only_if_wanted,
        what_is_dropped_half_way_leaves_nothing,
        what_escapes_leaves_nothing,
    );
    Ok(())
}

/// A store under test.
struct Desk<L> {
    ledger: L,
    check: &'static str,
}

#[derive(Clone, Copy)]
enum Wish {
    Commit,
    Decline,
    RollBack,
}

fn ending(wish: Wish, result: RecordedResult) -> Ending {
    let retention = LONG;
    match wish {
        Wish::Commit => Ending::Commit { result, retention },
        Wish::Decline => Ending::Decline { result, retention },
        Wish::RollBack => Ending::RollBack,
    }
}

impl<L: Ledger> Desk<L> {
    fn failure<T>(&self, what: impl Into<String>) -> Result<T, Failure> {
        Err(Failure {
            check: self.check,
            what: what.into(),
            source: None,
        })
    }

    fn require(&self, holds: bool, what: &str) -> Checked {
        if holds { Ok(()) } else { self.failure(what) }
    }

    fn ok<T>(&self, answer: Result<T, StoreError>) -> Result<T, Failure> {
        answer.map_err(|source| Failure {
            check: self.check,
            what: "an operation that must succeed was an error".to_owned(),
            source: Some(source),
        })
    }

    fn id(&self, digest: u8) -> Result<RequestIdentity, Failure> {
        match RequestIdentity::new(Scope::new("conformance"), self.check) {
            Ok(id) => Ok(id.with_known_fingerprint(Fingerprint::from_digest([digest; 32]))),
            Err(_) => self.failure("the suite made an invalid identity"),
        }
    }

    async fn execute(&self, request: ClaimRequest, wish: Wish, seed: u8) -> Outcome<u32> {
        execute(&self.ledger, request, wish, seed).await
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Claim, Failure> {
        match self.ok(self.ledger.store().claim(request).await)? {
            ClaimOutcome::Granted(claim) => Ok(claim),
            other => self.failure(format!("expected a grant, got {}", name(&other))),
        }
    }

    async fn rows(&self, expected: u64) -> Checked {
        let rows = self.ok(self.ledger.rows().await)?;
        self.require(rows == expected, &format!("{rows} rows are kept, and not {expected}"))
    }

    async fn recorded(&self, id: &RequestIdentity, expected: Option<u8>) -> Checked {
        let record = self.ok(self.ledger.store().load(id).await)?;
        let found = record.as_ref().and_then(|record| record.result());
        self.require(
            found == expected.map(result).as_ref(),
            "the record does not agree with what was done",
        )
    }

    fn executed(&self, outcome: Outcome<u32>, attempt: u32) -> Checked {
        match self.ok(outcome)? {
            ClaimOutcome::Granted(ran) if ran == attempt => Ok(()),
            ClaimOutcome::Granted(ran) => self.failure(format!("attempt {attempt} was told that it is {ran}")),
            other => self.failure(format!("expected an execution, got {}", name(&other))),
        }
    }

    /// Executes a request whose transaction is about to be rolled back.
    async fn executed_soon(&self, id: &RequestIdentity, wish: Wish) -> Checked {
        let since = Instant::now();
        loop {
            match self.execute(ClaimRequest::new(id, LONG), wish, 2).await {
                Ok(ClaimOutcome::Denied(Denied::InProgress { .. })) if since.elapsed() < FREE_WITHIN => {
                    sleep(Duration::from_millis(5)).await;
                }
                outcome => return self.executed(outcome, 1),
            }
        }
    }

    fn replayed(&self, outcome: Outcome<u32>, seed: u8) -> Checked {
        match self.ok(outcome)? {
            ClaimOutcome::Denied(Denied::Completed(record)) => {
                self.require(record.result() == Some(&result(seed)), "a replay is another result")
            }
            other => self.failure(format!("expected a replay, got {}", name(&other))),
        }
    }
}

/// One execution that writes a row; answers with the attempt if it ran.
async fn execute<L: Ledger>(ledger: &L, request: ClaimRequest, wish: Wish, seed: u8) -> Outcome<u32> {
    let writes = ledger.clone();
    let work = ledger.store().transact(request, move |mut open| async move {
        match writes.write(&mut open).await {
            Ok(()) => (ending(wish, result(seed)), Ok(open.attempt())),
            Err(error) => (Ending::RollBack, Err(error)),
        }
    });
    match work.await? {
        ClaimOutcome::Granted(Ok(attempt)) => Ok(ClaimOutcome::Granted(attempt)),
        ClaimOutcome::Granted(Err(error)) => Err(StoreError::unavailable(error)),
        // Nothing else carries what was worked out.
        other => Ok(other.map(|_| 0)),
    }
}

async fn rows_and_record_are_one_commit<L: Ledger>(desk: &Desk<L>) -> Checked {
    let id = desk.id(1)?;
    let outcome = desk.execute(ClaimRequest::new(&id, LONG), Wish::Commit, 1).await;
    desk.executed(outcome, 1)?;
    desk.rows(1).await?;
    desk.recorded(&id, Some(1)).await?;
    for _ in 0..2 {
        let again = desk.execute(ClaimRequest::new(&id, LONG), Wish::Commit, 2).await;
        desk.replayed(again, 1)?;
    }
    desk.rows(1).await
}

async fn what_is_declined_is_recorded_without_its_rows<L: Ledger>(desk: &Desk<L>) -> Checked {
    let id = desk.id(1)?;
    let outcome = desk.execute(ClaimRequest::new(&id, LONG), Wish::Decline, 1).await;
    desk.executed(outcome, 1)?;
    desk.rows(0).await?;
    desk.recorded(&id, Some(1)).await?;
    let again = desk.execute(ClaimRequest::new(&id, LONG), Wish::Commit, 2).await;
    desk.replayed(again, 1)?;
    desk.rows(0).await
}

async fn what_is_rolled_back_leaves_nothing<L: Ledger>(desk: &Desk<L>) -> Checked {
    let id = desk.id(1)?;
    for _ in 0..2 {
        let outcome = desk.execute(ClaimRequest::new(&id, LONG), Wish::RollBack, 1).await;
        desk.executed(outcome, 1)?;
        desk.rows(0).await?;
        let record = desk.ok(desk.ledger.store().load(&id).await)?;
        desk.require(record.is_none(), "what was rolled back has a record")?;
    }
    // Nothing was done, so another payload is welcome.
    let other = desk.id(2)?;
    let outcome = desk.execute(ClaimRequest::new(&other, LONG), Wish::Commit, 2).await;
    desk.executed(outcome, 1)?;
    desk.rows(1).await
}

async fn one_of_many_executes<L: Ledger>(desk: &Desk<L>) -> Checked {
    let id = desk.id(1)?;
    let start = Arc::new(Barrier::new(CROWD));
    let mut tasks = JoinSet::new();
    for seed in 0..CROWD {
        let (ledger, id, start) = (desk.ledger.clone(), id.clone(), Arc::clone(&start));
        tasks.spawn(async move {
            start.wait().await;
            let seed = u8::try_from(seed).unwrap_or(u8::MAX);
            execute(&ledger, ClaimRequest::new(&id, LONG), Wish::Commit, seed).await
        });
    }
    let mut executed = 0;
    while let Some(outcome) = tasks.join_next().await {
        // A task that panicked is a store that panicked.
        let outcome = outcome.unwrap_or_else(|panic| Err(StoreError::unavailable(panic)));
        match desk.ok(outcome)? {
            ClaimOutcome::Granted(_) => executed += 1,
            ClaimOutcome::Denied(Denied::InProgress { .. }) | ClaimOutcome::Denied(Denied::Completed(_)) => {}
            other => return desk.failure(format!("a loser was told {}", name(&other))),
        }
    }
    desk.require(executed == 1, &format!("{executed} of {CROWD} executed"))?;
    desk.rows(1).await
}

async fn another_fingerprint_is_a_conflict<L: Ledger>(desk: &Desk<L>) -> Checked {
    let (id, other) = (desk.id(1)?, desk.id(2)?);
    let outcome = desk.execute(ClaimRequest::new(&id, LONG), Wish::Commit, 1).await;
    desk.executed(outcome, 1)?;
    match desk.ok(desk.execute(ClaimRequest::new(&other, LONG), Wish::Commit, 2).await)? {
        ClaimOutcome::Denied(Denied::Conflict) => desk.rows(1).await,
        outcome => desk.failure(format!("another payload is {}", name(&outcome))),
    }
}

async fn a_claim_outside_is_respected<L: Ledger>(desk: &Desk<L>) -> Checked {
    let id = desk.id(1)?;
    let claim = desk.claim(ClaimRequest::new(&id, LONG)).await?;
    // Its own holder is no exception, nor is one who would take over what is over.
    for takeover in [Takeover::Never, Takeover::Expired, Takeover::Of(claim.token())] {
        let request = ClaimRequest::new(&id, LONG).takeover(takeover);
        match desk.ok(desk.execute(request, Wish::Commit, 2).await)? {
            ClaimOutcome::Denied(Denied::InProgress { .. }) => desk.rows(0).await?,
            other => return desk.failure(format!("beside a claim outside: {}", name(&other))),
        }
    }
    desk.ok(desk.ledger.store().complete(claim, result(1), LONG).await)?;
    let outcome = desk.execute(ClaimRequest::new(&id, LONG), Wish::Commit, 2).await;
    desk.replayed(outcome, 1)?;
    desk.rows(0).await
}

async fn a_transaction_is_respected_outside<L: Ledger>(desk: &Desk<L>) -> Checked {
    let id = desk.id(1)?;
    let (enters, entered) = oneshot::channel::<()>();
    let (leave, left) = oneshot::channel::<()>();
    let inside = tokio::spawn({
        let (ledger, id) = (desk.ledger.clone(), id.clone());
        async move {
            let work = ledger
                .store()
                .transact(ClaimRequest::new(&id, LONG), move |_| async move {
                    let _ = enters.send(());
                    let _ = left.await;
                    (ending(Wish::Commit, result(1)), ())
                });
            work.await
        }
    });
    if entered.await.is_err() {
        return desk.failure("the work of a new identity was not called");
    }
    for takeover in [Takeover::Never, Takeover::Expired] {
        let request = ClaimRequest::new(&id, LONG).takeover(takeover);
        let claim = async |patience| desk.ledger.store().claim(request.clone().patience(patience)).await;
        let mut answered = claim(Duration::from_millis(50)).await;
        // Its server may not have answered within so short a time, on a machine that is slow.
        if matches!(answered, Err(StoreError::Unavailable { .. } | StoreError::NoConnection)) {
            answered = claim(FREE_WITHIN).await;
        }
        match answered {
            // A store with one writer says that the writer is at work, and not on what.
            Ok(ClaimOutcome::Denied(Denied::InProgress { .. })) | Err(StoreError::Busy { .. }) => {}
            answered => {
                let outcome = desk.ok(answered)?;
                return desk.failure(format!("beside a transaction: {}", name(&outcome)));
            }
        }
    }
    let _ = leave.send(());
    match inside.await.unwrap_or_else(|panic| Err(StoreError::unavailable(panic))) {
        Ok(ClaimOutcome::Granted(())) => {}
        answered => return desk.ok(answered).map(drop),
    }
    match desk.ok(desk.ledger.store().claim(ClaimRequest::new(&id, LONG)).await)? {
        ClaimOutcome::Denied(Denied::Completed(record)) => {
            desk.require(record.result() == Some(&result(1)), "a replay is another result")
        }
        other => desk.failure(format!("after the commit: {}", name(&other))),
    }
}

async fn what_is_in_doubt_is_taken_over_only_if_wanted<L: Ledger>(desk: &Desk<L>) -> Checked {
    let id = desk.id(1)?;
    let claim = desk.claim(ClaimRequest::new(&id, Duration::ZERO)).await?;
    let token = claim.token();
    match desk.ok(desk.execute(ClaimRequest::new(&id, LONG), Wish::Commit, 1).await)? {
        ClaimOutcome::Denied(Denied::InDoubt { token: of, attempt: 1 }) if of == token => {}
        other => return desk.failure(format!("after the lease: {}", name(&other))),
    }
    desk.rows(0).await?;
    // What is rolled back leaves the doubt as it was.
    for wish in [Wish::RollBack, Wish::Commit] {
        let request = ClaimRequest::new(&id, LONG).takeover(Takeover::Of(token));
        let outcome = desk.execute(request, wish, 2).await;
        desk.executed(outcome, 2)?;
    }
    desk.rows(1).await?;
    match desk.ledger.store().complete(claim, result(3), LONG).await {
        Err(StoreError::Outdated { token: refused }) if refused == token => {}
        Ok(()) => return desk.failure("a holder that was taken over could complete"),
        Err(_) => return desk.failure("an outdated holder was refused with an error other than `Outdated`"),
    }
    let record = desk.ok(desk.ledger.store().load(&id).await)?;
    let newer = record.is_some_and(|record| record.token > token && record.attempt == 2);
    desk.require(newer, "the record has not the token and the attempt of who took over")?;
    desk.recorded(&id, Some(2)).await
}

async fn what_is_dropped_half_way_leaves_nothing<L: Ledger>(desk: &Desk<L>) -> Checked {
    let id = desk.id(1)?;
    let (enters, entered) = oneshot::channel::<()>();
    let half_way = tokio::spawn({
        let (ledger, id) = (desk.ledger.clone(), id.clone());
        async move {
            let writes = ledger.clone();
            let work = ledger
                .store()
                .transact::<_, _, ()>(ClaimRequest::new(&id, LONG), move |mut open| async move {
                    let _ = writes.write(&mut open).await;
                    let _ = enters.send(());
                    std::future::pending().await
                });
            work.await.map(drop)
        }
    });
    if entered.await.is_err() {
        return desk.failure("the work of a new identity was not called");
    }
    half_way.abort();
    desk.executed_soon(&id, Wish::Commit).await?;
    desk.rows(1).await?;
    desk.recorded(&id, Some(2)).await
}

async fn what_escapes_leaves_nothing<L: Ledger>(desk: &Desk<L>) -> Checked {
    let id = desk.id(1)?;
    for wish in [Wish::Commit, Wish::Decline] {
        let (escapes, escaped) = oneshot::channel();
        let writes = desk.ledger.clone();
        let work = desk
            .ledger
            .store()
            .transact(ClaimRequest::new(&id, LONG), move |mut open| async move {
                let written = writes.write(&mut open).await;
                let _ = escapes.send(open);
                (ending(wish, result(1)), written.is_ok())
            });
        match work.await {
            Err(StoreError::TransactionEscaped) => {}
            Err(_) => return desk.failure("an escape was an error other than `TransactionEscaped`"),
            Ok(_) => return desk.failure("a transaction that had not come back was ended"),
        }
        let Ok(mut escaped) = escaped.await else {
            return desk.failure("the work of a new identity was not called");
        };
        // Whether it can be written to still is of no account.
        let _ = desk.ledger.write(&mut escaped).await;
        desk.rows(0).await?;
        drop(escaped);
        desk.recorded(&id, None).await?;
        desk.executed_soon(&id, Wish::RollBack).await?;
        desk.rows(0).await?;
    }
    desk.executed_soon(&id, Wish::Commit).await?;
    desk.rows(1).await?;
    desk.recorded(&id, Some(2)).await
}
