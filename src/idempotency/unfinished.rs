//! What work says of itself when it has no value: that it did nothing, or that it does not know.
//!
//! Neither can be made from an error by `?` alone, on purpose: that something failed says nothing of what was done.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// Why work under [`try_run`](super::Idempotency::try_run) has no value. Made from [`NotDone`] or [`Unknown`], by `?`
/// or `into`.
///
/// ```
/// use std::io::{Error, ErrorKind};
/// use oneflight::idempotency::{NotDone, Unfinished, Unknown};
///
/// /// Asks a service that does nothing without having accepted the connection.
/// fn charge(called: Result<String, Error>) -> Result<String, Unfinished> {
///     match called {
///         Ok(charge) => Ok(charge),
///         Err(error) if error.kind() == ErrorKind::ConnectionRefused => Err(NotDone::because(error).into()),
///         // A time-out or a reset: it may have been done, or be done later.
///         Err(error) => Err(Unknown::because(error).into()),
///     }
/// }
/// assert!(matches!(charge(Err(ErrorKind::ConnectionRefused.into())), Err(Unfinished::NotDone(_))));
/// assert!(matches!(charge(Err(ErrorKind::TimedOut.into())), Err(Unfinished::Unknown(_))));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Unfinished {
    /// Nothing was done: the request can be tried again at once.
    NotDone(NotDone),
    /// It is not known what was done: the request is in doubt.
    Unknown(Unknown),
}

impl From<NotDone> for Unfinished {
    fn from(reason: NotDone) -> Self {
        Self::NotDone(reason)
    }
}

impl From<Unknown> for Unfinished {
    fn from(reason: Unknown) -> Self {
        Self::Unknown(reason)
    }
}

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotDone(reason) => reason.fmt(f),
            Self::Unknown(reason) => reason.fmt(f),
        }
    }
}

/// Says that the work has an answer, which is not to be a result: it is on its way to a client, and worth no warning.
#[cfg(feature = "http")]
#[derive(Debug)]
pub(crate) struct AnswerGiven(pub(crate) Box<dyn StdError + Send + Sync>);

#[cfg(feature = "http")]
impl fmt::Display for AnswerGiven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(feature = "http")]
impl StdError for AnswerGiven {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.0)
    }
}

/// The work's own statement that it did nothing. It frees the identity, and reaches every caller.
///
/// There is no conversion from errors by `?`, on purpose: that something failed does not mean that nothing was done.
/// Say it only where you know it; where you do not, say [`Unknown`].
///
/// ```
/// use oneflight::idempotency::NotDone;
///
/// let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
/// assert_eq!(NotDone::because(refused).to_string(), "connection refused");
/// ```
#[derive(Clone)]
pub struct NotDone(Arc<dyn StdError + Send + Sync>);

/// The work's own statement that it does not know what it did: what it called did not answer, or went away in the
/// middle.
///
/// It reaches every caller. It leaves the request in doubt, as the death of the process would, until the
/// [`Recovery`](super::Recovery) policy or an operator settles it.
///
/// ```
/// use oneflight::idempotency::Unknown;
///
/// let late = std::io::Error::from(std::io::ErrorKind::TimedOut);
/// assert_eq!(Unknown::because(late).to_string(), "timed out");
/// ```
#[derive(Clone)]
pub struct Unknown(Arc<dyn StdError + Send + Sync>);

impl NotDone {
    /// Says that nothing was done, for this reason: an error or a text.
    pub fn because(reason: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self(reason.into().into())
    }

    /// Returns the reason.
    #[must_use]
    pub fn reason(&self) -> &(dyn StdError + Send + Sync + 'static) {
        &*self.0
    }
}

impl Unknown {
    /// Says that it is not known what was done, for this reason: an error or a text.
    pub fn because(reason: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self(reason.into().into())
    }

    /// Returns the reason.
    #[must_use]
    pub fn reason(&self) -> &(dyn StdError + Send + Sync + 'static) {
        &*self.0
    }
}

impl fmt::Display for NotDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for NotDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NotDone").field(&self.0).finish()
    }
}

impl fmt::Debug for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Unknown").field(&self.0).finish()
    }
}
