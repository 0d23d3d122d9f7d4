//! The id that joins everything that one request caused: browser, service, database and downstream logs.
//!
//! It is for people who read logs, never for deciding anything. Unlike an idempotency key it may come from anyone and
//! be anything, so it is bounded, and limited to characters that can stand in a header, a log line and a database
//! column.
//!
//! The id of the request that is being handled stands in a task-local: [`scope`] sets it for a future, and [`current`]
//! returns it. [`Idempotency`](crate::Idempotency) carries it from the call that begins a request's work into the work,
//! whichever task polls that: one of its own, a follower's, or the runtime's once every caller has left. The work of one
//! request so has one id, and followers keep theirs.
//!
//! Where an HTTP request gets its id from, and where it goes, is in `http::CorrelationLayer`. This module knows no HTTP, so
//! that stores can know it.
//!
//! ```
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use oneflight::correlation::{self, CorrelationId};
//! use oneflight::{Idempotency, MemoryStore, RequestIdentity, Scope};
//!
//! let idem = Idempotency::builder(MemoryStore::new()).build();
//! let id = RequestIdentity::new(Scope::new("tenant-7").route("POST /orders"), "a7f3")?;
//!
//! let call = idem.run(id, |_| async {
//!     // … in a task of its own …
//!     correlation::current().map(|id| id.to_string())
//! });
//! let reply = correlation::scope(CorrelationId::new("edge-5f2c")?, call).await?;
//! assert_eq!(reply.as_deref(), Some("edge-5f2c"));
//! # Ok(()) }
//! ```
//!
//! # What it does not do
//!
//! A task that the user spawns begins without an id, as with every task-local. Give it one:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use oneflight::correlation::{self, CorrelationId};
//!
//! let request = async {
//!     let work = async { correlation::current() };
//!     match correlation::current() {
//!         Some(id) => tokio::spawn(correlation::scope(id, work)).await,
//!         None => tokio::spawn(work).await,
//!     }
//! };
//! let id = CorrelationId::random();
//! assert_eq!(correlation::scope(id.clone(), request).await?, Some(id));
//! # Ok(()) }
//! ```

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tokio::task::futures::TaskLocalFuture;

use crate::random::random_uuid;

tokio::task_local! {
    /// The id of the request that is being handled, if it has one.
    static CURRENT: Option<CorrelationId>;
}

/// Returns the correlation id of the request that the code which runs now is part of, if there is one.
///
/// See [`scope`].
#[must_use]
pub fn current() -> Option<CorrelationId> {
    CURRENT.try_with(Clone::clone).ok().flatten()
}

/// Makes this the [current] id whenever the future is polled, and when it is dropped.
///
/// A scope inside of another one hides it. The future is not boxed, and its type can be named, so that a middleware can
/// have it in a future of its own.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use oneflight::correlation::{self, CorrelationId};
///
/// let id = CorrelationId::random();
/// let seen = correlation::scope(id.clone(), async { correlation::current() }).await;
/// assert_eq!(seen, Some(id));
/// assert_eq!(correlation::current(), None);
/// # }
/// ```
///
/// # Cancel safety
///
/// As safe as the future.
///
/// # Panics
///
/// The returned future panics if it is polled after it has completed.
pub fn scope<F: Future>(id: CorrelationId, future: F) -> Correlated<F> {
    carry(Some(id), future)
}

/// Makes this the [current] id while the closure runs.
///
/// ```
/// use oneflight::correlation::{self, CorrelationId};
///
/// let id = CorrelationId::random();
/// let seen = correlation::in_scope(id.clone(), correlation::current);
/// assert_eq!(seen, Some(id));
/// ```
pub fn in_scope<R>(id: CorrelationId, closure: impl FnOnce() -> R) -> R {
    CURRENT.sync_scope(Some(id), closure)
}

/// Takes what was current where the work was asked for along to where it is polled. If that was no id, the work sees
/// none, wherever it is polled.
pub(crate) fn carry<F: Future>(current: Option<CorrelationId>, future: F) -> Correlated<F> {
    Correlated {
        future: CURRENT.scope(current, future),
    }
}

pin_project! {
    /// A future that has a correlation id. Made by [`scope`].
    #[must_use = "futures do nothing unless they are polled"]
    pub struct Correlated<F> {
        #[pin]
        future: TaskLocalFuture<Option<CorrelationId>, F>,
    }
}

impl<F: Future> Future for Correlated<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.project().future.poll(cx)
    }
}

impl<F> fmt::Debug for Correlated<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Correlated").finish_non_exhaustive()
    }
}

/// A correlation id: 1 to 128 bytes of visible ASCII. Cloning is cheap.
///
/// ```
/// use oneflight::correlation::CorrelationId;
///
/// let id: CorrelationId = "edge-5f2c".parse()?;
/// assert_eq!(id.as_str(), "edge-5f2c");
/// assert_eq!(CorrelationId::random().as_str().len(), 36);
/// assert!(CorrelationId::new("two words").is_err());
/// # Ok::<(), oneflight::correlation::CorrelationIdError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CorrelationId(Arc<str>);

impl CorrelationId {
    /// The maximum length of an id, in bytes.
    pub const MAX_BYTES: usize = 128;

    /// Makes a new id: a random UUID (version 4).
    #[must_use]
    pub fn random() -> Self {
        Self(random_uuid().into())
    }

    /// Validates an id that came from elsewhere.
    ///
    /// # Errors
    ///
    /// [`CorrelationIdError`] if the text is empty, longer than [`MAX_BYTES`](Self::MAX_BYTES) or holds anything but
    /// visible ASCII (`0x21` to `0x7e`).
    pub fn new(text: impl AsRef<str>) -> Result<Self, CorrelationIdError> {
        let text = text.as_ref();
        if text.is_empty() {
            return Err(CorrelationIdError::Empty);
        }
        if text.len() > Self::MAX_BYTES {
            return Err(CorrelationIdError::TooLong {
                bytes: text.len(),
                limit: Self::MAX_BYTES,
            });
        }
        match text.bytes().position(|byte| !byte.is_ascii_graphic()) {
            Some(position) => Err(CorrelationIdError::Character { position }),
            None => Ok(Self(text.into())),
        }
    }

    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CorrelationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for CorrelationId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for CorrelationId {
    type Err = CorrelationIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

/// Why a text is not a [`CorrelationId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CorrelationIdError {
    /// The text is empty.
    Empty,
    /// The text is longer than [`CorrelationId::MAX_BYTES`].
    TooLong {
        /// How long it is, in bytes.
        bytes: usize,
        /// How long it may be, in bytes.
        limit: usize,
    },
    /// The text contains something other than visible ASCII.
    Character {
        /// The position of the first such byte, counted from 0.
        position: usize,
    },
}

impl fmt::Display for CorrelationIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(
                f,
                "the correlation id is empty; send one of 1 to {} characters",
                CorrelationId::MAX_BYTES
            ),
            Self::TooLong { bytes, limit } => {
                write!(
                    f,
                    "the correlation id is {bytes} bytes long; send one of up to {limit} bytes"
                )
            }
            Self::Character { position } => write!(
                f,
                "the correlation id has an unacceptable character at byte {position}; send visible ASCII"
            ),
        }
    }
}

impl Error for CorrelationIdError {}
