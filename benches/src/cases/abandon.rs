//! The only caller is dropped in the middle of the work, and the runtime finishes it.

use super::{VALUE, per};
use crate::contest::{Run, Trial};
use crate::crowd::clear;
use crate::gate::Gate;
use crate::key::keys;
use crate::peers::Peer;
use crate::signal::Signals;
use bumpalo::Bump;
use bumpalo::boxed::Box as Boxed;
use std::future::Future;
use std::task::Context;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::task::yield_now;

/// So many flights are abandoned in a round; the cost is that of one.
const FLIGHTS: usize = 256;
/// So often the runtime gets the chance to finish the work.
const CHANCES: usize = 16;

/// Each flight's only caller is dropped. The time is from there to the end of all work.
#[derive(Clone, Copy, Debug)]
pub struct Abandon;

impl Trial for Abandon {
    fn enter<P: Peer<String>>(&self) -> Result<Run<1>, String> {
        let (peer, runtime, mut scene) = (P::new(), super::hot_path::runtime(), Scene::new());
        // Some cannot, which this shows.
        scene.fly(&peer, &runtime)?;
        Ok(Box::new(move || {
            let time = scene.fly(&peer, &runtime).expect("he could before");
            [per(time, FLIGHTS)]
        }))
    }
}

struct Scene {
    keys: Vec<String>,
    gates: &'static [Gate],
    signals: Signals,
    arena: Bump,
}

impl Scene {
    fn new() -> Self {
        Self {
            keys: keys(0, FLIGHTS),
            gates: Gate::leak_many(FLIGHTS),
            signals: Signals::new(FLIGHTS),
            arena: Bump::new(),
        }
    }

    fn fly<P: Peer<String>>(&mut self, peer: &P, runtime: &Runtime) -> Result<Duration, String> {
        let Self {
            keys,
            gates,
            signals,
            arena,
        } = self;
        let gates: &'static [Gate] = gates;
        gates.iter().for_each(Gate::reset);
        clear(arena);
        let begin = |caller: usize| {
            let mut call = Boxed::pin_in(peer.call(keys[caller].clone(), gates[caller].work(VALUE, 1)), arena);
            let polled = call.as_mut().poll(&mut Context::from_waker(signals.waker(caller)));
            assert!(
                polled.is_pending() && gates[caller].begun() == 1,
                "{}: nobody leads",
                P::NAME
            );
            call
        };
        // Not in the runtime: a task that polls so much at once is made to pause by tokio.
        let callers: Vec<_> = (0..FLIGHTS).map(begin).collect();

        runtime.block_on(async {
            let start = Instant::now();
            drop(callers);
            gates.iter().for_each(Gate::step);
            for _ in 0..CHANCES {
                if gates.iter().all(|gate| gate.ended() == 1) {
                    return Ok(start.elapsed());
                }
                yield_now().await;
            }
            Err(match gates.iter().map(Gate::cancelled).sum() {
                0 => "the work stands still".to_owned(),
                1.. => "the work is cancelled".to_owned(),
            })
        })
    }
}
