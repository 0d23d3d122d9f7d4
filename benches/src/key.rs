//! The keys that the benchmarks call with: a number of each kind, always the same ones, so that runs can be compared.
//!
//! `String` is the kind of the comparison: a UUID as text, 36 bytes on the heap, as an `Idempotency-Key` is.

use std::fmt::Debug;
use std::hash::Hash;
use uuid::Uuid;

/// A key that every peer can be called with.
pub trait Key: Clone + Debug + Eq + Hash + Send + Sync + 'static {
    /// The name of its kind.
    const KIND: &'static str;

    /// The key with this number: no two numbers have the same one.
    fn numbered(number: u64) -> Self;
}

impl Key for u64 {
    const KIND: &'static str = "u64";

    fn numbered(number: u64) -> Self {
        number
    }
}

impl Key for Uuid {
    const KIND: &'static str = "Uuid";

    fn numbered(number: u64) -> Self {
        // An odd multiplier is a bijection, so that the keys differ, and it makes them look like random ones.
        Uuid::from_u64_pair(number.wrapping_mul(0x9E37_79B9_7F4A_7C15), number)
    }
}

impl Key for String {
    const KIND: &'static str = "String";

    fn numbered(number: u64) -> Self {
        Uuid::numbered(number).to_string()
    }
}

/// The first `count` keys from a number on.
pub fn keys<K: Key>(from: u64, count: usize) -> Vec<K> {
    (from..).take(count).map(K::numbered).collect()
}
