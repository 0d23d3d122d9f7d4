//! What is known of a lease, for the work to look at.

use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::timer::until;

#[derive(Clone, Copy, Debug)]
pub(super) enum Standing {
    /// It was renewed, at the latest, by a question that was asked then.
    Renewed(Instant),
    Lost,
    /// The execution is over. There is nothing left to lose.
    Over,
}

/// Longer than any wait.
pub(super) const LONG: Duration = Duration::from_secs(1_000_000_000);

/// What the work may know of its lease. Clones show the same.
#[derive(Clone)]
pub(in crate::idempotency) struct View(Arc<Shown>);

struct Shown {
    lease: Duration,
    standing: Mutex<Standing>,
    /// Wakes those that wait for the loss.
    changed: Notify,
}

impl View {
    /// A lease that is so long, and runs since then.
    pub(super) fn new(lease: Duration, since: Instant) -> Self {
        Self(Arc::new(Shown {
            lease,
            standing: Mutex::new(Standing::Renewed(since)),
            changed: Notify::new(),
        }))
    }

    pub(super) fn standing(&self) -> Standing {
        *self.0.standing.lock()
    }

    pub(in crate::idempotency) fn is_lost(&self) -> bool {
        self.0.is_lost(self.standing())
    }

    /// Waits until the lease is lost. Waits forever if it never is.
    pub(in crate::idempotency) async fn lost(&self) {
        loop {
            let mut changed = pin!(self.0.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            let ends = match self.standing() {
                now if self.0.is_lost(now) => return,
                Standing::Renewed(then) => then + self.0.lease.min(LONG),
                Standing::Lost | Standing::Over => return pending().await,
            };
            let _ = until(ends, changed).await;
        }
    }

    /// It was renewed by a question that was asked then.
    pub(super) fn renewed(&self, asked: Instant) {
        let was_lost = match &mut *self.0.standing.lock() {
            Standing::Renewed(then) => {
                let was_lost = then.elapsed() >= self.0.lease;
                *then = asked.max(*then);
                was_lost
            }
            Standing::Lost | Standing::Over => false,
        };
        // The others look when the time is over that they know of.
        if was_lost {
            self.0.changed.notify_waiters();
        }
    }

    /// It is lost for good.
    pub(super) fn lose(&self) {
        *self.0.standing.lock() = Standing::Lost;
        self.0.changed.notify_waiters();
    }

    /// The execution is over. What was lost by then stays lost.
    pub(super) fn end(&self) {
        {
            let mut standing = self.0.standing.lock();
            *standing = match self.0.is_lost(*standing) {
                true => Standing::Lost,
                false => Standing::Over,
            };
        }
        self.0.changed.notify_waiters();
    }
}

impl Shown {
    fn is_lost(&self, standing: Standing) -> bool {
        match standing {
            Standing::Renewed(then) => then.elapsed() >= self.lease,
            Standing::Lost => true,
            Standing::Over => false,
        }
    }
}
