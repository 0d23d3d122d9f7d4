//! Promises 10, 13 and 14, at the edges of a lease: work begins only while its lease runs, a holder that is alive keeps
//! it, and what was claimed or settled without our hearing of it is seen to.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use oneflight::idempotency::{Context, Effect, ErrorKind, Idempotency, NotDone, Origin, Recovery, Reply, Resolution};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::record::{FencingToken, Record, RecordedResult};
use oneflight::store::{Claim, ClaimOutcome, ClaimRequest, MemoryStore, Store, StoreError};
use tokio::time::sleep;

use super::paused;

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

/// A memory store whose answers come late, or get lost.
#[derive(Clone)]
struct Faulty {
    store: MemoryStore,
    /// How long the answer to the next claim is under way.
    claim_takes: Arc<AtomicU32>,
    /// How many of the next answers to claims, and to completions, are lost after they were done.
    claims_lost: Arc<AtomicU32>,
    completions_lost: Arc<AtomicU32>,
    /// Whether the next record that is read has a successor by the time it is acted upon.
    succeeds: Arc<AtomicU32>,
}

fn take(from: &AtomicU32) -> bool {
    from.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
        .is_ok()
}

impl Faulty {
    fn new() -> Self {
        Self::around(MemoryStore::new())
    }

    fn around(store: MemoryStore) -> Self {
        Self {
            store,
            claim_takes: Arc::default(),
            claims_lost: Arc::default(),
            completions_lost: Arc::default(),
            succeeds: Arc::default(),
        }
    }
}

impl Store for Faulty {
    async fn claim(&self, request: ClaimRequest) -> Result<ClaimOutcome, StoreError> {
        let outcome = self.store.claim(request).await;
        let millis = self.claim_takes.swap(0, Ordering::SeqCst);
        if millis > 0 {
            sleep(Duration::from_millis(millis.into())).await;
        }
        if take(&self.claims_lost) {
            return Err(StoreError::unavailable("connection reset"));
        }
        outcome
    }
    async fn renew(&self, id: &RequestIdentity, token: FencingToken, lease: Duration) -> Result<(), StoreError> {
        self.store.renew(id, token, lease).await
    }
    async fn end_lease(&self, id: &RequestIdentity, token: FencingToken, left: Duration) -> Result<(), StoreError> {
        self.store.end_lease(id, token, left).await
    }
    async fn complete(&self, claim: Claim, result: RecordedResult, retention: Duration) -> Result<(), StoreError> {
        let completed = self.store.complete(claim, result, retention).await;
        if take(&self.completions_lost) {
            return Err(StoreError::unavailable("connection reset"));
        }
        completed
    }
    async fn release(&self, claim: Claim) -> Result<(), StoreError> {
        self.store.release(claim).await
    }
    async fn load(&self, id: &RequestIdentity) -> Result<Option<Record>, StoreError> {
        let record = self.store.load(id).await;
        if take(&self.succeeds) {
            // Another heir takes over, and dies.
            let heir = ClaimRequest::new(id, Duration::ZERO).takeover(oneflight::store::Takeover::Expired);
            assert!(matches!(self.store.claim(heir).await, Ok(ClaimOutcome::Granted(_))));
        }
        record
    }
    async fn purge(&self, limit: usize) -> Result<usize, StoreError> {
        self.store.purge(limit).await
    }
}

/// A holder that claims, and is heard of no more.
async fn die(store: &impl Store, key: &str) {
    let request = id(key);
    let claimed = store.claim(ClaimRequest::new(&request, Duration::ZERO)).await;
    assert!(matches!(claimed, Ok(ClaimOutcome::Granted(_))));
}

/// Two children of one process, forked at the same moment, draw different numbers.
#[cfg(unix)]
#[test]
#[allow(unsafe_code)]
fn processes_that_are_copies_of_each_other_are_different_holders() {
    use std::io::Write;
    use std::os::fd::FromRawFd;
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    use oneflight::record::HolderId;

    let _ = HolderId::random();
    let child = || {
        let mut command = Command::new("true");
        command.stdout(Stdio::piped());
        let draw = || {
            let holder = HolderId::random();
            // SAFETY: it is this process's standard output, and is not closed.
            let stdout = unsafe { std::fs::File::from_raw_fd(1) };
            let mut stdout = std::mem::ManuallyDrop::new(stdout);
            stdout.write_all(holder.as_bytes())
        };
        // SAFETY: between fork and exec, `draw` allocates nothing and takes no lock.
        let output = unsafe { command.pre_exec(draw) }.output().unwrap();
        assert_eq!(output.stdout.len(), 16);
        output.stdout
    };
    assert_ne!(child(), child());
}

