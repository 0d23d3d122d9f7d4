//! Histories of a group: calls with every policy, polls, drops, gates, `forget`, `abort`, `close`, `drain`, a runtime that
//! may shut down, work that calls its own group, and user code that panics where a group calls it.
//!
//! After each operation the books of the world are compared with the group; whenever everything has settled, nobody may
//! wait who could go on; and at the end nothing may be left, neither flight nor work nor value nor key.

#![no_main]

mod calls;
mod history;
mod parts;
mod world;

use history::{End, History};
use libfuzzer_sys::fuzz_target;
use std::sync::Once;
use std::sync::atomic::Ordering::SeqCst;
use world::World;

/// Planned panics are no news; any other ends the process, as libFuzzer wants it.
fn quiet() {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let planned = panic
                .payload_as_str()
                .is_some_and(|text| text.starts_with(parts::PLANNED));
            if !planned {
                loud(panic);
            }
        }));
    });
}

fuzz_target!(|history: History| {
    quiet();
    let History { settings, ops } = history;
    let end = settings.end;
    World::run(settings, |world| {
        for op in ops {
            world.op(op);
        }
        parts::end_sabotage();
        match end {
            End::Settle => {}
            End::Leave => world.leave(),
            End::ShutDown => world.shut_down(),
        }
        world.open_floodgates();
        world.settle(None);
        world.end();
    });
    for (living, what) in [(&parts::KEYS, "keys"), (&parts::VALUES, "values")] {
        assert_eq!(living.load(SeqCst), 0, "{what} are left");
    }
});
