//! How a relay learns, in the process that committed, that there is something to deliver.
//!
//! A bell may ring for nothing, and rings while no relay listens are kept: a relay that begins to wait after a ring is
//! told at once.

use std::fmt;
use std::sync::{Arc, OnceLock};

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
    all: watch::Sender<Special>,
    /// Those of this process alone.
    own: watch::Sender<Special>,
}

/// How often it rang for something else than a commit that is over.
#[derive(Clone, Copy, Default)]
struct Special {
    /// The commit may still be under way.
    early: u64,
    /// A topic was paused or resumed.
    topics: u64,
}

/// Waits for a [`Bell`].
pub struct Listener {
    rings: watch::Receiver<Special>,
    heard: Special,
}

/// Rings a bell at the end of an operation, and early if it is dropped before that.
pub(crate) struct AtEnd {
    bell: Arc<OnceLock<Bell>>,
    is_over: bool,
}

impl Bell {
    /// Makes a bell.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Rings {
            all: watch::Sender::new(Special::default()),
            own: watch::Sender::new(Special::default()),
        }))
    }

    /// Wakes every listener.
    pub fn ring(&self) {
        self.0.all.send_modify(|_| {});
        self.0.own.send_modify(|_| {});
    }

    /// Wakes every listener although the commit may still be under way: a relay that finds nothing looks again soon.
    pub(crate) fn ring_early(&self) {
        self.0.all.send_modify(|rang| rang.early += 1);
        self.0.own.send_modify(|rang| rang.early += 1);
    }

    /// Wakes every listener, and has each relay ask at once which topics are paused.
    pub(crate) fn ring_for_topics(&self) {
        self.0.all.send_modify(|rang| rang.topics += 1);
        self.0.own.send_modify(|rang| rang.topics += 1);
    }

    /// Wakes every listener, but for those to what this process has committed: a store has heard of another process.
    pub fn echo(&self) {
        self.0.all.send_modify(|_| {});
    }

    /// Returns a listener that hears every ring from now on.
    #[must_use]
    pub fn listen(&self) -> Listener {
        Listener::to(&self.0.all)
    }

    /// Returns a listener that hears every ring, but no [echo](Self::echo): for a store that tells other processes.
    #[must_use]
    pub fn listen_to_own(&self) -> Listener {
        Listener::to(&self.0.own)
    }
}

impl Default for Bell {
    fn default() -> Self {
        Self::new()
    }
}

impl Listener {
    fn to(rings: &watch::Sender<Special>) -> Self {
        let rings = rings.subscribe();
        let heard = *rings.borrow();
        Self { rings, heard }
    }

    /// Returns whether one of the rings that it was told of since the last call was early.
    pub(crate) fn heard_early(&mut self) -> bool {
        let early = self.rings.borrow().early;
        std::mem::replace(&mut self.heard.early, early) != early
    }

    /// Returns whether a topic was paused or resumed since the last call.
    pub(crate) fn heard_topics(&mut self) -> bool {
        let topics = self.rings.borrow().topics;
        std::mem::replace(&mut self.heard.topics, topics) != topics
    }

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
        self.rings.changed().await.is_ok()
    }
}

impl AtEnd {
    /// Of an operation on the store that has this bell.
    pub(crate) fn of(bell: &Bell) -> Self {
        Self::once_known(Arc::new(OnceLock::from(bell.clone())))
    }

    /// Of a transaction, whose bell is known once its work has sent.
    pub(crate) fn once_known(bell: Arc<OnceLock<Bell>>) -> Self {
        let is_over = false;
        Self { bell, is_over }
    }

    /// The operation is over, and has landed or not: nothing of it lands later. Rings.
    pub(crate) fn over(mut self) {
        self.is_over = true;
    }
}

/// Left in the middle, or without an answer: it may land all the same, now or later.
impl Drop for AtEnd {
    fn drop(&mut self) {
        match self.bell.get() {
            Some(bell) if self.is_over => bell.ring(),
            Some(bell) => bell.ring_early(),
            None => {}
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_left_in_the_middle_rings_early_and_what_is_over_does_not() {
        let bell = Bell::new();
        let mut listener = bell.listen();
        AtEnd::of(&bell).over();
        listener.rung().await;
        assert!(!listener.heard_early());
        drop(AtEnd::of(&bell));
        listener.rung().await;
        assert!(listener.heard_early());
        assert!(!listener.heard_early(), "it was told twice");
        // Of work that has sent nothing.
        drop(AtEnd::once_known(Arc::default()));
        assert!(!listener.rings.has_changed().unwrap());
    }
}
