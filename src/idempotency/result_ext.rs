//! What a failure means for the mutation, said where it happens and passed on by `?`.

use std::error::Error;

use super::transaction::Rollback;
use super::unfinished::{NotDone, Unknown};

/// Says what a failure means for the mutation, so that `?` passes it on.
///
/// That something failed says nothing of what was done, so no error becomes [`NotDone`] or [`Unknown`] by itself. Each
/// method takes every kind of error that a text or a `Box<dyn Error>` is made of, such as `anyhow::Error`. For
/// [`Error::cause`](super::Error::cause) to find what is in an `anyhow::Error`, add a `.context("…")`, or map it to an
/// error of your own before.
///
/// Work that calls another service, under [`try_run`](super::Idempotency::try_run):
///
/// ```
/// use oneflight::idempotency::Unfinished;
/// use oneflight::ResultExt;
/// use std::io::Error;
///
/// /// Your connection and your request to the payment provider.
/// async fn connect() -> Result<(), Error> {
///     Ok(())
/// }
/// async fn send(_amount: u64) -> Result<String, Error> {
///     Ok("ch_1".to_owned())
/// }
/// async fn charge(amount: u64) -> Result<String, Unfinished> {
///     connect().await.or_not_done()?; // Nothing was sent: the key is free again.
///     let charge = send(amount).await.or_unknown()?; // It may have arrived: the request is in doubt.
///     Ok(charge)
/// }
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(charge(7)).unwrap();
/// # Ok::<(), Error>(())
/// ```
///
/// Work in a transaction, under [`run_in_tx`](super::Idempotency::run_in_tx):
///
/// ```
/// use oneflight::{ResultExt, Rollback};
///
/// fn quantity(text: &str) -> Result<u32, Rollback<u32>> {
///     let asked: u32 = text.parse().or_decline(0)?; // Never a number: the answer 0 is recorded.
///     let left: u32 = std::fs::read_to_string("stock.txt")?.trim().parse()?; // Plain `?` rolls back and frees the key.
///     Ok(asked.min(left))
/// }
/// assert!(matches!(quantity("many"), Err(Rollback::Declined(0))));
/// ```
pub trait ResultExt<T, E>: Sized {
    /// Says that nothing was done: the request can be tried again at once.
    ///
    /// # Errors
    ///
    /// The error, as the reason of a [`NotDone`].
    fn or_not_done(self) -> Result<T, NotDone>
    where
        E: Into<Box<dyn Error + Send + Sync>>;

    /// Says that it is not known what was done: the request is in doubt.
    ///
    /// # Errors
    ///
    /// The error, as the reason of an [`Unknown`].
    fn or_unknown(self) -> Result<T, Unknown>
    where
        E: Into<Box<dyn Error + Send + Sync>>;

    /// Declines for good: the rows are rolled back, and this answer is recorded and replayed.
    ///
    /// # Errors
    ///
    /// The answer, as [`Rollback::Declined`].
    fn or_decline<A>(self, answer: A) -> Result<T, Rollback<A>>;

    /// Declines for good, as [`or_decline`](Self::or_decline) does, with an answer that is made of the error.
    ///
    /// ```
    /// use oneflight::{ResultExt, Rollback};
    ///
    /// fn quantity(text: &str) -> Result<u32, Rollback<String>> {
    ///     text.parse().or_decline_with(|error| format!("{text:?} is no quantity: {error}"))
    /// }
    /// let Err(Rollback::Declined(answer)) = quantity("many") else { panic!() };
    /// assert_eq!(answer, "\"many\" is no quantity: invalid digit found in string");
    /// ```
    ///
    /// # Errors
    ///
    /// The answer, as [`Rollback::Declined`].
    fn or_decline_with<A>(self, answer: impl FnOnce(E) -> A) -> Result<T, Rollback<A>>;

    /// Fails: everything is rolled back, and the identity is new again. Plain `?` does the same for a
    /// [`std::error::Error`].
    ///
    /// # Errors
    ///
    /// The error, as [`Rollback::Failed`].
    fn or_roll_back<A>(self) -> Result<T, Rollback<A>>
    where
        E: Into<Box<dyn Error + Send + Sync>>;
}

impl<T, E> ResultExt<T, E> for Result<T, E> {
    fn or_not_done(self) -> Result<T, NotDone>
    where
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        self.map_err(NotDone::because)
    }

    fn or_unknown(self) -> Result<T, Unknown>
    where
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        self.map_err(Unknown::because)
    }

    fn or_decline<A>(self, answer: A) -> Result<T, Rollback<A>> {
        self.map_err(|_| Rollback::Declined(answer))
    }

    fn or_decline_with<A>(self, answer: impl FnOnce(E) -> A) -> Result<T, Rollback<A>> {
        self.map_err(|error| Rollback::Declined(answer(error)))
    }

    fn or_roll_back<A>(self) -> Result<T, Rollback<A>>
    where
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        self.map_err(Rollback::failed)
    }
}