#[tokio::test(start_paused = true)]
async fn work_whose_claim_was_long_under_way_begins_with_a_lease_that_runs() {
    let store = Faulty::around(paused::store());
    let lease = Duration::from_millis(200);
    store.claim_takes.store(400, Ordering::SeqCst);
    let late = Idempotency::builder(store.clone()).lease(lease).build();
    let executions = Arc::new(AtomicU32::new(0));
    let work = |executions: &Arc<AtomicU32>| {
        let executions = Arc::clone(executions);
        move |_: Context| async move {
            executions.fetch_add(1, Ordering::SeqCst);
            sleep(Duration::from_millis(250)).await;
        }
    };
    let first = tokio::spawn({
        let work = work(&executions);
        async move { late.run(id("late"), work).await }
    });
    // Granted, and its lease over before the answer arrives: the heir begins, and the late one must not.
    sleep(Duration::from_millis(250)).await;
    let heir = Idempotency::builder(store.clone()).recovery(Recovery::Rerun).build();
    let reply = heir.run(id("late"), work(&executions)).await.unwrap();
    assert_eq!(reply.attempt(), 2);
    let reply = first.await.unwrap().unwrap();
    assert_eq!(
        (reply.origin(), executions.load(Ordering::SeqCst)),
        (Origin::Replayed, 1)
    );

    // With no holder to take over, the lease is renewed before the work begins.
    store.claim_takes.store(250, Ordering::SeqCst);
    let late = Idempotency::builder(store.clone()).lease(lease).build();
    let seen = store.clone();
    let reply = late
        .run(id("alone"), move |_| async move {
            seen.load(&id("alone"))
                .await
                .unwrap()
                .unwrap()
                .lease_remaining()
                .unwrap()
                > Duration::ZERO
        })
        .await
        .unwrap();
    assert!(*reply, "the work began without a lease");
}

#[tokio::test]
async fn a_claim_whose_answers_were_all_lost_is_given_back() {
    let store = Faulty::new();
    store.claims_lost.store(3, Ordering::SeqCst);
    let idem = Idempotency::builder(store.clone()).build();
    let error = idem.run(id("lost"), |_| async { 1 }).await.unwrap_err();
    assert_eq!(error.effect(), Effect::Nothing, "{error:?}");
    let reply = idem
        .run(id("lost"), |context: Context| async move { context.attempt() })
        .await
        .unwrap();
    assert_eq!((*reply, reply.origin()), (1, Origin::Executed));
}

#[tokio::test]
async fn an_answer_of_the_policy_survives_a_lost_acknowledgement() {
    let store = Faulty::new();
    die(&store, "ack").await;
    store.completions_lost.store(1, Ordering::SeqCst);
    let recovery = Recovery::ask(|_| async { Resolution::completed("found").unwrap() });
    let idem = Idempotency::builder(store.clone()).recovery(recovery).build();
    let reply: Reply<String> = idem.run(id("ack"), |_| async { String::new() }).await.unwrap();
    assert_eq!((reply.as_str(), reply.origin()), ("found", Origin::Replayed));

    die(&store, "resolved").await;
    store.completions_lost.store(1, Ordering::SeqCst);
    idem.resolve(&id("resolved"), Resolution::completed("found").unwrap())
        .await
        .unwrap();
    let reply = idem.run(id("resolved"), |_| async { String::new() }).await.unwrap();
    assert_eq!(*reply, "found");
}

#[tokio::test]
async fn a_decision_about_one_holder_is_none_about_the_next() {
    let store = Faulty::new();
    die(&store, "decided").await;
    let idem = Idempotency::builder(store.clone()).build();
    store.succeeds.store(1, Ordering::SeqCst);
    let error = idem.resolve(&id("decided"), Resolution::Rerun).await.unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::InDoubt { attempt: 2, .. }),
        "{error:?}"
    );
    assert!(idem.status(&id("decided")).await.unwrap().is_some());
}

#[tokio::test]
async fn that_the_second_attempt_did_nothing_says_nothing_of_the_first() {
    let store = MemoryStore::new();
    die(&store, "first").await;
    let bold = Idempotency::builder(store.clone()).recovery(Recovery::Rerun).build();
    let error = bold
        .try_run(id("first"), |_| async {
            Err::<u32, _>(NotDone::because("busy").into())
        })
        .await
        .unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::NotDone(_)), "{error:?}");
    let careful = Idempotency::builder(store).build();
    let error = careful.run(id("first"), |_| async { 1 }).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InDoubt { .. }), "{error:?}");
    assert_eq!(
        *bold
            .run(id("first"), |context: Context| async move { context.attempt() })
            .await
            .unwrap(),
        3
    );
}
