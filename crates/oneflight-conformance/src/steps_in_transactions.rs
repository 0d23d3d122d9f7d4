//! What a store must do in whose own transaction a step can run: the checks, one function a promise, named after it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep;

use super::failure::{Failure, name};
use super::probe::{LONG, result};
use super::transactional::Ledger;
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::record::RecordedResult;
use oneflight::store::{
    ClaimOutcome, ClaimRequest, Ending, OpenTransaction, Purpose, StartedBy, StepId, StepInTransaction, StepRecord,
    StepStore, StepsClaim, Store, StoreError, Takeover, TransactionalStepStore, TransactionalStore, WorkflowStart,
};

type Checked = Result<(), Failure>;
type Open<L> = OpenTransaction<
    <<L as Ledger>::Store as TransactionalStore>::Connection,
    <<L as Ledger>::Store as TransactionalStore>::Names,
>;

/// Runs the suite of what [`TransactionalStepStore`] promises. `make` returns an empty store and table.
///
/// # Errors
///
/// Returns the first promise that is not kept.
pub async fn run_steps_in_transactions<L>(make: impl AsyncFn() -> L) -> Result<(), Failure>
where
    L: Ledger,
    L::Store: TransactionalStepStore,
{
    macro_rules! check {
        ($($name:ident),* $(,)?) => {$(
            // In a box: all of them together are more than a thread's stack has.
            let ledger = Box::pin(make()).await;
            Box::pin($name(&Bench { ledger, check: stringify!($name) })).await?;
        )*};
    }
    check!(
        rows_and_step_are_one_commit,
        what_is_declined_is_recorded_without_its_rows,
        what_is_rolled_back_leaves_nothing,
        an_outdated_holder_commits_nothing,
        a_holder_that_is_outdated_meanwhile_commits_nothing,
        a_holder_whose_request_is_claimed_without_steps_meanwhile_commits_nothing,
        a_holder_whose_request_is_resolved_meanwhile_commits_nothing,
        a_holder_whose_lease_is_over_may_commit,
        what_is_dropped_half_way_leaves_nothing,
        what_escapes_leaves_nothing,
    );
    Ok(())
}

/// A store under test.
struct Bench<L> {
    ledger: L,
    check: &'static str,
}

#[derive(Clone, Copy)]
enum Wish {
    Commit,
    Decline,
    RollBack,
}

