//! The metrics of mutations of steps, through the facade `metrics`, with all names in one place, and a table of them in
//! `steps.md`. Without the feature `metrics` there are none, and they cost nothing.
//!
//! What is counted of a workflow that has a name is there with 0 from the first `with_workflow` on, or from a completer's handler: a series
//! that appears with 1 has not increased, as far as Prometheus can tell. A recorder that panics is reported by the panic hook and
//! disturbs no step.
//!
#![doc = include_str!("steps.md")]

#[cfg(feature = "metrics")]
pub(crate) use self::counted::*;
#[cfg(not(feature = "metrics"))]
pub(crate) use self::silent::*;

/// Why a mutation waits for a person.
#[derive(Clone, Copy)]
pub(crate) enum HeldFor {
    /// A completer has tried as often as it may.
    Tries,
    /// A step is in doubt.
    Step,
}

#[cfg(feature = "metrics")]
impl HeldFor {
    fn as_str(self) -> &'static str {
        match self {
            Self::Tries => "tries",
            Self::Step => "step",
        }
    }
}

#[cfg(feature = "metrics")]
mod counted {
    use std::collections::HashSet;
    use std::sync::Arc;

    use metrics::{SharedString, counter, describe_counter};
    use parking_lot::Mutex;

    use super::HeldFor;
    use crate::unwind::quietly;

    const STEPS: &str = "oneflight_steps_total";
    const FAILED: &str = "oneflight_steps_failed_total";
    const TAKEN_UP: &str = "oneflight_mutations_taken_up_total";
    const HANDED_BACK: &str = "oneflight_mutations_handed_back_total";
    const HELD: &str = "oneflight_mutations_held_total";

    /// How many workflows are remembered to be announced. Names that clients can choose have no bound.
    const ANNOUNCED: usize = 1000;

    /// Tells the recorder what the metrics are.
    pub(crate) fn describe() {
        quietly(|| {
            describe_counter!(STEPS, "Steps of mutations that have an answer, by its origin");
            describe_counter!(FAILED, "Steps of mutations that were run and have no answer");
            describe_counter!(TAKEN_UP, "Tries of completers at mutations that nobody went on with");
            describe_counter!(HANDED_BACK, "Tries that ended because their completer stops");
            describe_counter!(HELD, "Mutations that wait for a person, by the reason");
        });
    }

    /// The workflows that were announced.
    #[derive(Clone, Default)]
    pub(crate) struct Announced(Arc<Mutex<HashSet<Box<str>>>>);

    impl Announced {
        /// Tells the recorder of all that is counted of a workflow, with 0, if it is seen for the first time.
        pub(crate) fn see(&self, workflow: &str) {
            let mut known = self.0.lock();
            let is_new = known.len() < ANNOUNCED && !known.contains(workflow) && known.insert(workflow.into());
            // The recorder is not ours.
            drop(known);
            if is_new {
                StepCounts::new(workflow).announce();
            }
        }
    }

    /// What the metrics of one mutation are labelled with.
    #[derive(Clone)]
    pub(crate) struct StepCounts(SharedString);

    impl StepCounts {
        pub(crate) fn new(workflow: &str) -> Self {
            Self(match workflow {
                "" => SharedString::const_str(""),
                name => SharedString::from(Arc::<str>::from(name)),
            })
        }

        fn announce(&self) {
            quietly(|| {
                let workflow = || self.0.clone();
                for origin in ["executed", "replayed"] {
                    counter!(STEPS, "workflow" => workflow(), "origin" => origin).increment(0);
                }
                for reason in [HeldFor::Tries, HeldFor::Step] {
                    counter!(HELD, "workflow" => workflow(), "reason" => reason.as_str()).increment(0);
                }
                for name in [FAILED, TAKEN_UP, HANDED_BACK] {
                    counter!(name, "workflow" => workflow()).increment(0);
                }
            });
        }

        pub(crate) fn executed(&self) {
            self.answered("executed");
        }

        pub(crate) fn replayed(&self) {
            self.answered("replayed");
        }

        pub(crate) fn failed(&self) {
            self.count(FAILED);
        }

        pub(crate) fn taken_up(&self) {
            self.count(TAKEN_UP);
        }

        pub(crate) fn handed_back(&self) {
            self.count(HANDED_BACK);
        }

        pub(crate) fn held(&self, reason: HeldFor) {
            quietly(|| counter!(HELD, "workflow" => self.0.clone(), "reason" => reason.as_str()).increment(1));
        }

        fn answered(&self, origin: &'static str) {
            quietly(|| counter!(STEPS, "workflow" => self.0.clone(), "origin" => origin).increment(1));
        }

        fn count(&self, name: &'static str) {
            quietly(|| counter!(name, "workflow" => self.0.clone()).increment(1));
        }
    }
}

#[cfg(not(feature = "metrics"))]
mod silent {
    use super::HeldFor;

    #[inline(always)]
    pub(crate) fn describe() {}

    #[derive(Clone, Default)]
    pub(crate) struct Announced(());

    impl Announced {
        #[inline(always)]
        pub(crate) fn see(&self, _workflow: &str) {}
    }

    #[derive(Clone)]
    pub(crate) struct StepCounts;

    impl StepCounts {
        #[inline(always)]
        pub(crate) fn new(_workflow: &str) -> Self {
            Self
        }

        #[inline(always)]
        pub(crate) fn executed(&self) {}

        #[inline(always)]
        pub(crate) fn replayed(&self) {}

        #[inline(always)]
        pub(crate) fn failed(&self) {}

        #[inline(always)]
        pub(crate) fn taken_up(&self) {}

        #[inline(always)]
        pub(crate) fn handed_back(&self) {}

        #[inline(always)]
        pub(crate) fn held(&self, _reason: HeldFor) {}
    }
}
