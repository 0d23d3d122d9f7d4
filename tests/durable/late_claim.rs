//! A claim that is asked for again and granted late, under a policy that knows the result: no work runs twice.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use oneflight::idempotency::{Idempotency, Origin, Recovery, Resolution};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::record::{FencingToken, HolderId};
use oneflight::store::{ClaimOutcome, ClaimRequest, MemoryStore, Store, StoreError, Takeover};

#[path = "../common/inner.rs"]
#[macro_use]
mod inner;

/// A store to which the second claim comes late, after a third one was asked for in its place; and in between, a holder
/// that was believed dead renews its lease, and lets it go again.
struct Late {
    inner: MemoryStore,
    dead: FencingToken,
    asked: AtomicU32,
    late: Mutex<Option<(HolderId, Takeover)>>,
}

const LEASE: Duration = Duration::from_millis(100);

impl Store for Late {
    async fn claim(&self, request: ClaimRequest) -> Result<ClaimOutcome, StoreError> {
        match self.asked.fetch_add(1, Ordering::SeqCst) + 1 {
            2 => {
                *self.late.lock().expect("nobody panicked") = Some((request.holder, request.takeover));
                Err(StoreError::unavailable("the connection broke"))
            }
            3 => {
                self.inner.renew(&request.id, self.dead, LEASE).await?;
                let answer = self.inner.claim(request.clone()).await;
                self.inner.end_lease(&request.id, self.dead, Duration::ZERO).await?;
                let (holder, takeover) = (self.late.lock().expect("nobody panicked").take()).expect("it came before");
                let late = ClaimRequest::new(&request.id, LEASE).holder(holder).takeover(takeover);
                assert!(matches!(self.inner.claim(late).await?, ClaimOutcome::Granted(_)));
                answer
            }
            _ => self.inner.claim(request).await,
        }
    }

    all_but_claim!();
}

/// The policy says that the work was done. Its claim, under which that is recorded, comes late and is granted; it must not
/// be taken for a claim to work under.
#[tokio::test]
async fn a_claim_for_a_known_result_that_comes_late_runs_no_work() -> Result<(), Box<dyn std::error::Error>> {
    let inner = MemoryStore::new();
    let id = RequestIdentity::new(Scope::new("tenant"), "key")?;
    let ClaimOutcome::Granted(dead) = inner.claim(ClaimRequest::new(&id, Duration::ZERO)).await? else {
        panic!("it is new");
    };
    let store = Late {
        inner,
        dead: dead.token(),
        asked: AtomicU32::new(0),
        late: Mutex::default(),
    };
    let idem = Idempotency::builder(store)
        .lease(LEASE)
        .recovery(Recovery::ask(|_| async {
            Resolution::completed("found out").unwrap_or(Resolution::Hold)
        }))
        .build();

    let reply = idem.run(id, |_| async { "done again".to_owned() }).await?;

    assert_eq!(reply.value(), "found out");
    assert_eq!(reply.origin(), Origin::Replayed);
    Ok(())
}