impl<L> Bench<L>
where
    L: Ledger,
    L::Store: TransactionalStepStore,
{
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

    fn id(&self) -> Result<RequestIdentity, Failure> {
        RequestIdentity::new(Scope::new("conformance"), self.check)
            .or_else(|_| self.failure("the suite made an invalid identity"))
    }

    async fn begin(&self, lease: Duration) -> Result<StepsClaim, Failure> {
        let request = ClaimRequest::new(&self.id()?, lease).takeover(Takeover::Expired);
        let start = WorkflowStart {
            name: "place_order".to_owned(),
            version: "1".to_owned(),
            accepts: Vec::new(),
            input: result(200),
            steps: Vec::new(),
            by: StartedBy::Caller,
        };
        match self.ok(self.ledger.store().begin_steps(request, start).await)? {
            ClaimOutcome::Granted(begun) => Ok(begun),
            other => self.failure(format!("expected a grant, got {}", name(&other))),
        }
    }

    fn step(&self, begun: &StepsClaim, name: &str) -> StepInTransaction {
        StepInTransaction {
            request: begun.claim.id().clone(),
            token: begun.claim.token(),
            attempt: begun.claim.attempt(),
            id: StepId::new(name, "7"),
            input: None,
        }
    }

    async fn execute(&self, step: StepInTransaction, wish: Wish, seed: u8) -> Result<u32, StoreError> {
        let ledger = self.ledger.clone();
        let write = move |mut open: Open<L>| async move {
            let attempt = open.attempt();
            let written = ledger.write(&mut open).await;
            drop(open);
            match written {
                Ok(()) => (ending(wish, result(seed)), attempt),
                Err(_) => (Ending::RollBack, 0),
            }
        };
        self.ledger.store().transact_step(step, write).await
    }

    /// Has the work of a step wait until its request is claimed by its token, for this purpose.
    async fn claimed_meanwhile(&self, purpose: Purpose) -> Checked {
        let stale = self.begin(Duration::ZERO).await?;
        let (ledger, step) = (self.ledger.clone(), self.step(&stale, "a"));
        let (says, mut begun) = oneshot::channel();
        let (go_on, waits) = oneshot::channel::<()>();
        let late = tokio::spawn(async move {
            let within = ledger.clone();
            let work = move |mut open: Open<L>| async move {
                let _ = within.write(&mut open).await;
                let _ = says.send(());
                let _ = waits.await;
                drop(open);
                (ending(Wish::Commit, result(1)), 1)
            };
            ledger.store().transact_step(step, work).await
        });
        let _ = (&mut begun).await;
        let request = ClaimRequest::new(&self.id()?, LONG).takeover(Takeover::Of(stale.claim.token()));
        let request = request.purpose(purpose);
        // A store with one writer has others wait for it, and then nobody takes over meanwhile.
        let taken = tokio::time::timeout(Duration::from_millis(500), self.ledger.store().claim(request)).await;
        let _ = go_on.send(());
        let ended = late.await.unwrap_or_else(|panic| Err(StoreError::unavailable(panic)));
        let Ok(taken) = taken else {
            self.ok(ended)?;
            self.rows(1).await?;
            return self.steps(&[("a", 1)]).await;
        };
        match self.ok(taken)? {
            ClaimOutcome::Granted(_) => {}
            other => return self.failure(format!("expected a grant, got {}", name(&other))),
        }
        match ended {
            Err(StoreError::Outdated { .. } | StoreError::RolledBack { .. }) => {}
            Err(source) => return self.ok(Err(source)),
            Ok(_) => return self.failure("a holder that was outdated meanwhile committed a step"),
        }
        self.rows(0).await?;
        self.steps(&[]).await
    }

    async fn rows(&self, expected: u64) -> Checked {
        let rows = self.ok(self.ledger.rows().await)?;
        self.require(rows == expected, &format!("{rows} rows are kept, and not {expected}"))
    }

    async fn steps(&self, expected: &[(&str, u8)]) -> Checked {
        let known = self.ok(self.ledger.store().load_steps(&self.id()?).await)?;
        let steps = known.map(|known| known.steps).unwrap_or_default();
        let expected: Vec<_> = expected
            .iter()
            .map(|(name, seed)| StepRecord {
                id: StepId::new(*name, "7"),
                input: None,
                result: Some(result(*seed)),
            })
            .collect();
        self.require(
            steps == expected,
            "the steps that are recorded do not agree with what was done",
        )
    }

    fn is_outdated(&self, transacted: Result<u32, StoreError>) -> Checked {
        match transacted {
            Err(StoreError::Outdated { .. }) => Ok(()),
            Err(source) => self.ok(Err(source)),
            Ok(_) => self.failure("an outdated holder committed a step"),
        }
    }
}

fn ending(wish: Wish, result: RecordedResult) -> Ending {
    let retention = LONG;
    match wish {
        Wish::Commit => Ending::Commit { result, retention },
        Wish::Decline => Ending::Decline { result, retention },
        Wish::RollBack => Ending::RollBack,
    }
}

macro_rules! checks {
    ($($name:ident($bench:ident) $body:block)*) => {$(
        async fn $name<L>($bench: &Bench<L>) -> Checked
        where
            L: Ledger,
            L::Store: TransactionalStepStore,
        $body
    )*};
}

