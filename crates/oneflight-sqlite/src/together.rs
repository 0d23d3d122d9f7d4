//! Claims and changes of different requests that are wanted at the same time, in one transaction of the writer.
//!
//! A call that finds the turn free takes it, and is done in its caller's place, on a connection of ours: shared, so that
//! others see to it that it goes on. On one that the user's pool lends it goes alone. What finds it taken is
//! [gathered], and the next turn takes all that waits: one `BEGIN IMMEDIATE`, one commit, one wait for the
//! disk. What concerns a lease is gathered apart from claims, and goes first as it does alone ([`queue`](super::queue)); a
//! crowd of claims has one place in the line of business, in which transactions of work stand as well. The renewals of
//! several leases wait in the line of leases, and have a turn and a transaction of their own.
//!
//! # Who does it
//!
//! A thread of the store's own, which is begun when something is gathered for the first time, and ends with the store. A
//! caller may be dropped, or be kept and not polled. A runtime of one thread may rest, any may end, and a worker may
//! block. A task would be subject to all that, and what others have asked would be with it. The thread costs a change of
//! threads for each transaction, and none for a call that finds the turn free.
//!
//! # When something goes wrong
//!
//! A statement that fails before the commit rolls back what was done for all. Then each is asked for alone, once, by its
//! caller, or, if it is a renewal, in line: so what is wrong with one is an error of that one, and is told as ever. The
//! same goes for a claim of what has a record by now. If the commit fails other than by being rejected, it is not known
//! how it ended, and each is told what it would be told alone.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::join;
use tokio::runtime::Builder;
use tokio::time::timeout;
use tracing::{Instrument, Span};

use super::batch::{self, Ran};
use super::busy::{Patience, is_busy};
use super::change::Change;
use super::ending::Commits;
use super::gathered::{self, Answer, Gathered, LARGEST, Waiting, Wanted};
use super::lent::Lent;
use super::manager;
use super::queue::Rank;
use super::writer::{Connections, Place, Turn, Writer};
use oneflight::record::FencingToken;
use oneflight::store::{ClaimRequest, StoreError};

impl Wanted {
    fn rank(&self) -> Rank {
        match self {
            Self::Claim(_) => Rank::Business,
            Self::Change(change) | Self::Alone(change) => change.rank(),
        }
    }

    fn is_renewal(&self) -> bool {
        match self {
            Self::Claim(_) => false,
            Self::Change(change) | Self::Alone(change) => change.is_renewal(),
        }
    }
}

impl Writer {
    /// Claims what has no record, as far as was seen. Returns `None` if it has to be claimed alone, in which nothing has
    /// been done yet.
    pub(super) async fn claim_new(
        &self,
        request: &ClaimRequest,
        limit: Option<Duration>,
    ) -> Result<Option<FencingToken>, StoreError> {
        if self.commits != Commits::AtOnce {
            return Ok(None);
        }
        let wanted = Wanted::Claim(Arc::new(request.clone()));
        match self.ask(wanted, limit).await? {
            Answer::Claimed(token) => Ok(Some(token)),
            Answer::Alone | Answer::Busy | Answer::Changed(_) => Ok(None),
            Answer::Failed(error) => Err(error),
        }
    }

    /// Makes one change, perhaps together with others, and returns how many rows it changed.
    pub(super) async fn change(&self, change: Change) -> Result<u64, StoreError> {
        let change = Arc::new(change);
        if self.commits == Commits::AtOnce {
            if change.bytes() <= LARGEST && batch::goes_together(&change) {
                let asked = self.ask(Wanted::Change(Arc::clone(&change)), None).await?;
                if let Some(changed) = changed(asked) {
                    return changed;
                }
            }
            if change.is_renewal() {
                let alone = Wanted::Alone(Arc::clone(&change));
                if let Some(changed) = changed(self.gather(alone, None).await?) {
                    return changed;
                }
                // There is no thread.
            }
        }
        self.change_alone(&change).await
    }

    async fn ask(&self, wanted: Wanted, limit: Option<Duration>) -> Result<Answer, StoreError> {
        let rank = wanted.rank();
        if self.gathered.line(rank).is_empty()
            && let Some(place) = self.queue.try_enter(rank)
        {
            match self.lend_at_once() {
                Some(connection) => match self.in_place(place, connection, wanted.clone()).await {
                    Answer::Busy => {}
                    answer => return Ok(answer),
                },
                // One of ours is to be made. The thread does that: a caller that is not polled meanwhile would keep the turn.
                // One that the user's pool lends may have to be waited for, which a renewal does there as well.
                None if self.connections == Connections::Own || wanted.is_renewal() => drop(place),
                None => return Ok(Answer::Alone),
            }
        }
        self.gather(wanted, limit).await
    }

