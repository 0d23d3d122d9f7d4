//! A store in memory whose answers to chosen calls do not come, come late, are errors, or are panics.
#![allow(dead_code, reason = "each test uses its part")]

use std::collections::{HashMap, VecDeque};
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oneflight::identity::RequestIdentity;
use oneflight::record::{FencingToken, Record, RecordedResult};
use oneflight::store::{
    Claim, ClaimOutcome, ClaimRequest, Ending, MemoryStore, OpenTransaction, Store, StoreError, TransactionalStore,
    Watch,
};
use tokio::time::sleep;

/// What is asked of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    Claim,
    Renew,
    EndLease,
    Complete,
    Release,
    Load,
    Watch,
    Purge,
    /// A transaction, before its work.
    Begin,
    /// A transaction, after its work.
    End,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is wrong with it.
    None,
    /// Nothing is done, and there is no answer.
    Hangs,
    /// It is done, and there is no answer.
    DoneAndHangs,
    /// It is done this much later, also if it is not waited for any more.
    LandsAfter(Duration),
    /// It is done, and answered this much later.
    AnsweredAfter(Duration),
    /// Nothing is done.
    Panics,
    /// It is done.
    DoneAndPanics,
    /// Nothing is done.
    Fails,
    /// It is done, and the answer is lost.
    AnswerLost,
    /// It is done, and fewer replicas have it than are wanted.
    TooFewReplicas,
    /// Nothing is done: all connections of the pool are in use.
    NoConnection,
    /// Nothing is done: the lock is held by others.
    Busy,
}

#[derive(Default)]
struct Plan {
    next: HashMap<Op, VecDeque<Fault>>,
    always: HashMap<Op, Fault>,
    calls: HashMap<Op, usize>,
}

/// Clones share everything.
#[derive(Clone, Default)]
pub struct Scripted {
    pub inner: MemoryStore,
    plan: Arc<Mutex<Plan>>,
}

impl Scripted {
    pub fn new() -> Self {
        Self::default()
    }

    /// What becomes of the next calls of this kind.
    pub fn next(&self, op: Op, faults: &[Fault]) {
        let mut plan = self.plan.lock().unwrap();
        plan.next.entry(op).or_default().extend(faults);
    }

    /// What becomes of all calls of this kind for which nothing else was said.
    pub fn always(&self, op: Op, fault: Fault) {
        self.plan.lock().unwrap().always.insert(op, fault);
    }

    /// How many calls of this kind there were.
    pub fn calls(&self, op: Op) -> usize {
        self.plan.lock().unwrap().calls.get(&op).copied().unwrap_or(0)
    }

    fn fault(&self, op: Op) -> Fault {
        let mut plan = self.plan.lock().unwrap();
        *plan.calls.entry(op).or_default() += 1;
        let next = plan.next.get_mut(&op).and_then(VecDeque::pop_front);
        next.or_else(|| plan.always.get(&op).copied()).unwrap_or(Fault::None)
    }

    async fn act<T, A>(&self, op: Op, act: impl FnOnce(MemoryStore) -> A + Send) -> Result<T, StoreError>
    where
        T: Send + 'static,
        A: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let act = act(self.inner.clone());
        match self.fault(op) {
            Fault::None => act.await,
            Fault::Hangs => pending().await,
            Fault::DoneAndHangs => {
                let _ = act.await;
                pending().await
            }
            Fault::LandsAfter(late) => {
                let landing = tokio::spawn(async move {
                    sleep(late).await;
                    act.await
                });
                landing.await.unwrap()
            }
            Fault::AnsweredAfter(late) => {
                let answer = act.await;
                sleep(late).await;
                answer
            }
            Fault::Panics => panic!("the store has a bug"),
            Fault::DoneAndPanics => {
                let _ = act.await;
                panic!("the store has a bug")
            }
            Fault::Fails => Err(StoreError::unavailable("the network is down")),
            Fault::AnswerLost => {
                let _ = act.await;
                Err(StoreError::unavailable("connection reset"))
            }
            Fault::TooFewReplicas => {
                let _ = act.await;
                Err(StoreError::TooFewReplicas {
                    acknowledged: 0,
                    wanted: 1,
                    waited: Duration::ZERO,
                })
            }
            Fault::NoConnection => Err(StoreError::NoConnection),
            Fault::Busy => Err(StoreError::Busy { waited: Duration::ZERO }),
        }
    }
}

