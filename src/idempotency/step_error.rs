//! Why a mutation of several steps has stopped before its end: [`StepError`], and [`Stopped`], which its work returns.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::codec_error::CodecError;
use crate::store::{StepId, StoreError};

pub(super) type Source = Arc<dyn StdError + Send + Sync>;

/// Why a mutation of several steps has stopped before its end.
///
/// What its finished steps did is recorded, and the next attempt goes on behind it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum StepError {
    /// A step failed. That is not recorded: the next attempt runs the step again, under the same downstream key, and may
    /// find that it was done after all.
    Failed {
        /// Which step.
        step: StepId,
        /// The error that the step returned.
        source: Source,
    },
    /// A step in a transaction failed, or its commit did: its rows are rolled back, and the next attempt runs it again.
    RolledBack {
        /// Which step.
        step: StepId,
        /// The error that the step returned, or a [`StoreError`].
        source: Source,
    },
    /// The work failed outside of its steps.
    Work {
        /// The error that the work returned.
        source: Source,
    },
    /// A step was asked for the first time after another one had failed, or was dropped before its end, and had not
    /// succeeded since. It was not run.
    ///
    /// The next attempt runs the one that failed again. If that succeeds then, it takes another way than this one, and
    /// what was run behind the failure would have been done besides. Have the failure recorded
    /// ([`run_recording_errors`](super::Steps::run_recording_errors), or an answer of the step's own), or try that step
    /// again until it succeeds.
    Behind {
        /// Which step was not run.
        step: StepId,
        /// The one that failed or was dropped.
        failed: StepId,
        /// How it failed.
        source: Source,
    },
    /// A step still ran when the work was at its end, whose result is then not recorded. Wait for what the work spawns.
    Unawaited {
        /// Which step; there may be more.
        step: StepId,
    },
    /// The attempt was over when this was asked for: a clone of [`Steps`](super::Steps) has outlived it.
    Ended,
    /// A step was asked for within the transaction of another step of the mutation. It was not run.
    Within {
        /// Which step.
        step: StepId,
    },
    /// The attempt took longer than its completer [allows](super::CompleterBuilder::attempt_limit), and was dropped.
    TimeLimit {
        /// How long it may take.
        limit: Duration,
    },
    /// Two steps of one attempt have the same name, and no keys that tell them apart. The second one was not run.
    Repeated {
        /// Which step.
        step: StepId,
    },
    /// The name of a step is empty, or that of a step or a workflow is too long, or has control characters.
    InvalidName,
    /// A step is recorded that the code did not ask for, and that is not
    /// [retired](super::Workflow::retired). Noticed when the work is at its end, whose result is then not recorded. The
    /// step stays recorded.
    Unknown {
        /// Which step; there may be more.
        step: StepId,
    },
    /// A recorded step had another input. The record is left as it is.
    InputChanged {
        /// Which step.
        step: StepId,
    },
    /// A step that is to be run [once at most](super::Step::at_most_once) was begun and has not told what it did: it
    /// failed, or was dropped. Or the work of a step ended its transaction itself. The mutation is held.
    InDoubt {
        /// Which step.
        step: StepId,
        /// The error that the step returned, or that of the store, if there was one in this attempt.
        source: Option<Source>,
    },
    /// The mutation has more steps than [allowed](super::Workflow::max_steps). This one was not run.
    TooMany {
        /// Which step.
        step: StepId,
        /// How many are allowed.
        limit: usize,
    },
    /// The result of a step is too large to be kept. Outside of a transaction the step *was done*, that is recorded, and
    /// the mutation is held until a person says what it answered
    /// ([`step_was_done`](super::Idempotency::step_was_done)).
    TooLarge {
        /// Which step.
        step: StepId,
        /// The size of the encoded result, in bytes.
        size: u64,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The result of a step, or the input, cannot be encoded, or cannot be decoded as the type that was asked for. A step
    /// that was done and whose result cannot be encoded is [held](Self::TooLarge) as well.
    Codec {
        /// Which step, if it is one.
        step: Option<StepId>,
        /// What is wrong with it.
        source: CodecError,
    },
    /// Another holder took over and goes on. Of this attempt nothing more is recorded, and no other step is begun.
    LeaseLost,
    /// A step was done, or its transaction ended, and that could not be recorded or found out. The next attempt finds it
    /// recorded, or runs it again under the same downstream key.
    Unrecorded {
        /// Which step.
        step: StepId,
        /// What the store said.
        source: StoreError,
    },
    /// The mutation was begun under another name of its workflow, or was last run by another version, which this code
    /// does not [accept](super::Workflow::accepts). While a deploy is under way, other processes may.
    OtherWorkflow {
        /// The name that it was begun under.
        name: String,
        /// The version that ran it last.
        version: String,
        /// The name under which this code runs it. If that is another one, no deploy mends it.
        asked: String,
    },
    /// The completer that ran it stops, and hands it back between two steps.
    Stopping,
}