checks! {
    rows_and_step_are_one_commit(bench) {
        let begun = bench.begin(LONG).await?;
        let attempt = bench.ok(bench.execute(bench.step(&begun, "a"), Wish::Commit, 1).await)?;
        bench.require(attempt == 1, "the work was told another attempt")?;
        bench.ok(bench.execute(bench.step(&begun, "b"), Wish::Commit, 2).await)?;
        bench.rows(2).await?;
        bench.steps(&[("a", 1), ("b", 2)]).await?;
        bench.ok(bench.ledger.store().complete(begun.claim, result(3), LONG).await)
    }

    what_is_declined_is_recorded_without_its_rows(bench) {
        let begun = bench.begin(LONG).await?;
        bench.ok(bench.execute(bench.step(&begun, "a"), Wish::Decline, 1).await)?;
        bench.rows(0).await?;
        bench.steps(&[("a", 1)]).await
    }

    what_is_rolled_back_leaves_nothing(bench) {
        let begun = bench.begin(LONG).await?;
        bench.ok(bench.execute(bench.step(&begun, "a"), Wish::RollBack, 1).await)?;
        bench.rows(0).await?;
        bench.steps(&[]).await?;
        // And is run again.
        bench.ok(bench.execute(bench.step(&begun, "a"), Wish::Commit, 2).await)?;
        bench.rows(1).await?;
        bench.steps(&[("a", 2)]).await
    }

    an_outdated_holder_commits_nothing(bench) {
        let stale = bench.begin(Duration::ZERO).await?;
        let next = bench.begin(Duration::ZERO).await?;
        bench.require(next.claim.attempt() == 2, "it is no second attempt")?;
        bench.is_outdated(bench.execute(bench.step(&stale, "a"), Wish::Commit, 1).await)?;
        let token = next.claim.token();
        bench.ok(bench.ledger.store().complete(next.claim, result(3), LONG).await)?;
        let mut completed = bench.step(&stale, "a");
        completed.token = token;
        bench.is_outdated(bench.execute(completed, Wish::Commit, 1).await)?;
        bench.rows(0).await?;
        bench.steps(&[]).await
    }

    a_holder_that_is_outdated_meanwhile_commits_nothing(bench) {
        let stale = bench.begin(Duration::ZERO).await?;
        let (ledger, step) = (bench.ledger.clone(), bench.step(&stale, "a"));
        let (says, mut begun) = oneshot::channel();
        let (go_on, waits) = oneshot::channel::<()>();
        let late = tokio::spawn(async move {
            let within = ledger.clone();
            let work = move |mut open: Open<L>| async move {
                let _ = within.write(&mut open).await;
                let _ = says.send(());
                let _ = waits.await;
                drop(open);
                (ending(Wish::Commit, result(1)), 1)
            };
            ledger.store().transact_step(step, work).await
        });
        let _ = (&mut begun).await;
        // A store with one writer has others wait for it, and then nobody takes over meanwhile.
        let taken = tokio::time::timeout(Duration::from_millis(500), bench.begin(LONG)).await;
        let _ = go_on.send(());
        let ended = late.await.unwrap_or_else(|panic| Err(StoreError::unavailable(panic)));
        match taken {
            Ok(next) => {
                bench.require(next?.claim.attempt() == 2, "it is no second attempt")?;
                match ended {
                    Err(StoreError::Outdated { .. } | StoreError::RolledBack { .. }) => {}
                    Err(source) => return bench.ok(Err(source)),
                    Ok(_) => return bench.failure("a holder that was outdated meanwhile committed a step"),
                }
                bench.rows(0).await?;
                bench.steps(&[]).await
            }
            Err(_) => {
                bench.ok(ended)?;
                bench.rows(1).await?;
                bench.steps(&[("a", 1)]).await
            }
        }
    }

    a_holder_whose_request_is_claimed_without_steps_meanwhile_commits_nothing(bench) {
        bench.claimed_meanwhile(Purpose::Execute).await
    }

    a_holder_whose_request_is_resolved_meanwhile_commits_nothing(bench) {
        bench.claimed_meanwhile(Purpose::Resolve).await
    }

    a_holder_whose_lease_is_over_may_commit(bench) {
        let begun = bench.begin(Duration::ZERO).await?;
        bench.ok(bench.execute(bench.step(&begun, "a"), Wish::Commit, 1).await)?;
        bench.rows(1).await?;
        bench.steps(&[("a", 1)]).await
    }

    what_is_dropped_half_way_leaves_nothing(bench) {
        let begun = bench.begin(LONG).await?;
        let (ledger, step) = (bench.ledger.clone(), bench.step(&begun, "a"));
        let (says, written) = oneshot::channel();
        let half_way = tokio::spawn(async move {
            let within = ledger.clone();
            let work = move |mut open: Open<L>| async move {
                let _ = within.write(&mut open).await;
                let _ = says.send(());
                std::future::pending::<()>().await;
                drop(open);
                (Ending::RollBack, ())
            };
            ledger.store().transact_step(step, work).await
        });
        let _ = written.await;
        half_way.abort();
        let _ = half_way.await;
        bench.rows(0).await?;
        bench.steps(&[]).await?;
        bench.ok(bench.execute(bench.step(&begun, "a"), Wish::Commit, 2).await)?;
        bench.rows(1).await?;
        bench.steps(&[("a", 2)]).await
    }

    what_escapes_leaves_nothing(bench) {
        let begun = bench.begin(LONG).await?;
        let keeps = Arc::new(std::sync::Mutex::new(None));
        let (within, place) = (bench.ledger.clone(), Arc::clone(&keeps));
        let work = move |mut open: Open<L>| async move {
            let _ = within.write(&mut open).await;
            if let Ok(mut place) = place.lock() {
                *place = Some(open);
            }
            (ending(Wish::Commit, result(1)), ())
        };
        let escaped = bench.ledger.store().transact_step(bench.step(&begun, "a"), work).await;
        let is_told = matches!(escaped, Err(StoreError::TransactionEscaped));
        let place = keeps.lock().map(|mut place| place.take());
        drop(place);
        bench.require(is_told, "it is not told that the transaction escaped")?;
        // Where a session is ended, that takes a moment.
        sleep(Duration::from_millis(50)).await;
        bench.rows(0).await?;
        bench.steps(&[]).await
    }
}
