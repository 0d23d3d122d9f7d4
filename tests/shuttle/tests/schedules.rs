//! Random and PCT schedules over the whole of a group, larger than what can be exhausted; `bin/shuttle` runs them.
//!
//! Every scenario is a handful of tasks that call, leave, forget, abort and join on two keys, as a seed says. What is
//! checked: no call gets what another had returned with before it began, a key never runs beside itself (unless it was
//! forgotten), every call is answered, nothing is left, and whatever was made is dropped once.
#![cfg(oneflight_shuttle)]

use oneflight::schedules::drop_left_tasks;
use oneflight::{Drive, FlightError, Group, OnAbandon};
use shuttle::future::block_on;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::sync::atomic::{AtomicU64, Ordering::SeqCst};
use shuttle::{Config, FailurePersistence, Runner, thread};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

const KEYS: usize = 2;

#[derive(Default)]
struct Ledger {
    /// Executions begun, and the newest that any call returned with, by key.
    begun: [AtomicU64; KEYS],
    returned: [AtomicU64; KEYS],
    running: [AtomicU64; KEYS],
    dropped: AtomicU64,
    made: AtomicU64,
}

/// Lives in the work.
struct Execution(Arc<Ledger>, usize);

impl Drop for Execution {
    fn drop(&mut self) {
        self.0.running[self.1].fetch_sub(1, SeqCst);
        self.0.dropped.fetch_add(1, SeqCst);
    }
}

async fn yield_once() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Polls at most so often, then leaves.
async fn impatient<F: Future>(call: F, polls: usize) -> Option<F::Output> {
    let mut call = pin!(call);
    let mut left = polls;
    poll_fn(move |cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        if left == 0 {
            // So that the last poll comes for certain.
            cx.waker().wake_by_ref();
        }
        call.as_mut().poll(cx).map(Some)
    })
    .await
}

/// One task's life.
fn live(group: &Group<usize, u64>, ledger: &Arc<Ledger>, mut choice: fastrand::Rng, keys: usize, forgets: bool) {
    for _ in 0..3 {
        let key = choice.usize(..keys);
        match choice.u8(..10) {
            0 if forgets => {
                group.forget(&key);
                continue;
            }
            1 => {
                group.abort(&key);
                continue;
            }
            2 => {
                if let Some(Ok(outcome)) = block_on(group.join(&key)) {
                    ledger.returned[key].fetch_max(outcome.value, SeqCst);
                }
                continue;
            }
            _ => {}
        }
        let before = ledger.returned[key].load(SeqCst);
        let (yields, panics) = (choice.usize(..3), choice.u8(..12) == 0);
        let (drive, on_abandon) = (
            if choice.u8(..6) == 0 {
                Drive::Spawned
            } else {
                Drive::InPlace
            },
            if choice.bool() {
                OnAbandon::Cancel
            } else {
                OnAbandon::Finish
            },
        );
        let ledger_of_work = Arc::clone(ledger);
        let work = move || {
            let ledger = ledger_of_work;
            ledger.made.fetch_add(1, SeqCst);
            let beside = ledger.running[key].fetch_add(1, SeqCst);
            assert!(forgets || beside == 0, "a key ran beside itself");
            let number = ledger.begun[key].fetch_add(1, SeqCst) + 1;
            let execution = Execution(ledger, key);
            async move {
                let _execution = execution;
                for _ in 0..yields {
                    yield_once().await;
                }
                if panics {
                    std::panic::resume_unwind(Box::new("as planned"));
                }
                number
            }
        };
        let call = group.run(key, work).drive(drive).on_abandon(on_abandon);
        let outcome = match choice.u8(..3) {
            0 => block_on(impatient(call, choice.usize(1..4))),
            _ => Some(block_on(call)),
        };
        match outcome {
            Some(Ok(outcome)) => {
                assert!(forgets || outcome.value > before, "an old result for a new call");
                ledger.returned[key].fetch_max(outcome.value, SeqCst);
            }
            None | Some(Err(FlightError::Panicked(_) | FlightError::Aborted)) => {}
            Some(Err(other)) => panic!("{other}"),
        }
    }
}

fn scenario(tasks: u64, forgets: bool) {
    // Where there are many, they all meet in one flight, so that not all are woken as it lands.
    let keys = if tasks > 4 { 1 } else { KEYS };
    let seed = shuttle::rand::RngCore::next_u64(&mut shuttle::rand::thread_rng());
    let group: Group<usize, u64> = Group::<usize, u64>::builder().shards(1).build();
    let ledger = Arc::new(Ledger::default());
    let threads: Vec<_> = (0..tasks)
        .map(|task| {
            let (group, ledger) = (group.clone(), Arc::clone(&ledger));
            thread::spawn(move || live(&group, &ledger, fastrand::Rng::with_seed(seed ^ task), keys, forgets))
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    if forgets {
        // What was forgotten and then abandoned is out of the drain's reach.
        drop_left_tasks();
    }
    block_on(group.drain());
    drop_left_tasks();
    assert_eq!(group.in_flight(), 0);
    assert_eq!(
        ledger.made.load(SeqCst),
        ledger.dropped.load(SeqCst),
        "work dropped once each"
    );
    assert_eq!(group.stats().led, ledger.made.load(SeqCst));
}

/// How many schedules for each scenario.
fn schedules() -> usize {
    std::env::var("SHUTTLE_SCHEDULES")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(2_000)
}

fn run(name: &str, scheduler: impl Scheduler + 'static, test: impl Fn() + Send + Sync + 'static) {
    let mut config = Config::new();
    // A failing schedule is printed, to be replayed.
    config.failure_persistence = FailurePersistence::Print;
    let ran = Runner::new(scheduler, config).run(test);
    println!("{name}: {ran} schedules");
    assert!(ran > 0);
}

#[test]
fn random_schedules() {
    for (tasks, forgets) in [(2, false), (3, false), (4, true), (8, false)] {
        let scheduler = RandomScheduler::new(schedules());
        run(&format!("random, {tasks} tasks"), scheduler, move || {
            scenario(tasks, forgets)
        });
    }
}

#[test]
fn pct_schedules() {
    for (tasks, forgets, depth) in [(2, false, 3), (3, false, 4), (4, true, 5), (8, false, 5)] {
        let scheduler = PctScheduler::new(depth, schedules());
        run(&format!("pct of depth {depth}, {tasks} tasks"), scheduler, move || {
            scenario(tasks, forgets)
        });
    }
}