    /// Does what is asked in its caller's place, in a turn. Others see to it that it goes on if the caller does not.
    async fn in_place(&self, place: Place, connection: Lent, wanted: Wanted) -> Answer {
        let writer = self.clone();
        let work = async move {
            let mut turn = writer.turn_on(connection, place, Patience::new(Duration::ZERO));
            // Dropped before the turn.
            let _until_over = writer.gathered.until_over();
            if writer.file.still_there().is_err() {
                turn.connection.give_back();
                return Answer::Alone;
            }
            match &wanted {
                Wanted::Claim(_) => writer.claim_in_place(&mut turn, &wanted).await,
                Wanted::Change(change) | Wanted::Alone(change) => {
                    writer.set_if_changed(&mut turn).await;
                    change_in_place(&mut turn, change).await
                }
            }
        };
        let lost = || Answer::Failed(StoreError::unavailable("what was about to be written has panicked"));
        // Whichever caller polls it.
        let work = AssertUnwindSafe(work.in_current_span())
            .catch_unwind()
            .map(move |done| done.unwrap_or_else(|_| lost()));
        gathered::over(self.gathered.share(work)).await
    }

    async fn claim_in_place(&self, turn: &mut Turn, wanted: &Wanted) -> Answer {
        match self.write(turn, &[wanted]).await {
            Some(mut answers) => answers.pop().unwrap_or(Answer::Alone),
            None => {
                turn.connection.give_back();
                Answer::Busy
            }
        }
    }

    /// Waits to be done together with others.
    async fn gather(&self, wanted: Wanted, limit: Option<Duration>) -> Result<Answer, StoreError> {
        let (queueing, rank) = (self.queueing(limit), wanted.rank());
        let urgent = (rank == Rank::Lease).then(|| self.queue.urgent());
        let mut asker = self.gathered.line(rank).join(wanted, limit, urgent);
        if !self.sees_to_it() && asker.leave() {
            return Ok(Answer::Alone);
        }
        let waits = timeout(queueing.remaining(), &mut asker.answered);
        match self.wait_for(waits).await? {
            Ok(answer) => answered(answer),
            Err(_) if asker.leave() => Err(queueing.exhausted()),
            Err(_) => answered((&mut asker.answered).await),
        }
    }

    /// Sees to it that there is a thread for what is gathered. Returns whether there is.
    fn sees_to_it(&self) -> bool {
        if self.gathered.has_thread.swap(true, Ordering::SeqCst) {
            return true;
        }
        let mut writer = self.clone();
        writer.in_use = None;
        let ends = Ends(Arc::clone(&self.gathered));
        let thread = thread::Builder::new().name("oneflight-write".to_owned());
        #[cfg(test)]
        let thread = self.faults.about_to_begin(thread);
        let runs = thread.spawn(move || {
            let _ends = ends;
            #[cfg(test)]
            if writer.faults.gives_no_runtime() {
                return;
            }
            // Nothing of the caller's runtime: it may rest, and it may end.
            if let Ok(runtime) = Builder::new_current_thread().enable_all().build() {
                runtime.block_on(join(writer.serve(Rank::Lease), writer.serve(Rank::Business)));
            }
        });
        runs.is_ok()
    }

    /// Does what is gathered of a rank, for as long as the store is in use.
    async fn serve(&self, rank: Rank) {
        while self.gathered.comes(rank).await {
            let place = self.enter(rank).await;
            let line = self.gathered.line(rank);
            let patience = Patience::new(self.deadline());
            if let Err(error) = self.file.still_there() {
                line.fail(Instant::now(), &self.file.named(error));
                continue;
            }
            let asked_by = Instant::now();
            match self.lend(&patience).await {
                Ok(connection) => {
                    let turn = self.turn_on(connection, place, patience);
                    self.write_all(turn, line.take()).await;
                }
                // They have waited for it as long as they would have alone. Who came later goes on waiting.
                Err(error @ StoreError::NoConnection) => {
                    drop(place);
                    line.fail(asked_by, &error);
                }
                // That was perhaps the matter of a moment.
                Err(error) => {
                    drop(place);
                    line.fail_one(asked_by, &self.file.named(error));
                }
            }
        }
    }

    /// Does what was taken, in one transaction. While another process has the database's lock, each waits for as long as
    /// it said.
    async fn write_all(&self, mut turn: Turn, mut taken: Vec<Waiting>) {
        let is_own = self.connections == Connections::Own;
        let mut pauses = Patience::new(Duration::MAX);
        taken.retain(|it| !it.is_left());
        match &taken[..] {
            [] => return turn.connection.give_back(),
            [it] => {
                if let Wanted::Alone(change) = &it.wanted {
                    let change = Arc::clone(change);
                    if let Some(it) = taken.pop() {
                        self.change_in_line(turn, it, &change).await;
                    }
                    return;
                }
            }
            _ => {}
        }
        while !taken.is_empty() {
            // A new one, since none of it is waited for here.
            turn.patience = Patience::new(Duration::ZERO);
            let wanted: Vec<_> = taken.iter().map(|it| &it.wanted).collect();
            // What is of several is of none.
            let span = match &taken[..] {
                [alone] => alone.span.clone(),
                _ => Span::none(),
            };
            if let Some(answers) = self.write(&mut turn, &wanted).instrument(span).await {
                // What is done next does not wait for its callers to be told.
                drop(turn);
                taken.into_iter().zip(answers).for_each(|(it, answer)| it.tell(answer));
                return;
            }
            taken = self.those_that_wait_on(taken);
            if !taken.is_empty() {
                if is_own {
                    let _ = self.settings.set(&mut turn).await;
                }
                let _ = self.pause(&mut pauses).await;
                taken.retain(|it| !it.is_left());
            }
        }
        // One of the user's has our settings, and is closed.
        if is_own {
            turn.connection.give_back();
        }
    }

