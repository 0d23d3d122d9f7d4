//! How a relay learns, in the process that committed, that there is something to deliver.
//!
//! A bell may ring for nothing, and rings while no relay listens are kept: a relay that begins to wait after a ring is
//! told at once.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

/// Rings when a transaction with messages was committed in this process. Clones are the same bell.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use oneflight::store::outbox::Bell;
///
/// let bell = Bell::new();
/// let mut listener = bell.listen();
/// bell.ring();
/// listener.rung().await;
/// # }
/// ```
#[derive(Clone)]
pub struct Bell(Arc<Rings>);

struct Rings {
    all: watch::Sender<()>,
    /// Those of this process alone.
    own: watch::Sender<()>,
}

/// Waits for a [`Bell`].
pub struct Listener(watch::Receiver<()>);

impl Bell {
    /// Makes a bell.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Rings {
            all: watch::Sender::new(()),
            own: watch::Sender::new(()),
        }))
    }

    /// Wakes every listener.
    pub fn ring(&self) {
        self.0.all.send_replace(());
        self.0.own.send_replace(());
    }

    /// Wakes every listener, but for those to what this process has committed: a store has heard of another process.
    pub fn echo(&self) {
        self.0.all.send_replace(());
    }

    /// Returns a listener that hears every ring from now on.
    #[must_use]
    pub fn listen(&self) -> Listener {
        Listener(self.0.all.subscribe())
    }

    /// Returns a listener that hears every ring, but no [echo](Self::echo): for a store that tells other processes.
    #[must_use]
    pub fn listen_to_own(&self) -> Listener {
        Listener(self.0.own.subscribe())
    }
}

impl Default for Bell {
    fn default() -> Self {
        Self::new()
    }
}

impl Listener {
    /// Waits for a ring that this listener was not told of yet. Waits forever once the bell is gone.
    ///
    /// # Cancel safety
    ///
    /// A ring is not lost if the future is dropped.
    pub async fn rung(&mut self) {
        if !self.rung_or_gone().await {
            std::future::pending().await
        }
    }

    /// Waits for a ring that this listener was not told of yet. Returns `false` once the bell is gone.
    ///
    /// # Cancel safety
    ///
    /// A ring is not lost if the future is dropped.
    pub async fn rung_or_gone(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bell").finish_non_exhaustive()
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").finish_non_exhaustive()
    }
}
