//! Promise: the storm's verdict is right only if every request is accounted for and the rows say so.
//!
//! The storm's own bookkeeping, fed with storms that never were.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "the example uses the rest")]

use std::time::Duration;

use oneflight::idempotency::Origin;

#[path = "../../../examples/checkout/order.rs"]
mod order;
#[path = "../../../examples/checkout/storm/plan.rs"]
mod plan;
#[path = "../../../examples/checkout/row.rs"]
mod row;
#[path = "../../../examples/checkout/storm/stats.rs"]
mod stats;

use order::{Answer, Placed};
use plan::{Plan, Shape};
use row::{Charged, Mailed, Row};
use stats::{Circumstances, Left, Report, Tally};

const KEYS: u32 = 3;
const DUPLICATES: u32 = 2;

/// A storm in which everything went well, until a test says otherwise.
struct Storm {
    plan: Plan,
    tally: Tally,
    rows: Vec<Row>,
    left: Left,
}

impl Storm {
    fn new() -> Self {
        let plan = Plan::new(Shape {
            keys: KEYS,
            duplicates: DUPLICATES,
            seed: 1,
            hang_up_percent: 0,
            repeat_percent: 0,
        });
        let rows = (0..KEYS).map(|key| row(&plan, key, i64::from(key) + 1)).collect();
        let mut storm = Self {
            plan,
            tally: Tally::default(),
            rows,
            left: Left::default(),
        };
        for key in 0..KEYS {
            storm.answer(key, Origin::Executed);
            storm.answer(key, Origin::Replayed);
            storm.charge(key, 1);
            storm.mail(key, "a");
        }
        storm
    }

    fn answer(&mut self, key: u32, origin: Origin) {
        self.answer_with(key, origin, i64::from(key) + 1);
    }

    fn answer_with(&mut self, key: u32, origin: Origin, order_id: i64) {
        let order = self.plan.order(key);
        let answer = Answer {
            placed: Placed {
                order_id,
                item: order.item,
                quantity: order.quantity,
            },
            origin,
        };
        self.tally.requests += 1;
        self.tally.answered(&self.plan, key, &answer, Duration::from_millis(1));
    }

    fn charge(&mut self, key: u32, times_asked: i64) {
        let reference = self.plan.key(key);
        self.left.charges.push(Charged { reference, times_asked });
    }

    fn mail(&mut self, key: u32, id: &str) {
        let reference = self.plan.key(key);
        let message_id = format!("<{key}-{id}@shop.example>");
        self.left.mails.push(Mailed { reference, message_id });
    }

    fn report(&self) -> Report {
        let circumstances = Circumstances {
            handler: "oneflight",
            store: "sqlite",
            services: 1,
            keys: KEYS,
            duplicates: DUPLICATES,
            seed: 1,
            elapsed: Duration::from_secs(1),
            kills: 0,
        };
        Report::new(&circumstances, &self.plan, &self.tally, &self.rows, Some(&self.left))
    }
}

fn row(plan: &Plan, key: u32, id: i64) -> Row {
    let order = plan.order(key);
    Row {
        id,
        idempotency_key: plan.key(key),
        item: order.item,
        quantity: order.quantity,
    }
}

#[test]
fn a_storm_in_which_all_went_well_is_right() {
    let report = Storm::new().report();
    assert!(report.is_right(), "{report}");
    assert_eq!((report.requests, report.orders, report.mismatched), (6, 3, 0));
}

#[test]
fn a_request_that_was_never_sent_is_missed() {
    let mut storm = Storm::new();
    storm.tally = Tally::default();
    for key in 0..KEYS {
        storm.answer(key, Origin::Executed);
    }
    let report = storm.report();
    assert_eq!(report.requests, 3);
    assert!(!report.is_right(), "{report}");
    assert!(report.to_string().contains("of 6 that were to be sent"), "{report}");
}

