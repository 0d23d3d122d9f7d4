//! A leader alone: work that is ready, yields or sleeps; owned and borrowed keys; keys of three kinds.

mod common;

use common::bench;
use criterion::{Criterion, criterion_group, criterion_main};
use oneflight_benches::cases::hot_path::{Keys, Ready, Sleeping, Yielding};
use oneflight_benches::key::Key;
use uuid::Uuid;

fn works<K: Key>(criterion: &mut Criterion, keys: Keys) {
    let case = |work: &str| format!("hot_path/{work}/{} {}", keys.name(), K::KIND);
    bench::<K, _>(criterion, &case("ready"), &Ready(keys));
    bench::<K, _>(criterion, &case("yielding"), &Yielding(keys));
    bench::<K, _>(criterion, &case("sleeping"), &Sleeping(keys));
}

fn hot_path(criterion: &mut Criterion) {
    for keys in [Keys::Owned, Keys::Borrowed] {
        works::<String>(criterion, keys);
        works::<u64>(criterion, keys);
        works::<Uuid>(criterion, keys);
    }
}

criterion_group!(benches, hot_path);
criterion_main!(benches);
