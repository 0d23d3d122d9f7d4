//! Work that can fail.
//!
//! A group of `Result<V, Arc<E>>` runs work of `Result<V, E>`: every caller of a flight gets the same error, shared.

use super::error::{Error, TryError};
use super::handle::Group;
use super::run::{Call, Outcome, Run, Unproven};
use crate::flight::{Drive, OnAbandon};
use crate::identity::Fingerprint;
use pin_project_lite::pin_project;
use std::borrow::Borrow;
use std::future::Future;
use std::hash::{BuildHasher, Hash};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

impl<K, V, E, S> Group<K, Result<V, Arc<E>>, S>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    E: Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    /// Does the same as [`run`](Self::run) for work that can fail. Its error reaches every caller of the flight, as the same
    /// `Arc`.
    ///
    /// ```
    /// use oneflight::{Group, TryError};
    /// use std::io;
    /// use std::sync::Arc;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let group: Group<String, Result<u64, Arc<io::Error>>> = Group::new();
    /// let outcome = group
    ///     .try_run("cart-9".to_owned(), || async { Err(io::Error::other("connection lost")) })
    ///     .await;
    /// assert!(matches!(outcome, Err(TryError::Work(error)) if error.to_string() == "connection lost"));
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`TryError::Work`] if the work failed; otherwise as [`run`](Self::run).
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Self::run).
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run).
    pub fn try_run<F, W>(
        &self,
        key: K,
        work: F,
    ) -> TryRun<impl Unproven<Value = Result<V, Arc<E>>, Proven = impl Call<Value = Result<V, Arc<E>>>>>
    where
        F: FnOnce() -> W,
        W: Future<Output = Result<V, E>> + Send + 'static,
    {
        TryRun {
            run: self.run(key, || ShareError { work: work() }),
        }
    }

    /// Does the same as [`try_run`](Self::try_run) with a borrowed key, which is made an owned one only to lead.
    ///
    /// # Errors
    ///
    /// As [`try_run`](Self::try_run).
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Self::run).
    ///
    /// # Panics
    ///
    /// As [`run_by_ref`](Self::run_by_ref).
    pub fn try_run_by_ref<'g, Q, F, W>(
        &'g self,
        key: &'g Q,
        work: F,
    ) -> TryRun<impl Unproven<Value = Result<V, Arc<E>>, Proven = impl Call<Value = Result<V, Arc<E>>>>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        F: FnOnce() -> W,
        W: Future<Output = Result<V, E>> + Send + 'static,
    {
        TryRun {
            run: self.run_by_ref(key, || ShareError { work: work() }),
        }
    }
}

pin_project! {
    /// Work whose error is put into an `Arc`, to be shared.
    struct ShareError<W> {
        #[pin]
        work: W,
    }
}

impl<W, V, E> Future for ShareError<W>
where
    W: Future<Output = Result<V, E>>,
{
    type Output = Result<V, Arc<E>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().work.poll(cx).map_err(Arc::new)
    }
}

pin_project! {
    /// The future of [`Group::try_run`]. Before it is polled, it takes the same settings as [`Run`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct TryRun<C> {
        #[pin]
        run: Run<C>,
    }
}

impl<C: Unproven> TryRun<C> {
    /// Sets the fingerprint, as [`Run::fingerprint`] does.
    pub fn fingerprint(self, fingerprint: Fingerprint) -> TryRun<C::Proven> {
        TryRun {
            run: self.run.fingerprint(fingerprint),
        }
    }
}

impl<C: Call> TryRun<C> {
    /// Sets what becomes of abandoned work, as [`Run::on_abandon`] does.
    pub fn on_abandon(self, on_abandon: OnAbandon) -> Self {
        Self {
            run: self.run.on_abandon(on_abandon),
        }
    }

    /// Sets which task polls the work, as [`Run::drive`] does.
    pub fn drive(self, drive: Drive) -> Self {
        Self {
            run: self.run.drive(drive),
        }
    }
}

impl<C, V, E> Future for TryRun<C>
where
    C: Call<Value = Result<V, Arc<E>>>,
{
    type Output = Result<Outcome<V>, TryError<E>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = self.project().run.poll(cx);
        told(polled)
    }
}

/// What a call ends with.
type Answer<T> = Result<Outcome<T>, Error>;

/// Splits the outcome of work that can fail.
fn told<V, E>(polled: Poll<Answer<Result<V, Arc<E>>>>) -> Poll<Result<Outcome<V>, TryError<E>>> {
    polled.map(|outcome| {
        let Outcome { value, role } = outcome?;
        match value {
            Ok(value) => Ok(Outcome { value, role }),
            Err(error) => Err(TryError::Work(error)),
        }
    })
}