#[test]
fn a_request_that_nobody_accounts_for_is_missed() {
    let mut storm = Storm::new();
    storm.tally = Tally::default();
    for key in 0..KEYS {
        storm.answer(key, Origin::Executed);
        // Sent, and neither answered nor failed.
        storm.tally.requests += 1;
    }
    let report = storm.report();
    assert_eq!((report.requests, report.errors, report.mismatched), (6, 0, 0));
    assert!(!report.is_right(), "{report}");
}

#[test]
fn an_error_is_not_right() {
    let mut storm = Storm::new();
    storm.tally = Tally::default();
    for key in 0..KEYS {
        storm.answer(key, Origin::Executed);
        storm.tally.requests += 1;
        storm.tally.failed("key", &"refused");
    }
    let report = storm.report();
    assert_eq!((report.requests, report.errors), (6, 3));
    assert!(!report.is_right(), "{report}");
}

#[test]
fn a_second_order_and_whoever_was_told_of_it_are_wrong() {
    let mut storm = Storm::new();
    storm.rows.push(row(&storm.plan, 0, 9));
    assert!(!storm.report().is_right());
    storm.tally = Tally::default();
    storm.answer_with(0, Origin::Executed, 9);
    let report = storm.report();
    assert_eq!((report.orders, report.keys_with_several, report.mismatched), (4, 1, 1));
}

#[test]
fn an_answer_without_a_row_is_wrong() {
    let mut storm = Storm::new();
    storm.rows.pop();
    let report = storm.report();
    assert_eq!((report.keys_without, report.mismatched), (1, 2));
    assert!(!report.is_right(), "{report}");
}

#[test]
fn a_charge_or_a_mail_that_is_missing_or_one_too_many_is_wrong() {
    let wrong = |change: fn(&mut Storm)| {
        let mut storm = Storm::new();
        change(&mut storm);
        let report = storm.report();
        assert!(!report.is_right(), "{report}");
        report.to_string()
    };
    let told = wrong(|storm| storm.charge(0, 1));
    assert!(
        told.contains("1 more than keys: 1 keys were charged more than once"),
        "{told}"
    );
    let told = wrong(|storm| drop(storm.left.charges.pop()));
    assert!(told.contains("1 keys were not charged at all"), "{told}");
    let told = wrong(|storm| storm.mail(0, "b"));
    assert!(
        told.contains("1 more than keys: 1 keys were mailed more than once"),
        "{told}"
    );
    let told = wrong(|storm| drop(storm.left.mails.pop()));
    assert!(told.contains("1 keys were not mailed at all"), "{told}");
    // As many as there are keys, and yet one too many and one missing.
    wrong(|storm| {
        storm.left.charges.pop();
        storm.charge(0, 1);
    });
    // One that no order of this storm stands for.
    wrong(|storm| storm.charge(KEYS, 1));
}

#[test]
fn what_is_known_again_by_its_key_or_its_id_is_told_and_right() {
    let mut storm = Storm::new();
    storm.left.charges.clear();
    for key in 0..KEYS {
        storm.charge(key, 3);
    }
    storm.mail(0, "a");
    let report = storm.report();
    assert!(report.is_right(), "{report}");
    let outgoings = report.outgoings.unwrap();
    assert_eq!(
        (outgoings.charges_again, outgoings.mails, outgoings.mails_again),
        (6, 3, 1)
    );
}

#[test]
fn without_an_outbox_nothing_has_left_and_that_is_told() {
    let storm = Storm::new();
    let circumstances = Circumstances {
        handler: "oneflight",
        store: "redis",
        services: 1,
        keys: KEYS,
        duplicates: DUPLICATES,
        seed: 1,
        elapsed: Duration::from_secs(1),
        kills: 0,
    };
    let report = Report::new(&circumstances, &storm.plan, &storm.tally, &storm.rows, None);
    assert!(
        report.is_right() && report.to_string().contains("no outbox"),
        "{report}"
    );
}
