//! Which map carries the flights: the leader's two steps (insert if absent, remove if it is the same) and the
//! follower's one (look up, take a reference), over keys that the entries hold, on three maps.
//!
//! `cargo run --release -p oneflight-benches --bin map` prints a table of medians, interleaved, as ratios to the first.
//! With a variant's name as argument it runs that one alone, to be counted by callgrind.

use dashmap::DashMap;
use foldhash::quality::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use oneflight_benches::contest::median;
use oneflight_benches::key::keys;
use parking_lot::Mutex;
use std::hash::BuildHasher;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

const KEYS: usize = 512;
const ROUNDS: usize = 31;
const PASSES: usize = 40;

struct Flight {
    key: String,
}

trait Map {
    fn lead(&self, key: String) -> Arc<Flight>;
    fn join(&self, key: &str) -> Option<Arc<Flight>>;
    fn land(&self, flight: &Arc<Flight>);
}

/// The safe interface of `DashMap`: the key is held twice.
struct Dash(DashMap<String, Arc<Flight>, RandomState>);

impl Map for Dash {
    fn lead(&self, key: String) -> Arc<Flight> {
        let entry = self.0.entry(key.clone());
        let flight = Arc::new(Flight { key });
        Arc::clone(&entry.or_insert(flight))
    }

    fn join(&self, key: &str) -> Option<Arc<Flight>> {
        self.0.get(key).map(|flight| Arc::clone(&flight))
    }

    fn land(&self, flight: &Arc<Flight>) {
        self.0.remove_if(&flight.key, |_, other| Arc::ptr_eq(flight, other));
    }
}

/// The raw interface of `DashMap`: the key is held once, over the table of an older `hashbrown`.
struct RawDash {
    map: DashMap<Arc<Flight>, (), RandomState>,
    hasher: RandomState,
}

impl RawDash {
    fn new() -> Self {
        let hasher = RandomState::default();
        Self {
            map: DashMap::with_hasher(hasher.clone()),
            hasher,
        }
    }
}

impl std::hash::Hash for Flight {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}

impl PartialEq for Flight {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Flight {}

impl Map for RawDash {
    fn lead(&self, key: String) -> Arc<Flight> {
        let hash = self.hasher.hash_one(&key);
        let shard = self.map.determine_shard(hash as usize);
        let mut shard = self.map.shards()[shard].write();
        let found = shard.find_or_find_insert_slot(
            hash,
            |(flight, _)| flight.key == key,
            |(flight, _)| self.hasher.hash_one(&flight.key),
        );
        match found {
            // SAFETY: the shard is locked for writing.
            Ok(bucket) => Arc::clone(unsafe { &bucket.as_ref().0 }),
            Err(slot) => {
                let flight = Arc::new(Flight { key });
                let entry = (Arc::clone(&flight), dashmap::SharedValue::new(()));
                // SAFETY: the slot was just found, and the shard has been locked since.
                unsafe { shard.insert_in_slot(hash, slot, entry) };
                flight
            }
        }
    }

    fn join(&self, key: &str) -> Option<Arc<Flight>> {
        let hash = self.hasher.hash_one(key);
        let shard = self.map.determine_shard(hash as usize);
        let shard = self.map.shards()[shard].read();
        let bucket = shard.find(hash, |(flight, _)| flight.key == key)?;
        // SAFETY: the shard is locked.
        Some(Arc::clone(unsafe { &bucket.as_ref().0 }))
    }

    fn land(&self, flight: &Arc<Flight>) {
        let hash = self.hasher.hash_one(&flight.key);
        let shard = self.map.determine_shard(hash as usize);
        let mut shard = self.map.shards()[shard].write();
        shard.remove_entry(hash, |(other, _)| Arc::ptr_eq(flight, other));
    }
}

/// What the crate has.
struct Sharded {
    shards: Vec<Mutex<HashTable<Arc<Flight>>>>,
    hasher: RandomState,
}

impl Sharded {
    fn new() -> Self {
        let shards = 4 * std::thread::available_parallelism().map_or(1, |count| count.get());
        Self {
            shards: (0..shards.next_power_of_two()).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
        }
    }

