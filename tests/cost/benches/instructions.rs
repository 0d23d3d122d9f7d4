//! Counts the instructions of each scene under callgrind.

use gungraun::{library_benchmark, library_benchmark_group, main};
use oneflight_cost::scene::{self, Operation};

macro_rules! count {
    ($($name:ident),*) => {
        $(
            #[library_benchmark]
            #[bench::once(scene::$name())]
            fn $name(operation: Operation) {
                operation();
            }
        )*
        library_benchmark_group!(name = instructions, benchmarks = [$($name),*]);
    };
}

count!(
    leader,
    leader_key_passed,
    leader_u64,
    leader_by_ref,
    leader_yield,
    follower,
    follower_by_ref,
    hand_over,
    follower_dropped,
    abandoned_cancelled,
    abandoned_finished
);

main!(library_benchmark_groups = instructions);
