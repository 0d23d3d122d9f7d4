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
pub struct Bell(Arc<watch::Sender<()>>);

/// Waits for a [`Bell`].
pub struct Listener(watch::Receiver<()>);

impl Bell {
    /// Makes a bell.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(())))
    }

    /// Wakes every listener.
    pub fn ring(&self) {
        self.0.send_replace(());
    }

    /// Returns a listener that hears every ring from now on.
    #[must_use]
    pub fn listen(&self) -> Listener {
        Listener(self.0.subscribe())
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
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
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
