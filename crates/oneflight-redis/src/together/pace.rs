//! A timer that is due before those of steps and messages, as long as many of them come.
//!
//! ```text
//! at rest ──two steps within `DENSE`──▶ beats ──none between two beats──▶ at rest
//! ```
//!
//! Each step that waits and each message has a time limit, and hardly one is reached. But a timer that is set before all others of
//! its runtime wakes the thread that waits for events, so that it waits less long: a system call, and one more turn of that
//! thread. Where another timer is due earlier, none of that happens. Nothing depends on this one: what waits has timers of its
//! own, and a runtime on which this one is not pays for them as before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// So few steps that come one after the other are worth a timer of their own.
const DENSE: Duration = Duration::from_millis(2);

/// See the module's documentation.
pub(super) struct Pace {
    beat: Duration,
    begun: Instant,
    /// When the last step came, in microseconds since then, from 1. It is 0 before the first.
    last: AtomicU64,
    beats: AtomicBool,
}

impl Pace {
    /// A beat is shorter than any time limit of a step.
    pub(super) fn new(beat: Duration) -> Arc<Self> {
        Arc::new(Self {
            beat,
            begun: Instant::now(),
            last: AtomicU64::new(0),
            beats: AtomicBool::new(false),
        })
    }

    /// A step comes, on the runtime that is current.
    // Relaxed, all of it: nothing but a timer follows from it.
    pub(super) fn step(self: &Arc<Self>) {
        let now = u64::try_from(self.begun.elapsed().as_micros() + 1).unwrap_or(u64::MAX);
        let before = self.last.swap(now, Ordering::Relaxed);
        let is_dense = before > 0 && u128::from(now.saturating_sub(before)) < DENSE.as_micros();
        if is_dense && !self.beats.load(Ordering::Relaxed) && !self.beats.swap(true, Ordering::Relaxed) {
            tokio::spawn(Beating(Arc::clone(self)).beat());
        }
    }
}

/// The task that beats. Its runtime may end before it does.
struct Beating(Arc<Pace>);

impl Beating {
    async fn beat(self) {
        let pace = &self.0;
        loop {
            let last = pace.last.load(Ordering::Relaxed);
            sleep(pace.beat).await;
            if pace.last.load(Ordering::Relaxed) == last {
                return;
            }
        }
    }
}

impl Drop for Beating {
    fn drop(&mut self) {
        self.0.beats.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::{Builder, Handle, Runtime};
    use tokio::task::yield_now;
    use tokio::time::advance;

    use super::*;

    const BEAT: Duration = Duration::from_millis(10);
    /// Timers are due by whole milliseconds.
    const OVER: Duration = Duration::from_millis(11);

    fn tasks() -> usize {
        Handle::current().metrics().num_alive_tasks()
    }

    /// Lets this time pass, and the task find out.
    async fn after(time: Duration) {
        advance(time).await;
        for _ in 0..3 {
            yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_task_beats_while_steps_come_and_then_none() {
        let pace = Pace::new(BEAT);
        // Those that are far between are not worth it.
        for _ in 0..3 {
            pace.step();
            assert_eq!(tasks(), 0);
            after(DENSE).await;
        }
        for _ in 0..2 {
            pace.step();
            pace.step();
            for _ in 0..5 {
                pace.step();
                assert_eq!(tasks(), 1);
                after(OVER).await;
            }
            after(OVER).await;
            after(OVER).await;
            assert_eq!(tasks(), 0);
        }
    }

    #[test]
    fn it_beats_again_where_its_runtime_has_ended() {
        let runtime = || Builder::new_current_thread().enable_all().build().unwrap();
        let pace = Pace::new(BEAT);
        let dense = |runtime: &Runtime| {
            let _entered = runtime.enter();
            // A machine that has no time for it makes more of them.
            while !pace.beats.load(Ordering::Relaxed) {
                pace.step();
            }
        };
        let (ends, stays) = (runtime(), runtime());
        dense(&ends);
        assert_eq!(ends.metrics().num_alive_tasks(), 1);
        drop(ends);
        assert!(!pace.beats.load(Ordering::Relaxed));
        dense(&stays);
        assert_eq!(stays.metrics().num_alive_tasks(), 1);
    }
}
