//! Several threads: distinct keys, Zipf keys, one hot key; 1, 2 and 4 threads. The time is that of a call by the wall clock.

mod common;

use common::bench;
use criterion::{Criterion, criterion_group, criterion_main};
use oneflight_benches::cases::threads::{HotTasks, Spread, Threads};

fn contention(criterion: &mut Criterion) {
    for (name, spread) in [
        ("distinct", Spread::Distinct),
        ("zipf", Spread::Zipf),
        ("hot", Spread::Hot),
    ] {
        for threads in [1, 2, 4] {
            bench(
                criterion,
                &format!("contention/{name}/{threads} threads"),
                &Threads(spread, [threads]),
            );
        }
    }
    bench(
        criterion,
        "contention/hot/64 tasks on 2 workers",
        &HotTasks { tasks: 64, calls: 200 },
    );
}

criterion_group!(benches, contention);
criterion_main!(benches);
