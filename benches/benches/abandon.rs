//! Every caller is dropped, and the runtime finishes the work.

mod common;

use common::bench;
use criterion::{Criterion, criterion_group, criterion_main};
use oneflight_benches::cases::abandon::Abandon;

fn abandon(criterion: &mut Criterion) {
    bench(criterion, "abandon", &Abandon);
}

criterion_group!(benches, abandon);
criterion_main!(benches);
