//! What the storm will send: every request, in the order in which they are taken up.
//!
//! The plan is made before anything is sent and from a seed alone, so that a storm can be repeated. It knows nothing of
//! sockets. For each key, most duplicates come close together, as from an impatient user or a client that retries too
//! soon, and the rest at any time after.

use std::time::Duration;

use crate::order::NewOrder;

/// How the storm is composed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) keys: u32,
    pub(crate) duplicates: u32,
    pub(crate) seed: u64,
    pub(crate) hang_up_percent: u8,
    pub(crate) repeat_percent: u8,
}

/// How a request carries its key and its order. Every key is sent in all of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spelling {
    QuotedHeader,
    BareHeader,
    JsonField,
    FormField,
}

/// One client's errand: a request, sent until it is answered, and sent again after that if it is said to be.
#[derive(Debug, Clone)]
pub(crate) struct Errand {
    pub(crate) key: u32,
    pub(crate) spelling: Spelling,
    /// Before anything else: send the request, wait so long, and cut the connection without reading.
    pub(crate) hang_up: Option<Duration>,
    /// How often the request is repeated after it was answered.
    pub(crate) repeats: u32,
}

/// The errands of a storm, and what belongs to each key.
#[derive(Debug)]
pub(crate) struct Plan {
    prefix: String,
    pub(crate) errands: Vec<Errand>,
}

impl Plan {
    pub(crate) fn new(shape: Shape) -> Self {
        let mut random = fastrand::Rng::with_seed(shape.seed);
        let mut timed = Vec::new();
        for key in 0..shape.keys {
            let mut left = shape.duplicates;
            while left > 0 {
                let repeats = u32::from(left > 1 && percent(&mut random, shape.repeat_percent));
                left -= 1 + repeats;
                let hang_up =
                    percent(&mut random, shape.hang_up_percent).then(|| Duration::from_micros(random.u64(0..5_000)));
                let spelling = random.choice([
                    Spelling::QuotedHeader,
                    Spelling::BareHeader,
                    Spelling::JsonField,
                    Spelling::FormField,
                ]);
                // The unit of time is the distance between two keys.
                let spread = if percent(&mut random, 70) {
                    0.5
                } else {
                    f64::from(shape.keys) / 2.0
                };
                let errand = Errand {
                    key,
                    spelling: spelling.unwrap_or(Spelling::QuotedHeader),
                    hang_up,
                    repeats,
                };
                timed.push((f64::from(key) + random.f64() * spread, errand));
            }
        }
        timed.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        Self {
            prefix: format!("storm-{:016x}-", shape.seed),
            errands: timed.into_iter().map(|(_, errand)| errand).collect(),
        }
    }

    /// What the keys of this storm begin with, and no other key in the database does.
    pub(crate) fn key_prefix(&self) -> &str {
        &self.prefix
    }

    /// The idempotency key.
    pub(crate) fn key(&self, key: u32) -> String {
        format!("{}{key}", self.prefix)
    }

    /// The number of a key, read back from its text.
    pub(crate) fn key_number(&self, text: &str) -> Option<u32> {
        text.strip_prefix(&self.prefix)?.parse().ok()
    }

    /// What is ordered under the key.
    pub(crate) fn order(&self, key: u32) -> NewOrder {
        NewOrder {
            item: format!("item {key}"),
            quantity: 1 + key % 5,
        }
    }
}

fn percent(random: &mut fastrand::Rng, chance: u8) -> bool {
    random.u8(0..100) < chance
}
