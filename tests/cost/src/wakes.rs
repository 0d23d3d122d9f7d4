//! How many callers are woken while work merely progresses: each is a task that the runtime then polls.

use crate::call::{ANSWER, Task, orders};
use crate::common::{Gate, Tally};
use crate::figures::{Figure, Unit};
use oneflight::OnAbandon;

const STEPS: usize = 100;

/// For a few followers, and for many.
#[must_use]
pub fn figures() -> [Figure; 2] {
    let what = "wake-ups in a step of work that does not end it";
    [
        Figure::new(Unit::Wakes, "step_with_10_followers", what, most_in_a_step(10)),
        Figure::new(Unit::Wakes, "step_with_1000_followers", what, most_in_a_step(1000)),
    ]
}

/// The most wake-ups that one step of the work costs, where it has a leader and so many followers. A caller that is
/// woken is polled, as a runtime would.
fn most_in_a_step(followers: usize) -> u64 {
    let group = orders().on_abandon(OnAbandon::Cancel).build();
    let (gate, steps) = (Gate::new(), Tally::default());
    let call = || {
        let (gate, steps) = (gate.clone(), steps.clone());
        group.run(0, move || async move {
            for _ in 0..=STEPS {
                gate.pass().await;
                steps.add();
            }
            ANSWER
        })
    };
    let mut tasks: Vec<_> = std::iter::repeat_with(Task::idle).take(1 + followers).collect();
    for task in &mut tasks {
        task.begin(call());
    }
    let wakes = |tasks: &[Task<_>]| -> usize { tasks.iter().map(Task::wakes).sum() };
    let mut polled: Vec<_> = tasks.iter().map(Task::wakes).collect();
    let mut most = 0;
    for step in 1..=STEPS {
        let before = wakes(&tasks);
        gate.open(1);
        while let Some(woken) = tasks
            .iter()
            .zip(&polled)
            .position(|(task, polled)| task.wakes() > *polled)
        {
            polled[woken] = tasks[woken].wakes();
            assert!(tasks[woken].poll().is_pending());
        }
        assert_eq!(steps.get(), step, "a wake-up was lost");
        most = most.max(wakes(&tasks) - before);
    }
    most as u64
}
