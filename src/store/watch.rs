//! Waiting for a record to change without asking the store over and over.
//!
//! ```text
//! subscribe ──▶ look at the record ──▶ changed().await ──▶ look again ──▶ ...
//!     └── from here on, no notification is lost, however late `changed` is called
//! ```
//!
//! A [`Watch`] is one caller's subscription. [`Watchers`] is the registry behind it: one place for all stores, which
//! tell it what they hear (their own changes, LISTEN/NOTIFY, pub/sub) and never learn who listens. What is told is
//! "look again", not what has changed: a notification too many does no harm, so identities are known by a digest. If
//! the source of a store falls silent, its registry is closed: every watch ends, and whoever waits polls until it is
//! open again.

use std::any::Any;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::future::pending;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

/// One caller's subscription to changes of one record. Made by [`Store::watch`](super::Store::watch).
///
/// It exists before its holder looks at the record; so what changes between that look and [`changed`](Self::changed) is
/// not missed.
///
/// A store of your own makes one from a receiver that hears of each change:
///
/// ```
/// # #[tokio::main] async fn main() {
/// use oneflight::store::Watch;
///
/// let (changes, hears) = tokio::sync::watch::channel(());
/// let mut watch = Watch::new(hears);
/// changes.send_replace(());
/// watch.changed().await; // at once: it has changed since the watch was made
///
/// drop(changes); // The source falls silent: the watch is none from now on.
/// watch.changed().await;
/// assert!(watch.is_none());
/// # }
/// ```
#[must_use = "a watch that is dropped hears nothing"]
pub struct Watch {
    changes: Option<watch::Receiver<()>>,
    /// What is given up when this is dropped; before the place, so that no one else's is asked for first.
    _held: Option<Box<dyn Any + Send + Sync>>,
    /// Leaves the registry then; after the receiver, which is counted there.
    _place: Option<Place>,
}

impl Watch {
    /// No subscription: whoever waits has to poll.
    pub fn none() -> Self {
        Self {
            changes: None,
            _place: None,
            _held: None,
        }
    }

    /// A subscription to whatever is sent from now on. When the sender is gone, the watch is [none](Self::is_none).
    pub fn new(changes: watch::Receiver<()>) -> Self {
        Self {
            changes: Some(changes),
            _place: None,
            _held: None,
        }
    }

    /// The same watch, with something that is dropped when it is.
    pub fn holding(mut self, held: impl Any + Send + Sync) -> Self {
        self._held = Some(Box::new(held));
        self
    }

    /// Whether nothing is ever heard here: whoever waits has to poll.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.changes.is_none()
    }

    /// Waits until the record may have changed since this was made or last answered, or the source has fallen silent.
    /// For ever, if this [is none](Self::is_none).
    ///
    /// # Cancel safety
    ///
    /// May be dropped and called again: nothing is missed.
    pub async fn changed(&mut self) {
        match &mut self.changes {
            None => pending().await,
            Some(changes) => {
                if changes.changed().await.is_err() {
                    self.changes = None;
                }
            }
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("is_none", &self.is_none()).finish()
    }
}

/// Who waits for what in this process. Clones share it.
#[derive(Clone)]
pub struct Watchers(Arc<Mutex<Registry>>);

struct Registry {
    open: bool,
    most_keys: usize,
    by_key: HashMap<u64, watch::Sender<()>>,
}

impl Watchers {
    /// An open registry for at most so many keys at a time. Any number of callers may watch one key.
    pub fn new(most_keys: usize) -> Self {
        Self(Arc::new(Mutex::new(Registry {
            open: true,
            most_keys,
            by_key: HashMap::new(),
        })))
    }

    /// Subscribes to a key; to nothing if the registry is full or closed.
    pub fn watch(&self, key: u64) -> Watch {
        let mut registry = self.0.lock();
        if !registry.open {
            return Watch::none();
        }
        let full = registry.by_key.len() >= registry.most_keys;
        let changes = match registry.by_key.entry(key) {
            Entry::Occupied(there) => Some(there.get().subscribe()),
            Entry::Vacant(_) if full => None,
            Entry::Vacant(place) => Some(place.insert(watch::Sender::new(())).subscribe()),
        };
        drop(registry);
        let place = changes.is_some().then(|| Place {
            registry: Arc::clone(&self.0),
            key,
        });
        Watch {
            changes,
            _place: place,
            _held: None,
        }
    }

    /// Tells everyone who watches this key to look again.
    pub fn notify(&self, key: u64) {
        if let Some(changes) = self.0.lock().by_key.get(&key) {
            changes.send_replace(());
        }
    }

    /// From now on, begins watches of no more keys than this at a time.
    pub fn bound(&self, most_keys: usize) {
        self.0.lock().most_keys = most_keys;
    }

    /// The source has fallen silent: ends all watches, and begins no new ones.
    pub fn close(&self) {
        let ended = {
            let mut registry = self.0.lock();
            registry.open = false;
            std::mem::take(&mut registry.by_key)
        };
        // Wakes, so not under the lock.
        drop(ended);
    }

    /// The source is heard (again).
    pub fn open(&self) {
        self.0.lock().open = true;
    }
}

impl fmt::Debug for Watchers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watchers")
            .field("keys", &self.0.lock().by_key.len())
            .finish_non_exhaustive()
    }
}

/// A caller's place in the registry.
struct Place {
    registry: Arc<Mutex<Registry>>,
    key: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut registry = self.registry.lock();
        let unwatched = registry
            .by_key
            .get(&self.key)
            .is_some_and(|changes| changes.receiver_count() == 0);
        if unwatched {
            registry.by_key.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_missed_between_the_subscription_and_the_wait() {
        let watchers = Watchers::new(8);
        let mut watch = watchers.watch(1);
        watchers.notify(1);
        watchers.notify(2);
        watch.changed().await;
        let mut again = Box::pin(watch.changed());
        assert!(futures::poll!(&mut again).is_pending());
        watchers.notify(1);
        again.await;
    }

    #[tokio::test]
    async fn over_its_bound_the_registry_watches_no_more_keys() {
        let watchers = Watchers::new(1);
        let first = watchers.watch(1);
        assert!(!first.is_none());
        assert!(!watchers.watch(1).is_none());
        assert!(watchers.watch(2).is_none());
        drop(first);
        assert!(!watchers.watch(2).is_none());
        assert!(format!("{watchers:?}").contains("keys: 0"));
    }

    #[tokio::test]
    async fn when_the_source_falls_silent_every_watch_ends() {
        let watchers = Watchers::new(8);
        let mut watch = watchers.watch(1);
        watchers.close();
        watch.changed().await;
        assert!(watch.is_none());
        assert!(watchers.watch(1).is_none());
        watchers.open();
        // The old watch leaves a place that is another's by now.
        let mut new = watchers.watch(1);
        drop(watch);
        watchers.notify(1);
        new.changed().await;
        assert!(!new.is_none());
    }
}