    /// Tells those whose patience is over that the database is busy. Nothing was done for any of them.
    fn those_that_wait_on(&self, taken: Vec<Waiting>) -> Vec<Waiting> {
        let mut wait = Vec::with_capacity(taken.len());
        for mut it in taken {
            let (limit, waited) = it.limit();
            let patience = it.patience.get_or_insert_with(|| self.patience(limit, waited));
            match patience.remaining().is_zero() {
                true => {
                    let busy = patience.exhausted();
                    it.tell(Answer::Failed(busy));
                }
                false => wait.push(it),
            }
        }
        wait
    }

    /// Makes claims, or changes, in one transaction, and returns an answer for each. Returns `None`, and leaves the turn
    /// its connection, if another process has the database's lock.
    async fn write(&self, turn: &mut Turn, wanted: &[&Wanted]) -> Option<Vec<Answer>> {
        let alone = || vec![Answer::Alone; wanted.len()];
        match self.connections {
            Connections::Own => self.set_if_changed(turn).await,
            Connections::Users => match self.begin_in(turn).await {
                Ok(()) => {}
                Err(StoreError::Busy { .. }) => return None,
                Err(_) => return Some(alone()),
            },
        }
        let ran = batch::run(turn, self.connections, &self.file, wanted).await;
        #[cfg(test)]
        let ran = match ran {
            Ran::Committed(_) if self.faults.loses_answer() => Ran::Unknown(sqlx::Error::WorkerCrashed),
            ran => ran,
        };
        match ran {
            Ran::Committed(answers) => {
                if self.connections == Connections::Users {
                    // For what `sqlx` counts as open.
                    manager::start_rollback(turn);
                }
                turn.connection.give_back();
                Some(answers)
            }
            Ran::Failed { is_begun: false, error } if is_busy(&error) => None,
            Ran::Failed { is_begun, .. } => {
                if !(is_begun && self.roll_back(turn).await) {
                    turn.connection.close().await;
                }
                Some(alone())
            }
            Ran::Unknown(error) => {
                turn.connection.close().await;
                let lost = Answer::Failed(self.unavailable(error));
                Some(wanted.iter().map(|it| self.unless_made_again(it, &lost)).collect())
            }
        }
    }

    /// A change by a statement alone is made once more if it fails, on another connection.
    fn unless_made_again(&self, wanted: &Wanted, lost: &Answer) -> Answer {
        match (wanted, self.connections) {
            (Wanted::Change(_) | Wanted::Alone(_), Connections::Own) => Answer::Alone,
            (Wanted::Change(_) | Wanted::Alone(_), Connections::Users) | (Wanted::Claim(_), _) => lost.clone(),
        }
    }

    /// Rolls back, and gives the connection back. Returns whether it could.
    async fn roll_back(&self, turn: &mut Turn) -> bool {
        let rolled_back = match self.connections {
            Connections::Own => sqlx::query("ROLLBACK").execute(&mut **turn).await.map(drop),
            Connections::Users => manager::rollback(turn).await,
        };
        if rolled_back.is_ok() {
            turn.connection.give_back();
        }
        rolled_back.is_ok()
    }
}

/// Makes a change as it is made alone, but for that it is tried once.
async fn change_in_place(turn: &mut Turn, change: &Change) -> Answer {
    match change.make(&mut turn.connection).await {
        Ok(rows) => {
            turn.connection.give_back();
            Answer::Changed(rows)
        }
        Err(error) if is_busy(&error) => {
            turn.connection.give_back();
            Answer::Busy
        }
        Err(_) => {
            turn.connection.close().await;
            Answer::Alone
        }
    }
}

/// Returns what became of a change, unless it is to be made alone.
fn changed(answer: Answer) -> Option<Result<u64, StoreError>> {
    match answer {
        Answer::Changed(rows) => Some(Ok(rows)),
        Answer::Failed(error) => Some(Err(error)),
        Answer::Alone | Answer::Busy | Answer::Claimed(_) => None,
    }
}

/// What was begun, and has no answer, may have been done.
fn answered(answer: Result<Answer, tokio::sync::oneshot::error::RecvError>) -> Result<Answer, StoreError> {
    answer.map_err(|_| StoreError::unavailable("the thread that was about to write is gone"))
}

/// When the thread ends, however it ends, what waits is not left to wait.
struct Ends(Arc<Gathered>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.has_thread.store(false, Ordering::SeqCst);
        self.0.leave_alone();
    }
}
