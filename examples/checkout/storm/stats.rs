//! What the storm came to: the count, the verdict, the table.
//!
//! The verdict rests on the rows in the database and not on what the service said of itself: an answer is right if it
//! is the one order of its key, and a key is right if it has exactly one.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use oneflight::idempotency::Origin;
use serde::Serialize;

use super::plan::Plan;
use crate::order::Answer;
use crate::row::Row;

/// An answer, as far as it is needed to judge it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    key: u32,
    order_id: i64,
    as_ordered: bool,
    origin: Origin,
    latency: Duration,
}

/// What one client has seen; those of all clients are added up.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    seen: Vec<Seen>,
    pub(crate) requests: u64,
    pub(crate) hang_ups: u64,
    pub(crate) repeats: u64,
    pub(crate) retries: u64,
    pub(crate) errors: u64,
    /// The first few, in words.
    complaints: Vec<String>,
}

const MAX_COMPLAINTS: usize = 5;

impl Tally {
    pub(crate) fn answered(&mut self, plan: &Plan, key: u32, answer: &Answer, latency: Duration) {
        let order = plan.order(key);
        let placed = &answer.placed;
        self.seen.push(Seen {
            key,
            order_id: placed.order_id,
            as_ordered: placed.item == order.item && placed.quantity == order.quantity,
            origin: answer.origin,
            latency,
        });
    }

    pub(crate) fn failed(&mut self, key: &str, failure: &dyn fmt::Display) {
        self.errors += 1;
        if self.complaints.len() < MAX_COMPLAINTS {
            self.complaints.push(format!("{key}: {failure}"));
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.seen.extend(other.seen);
        self.requests += other.requests;
        self.hang_ups += other.hang_ups;
        self.repeats += other.repeats;
        self.retries += other.retries;
        self.errors += other.errors;
        self.complaints.extend(other.complaints);
        self.complaints.truncate(MAX_COMPLAINTS);
    }

    pub(crate) fn complaints(&self) -> &[String] {
        &self.complaints
    }

    fn count(&self, origin: Origin) -> u64 {
        self.seen.iter().filter(|seen| seen.origin == origin).count() as u64
    }
}

/// The result. Its fields are those of `--json`.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) handler: &'static str,
    pub(crate) store: &'static str,
    /// How many services were stormed, all on this one store.
    pub(crate) services: usize,
    /// As many as the clients took up, one by one.
    pub(crate) requests: u64,
    /// As many as there were to be taken up: keys times duplicates.
    #[serde(skip)]
    planned: u64,
    pub(crate) keys: u32,
    /// Rows in the database under this storm's keys.
    pub(crate) orders: u64,
    /// Keys with more than one order.
    pub(crate) keys_with_several: u64,
    /// Keys with no order.
    pub(crate) keys_without: u64,
    pub(crate) executed: u64,
    pub(crate) collapsed: u64,
    pub(crate) replayed: u64,
    /// Requests that were sent, and abandoned before they were answered; beyond `requests`.
    pub(crate) hang_ups: u64,
    /// Of the requests, those that were sent again after their answer.
    pub(crate) repeats: u64,
    /// Attempts that broke off, or were told to come again; beyond `requests`.
    pub(crate) retries: u64,
    pub(crate) errors: u64,
    /// Answers that are not the one order of their key.
    pub(crate) mismatched: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) seconds: f64,
    pub(crate) requests_per_second: f64,
    pub(crate) seed: u64,
}

/// What the report is made from, beside the tally.
pub(crate) struct Circumstances {
    pub(crate) handler: &'static str,
    pub(crate) store: &'static str,
    pub(crate) services: usize,
    pub(crate) keys: u32,
    pub(crate) duplicates: u32,
    pub(crate) seed: u64,
    pub(crate) elapsed: Duration,
}

