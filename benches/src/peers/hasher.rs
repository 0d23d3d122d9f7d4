//! The hashers that maps by hand are tried with: the one that the map comes with, as most people have it, and ours, to tell
//! what is gained by the hasher from what is gained by the rest.

use super::Side;
use foldhash::quality::RandomState as Foldhash;
use std::collections::hash_map::RandomState as SipHash;
use std::hash::BuildHasher;

/// A hasher of a map by hand.
pub trait ByHand: BuildHasher + Clone + Default + Send + Sync + 'static {
    /// What a map with it is compared as.
    const SIDE: Side;
    /// The name of a map with it, of cells or of shared futures.
    const CELLS: &'static str;
    /// The name of a map with it, of shared futures.
    const SHARED: &'static str;
}

impl ByHand for SipHash {
    const SIDE: Side = Side::Peer;
    const CELLS: &'static str = "OnceCell by hand";
    const SHARED: &'static str = "Shared by hand";
}

impl ByHand for Foldhash {
    const SIDE: Side = Side::Tuned;
    const CELLS: &'static str = "OnceCell by hand, our hasher";
    const SHARED: &'static str = "Shared by hand, our hasher";
}
