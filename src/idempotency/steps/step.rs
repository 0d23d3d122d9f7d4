//! How a step is named, and what its work knows.

use std::fmt;

use crate::idempotency::context::Context;
use crate::idempotency::step_error::StepError;
use crate::idempotency::workflow::LONGEST_NAME;
use crate::identity::{Fingerprint, RequestIdentity};
use crate::store::StepId;

/// Names a step of a mutation. A text is one: `steps.run("reserve", …)`.
///
/// ```
/// use oneflight::idempotency::Step;
///
/// // One for each line of an order, and an error if that line's address was another one in an earlier attempt.
/// let mail = Step::new("mail").key("line-7").input("ada@example.com");
/// # let _ = mail;
/// ```
#[derive(Clone, Debug)]
#[must_use = "a step is run by `Steps::run` or `Steps::run_in_tx`"]
pub struct Step {
    pub(super) id: StepId,
    pub(super) input: Option<Fingerprint>,
    pub(super) most: Most,
}

/// How often a step may be begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Most {
    Often,
    Once,
}

impl Step {
    /// Names a step. A name has 1 to 200 bytes, and no control characters.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            id: StepId::new(name, ""),
            input: None,
            most: Most::Often,
        }
    }

    /// Tells steps of the same name apart, in a loop for example. Take something that stays the same when the work is
    /// run again: the number of an order's line, not a position in a list that may change.
    ///
    /// It stands in the store and in error messages as it is. It has up to 200 bytes.
    pub fn key(mut self, key: impl fmt::Display) -> Self {
        self.id = StepId::new(self.id.name(), key.to_string());
        self
    }

    /// Has an attempt that finds the step recorded with another input fail
    /// ([`StepError::InputChanged`]). Only a digest is kept.
    pub fn input(mut self, input: impl AsRef<[u8]>) -> Self {
        self.input = Some(Fingerprint::of(input));
        self
    }

    /// Has the step begun once at most. It is for a call downstream that honours no key.
    ///
    /// That it begins is written down first, which is one write more. If its attempt ends without its answer, by an error
    /// of its own too, nobody knows whether it was done: the mutation is held for a person
    /// ([`StepError::InDoubt`]).
    ///
    /// In a transaction a step needs none of this.
    pub fn at_most_once(mut self) -> Self {
        self.most = Most::Once;
        self
    }

    pub(super) fn check(&self) -> Result<(), StepError> {
        let (name, key) = (self.id.name(), self.id.key());
        let is_valid = |text: &str| text.len() <= LONGEST_NAME && !text.chars().any(char::is_control);
        match !name.is_empty() && is_valid(name) && is_valid(key) {
            true => Ok(()),
            false => Err(StepError::InvalidName),
        }
    }
}

impl From<&str> for Step {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl From<String> for Step {
    fn from(name: String) -> Self {
        Self::new(name)
    }
}

impl From<StepId> for Step {
    fn from(id: StepId) -> Self {
        let (input, most) = (None, Most::Often);
        Self { id, input, most }
    }
}

/// What a step's work knows of itself. Cloning is cheap.
#[derive(Clone)]
pub struct StepContext {
    context: Context,
    id: StepId,
}

impl StepContext {
    pub(super) fn new(context: Context, id: StepId) -> Self {
        Self { context, id }
    }

    /// Returns which step it is.
    #[must_use]
    pub fn id(&self) -> &StepId {
        &self.id
    }

    /// Returns the idempotency key of the step, to be sent downstream: 64 hexadecimal digits.
    ///
    /// It depends on the request and on the step's name and key only, so it is the same when the step is run again. It is
    /// what [`Context::downstream_key`] returns for the step's name, if the step has no key.
    #[must_use]
    pub fn downstream_key(&self) -> String {
        self.context.downstream_key(known_as(&self.id))
    }

    /// Returns what the work knows of its execution.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }
}

impl StepId {
    /// Returns the key under which this step of a request is known to what it calls, as [`StepContext::downstream_key`] gives it
    /// to the step.
    #[must_use]
    pub fn downstream_key(&self, request: &RequestIdentity) -> String {
        request.downstream_key(known_as(self))
    }
}

impl fmt::Debug for StepContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepContext")
            .field("id", &self.id)
            .field("context", &self.context)
            .finish()
    }
}

/// The text by which a step is known downstream. Neither a name nor a key has the character between them.
pub(super) fn known_as(id: &StepId) -> String {
    match id.key().is_empty() {
        true => id.name().to_owned(),
        false => format!("{}\u{1f}{}", id.name(), id.key()),
    }
}
