//! The driver is dropped, and the next caller goes on.

mod common;

use common::bench;
use criterion::{Criterion, criterion_group, criterion_main};
use oneflight_benches::cases::hand_over::HandOver;

fn hand_over(criterion: &mut Criterion) {
    bench(criterion, "hand_over", &HandOver);
}

criterion_group!(benches, hand_over);
criterion_main!(benches);
