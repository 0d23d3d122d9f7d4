//! The default hasher of keys. It wraps `foldhash`, so that `foldhash` and its versions are no part of the public interface.

use foldhash::quality::{FoldHasher, RandomState as Seeds};
use std::fmt;
use std::hash::{self, BuildHasher};

/// The default hasher of a group: fast, and seeded anew for each group.
///
/// It resists keys that were prepared to collide. A service that must also withstand clients that search for collisions by
/// measuring response times can use [`std::hash::RandomState`] instead, with
/// [`GroupBuilder::hasher`](super::GroupBuilder::hasher).
#[derive(Clone, Default)]
pub struct RandomState(Seeds);

impl BuildHasher for RandomState {
    type Hasher = Hasher;

    #[inline]
    fn build_hasher(&self) -> Hasher {
        Hasher(self.0.build_hasher())
    }
}

impl fmt::Debug for RandomState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RandomState")
    }
}

/// The hasher that [`RandomState`] builds.
#[derive(Clone)]
pub struct Hasher(FoldHasher<'static>);

macro_rules! pass_on {
    ($($method:ident: $type:ty),*) => {
        $(
            #[inline(always)]
            fn $method(&mut self, value: $type) {
                self.0.$method(value);
            }
        )*
    };
}

impl hash::Hasher for Hasher {
    pass_on! {
        write: &[u8],
        write_u8: u8,
        write_u16: u16,
        write_u32: u32,
        write_u64: u64,
        write_u128: u128,
        write_usize: usize
    }

    #[inline(always)]
    fn finish(&self) -> u64 {
        self.0.finish()
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}
