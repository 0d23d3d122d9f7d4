//! Runs a case of the comparison under criterion, for everybody in one process.
//!
//! An iteration is a round, and its time is what one call costs in it. Criterion runs one after the other; for ratios of
//! interleaved rounds see `bin/bench`, which runs the same cases.

use criterion::{BenchmarkGroup, Criterion, measurement::WallTime};
use oneflight_benches::contest::Trial;
use oneflight_benches::key::Key;
use oneflight_benches::peers::{Peer, Side, Visitor, visit_all};
use std::time::Duration;

/// Runs one case for all who can be measured in it, and says why the others are left out.
pub fn bench<K: Key, T: Trial<1, K>>(criterion: &mut Criterion, case: &str, trial: &T) {
    let mut group = criterion.benchmark_group(case);
    group
        .sample_size(15)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    let mut benching = Benching { group, case, trial };
    visit_all(&mut benching);
    benching.group.finish();
}

struct Benching<'c, T> {
    group: BenchmarkGroup<'c, WallTime>,
    case: &'c str,
    trial: &'c T,
}

impl<K: Key, T: Trial<1, K>> Visitor<K> for Benching<'_, T> {
    fn visit<P: Peer<K>>(&mut self) {
        if P::SIDE == Side::Tuned {
            // The same code with another hasher; `bin/bench` has it.
            return;
        }
        match self.trial.enter::<P>() {
            Err(reason) => eprintln!("{}: {} is left out: {reason}", self.case, P::NAME),
            Ok(mut run) => {
                self.group.bench_function(P::NAME, |bencher| {
                    bencher.iter_custom(|rounds| {
                        let cost: f64 = (0..rounds).map(|_| run()[0]).sum();
                        Duration::from_secs_f64(cost * 1e-9)
                    });
                });
            }
        }
    }
}
