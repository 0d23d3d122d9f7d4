//! What the storm came to: the count, the verdict, the table.
//!
//! The verdict rests on the rows in the database and in the ledger of the stand-ins, and not on what the service said of
//! itself: an answer is right if it is the one order of its key, and a key is right if it has exactly one order, one charge
//! and one mail.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use oneflight::idempotency::Origin;
use serde::Serialize;

use super::plan::Plan;
use crate::order::Answer;
use crate::row::{Charged, Mailed, Row};

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

/// What has left the shop, as the ledger of the stand-ins has it.
#[derive(Debug, Default)]
pub(crate) struct Left {
    pub(crate) charges: Vec<Charged>,
    pub(crate) mails: Vec<Mailed>,
}

/// The same, counted. Its fields are part of those of `--json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Outgoings {
    pub(crate) charges: u64,
    /// Keys with more than one charge.
    pub(crate) keys_charged_several: u64,
    /// Keys with none.
    pub(crate) keys_not_charged: u64,
    /// How often a charge was asked for that had been made: it was known by its key.
    pub(crate) charges_again: u64,
    /// Mails that are not the same: each `Message-ID` counts once.
    pub(crate) mails: u64,
    /// Keys with more than one mail.
    pub(crate) keys_mailed_several: u64,
    /// Keys with none.
    pub(crate) keys_not_mailed: u64,
    /// How often a mail arrived that had arrived.
    pub(crate) mails_again: u64,
}

impl Outgoings {
    fn of(left: &Left, plan: &Plan, keys: u32) -> Self {
        let mut charges_of: HashMap<u32, u64> = HashMap::new();
        for charge in &left.charges {
            if let Some(key) = plan.key_number(&charge.reference) {
                *charges_of.entry(key).or_default() += 1;
            }
        }
        let different: HashSet<_> = left
            .mails
            .iter()
            .map(|mail| (&mail.reference, &mail.message_id))
            .collect();
        let mut mails_of: HashMap<u32, u64> = HashMap::new();
        for (reference, _) in &different {
            if let Some(key) = plan.key_number(reference) {
                *mails_of.entry(key).or_default() += 1;
            }
        }
        let several = |of: &HashMap<u32, u64>| of.values().filter(|count| **count > 1).count() as u64;
        let without = |of: &HashMap<u32, u64>| u64::from(keys).saturating_sub(of.len() as u64);
        let again = |charge: &Charged| u64::try_from(charge.times_asked - 1).unwrap_or(0);
        Self {
            charges: left.charges.len() as u64,
            keys_charged_several: several(&charges_of),
            keys_not_charged: without(&charges_of),
            charges_again: left.charges.iter().map(again).sum(),
            mails: different.len() as u64,
            keys_mailed_several: several(&mails_of),
            keys_not_mailed: without(&mails_of),
            mails_again: (left.mails.len() - different.len()) as u64,
        }
    }

    /// Whether each key was charged once, and mailed one mail.
    fn is_right(&self, keys: u32) -> bool {
        let wrong = [
            self.keys_charged_several,
            self.keys_not_charged,
            self.keys_mailed_several,
            self.keys_not_mailed,
        ];
        (self.charges, self.mails) == (keys.into(), keys.into()) && wrong == [0; 4]
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
    /// What the orders did outside; nothing, where there is no outbox.
    #[serde(flatten)]
    pub(crate) outgoings: Option<Outgoings>,
    /// Processes that were killed meanwhile, and started again.
    pub(crate) kills: u16,
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
    pub(crate) kills: u16,
}

impl Report {
    /// Judges the answers by the rows. Where there is no outbox, nothing has left.
    pub(crate) fn new(
        circumstances: &Circumstances,
        plan: &Plan,
        tally: &Tally,
        rows: &[Row],
        left: Option<&Left>,
    ) -> Self {
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
            outgoings: left.map(|left| Outgoings::of(left, plan, keys)),
            kills: circumstances.kills,
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

    /// Whether there is exactly one order per key, with one charge and one mail, and every request was sent and answered with it.
    pub(crate) fn is_right(&self) -> bool {
        let accounted = self.executed + self.collapsed + self.replayed + self.errors;
        self.requests == self.planned
            && accounted == self.requests
            && self.orders == u64::from(self.keys)
            && self.keys_with_several == 0
            && self.keys_without == 0
            && self.outgoings.is_none_or(|outgoings| outgoings.is_right(self.keys))
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
        let orders = per_key(
            self.orders,
            self.keys,
            self.keys_with_several,
            self.keys_without,
            "ordered",
        );
        line("orders created", grouped(self.orders), &orders)?;
        match self.outgoings {
            Some(it) => {
                let charges = per_key(
                    it.charges,
                    self.keys,
                    it.keys_charged_several,
                    it.keys_not_charged,
                    "charged",
                );
                line("charges", grouped(it.charges), &charges)?;
                line(
                    "asked for again",
                    grouped(it.charges_again),
                    "charges that had been made: their key told",
                )?;
                let mails = per_key(
                    it.mails,
                    self.keys,
                    it.keys_mailed_several,
                    it.keys_not_mailed,
                    "mailed",
                );
                line("mails", grouped(it.mails), &mails)?;
                line(
                    "came twice",
                    grouped(it.mails_again),
                    "mails whose acceptance was lost: mail knows no keys",
                )?;
            }
            None => line(
                "charges, mails",
                "none".to_owned(),
                "Redis has no outbox: orders are authorised only",
            )?,
        }
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
        if self.kills > 0 {
            let kills = "services, relays and stand-ins, started again";
            line("killed", grouped(self.kills.into()), kills)?;
        }
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

/// How a number stands to that of the keys, of which some have several and some have none.
fn per_key(number: u64, keys: u32, several: u64, without: u64, done: &str) -> String {
    if several > 0 {
        let more = grouped(number.saturating_sub(keys.into()));
        format!(
            "{more} more than keys: {} keys were {done} more than once",
            grouped(several)
        )
    } else if without > 0 {
        format!("{} keys were not {done} at all", grouped(without))
    } else {
        "one per key".to_owned()
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
