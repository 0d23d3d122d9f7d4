//! The map of flights: sharded, each shard a hash table of references under a lock, the key inside the flight.
//!
//! It knows no policy. It has four operations: join or lead, look up, remove if it is the same flight, and go through all.
//! Each takes one lock once. Of user code only the key's `Eq` runs under it, since a flight keeps its hash. Removal compares
//! identity, so a flight that was forgotten never removes its successor.

use crate::flight::{FlightRef, KeyHash};
use crate::sync::{Handle, Mutex};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use std::collections::HashMap;

/// A table gives memory back once its capacity is this many times what it uses.
const SHRINK_AT: usize = 8;
/// A table of this size is never worth shrinking.
const SMALL: usize = 64;

pub(super) struct Map<K, T> {
    shards: Box<[Place<K, T>]>,
}

type Place<K, T> = Padded<Mutex<Shard<K, T>>>;

/// Gives its content a cache line of its own (two, since processors fetch them in pairs).
#[repr(align(128))]
struct Padded<T>(T);

/// The flights of one shard, and what is counted under its lock, where counting costs nothing.
pub(super) struct Shard<K, T> {
    table: HashTable<FlightRef<K, T>>,
    pub(super) led: u64,
    pub(super) joined: u64,
    /// The number of flights that were forgotten and have not landed yet.
    pub(super) forgotten: usize,
    /// The runtimes of tasks that are not steady, by the address of the task's flight. An entry is made before the flight lands
    /// and removed as it lands, so the address is unique.
    pub(super) runtimes: HashMap<usize, Handle>,
}

/// What a call finds for its key.
pub(super) enum Found<'a, K, T> {
    Flight(&'a FlightRef<K, T>),
    /// No flight, and the place for one.
    Free(Vacancy<'a, K, T>),
}

/// A place in the table, already reserved.
pub(super) struct Vacancy<'a, K, T>(hashbrown::hash_table::VacantEntry<'a, FlightRef<K, T>>);

impl<K, T> Vacancy<'_, K, T> {
    pub(super) fn fill(self, flight: FlightRef<K, T>) {
        self.0.insert(flight);
    }
}

impl<K, T> Shard<K, T> {
    /// Returns the flight of a key, or reserves the place for one.
    #[inline]
    pub(super) fn find_or_reserve(&mut self, hash: KeyHash, is_key: impl Fn(&K) -> bool) -> Found<'_, K, T> {
        let entry = self.table.entry(hash.spread(), |flight| is_key(flight.key()), spread);
        match entry {
            Entry::Occupied(occupied) => Found::Flight(occupied.into_mut()),
            Entry::Vacant(vacant) => Found::Free(Vacancy(vacant)),
        }
    }

    pub(super) fn find(&self, hash: KeyHash, is_key: impl Fn(&K) -> bool) -> Option<&FlightRef<K, T>> {
        self.table.find(hash.spread(), |flight| is_key(flight.key()))
    }

    /// Removes the entry that `is_it` accepts.
    #[inline]
    pub(super) fn remove(
        &mut self,
        hash: KeyHash,
        is_it: impl Fn(&FlightRef<K, T>) -> bool,
    ) -> Option<FlightRef<K, T>> {
        let found = self.table.find_entry(hash.spread(), is_it).ok()?;
        let (flight, _) = found.remove();
        let (len, room) = (self.table.len(), self.table.capacity());
        if room > SMALL && len < room / SHRINK_AT {
            self.table.shrink_to(len * 2, spread);
        }
        Some(flight)
    }

    /// Returns whether this very flight is listed.
    pub(super) fn lists(&self, flight: &FlightRef<K, T>) -> bool {
        self.table
            .find(flight.hash().spread(), |other| other.is(flight))
            .is_some()
    }

    /// Iterates over the flights that are listed.
    pub(super) fn flights(&self) -> impl Iterator<Item = &FlightRef<K, T>> {
        self.table.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }
}

fn spread<K, T>(flight: &FlightRef<K, T>) -> u64 {
    flight.hash().spread()
}

impl<K, T> Map<K, T> {
    pub(super) fn new(shards: usize) -> Self {
        let shards = shards.clamp(1, 1 << 16).next_power_of_two();
        Self {
            shards: (0..shards)
                .map(|_| {
                    Padded(Mutex::new(Shard {
                        table: HashTable::new(),
                        led: 0,
                        joined: 0,
                        forgotten: 0,
                        runtimes: HashMap::new(),
                    }))
                })
                .collect(),
        }
    }

    /// Returns the shard of a hash. It is chosen by bits that the shard's table uses neither as tags (the top seven) nor, while
    /// the table is small, for positions (the low ones).
    #[inline]
    pub(super) fn shard(&self, hash: KeyHash) -> &Mutex<Shard<K, T>> {
        let index = (hash.spread() >> 32) as usize & (self.shards.len() - 1);
        &self.shards[index].0
    }

    /// Iterates over all shards.
    pub(super) fn shards(&self) -> impl Iterator<Item = &Mutex<Shard<K, T>>> {
        self.shards.iter().map(|shard| &shard.0)
    }
}
