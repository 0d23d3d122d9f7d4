//! What an attempt knows of its steps: those that are recorded, and those that it has asked for.
//!
//! ```text
//! recorded ──asked for──▶ used
//! unknown ──asked for──▶ running ──recorded──▶ used
//!                        ▲     └──failed, or dropped before its result was there──▶ open
//!                        └─────────────────────asked for again──────────────────────┘
//! ```
//!
//! While a step is open, no other one is begun that was not asked for before: the next attempt runs the open one again,
//! which may succeed then, and takes another way.
//!
//! It is in memory, and belongs to one attempt. At the end of the attempt it is closed.

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;

use super::step::Step;
use crate::idempotency::step_error::{Source, StepError};
use crate::record::RecordedResult;
use crate::store::{StepId, StepRecord};
use crate::telemetry::steps::StepCounts;

pub(super) struct Board {
    known: Mutex<Known>,
    counts: StepCounts,
}

struct Known {
    recorded: HashMap<StepId, StepRecord>,
    used: HashMap<StepId, Use>,
    /// Those that failed, or were dropped, and did not succeed since.
    open: BTreeMap<StepId, Source>,
    /// Of the input, and of all results that are recorded or about to be.
    bytes: usize,
    /// The attempt is at its end since a step was done and its answer is lost.
    is_lost: bool,
    /// Why the attempt is at its end, whatever the work makes of it.
    over: Option<StepError>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Running,
    /// It is recorded, or may be.
    Settled,
    /// It was begun, and may be again.
    Again,
}

/// What is known of a step that is asked for.
pub(super) enum Found<'b> {
    Recorded(RecordedResult),
    New(Running<'b>),
}

/// A step that runs. If this is dropped before its end, the step is open.
pub(super) struct Running<'b> {
    board: &'b Board,
    id: StepId,
    leaves: Leaves,
    is_run: bool,
}

/// What a step leaves that is dropped where it is.
enum Leaves {
    /// It may be asked for again.
    Nothing,
    /// It may be recorded.
    Record,
    /// It must not be run again, and has not told.
    Doubt,
    /// It is at its end.
    Over,
}

impl Board {
    pub(super) fn new(steps: Vec<StepRecord>, input: &RecordedResult, counts: StepCounts) -> Self {
        let bytes = steps.iter().map(size).sum::<usize>() + input.as_bytes().len();
        let recorded = steps.into_iter().map(|step| (step.id.clone(), step)).collect();
        let known = Mutex::new(Known {
            recorded,
            used: HashMap::new(),
            open: BTreeMap::new(),
            bytes,
            is_lost: false,
            over: None,
        });
        Self { known, counts }
    }

    /// Asks for a step.
    pub(super) fn ask(&self, step: &Step, most: usize) -> Result<Found<'_>, StepError> {
        let found = self.look_for(step, most);
        // What counts is not ours, and the lock is.
        if let Ok(Found::Recorded(_)) = &found {
            self.counts.replayed();
        }
        found
    }

    fn look_for(&self, step: &Step, most: usize) -> Result<Found<'_>, StepError> {
        let mut known = self.known.lock();
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
                Ok(Found::New(Running {
                    board: self,
                    id,
                    leaves: Leaves::Nothing,
                    is_run: true,
                }))
            }
            Err(error) => Err(known.ends(error)),
        }
    }

    /// The attempt is at its end, for this reason or for an earlier one, if the reason is one that ends it.
    pub(super) fn ends(&self, error: StepError) -> StepError {
        self.known.lock().ends(error)
    }

    /// The same for a step that was done and whose answer is lost: no attempt gets past it.
    pub(super) fn ends_lost(&self, error: StepError) -> StepError {
        let mut known = self.known.lock();
        known.is_lost |= known.over.is_none();
        known.ends(error)
    }

    /// Returns whether the attempt is at its end since the answer of a step is lost.
    pub(super) fn is_lost(&self) -> bool {
        self.known.lock().is_lost
    }

    /// Returns how many bytes there is room for.
    pub(super) fn left(&self, most: usize) -> usize {
        most.saturating_sub(self.known.lock().bytes)
    }

    /// Takes the room for so many bytes. If there is less, this is how much there is.
    pub(super) fn reserve(&self, bytes: usize, most: usize) -> Result<(), usize> {
        let mut known = self.known.lock();
        let left = most.saturating_sub(known.bytes);
        if bytes > left {
            return Err(left);
        }
        known.bytes += bytes;
        Ok(())
    }

    /// Gives back what was taken for a result that was not recorded.
    pub(super) fn give_back(&self, bytes: usize) {
        let mut known = self.known.lock();
        known.bytes = known.bytes.saturating_sub(bytes);
    }

    /// The work is over: no step is begun any more. Returns why what it came to does not count, if it does not.
    pub(super) fn close(&self, worked: Result<(), StepError>, retired: &[String]) -> Result<(), StepError> {
        let mut known = self.known.lock();
        let ended = match (&known.over, worked) {
            (Some(over), _) => Err(over.clone()),
            (None, Ok(())) => known.finish(retired),
            (None, stopped) => stopped,
        };
        known.over = Some(StepError::Ended);
        ended
    }
}

