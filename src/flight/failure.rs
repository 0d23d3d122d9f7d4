//! How a flight ends.

use crate::unwind::quietly;
use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// The end of a flight: the work's value, or why there is none.
pub(crate) type Landed<T> = Result<T, Failure>;

/// The end of a flight whose value, if there is one, is in the slot.
pub(super) type Ended = Result<(), Failure>;

/// Why a flight has no value.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    Panicked(Panicked),
    Aborted,
    /// Every caller had left. A call that joined after that has to be made again.
    Cancelled,
}

/// A panic of a flight's work, with its message.
///
/// Every caller of the flight gets it. What the work did before it panicked stays done.
#[derive(Clone, PartialEq, Eq)]
pub struct Panicked {
    message: Arc<str>,
}

impl Panicked {
    /// Returns the panic's message. If the payload was not text, the message says so.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use oneflight::{FlightError, Group};
    ///
    /// let group: Group<&str, u32> = Group::new();
    /// match group.run("key", || async { panic!("out of paper") }).await {
    ///     Err(FlightError::Panicked(panic)) => assert_eq!(panic.message(), "out of paper"),
    ///     other => unreachable!("{other:?}"),
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn from_payload(payload: Box<dyn Any + Send>) -> Self {
        let message = if let Some(text) = payload.downcast_ref::<&'static str>() {
            Arc::from(*text)
        } else if let Some(text) = payload.downcast_ref::<String>() {
            Arc::from(text.as_str())
        } else {
            Arc::from("a panic whose payload is not text")
        };
        quietly(|| drop(payload));
        Self { message }
    }
}

impl fmt::Debug for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Panicked").field(&self.message).finish()
    }
}

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the work panicked: {}", self.message)
    }
}

impl std::error::Error for Panicked {}