impl StepError {
    /// Whether the attempt is at its end, whatever the work makes of it.
    pub(super) fn is_final(&self) -> bool {
        !matches!(self, Self::Failed { .. } | Self::RolledBack { .. } | Self::Work { .. })
    }

    /// The cause that the message ends with.
    pub(super) fn cause(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Failed { source, .. }
            | Self::RolledBack { source, .. }
            | Self::Work { source }
            | Self::Behind { source, .. }
            | Self::InDoubt {
                source: Some(source), ..
            } => Some(&**source),
            Self::Codec { source, .. } => Some(source),
            Self::Unrecorded { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed { step, .. } => write!(f, "step {step} failed; the next attempt runs it again"),
            Self::RolledBack { step, .. } => {
                write!(
                    f,
                    "the transaction of step {step} was rolled back; the next attempt runs it again"
                )
            }
            Self::Work { .. } => f.write_str("the work failed between its steps"),
            Self::Behind { step, failed, .. } => write!(
                f,
                "step {step} was not run, since the next attempt runs step {failed} again, which failed before it; have \
                 that failure recorded, or let {failed} succeed first"
            ),
            Self::Unawaited { step } => write!(f, "step {step} still ran when the work was at its end; wait for it"),
            Self::Ended => f.write_str("the attempt was over when a step was asked for; wait for what the work spawns"),
            Self::Within { step } => write!(
                f,
                "step {step} was asked for within the transaction of another step; run it before or after"
            ),
            Self::TimeLimit { limit } => write!(f, "the attempt was not over within {limit:?}, and was dropped"),
            Self::Repeated { step } => write!(
                f,
                "step {step} is there twice in one attempt; give each a name of its own, or the same name and keys"
            ),
            Self::InvalidName => f.write_str(
                "the name or key of a step, or the name or version of a workflow, is not valid: each has up to \
                             200 bytes and no control characters, and the name of a step is not empty",
            ),
            Self::Unknown { step } => write!(
                f,
                "step {step} is recorded, and the code did not ask for it; list it as retired, or run the code that \
                 knows it"
            ),
            Self::InputChanged { step } => write!(
                f,
                "step {step} is recorded with another input; change the version of the workflow with its steps"
            ),
            Self::InDoubt { step, .. } => write!(
                f,
                "step {step} may have been done, must not be done again by itself, and has not told; find out, then resolve \
                 the request or have it go on"
            ),
            Self::TooMany { step, limit } => write!(f, "step {step} was not run: there are {limit} already, the limit"),
            Self::TooLarge { step, size, limit } => write!(
                f,
                "the result of step {step} has {size} bytes, over the limit of {limit}; return less, or raise the limit, and \
                 if it was done, say what it answered"
            ),
            Self::Codec { step: Some(step), .. } => write!(f, "the result of step {step} cannot be encoded or decoded"),
            Self::Codec { step: None, .. } => f.write_str("the input cannot be encoded or decoded"),
            Self::LeaseLost => f.write_str("its lease was lost, and another holder goes on with it"),
            Self::Unrecorded { step, .. } => write!(
                f,
                "step {step} may have been done, and that could not be recorded; the next attempt looks, or runs it \
                 again under the same downstream key"
            ),
            Self::OtherWorkflow { name, version, .. } => write!(
                f,
                "it is a mutation {name:?} of version {version:?}, which this code does not accept"
            ),
            Self::Stopping => f.write_str("its completer stops, and another one goes on with it"),
        }
    }
}

/// Why the work of [`run_steps`](super::Idempotency::run_steps) stops before its end.
///
/// Any [`std::error::Error`] becomes one by `?`, and a step's own failure is one already. The steps that are finished
/// stay recorded, and the next attempt goes on behind them. A request that can never succeed should be told apart, and
/// be answered with a value, which is recorded.
pub struct Stopped(pub(super) StepError);

impl Stopped {
    /// Stops for this reason: an error or a text.
    pub fn because(reason: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self(StepError::Work {
            source: reason.into().into(),
        })
    }

    /// Returns the reason.
    #[must_use]
    pub fn reason(&self) -> &StepError {
        &self.0
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for Stopped {
    fn from(error: E) -> Self {
        Self::because(error)
    }
}

impl fmt::Debug for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stopped").field(&self.0).finish()
    }
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.cause() {
            Some(cause) => write!(f, "{}: {cause}", self.0),
            None => self.0.fmt(f),
        }
    }
}