impl Store for Scripted {
    async fn claim(&self, request: ClaimRequest) -> Result<ClaimOutcome, StoreError> {
        let (id, holder, lease, takeover) = (request.id.clone(), request.holder, request.lease, request.takeover);
        self.act(Op::Claim, move |inner| async move {
            let request = ClaimRequest::new(&id, lease).holder(holder).takeover(takeover);
            inner.claim(request).await
        })
        .await
    }

    async fn renew(&self, id: &RequestIdentity, token: FencingToken, lease: Duration) -> Result<(), StoreError> {
        let id = id.clone();
        self.act(
            Op::Renew,
            move |inner| async move { inner.renew(&id, token, lease).await },
        )
        .await
    }

    async fn end_lease(&self, id: &RequestIdentity, token: FencingToken, left: Duration) -> Result<(), StoreError> {
        let id = id.clone();
        self.act(Op::EndLease, move |inner| async move {
            inner.end_lease(&id, token, left).await
        })
        .await
    }

    async fn complete(&self, claim: Claim, result: RecordedResult, retention: Duration) -> Result<(), StoreError> {
        self.act(Op::Complete, move |inner| async move {
            inner.complete(claim, result, retention).await
        })
        .await
    }

    async fn release(&self, claim: Claim) -> Result<(), StoreError> {
        self.act(Op::Release, move |inner| async move { inner.release(claim).await })
            .await
    }

    async fn load(&self, id: &RequestIdentity) -> Result<Option<Record>, StoreError> {
        let id = id.clone();
        self.act(Op::Load, move |inner| async move { inner.load(&id).await })
            .await
    }

    async fn purge(&self, limit: usize) -> Result<usize, StoreError> {
        self.act(Op::Purge, move |inner| async move { inner.purge(limit).await })
            .await
    }

    async fn watch(&self, id: &RequestIdentity) -> Watch {
        let id = id.clone();
        self.act(Op::Watch, move |inner| async move { Ok(inner.watch(&id).await) })
            .await
            .unwrap_or_else(|_| Watch::none())
    }
}

/// Its transactions are claims that are completed or released at their end. They have no rows.
impl TransactionalStore for Scripted {
    type Connection = ();
    type Names = ();

    async fn transact<W, F, R>(&self, request: ClaimRequest, work: W) -> Result<ClaimOutcome<R>, StoreError>
    where
        W: FnOnce(OpenTransaction<(), ()>) -> F + Send + 'static,
        F: Future<Output = (Ending, R)> + Send + 'static,
        R: Send + 'static,
    {
        self.act(Op::Begin, |_| async { Ok(()) }).await?;
        let claim = match self.inner.claim(request).await? {
            ClaimOutcome::Granted(claim) => claim,
            ClaimOutcome::Denied(denied) => return Ok(ClaimOutcome::Denied(denied)),
        };
        let (open, loan) = OpenTransaction::lend(Box::new(()), (), claim.attempt());
        let (ending, value) = work(open).await;
        if loan.take_back().is_err() {
            self.inner.release(claim).await?;
            return Err(StoreError::TransactionEscaped);
        }
        self.act(Op::End, move |inner| async move {
            match ending {
                Ending::Commit { result, retention } | Ending::Decline { result, retention } => {
                    inner.complete(claim, result, retention).await
                }
                _ => inner.release(claim).await,
            }
        })
        .await?;
        Ok(ClaimOutcome::Granted(value))
    }
}
