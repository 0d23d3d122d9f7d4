//! What is declared of a mutation of several steps: its name and version, the steps that went out, and its bounds.

/// The longest name of a workflow or a step, the longest version, and the longest key, in bytes.
pub(super) const LONGEST_NAME: usize = 200;

/// Declares a mutation of several steps, for [`run_steps`](super::Idempotency::run_steps) and for a
/// [`Completer`](super::Completer).
///
/// ```
/// use oneflight::idempotency::Workflow;
///
/// let place_order = Workflow::new("place_order")
///     .version("2")
///     // What version 1 has begun, this code can finish.
///     .accepts("1")
///     // Version 1 had this step. That it was done is no error.
///     .retired("check_stock");
/// # let _ = place_order;
/// ```
#[derive(Clone, Debug)]
pub struct Workflow {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) accepts: Vec<String>,
    pub(super) retired: Vec<String>,
    pub(super) max_steps: usize,
    pub(super) max_bytes: usize,
}

impl Workflow {
    /// Names a workflow. Without a name, which is an empty one, no completer takes its mutations up: they go on when
    /// their client comes back.
    ///
    /// Name and version have up to 200 bytes each, and no control characters. A mutation of others is not begun
    /// ([`StepError::InvalidName`](super::StepError::InvalidName)).
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            version: "1".to_owned(),
            accepts: Vec::new(),
            retired: Vec::new(),
            max_steps: 1_000,
            max_bytes: 4 * 1024 * 1024,
        }
    }

    /// Sets the version of this code. The default is `1`.
    ///
    /// Change it when this code cannot go on with what the code before has begun, for example since a step means
    /// something else. What was last run by another version is left alone unless this code [accepts](Self::accepts) it.
    /// What this code goes on with is of this version from then on, so that older code does not take it back.
    #[must_use]
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// Says that this code can also finish what another version has begun.
    #[must_use]
    pub fn accepts(mut self, version: impl Into<String>) -> Self {
        self.accepts.push(version.into());
        self
    }

    /// Says that a step of this name, under any key, may be recorded although this code does not ask for it any more.
    ///
    /// A step that is recorded, is not retired, and was not asked for when the work is at its end, is an error
    /// ([`StepError::Unknown`](super::StepError::Unknown)).
    #[must_use]
    pub fn retired(mut self, step: impl Into<String>) -> Self {
        self.retired.push(step.into());
        self
    }

    /// Limits the number of steps of a mutation. The default is 1,000.
    #[must_use]
    pub fn max_steps(mut self, steps: usize) -> Self {
        self.max_steps = steps;
        self
    }

    /// Limits the input and the encoded results of all steps of a mutation together, in bytes. The default is 4 MiB.
    ///
    /// Each of them is limited by [`max_result_bytes`](super::IdempotencyBuilder::max_result_bytes) as well.
    #[must_use]
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }
}

impl Workflow {
    /// Returns whether a mutation may be begun under this name and version.
    pub(super) fn is_valid(&self) -> bool {
        let is_valid = |text: &str| text.len() <= LONGEST_NAME && !text.chars().any(char::is_control);
        is_valid(&self.name) && is_valid(&self.version)
    }
}

impl Default for Workflow {
    fn default() -> Self {
        Self::new("")
    }
}

impl From<&str> for Workflow {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl From<String> for Workflow {
    fn from(name: String) -> Self {
        Self::new(name)
    }
}
