//! Waiting for a record to change without asking the store over and over.
//!
//! ```text
//! subscribe ──▶ look at the record ──▶ changed().await ──▶ look again ──▶ ...
//!     └── from here on, no notification is lost, however late `changed` is called
//! ```
//!
//! A [`Watch`] is one caller's subscription. [`Watchers`] is the registry behind it: one place for all stores, which
//! tell it what they hear (their own changes, LISTEN/NOTIFY, pub/sub) and never learn which callers listen. A
//! notification says "look again", not what has changed, and one too many does no harm; so identities are known by a
//! digest. If the source of a store falls silent, its registry is closed: every watch ends, and callers that wait poll
//! until it is open again.

use std::any::Any;
use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use dashmap::{DashMap, Entry};
use tokio::sync::watch;

/// One caller's subscription to changes of one record. Made by [`Store::watch`](super::Store::watch).
///
/// It exists before its caller looks at the record, so a change between that look and [`changed`](Self::changed) is not
/// missed.
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
    /// Released when this is dropped; before the place, so that it is gone before another watch asks for the same.
    held: Vec<Box<dyn Any + Send + Sync>>,
    /// Leaves the registry when dropped; after the receiver, which is counted there.
    _place: Option<Place>,
}

impl Watch {
    /// Returns no subscription: a caller that waits has to poll.
    pub fn none() -> Self {
        Self {
            changes: None,
            _place: None,
            held: Vec::new(),
        }
    }

    /// Subscribes to what is sent from now on. When the sender is gone, the watch [is none](Self::is_none).
    pub fn new(changes: watch::Receiver<()>) -> Self {
        Self {
            changes: Some(changes),
            _place: None,
            held: Vec::new(),
        }
    }

    /// Keeps a value for as long as the watch lives, such as a subscription at the server that ends when the value is
    /// dropped. What was kept before is kept as well.
    pub fn holding(mut self, held: impl Any + Send + Sync) -> Self {
        self.held.push(Box::new(held));
        self
    }

    /// Returns whether no change is ever heard here, so that a caller that waits has to poll.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.changes.is_none()
    }

    /// Waits until the record may have changed since this was made or last returned, or until the source has fallen
    /// silent. Waits forever if this [is none](Self::is_none).
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped, and this be called again: nothing is missed.
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

/// The watches of this process: the registry behind [`Store::watch`](super::Store::watch). Clones share it.
///
/// A store makes one, subscribes callers to it, and notifies it of each change that it hears of: its own, and those
/// that its server notifies it of. A record is known by a number, such as a digest of its identity. If two records have
/// one number, a change of one has the other looked at again, which does no harm.
///
/// ```
/// # #[tokio::main] async fn main() {
/// use oneflight::store::Watchers;
///
/// let watchers = Watchers::new(10_000);
/// let mut watch = watchers.watch(7);
/// watchers.notify(7);
/// watch.changed().await;
///
/// // The connection that is listened to is lost: callers poll, until it is there again.
/// watchers.close();
/// watch.changed().await;
/// assert!(watch.is_none() && watchers.watch(7).is_none());
/// watchers.open();
/// assert!(!watchers.watch(7).is_none());
/// # }
/// ```
// A concurrent map, so that what happens to one key holds up no other. No lock is held while a task is woken: a sender
// is used, and dropped, as a copy outside.
#[derive(Clone)]
pub struct Watchers(Arc<Registry>);

struct Registry {
    /// Read within an entry. Closing changes this first and goes through the map then, so no watch outlives it.
    open: AtomicBool,
    most_keys: AtomicUsize,
    /// The keys in the map, counted before they are there and after they have gone.
    keys: AtomicUsize,
    by_key: DashMap<u64, watch::Sender<()>>,
}