impl Report {
    /// Judges the answers by the rows.
    pub(crate) fn new(circumstances: &Circumstances, plan: &Plan, tally: &Tally, rows: &[Row]) -> Self {
        // The first order of a key is the one that counts. A second is one too many, and so is every answer with it.
        let mut first: HashMap<u32, &Row> = HashMap::new();
        let mut orders_of: HashMap<u32, u64> = HashMap::new();
        for row in rows {
            if let Some(key) = plan.key_number(&row.idempotency_key) {
                first.entry(key).or_insert(row);
                *orders_of.entry(key).or_default() += 1;
            }
        }
        let is_right = |seen: &&Seen| {
            let order = plan.order(seen.key);
            seen.as_ordered
                && first.get(&seen.key).is_some_and(|row| {
                    row.id == seen.order_id && row.item == order.item && row.quantity == order.quantity
                })
        };
        let mut latencies: Vec<_> = tally.seen.iter().map(|seen| seen.latency).collect();
        latencies.sort_unstable();

        let Circumstances { keys, elapsed, .. } = *circumstances;
        let seconds = elapsed.as_secs_f64();
        Self {
            handler: circumstances.handler,
            store: circumstances.store,
            services: circumstances.services,
            requests: tally.requests,
            planned: u64::from(keys) * u64::from(circumstances.duplicates),
            keys,
            orders: rows.len() as u64,
            keys_with_several: orders_of.values().filter(|orders| **orders > 1).count() as u64,
            keys_without: u64::from(keys).saturating_sub(orders_of.len() as u64),
            executed: tally.count(Origin::Executed),
            collapsed: tally.count(Origin::Collapsed),
            replayed: tally.count(Origin::Replayed),
            hang_ups: tally.hang_ups,
            repeats: tally.repeats,
            retries: tally.retries,
            errors: tally.errors,
            mismatched: (tally.seen.len() - tally.seen.iter().filter(is_right).count()) as u64,
            p50_ms: percentile(&latencies, 50),
            p99_ms: percentile(&latencies, 99),
            seconds: rounded(seconds),
            requests_per_second: (tally.seen.len() as f64 / seconds).round(),
            seed: circumstances.seed,
        }
    }

    /// Whether there is exactly one order per key, and every request was sent and answered with it.
    pub(crate) fn is_right(&self) -> bool {
        let accounted = self.executed + self.collapsed + self.replayed + self.errors;
        self.requests == self.planned
            && accounted == self.requests
            && self.orders == u64::from(self.keys)
            && self.keys_with_several == 0
            && self.keys_without == 0
            && self.errors == 0
            && self.mismatched == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, value: String, note: &str| {
            let text = format!("  {name:<15}{value:>12}   {note}");
            writeln!(f, "{}", text.trim_end())
        };
        line("handler", self.handler.to_owned(), "")?;
        let services = match self.services {
            1 => String::new(),
            several => format!("of {several} services"),
        };
        line("store", self.store.to_owned(), &services)?;
        let requests = match self.requests == self.planned {
            true => String::new(),
            false => format!("of {} that were to be sent", grouped(self.planned)),
        };
        line("requests", grouped(self.requests), &requests)?;
        line("keys", grouped(self.keys.into()), "")?;
        let orders = match self.orders {
            orders if self.keys_with_several > 0 => format!(
                "{} more than keys: {} keys were ordered more than once",
                grouped(orders.saturating_sub(self.keys.into())),
                grouped(self.keys_with_several)
            ),
            _ if self.keys_without > 0 => {
                format!("{} keys were not ordered at all", grouped(self.keys_without))
            }
            _ => "one per key".to_owned(),
        };
        line("orders created", grouped(self.orders), &orders)?;
        line("executed", grouped(self.executed), "answers that placed the order")?;
        line(
            "collapsed",
            grouped(self.collapsed),
            "answers shared with a request in flight",
        )?;
        line("replayed", grouped(self.replayed), "answers from the record")?;
        line(
            "sent again",
            grouped(self.repeats),
            "of the requests, after their answer",
        )?;
        line(
            "hang-ups",
            grouped(self.hang_ups),
            "clients that left before their answer, and came back",
        )?;
        line(
            "retries",
            grouped(self.retries),
            "attempts that broke off or were told to come again",
        )?;
        line("errors", grouped(self.errors), "")?;
        line(
            "wrong answers",
            grouped(self.mismatched),
            "not the one order of their key",
        )?;
        line("p50", format!("{:.2} ms", self.p50_ms), "")?;
        line("p99", format!("{:.2} ms", self.p99_ms), "")?;
        line("time", format!("{:.2} s", self.seconds), "")?;
        line(
            "throughput",
            format!("{}/s", grouped(self.requests_per_second as u64)),
            "",
        )?;
        line("seed", self.seed.to_string(), "")
    }
}

/// The latency that so many of 100 answers did not exceed, in milliseconds.
fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted
        .get(rank - 1)
        .map_or(0.0, |latency| rounded(latency.as_secs_f64() * 1e3))
}

fn rounded(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

/// 20000 as 20,000.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
