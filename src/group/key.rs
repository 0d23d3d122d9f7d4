//! How a call holds its key: owned, or borrowed until it is known that the call leads.

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash};

/// The key of a call.
pub(super) trait Key<K> {
    /// Whether making the key owned runs code of the user, which must not be under a lock.
    const BORROWED: bool;

    fn hash(&self, hasher: &impl BuildHasher) -> u64;
    fn is(&self, key: &K) -> bool;
    /// Makes an owned key of a borrowed one. Runs code of the user.
    fn make(&self) -> Option<K>;
    /// Returns the key as it goes into a flight: for a borrowed key, the one that was made.
    fn owned(self, made: Option<K>) -> K;
}

/// The key of [`Group::run`](super::Group::run).
#[derive(Debug)]
pub(super) struct Owned<K>(pub(super) K);

impl<K: Hash + Eq> Key<K> for Owned<K> {
    const BORROWED: bool = false;

    fn hash(&self, hasher: &impl BuildHasher) -> u64 {
        hasher.hash_one(&self.0)
    }

    fn is(&self, key: &K) -> bool {
        self.0 == *key
    }

    fn make(&self) -> Option<K> {
        None
    }

    fn owned(self, _made: Option<K>) -> K {
        self.0
    }
}

/// The key of [`Group::run_by_ref`](super::Group::run_by_ref).
#[derive(Debug)]
pub(super) struct ByRef<'a, Q: ?Sized>(pub(super) &'a Q);

impl<K, Q> Key<K> for ByRef<'_, Q>
where
    K: Borrow<Q>,
    Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
{
    const BORROWED: bool = true;

    fn hash(&self, hasher: &impl BuildHasher) -> u64 {
        hasher.hash_one(self.0)
    }

    fn is(&self, key: &K) -> bool {
        key.borrow() == self.0
    }

    fn make(&self) -> Option<K> {
        Some(self.0.to_owned())
    }

    fn owned(self, made: Option<K>) -> K {
        made.unwrap_or_else(|| self.0.to_owned())
    }
}
