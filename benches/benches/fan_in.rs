//! A follower: joins, waits, is woken, takes the result; among 1 to 100,000 of them.

mod common;

use common::bench;
use criterion::{Criterion, criterion_group, criterion_main};
use oneflight_benches::cases::fan_in::FanIn;
use oneflight_benches::cases::tasks::Tasks;

fn fan_in(criterion: &mut Criterion) {
    for followers in [1, 10, 100, 1_000, 10_000, 100_000] {
        bench(criterion, &format!("fan_in/{followers}"), &FanIn(followers));
    }
    bench(criterion, "fan_in/10000 tasks on 2 workers", &Tasks(10_000));
}

criterion_group!(benches, fan_in);
criterion_main!(benches);
