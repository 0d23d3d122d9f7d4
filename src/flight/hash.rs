//! The part of its key's hash that a flight keeps.

/// 2^64 divided by the golden ratio. Multiplied by it, numbers that differ in few bits differ in many, above all in the top
/// ones (D. E. Knuth, *The Art of Computer Programming*, volume 3, section 6.4).
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Twenty-four bits of a hash: as many as take no room beside the lock of a flight's list. With a million flights, one in
/// sixteen shares them with another, and is told from it by its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyHash(u32);

impl KeyHash {
    #[inline]
    pub(crate) fn of(hash: u64) -> Self {
        // The top bits of the product depend on all bits of the hash, of which a user's hasher may fill only a few.
        Self((hash.wrapping_mul(GOLDEN) >> 40) as u32)
    }

    /// Spreads the bits over the 64 that a table asks for.
    #[inline]
    pub(crate) fn spread(self) -> u64 {
        u64::from(self.0).wrapping_mul(GOLDEN)
    }
}

/// A hash as a flight stores it, without padding.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packed {
    high: u8,
    low: [u8; 2],
}

impl Packed {
    #[inline]
    pub(super) fn new(hash: KeyHash) -> Self {
        Self {
            high: (hash.0 >> 16) as u8,
            low: (hash.0 as u16).to_ne_bytes(),
        }
    }

    #[inline]
    pub(super) fn get(self) -> KeyHash {
        KeyHash(u32::from(self.high) << 16 | u32::from(u16::from_ne_bytes(self.low)))
    }
}
