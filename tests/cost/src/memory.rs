//! Heap allocations and bytes. It counts what its thread asks of the allocator; nothing here runs under callgrind.

use allocation_counter::measure;
use oneflight::OnAbandon;
use oneflight_cost::Tally;
use oneflight_cost::call::{Answer, FOLLOWERS, KEY, Orders, Task, orders};
use oneflight_cost::figures::{Figure, Unit};
use oneflight_cost::scene::Scene;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// What a scene allocates, for each of its callers; a part of an allocation is one.
pub fn allocations(scene: &Scene) -> Figure {
    let count = measure((scene.set)()).count_total.div_ceil(scene.callers);
    Figure::new(Unit::Allocations, scene.name, scene.what, count)
}

/// Work of 64 bytes, which waits for ever.
struct Work([u64; 8]);

impl Future for Work {
    type Output = u64;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<u64> {
        std::hint::black_box(&self.0);
        Poll::Pending
    }
}

/// A call whose closure has its work with it.
fn call<'g>(group: &'g Orders, begun: &'g Tally) -> impl Future<Output = Answer> + use<'g> {
    let work = Work([7; 8]);
    group.run(KEY.to_owned(), move || {
        begun.add();
        work
    })
}

/// What a flight and the callers that wait in it take.
pub fn bytes() -> [Figure; 3] {
    let group = orders().on_abandon(OnAbandon::Cancel).build();
    let begun = Tally::default();
    let mut leader = Task::idle();
    let mut followers: Vec<_> = std::iter::repeat_with(Task::idle).take(FOLLOWERS).collect();
    // The map's table is the group's, not the flight's.
    leader.begin(call(&group, &begun));
    leader.leave();

    let flight = held(|| leader.begin(call(&group, &begun)));
    let waiting = held(|| {
        for follower in &mut followers {
            follower.begin(call(&group, &begun));
        }
    });
    assert_eq!(begun.get(), 2, "a follower's closure was called");
    let future = size_of_val(&call(&group, &begun)) as u64;
    let figure = |name, what, bytes| Figure::new(Unit::Bytes, name, what, bytes);
    [
        figure(
            "flight",
            "on the heap for a flight: work of 64 bytes, and a 36-byte String key",
            flight,
        ),
        figure(
            "follower",
            "on the heap for a follower who waits; his key has gone",
            waiting.div_ceil(FOLLOWERS as u64),
        ),
        figure(
            "future",
            "the future that a caller holds; its closure has 64 bytes of work with it",
            future,
        ),
    ]
}

/// The bytes that `act` allocates and does not free.
fn held(act: impl FnOnce()) -> u64 {
    u64::try_from(measure(act).bytes_current).expect("it frees nothing that was there before")
}
