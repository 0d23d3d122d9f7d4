//! Keeping a claim alive while the work runs.
//!
//! ```text
//! renewing ──every lease/3──▶ renewing
//!    │  └──store unreachable──▶ renewing, more often; presumed lost when a lease has passed
//!    ├──another holder took over──▶ lost, for good
//!    └──execution over, or dropped──▶ ended
//! ```
//!
//! A task of its own renews, not the work's: work that is not polled for a while must not lose its claim.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::Shared;
use crate::identity::RequestId;
use crate::record::FencingToken;
use crate::store::{Store, StoreError};

/// A claim that is renewed until this is dropped.
pub(super) struct Lease {
    task: JoinHandle<()>,
    stop: Arc<Notify>,
    lost: watch::Receiver<bool>,
}

impl Lease {
    /// Begins to renew, on the runtime that polls the caller.
    pub(super) fn keep<S: Store>(
        shared: &Arc<Shared<S>>,
        runtime: &Handle,
        id: RequestId,
        token: FencingToken,
    ) -> Self {
        let (losing, lost) = watch::channel(false);
        let stop = Arc::new(Notify::new());
        let renewals = renew(Arc::clone(shared), id, token, losing, Arc::clone(&stop));
        Self {
            task: runtime.spawn(renewals),
            stop,
            lost,
        }
    }

    /// Tells when the claim is lost.
    pub(super) fn lost(&self) -> watch::Receiver<bool> {
        self.lost.clone()
    }

    /// Stops renewing, and waits until a renewal that is under way is over: what is done to the lease from
    /// now on is not undone by it.
    pub(super) async fn stop(mut self, patience: Duration) {
        self.stop.notify_one();
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
    losing: watch::Sender<bool>,
    stop: Arc<Notify>,
) {
    let lease = shared.lease;
    let mut renewed = Instant::now();
    let mut pause = lease / 3;
    loop {
        if timeout(pause, stop.notified()).await.is_ok() {
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
                crate::telemetry::lease_lost(&id, token.get());
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
