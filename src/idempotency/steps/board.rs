//! What an attempt knows of its steps: those that are recorded, and those that it has asked for.
//!
//! ```text
//! recorded ──asked for──▶ used
//! unknown ──asked for──▶ running ──recorded──▶ used
//!    ▲                     └──failed, or dropped before its result was there──┐
//!    └────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! It is in memory, and belongs to one attempt.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::step::Step;
use crate::idempotency::step_error::StepError;
use crate::record::RecordedResult;
use crate::store::{StepId, StepRecord};

pub(super) struct Board(Mutex<Known>);

struct Known {
    recorded: HashMap<StepId, StepRecord>,
    used: HashMap<StepId, Use>,
    /// Of all results that are recorded.
    bytes: usize,
    /// Why the attempt is at its end, whatever the work makes of it.
    over: Option<StepError>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Running,
    /// Its result is being recorded, or is.
    Settled,
}

/// What is known of a step that is asked for.
pub(super) enum Found<'b> {
    Recorded(RecordedResult),
    New(Running<'b>),
}

/// A step that runs. If this is dropped before its result is there, the step may be asked for again.
pub(super) struct Running<'b> {
    board: &'b Board,
    id: StepId,
}

impl Board {
    pub(super) fn new(steps: Vec<StepRecord>) -> Self {
        let bytes = steps.iter().map(size).sum();
        let recorded = steps.into_iter().map(|step| (step.id.clone(), step)).collect();
        Self(Mutex::new(Known {
            recorded,
            used: HashMap::new(),
            bytes,
            over: None,
        }))
    }

    /// Asks for a step.
    pub(super) fn ask(&self, step: &Step, most: usize) -> Result<Found<'_>, StepError> {
        let mut known = self.0.lock();
        if let Some(over) = &known.over {
            return Err(over.clone());
        }
        let id = step.id.clone();
        let checked = step.check().and_then(|()| known.ask(step, most));
        match checked {
            Ok(Some(recorded)) => {
                known.used.insert(id, Use::Settled);
                Ok(Found::Recorded(recorded))
            }
            Ok(None) => {
                known.used.insert(id.clone(), Use::Running);
                Ok(Found::New(Running { board: self, id }))
            }
            Err(error) => Err(known.ends(error)),
        }
    }

    /// The attempt is at its end, for this reason or for an earlier one, if the reason is one that ends it.
    pub(super) fn ends(&self, error: StepError) -> StepError {
        self.0.lock().ends(error)
    }

    /// A step that settled was not done after all: it may be asked for again.
    pub(super) fn free(&self, step: &StepId) {
        self.0.lock().used.remove(step);
    }

    /// So many bytes of results are recorded besides.
    pub(super) fn add(&self, bytes: usize) {
        self.0.lock().bytes += bytes;
    }

    /// How many bytes of results are recorded.
    pub(super) fn bytes(&self) -> usize {
        self.0.lock().bytes
    }

    /// Returns why the work cannot end now, if it cannot.
    pub(super) fn finish(&self, retired: &[String]) -> Result<(), StepError> {
        let known = self.0.lock();
        if let Some(over) = &known.over {
            return Err(over.clone());
        }
        let is_left = |id: &&StepId| !known.used.contains_key(id) && !retired.iter().any(|name| name == id.name());
        match known.recorded.keys().filter(is_left).min() {
            Some(step) => Err(StepError::Unknown { step: step.clone() }),
            None => Ok(()),
        }
    }
}

impl Known {
    fn ask(&self, step: &Step, most: usize) -> Result<Option<RecordedResult>, StepError> {
        let id = &step.id;
        if self.used.contains_key(id) {
            return Err(StepError::Repeated { step: id.clone() });
        }
        let Some(recorded) = self.recorded.get(id) else {
            let begun = self.used.keys().filter(|id| !self.recorded.contains_key(id)).count();
            return match self.recorded.len() + begun < most {
                true => Ok(None),
                false => Err(StepError::TooMany {
                    step: id.clone(),
                    limit: most,
                }),
            };
        };
        if step.input.is_some() && recorded.input.is_some() && step.input != recorded.input {
            return Err(StepError::InputChanged { step: id.clone() });
        }
        match &recorded.result {
            Some(result) => Ok(Some(result.clone())),
            None => Err(StepError::InDoubt { step: id.clone() }),
        }
    }

    fn ends(&mut self, error: StepError) -> StepError {
        match (&self.over, error.is_final()) {
            (Some(over), _) => over.clone(),
            (None, true) => self.over.insert(error).clone(),
            (None, false) => error,
        }
    }
}

impl Running<'_> {
    /// The step has its result: it is not asked for again in this attempt.
    pub(super) fn settled(self, bytes: usize) {
        let mut known = self.board.0.lock();
        known.used.insert(self.id.clone(), Use::Settled);
        known.bytes += bytes;
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut known = self.board.0.lock();
        if known.used.get(&self.id) == Some(&Use::Running) {
            known.used.remove(&self.id);
        }
    }
}

fn size(step: &StepRecord) -> usize {
    step.result.as_ref().map_or(0, |result| result.as_bytes().len())
}