impl Known {
    fn ask(&self, step: &Step, most: usize) -> Result<Option<RecordedResult>, StepError> {
        let id = &step.id;
        let before = self.used.get(id);
        if let Some(Use::Running | Use::Settled) = before {
            return Err(StepError::Repeated { step: id.clone() });
        }
        let Some(recorded) = self.recorded.get(id) else {
            if let (None, Some((failed, source))) = (before, self.open.first_key_value()) {
                let (step, failed, source) = (id.clone(), failed.clone(), source.clone());
                return Err(StepError::Behind { step, failed, source });
            }
            let counts = |other: &&StepId| *other != id && !self.recorded.contains_key(*other);
            let begun = self.used.keys().filter(counts).count();
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
            None => Err(StepError::InDoubt {
                step: id.clone(),
                source: None,
            }),
        }
    }

    fn ends(&mut self, error: StepError) -> StepError {
        match (&self.over, error.is_final()) {
            (Some(over), _) => over.clone(),
            (None, true) => self.over.insert(error).clone(),
            (None, false) => error,
        }
    }

    /// Returns why the work cannot end now, if it cannot.
    fn finish(&self, retired: &[String]) -> Result<(), StepError> {
        let runs = self.used.iter().filter(|(_, used)| **used == Use::Running);
        if let Some((step, _)) = runs.min_by_key(|(id, _)| *id) {
            return Err(StepError::Unawaited { step: step.clone() });
        }
        // One that must not be run again and has not told, whether the code still knows it or not.
        let in_doubt = self.recorded.values().filter(|step| step.result.is_none());
        if let Some(step) = in_doubt.map(|step| &step.id).min() {
            let (step, source) = (step.clone(), None);
            return Err(StepError::InDoubt { step, source });
        }
        let is_left = |id: &&StepId| !self.used.contains_key(id) && !retired.iter().any(|name| name == id.name());
        match self.recorded.keys().filter(is_left).min() {
            Some(step) => Err(StepError::Unknown { step: step.clone() }),
            None => Ok(()),
        }
    }
}

impl Running<'_> {
    /// It is not run after all.
    pub(super) fn refuse(mut self) {
        self.is_run = false;
    }

    /// From now on it must not be run again unless it tells.
    pub(super) fn begins_once(&mut self) {
        self.leaves = Leaves::Doubt;
    }

    /// From now on it may be recorded, also if this is dropped.
    pub(super) fn may_be_recorded(&mut self) {
        if let Leaves::Nothing = self.leaves {
            self.leaves = Leaves::Record;
        }
    }

    /// It is recorded.
    pub(super) fn recorded(mut self) {
        self.leaves = Leaves::Over;
        self.is_run = false;
        self.board.counts.executed();
        let mut known = self.board.known.lock();
        known.used.insert(self.id.clone(), Use::Settled);
        known.open.remove(&self.id);
    }

    /// It failed, and may be asked for again.
    pub(super) fn failed(mut self, source: Source) {
        self.leaves = Leaves::Over;
        self.board.known.lock().opens(&self.id, Use::Again, source);
    }
}

impl Known {
    fn opens(&mut self, id: &StepId, becomes: Use, source: Source) {
        self.used.insert(id.clone(), becomes);
        self.open.insert(id.clone(), source);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if self.is_run {
            self.board.counts.failed();
        }
        let becomes = match self.leaves {
            Leaves::Over => return,
            Leaves::Nothing => Use::Again,
            Leaves::Record | Leaves::Doubt => Use::Settled,
        };
        let mut known = self.board.known.lock();
        let dropped: Box<dyn std::error::Error + Send + Sync> = "it was dropped before its end".into();
        known.opens(&self.id, becomes, dropped.into());
        if let Leaves::Doubt = self.leaves {
            let step = self.id.clone();
            known.ends(StepError::InDoubt { step, source: None });
        }
    }
}

fn size(step: &StepRecord) -> usize {
    step.result.as_ref().map_or(0, |result| result.as_bytes().len())
}
