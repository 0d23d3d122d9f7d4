//! Keeping a claim alive while the work runs.
//!
//! ```text
//! renewing ──every lease/3──▶ renewing
//!    │  └──store unreachable──▶ renewing, more often; presumed lost when a lease has passed
//!    ├──another holder took over──▶ lost, for good
//!    ├──work over, claim about to end──▶ renewing, silently: now it is we who end it
//!    └──execution over, or dropped──▶ ended
//! ```
//!
//! A task of its own renews, not the work's: work that is not polled for a while must not lose its claim.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::Shared;
use crate::identity::RequestId;
use crate::record::FencingToken;
use crate::store::{Store, StoreError};
use crate::telemetry;

/// A claim that is renewed until this is dropped.
pub(super) struct Lease {
    task: JoinHandle<()>,
    signals: Arc<Signals>,
    lost: watch::Receiver<bool>,
}

#[derive(Default)]
struct Signals {
    stop: Notify,
    /// The claim is being completed: that it is gone is no loss.
    concluding: AtomicBool,
}

impl Lease {
    /// Begins to renew, on the runtime that polls the caller. The lease runs since the instant given.
    pub(super) fn keep<S: Store>(
        shared: &Arc<Shared<S>>,
        runtime: &Handle,
        id: RequestId,
        token: FencingToken,
        since: Instant,
    ) -> Self {
        let (losing, lost) = watch::channel(false);
        let signals = Arc::new(Signals::default());
        let renewals = renew(Arc::clone(shared), id, token, since, losing, Arc::clone(&signals));
        Self {
            task: runtime.spawn(telemetry::in_current_span(renewals)),
            signals,
            lost,
        }
    }

    /// Tells when the claim is lost.
    pub(super) fn lost(&self) -> watch::Receiver<bool> {
        self.lost.clone()
    }

    /// From now on it is no news if the claim is gone.
    pub(super) fn concluding(&self) {
        self.signals.concluding.store(true, Ordering::SeqCst);
    }

    /// Stops renewing, and waits until a renewal that is under way is over: what is done to the lease from
    /// now on is not undone by it.
    pub(super) async fn stop(mut self, patience: Duration) {
        self.concluding();
        self.signals.stop.notify_one();
        let _ = timeout(patience, &mut self.task).await;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn renew<S: Store>(
    shared: Arc<Shared<S>>,
    id: RequestId,
    token: FencingToken,
    since: Instant,
    losing: watch::Sender<bool>,
    signals: Arc<Signals>,
) {
    let lease = shared.lease;
    let mut renewed = since;
    let mut pause = (lease / 3).saturating_sub(since.elapsed());
    loop {
        if timeout(pause, signals.stop.notified()).await.is_ok() {
            return;
        }
        let asked = Instant::now();
        // An answer that takes longer than this is one that came too late to be of use.
        match timeout(lease, shared.store.renew(&id, token, lease)).await {
            Ok(Ok(())) => {
                renewed = asked;
                pause = lease / 3;
                losing.send_if_modified(std::mem::take);
            }
            Ok(Err(StoreError::Outdated { .. })) => {
                if !signals.concluding.load(Ordering::SeqCst) {
                    telemetry::lease_lost(&id, token.get());
                }
                losing.send_replace(true);
                return;
            }
            Ok(Err(_)) | Err(_) => {
                pause = lease / 10;
                if renewed.elapsed() >= lease {
                    losing.send_replace(true);
                }
            }
        }
    }
}
