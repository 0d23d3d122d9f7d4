//! How a call holds its key: as its own, or borrowed until it is known that it leads.

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash};

/// A key of a call; sealed.
pub trait Key<K>: sealed::Key<K> {}

impl<K, Q: sealed::Key<K>> Key<K> for Q {}

pub(super) mod sealed {
    use super::{Borrow, BuildHasher, ByRef, Hash, Owned};

    pub trait Key<K> {
        /// Whether making the key owned runs code of the user, which must not be under a lock.
        const BORROWED: bool;
        type Rest;

        fn hash(&self, hasher: &impl BuildHasher) -> u64;
        fn is(&self, key: &K) -> bool;
        /// The owned key, and what it takes to have the call's key back.
        fn split(self) -> (K, Self::Rest);
        fn unsplit(key: K, rest: Self::Rest) -> Self;
    }

    impl<K: Hash + Eq> Key<K> for Owned<K> {
        const BORROWED: bool = false;
        type Rest = ();

        fn hash(&self, hasher: &impl BuildHasher) -> u64 {
            hasher.hash_one(&self.0)
        }

        fn is(&self, key: &K) -> bool {
            self.0 == *key
        }

        fn split(self) -> (K, ()) {
            (self.0, ())
        }

        fn unsplit(key: K, (): ()) -> Self {
            Self(key)
        }
    }

    impl<'a, K, Q> Key<K> for ByRef<'a, Q>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        const BORROWED: bool = true;
        type Rest = &'a Q;

        fn hash(&self, hasher: &impl BuildHasher) -> u64 {
            hasher.hash_one(self.0)
        }

        fn is(&self, key: &K) -> bool {
            key.borrow() == self.0
        }

        fn split(self) -> (K, &'a Q) {
            (self.0.to_owned(), self.0)
        }

        fn unsplit(_key: K, key: &'a Q) -> Self {
            Self(key)
        }
    }
}

/// The key of [`Group::run`](super::Group::run).
#[derive(Debug)]
pub struct Owned<K>(pub(super) K);

/// The key of [`Group::run_by_ref`](super::Group::run_by_ref).
#[derive(Debug)]
pub struct ByRef<'a, Q: ?Sized>(pub(super) &'a Q);