impl Watchers {
    /// Makes an open registry. `most_keys` limits the number of keys that are watched at a time; any number of callers
    /// may watch one key.
    #[must_use]
    pub fn new(most_keys: usize) -> Self {
        Self(Arc::new(Registry {
            open: AtomicBool::new(true),
            most_keys: AtomicUsize::new(most_keys),
            keys: AtomicUsize::new(0),
            by_key: DashMap::new(),
        }))
    }

    /// Subscribes to a key. The watch [is none](Watch::is_none) if the registry is full or closed.
    pub fn watch(&self, key: u64) -> Watch {
        match self.0.subscribe(key) {
            Some(changes) => Watch {
                changes: Some(changes),
                _place: Some(Place {
                    registry: Arc::clone(&self.0),
                    key,
                }),
                held: Vec::new(),
            },
            None => Watch::none(),
        }
    }

    /// Notifies all watches of this key, so that their callers look again.
    pub fn notify(&self, key: u64) {
        let changes = self.0.by_key.get(&key).map(|changes| changes.clone());
        if let Some(changes) = changes {
            changes.send_replace(());
        }
    }

    /// Limits the number of keys that are watched at a time, from now on. What is watched already stays.
    pub fn bound(&self, most_keys: usize) {
        self.0.most_keys.store(most_keys, Ordering::SeqCst);
    }

    /// Ends all watches and begins no new ones: the source of the changes has fallen silent.
    pub fn close(&self) {
        self.0.open.store(false, Ordering::SeqCst);
        let mut ended = Vec::new();
        self.0.by_key.retain(|_, changes| {
            ended.push(changes.clone());
            false
        });
        self.0.keys.fetch_sub(ended.len(), Ordering::SeqCst);
    }

    /// Begins watches again: the source is heard.
    pub fn open(&self) {
        self.0.open.store(true, Ordering::SeqCst);
    }
}

impl Registry {
    fn subscribe(&self, key: u64) -> Option<watch::Receiver<()>> {
        let place = self.by_key.entry(key);
        if !self.open.load(Ordering::SeqCst) {
            return None;
        }
        match place {
            Entry::Occupied(there) => Some(there.get().subscribe()),
            Entry::Vacant(place) => self
                .has_room()
                .then(|| place.insert(watch::Sender::new(())).subscribe()),
        }
    }

    /// Counts one more key, if it may be watched.
    fn has_room(&self) -> bool {
        let most = self.most_keys.load(Ordering::SeqCst);
        let more = |keys| (keys < most).then(|| keys + 1);
        self.keys.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }
}

impl fmt::Debug for Watchers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watchers")
            .field("keys", &self.0.keys.load(Ordering::SeqCst))
            .finish_non_exhaustive()
    }
}

/// A caller's place in the registry.
struct Place {
    registry: Arc<Registry>,
    key: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let unwatched = |_: &u64, changes: &watch::Sender<()>| changes.receiver_count() == 0;
        if self.registry.by_key.remove_if(&self.key, unwatched).is_some() {
            self.registry.keys.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

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

    #[tokio::test]
    async fn no_watch_outlives_the_closing_that_it_races_with() {
        for key in 0..500 {
            let watchers = Watchers::new(8);
            let start = Barrier::new(2);
            let mut watch = thread::scope(|scope| {
                let watch = scope.spawn(|| {
                    start.wait();
                    watchers.watch(key)
                });
                start.wait();
                watchers.close();
                watch.join().unwrap()
            });
            if !watch.is_none() {
                watch.changed().await;
            }
            assert!(watch.is_none());
            assert!(format!("{watchers:?}").contains("keys: 0"));
        }
    }

    #[test]
    fn all_that_a_watch_is_to_hold_is_held_until_it_is_dropped() {
        let held = [Arc::new(1), Arc::new(2)];
        let watch = held
            .iter()
            .fold(Watch::none(), |watch, held| watch.holding(Arc::clone(held)));
        assert_eq!(held.each_ref().map(Arc::strong_count), [2, 2]);
        drop(watch);
        assert_eq!(held.each_ref().map(Arc::strong_count), [1, 1]);
    }
}