    fn shard(&self, hash: u64) -> &Mutex<HashTable<Arc<Flight>>> {
        &self.shards[(hash >> 32) as usize & (self.shards.len() - 1)]
    }
}

impl Map for Sharded {
    fn lead(&self, key: String) -> Arc<Flight> {
        let hash = self.hasher.hash_one(&key);
        let mut shard = self.shard(hash).lock();
        let entry = shard.entry(
            hash,
            |flight| flight.key == key,
            |flight| self.hasher.hash_one(&flight.key),
        );
        match entry {
            Entry::Occupied(flight) => Arc::clone(flight.get()),
            Entry::Vacant(vacant) => {
                let flight = Arc::new(Flight { key });
                vacant.insert(Arc::clone(&flight));
                flight
            }
        }
    }

    fn join(&self, key: &str) -> Option<Arc<Flight>> {
        let hash = self.hasher.hash_one(key);
        let shard = self.shard(hash).lock();
        shard.find(hash, |flight| flight.key == key).cloned()
    }

    fn land(&self, flight: &Arc<Flight>) {
        let hash = self.hasher.hash_one(&flight.key);
        let mut shard = self.shard(hash).lock();
        if let Ok(entry) = shard.find_entry(hash, |other| Arc::ptr_eq(flight, other)) {
            drop(entry.remove());
        }
    }
}

/// One lead and land for each key, alone in the map.
fn alone(map: &dyn Map, keys: &[String]) -> Duration {
    let start = Instant::now();
    for _ in 0..PASSES {
        for key in keys {
            let flight = map.lead(key.clone());
            map.land(black_box(&flight));
        }
    }
    start.elapsed()
}

/// As many followers as keys, of flights that stay.
fn joins(map: &dyn Map, keys: &[String]) -> Duration {
    let flights: Vec<_> = keys.iter().map(|key| map.lead(key.clone())).collect();
    let start = Instant::now();
    for _ in 0..PASSES {
        for key in keys {
            black_box(map.join(key).is_some());
        }
    }
    let elapsed = start.elapsed();
    flights.iter().for_each(|flight| map.land(flight));
    elapsed
}

fn main() {
    let keys = keys::<String>(0, KEYS);
    let maps: [(&str, Box<dyn Map>); 3] = [
        ("dashmap", Box::new(Dash(DashMap::default()))),
        ("dashmap-raw", Box::new(RawDash::new())),
        ("sharded", Box::new(Sharded::new())),
    ];
    if let Some(only) = std::env::args().nth(1) {
        let (_, map) = maps.iter().find(|(name, _)| *name == only).expect("no such map");
        alone(&**map, &keys);
        joins(&**map, &keys);
        return;
    }
    let mut samples = vec![(Vec::new(), Vec::new()); maps.len()];
    for round in 0..ROUNDS {
        for turn in 0..maps.len() {
            let index = (round + turn) % maps.len();
            let per_call = |time: Duration| time.as_nanos() as f64 / (PASSES * KEYS) as f64;
            let (_, map) = &maps[index];
            samples[index].0.push(per_call(alone(&**map, &keys)));
            samples[index].1.push(per_call(joins(&**map, &keys)));
        }
    }
    let medians: Vec<_> = samples
        .into_iter()
        .map(|(alone, joins)| (median(alone), median(joins)))
        .collect();
    println!(
        "{:14} {:>16} {:>8} {:>12} {:>8}",
        "map", "lead and land", "ratio", "join", "ratio"
    );
    for ((name, _), (alone, join)) in maps.iter().zip(&medians) {
        let (first_alone, first_join) = medians[0];
        println!(
            "{name:14} {alone:>13.1} ns {:>8.2} {join:>9.1} ns {:>8.2}",
            alone / first_alone,
            join / first_join
        );
    }
}
