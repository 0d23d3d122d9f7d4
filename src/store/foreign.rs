//! A transaction that another driver has begun: what a program that is not Rust, or does not use the store's driver, has to
//! run in it.
//!
//! ```text
//! begin   ──▶ their statements ──▶ the answer ──▶ read:  the record, for `decide`
//! grant   ──▶ their statements ──▶ the answer ──▶ granted
//!    the work
//! record  ──▶ their statements ──▶ the answer ──▶ recorded ──▶ their statements
//! undo    ──▶ their statements                           if the work failed
//! ```
//!
//! Nothing is undone of what is not granted, for nothing was written: to roll back to a savepoint undoes all that the connection
//! has done since, also what other code did beside the call.
//!
//! All values are text, both ways: drivers disagree about every other type. Each statement but for those of savepoints may answer with a
//! row of one column, named `oneflight`; what counts of several statements is the last row. So a driver need not tell apart
//! other statements that have rows and those that have none.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use super::claim::{ClaimRequest, Denied};
use super::error::StoreError;
use super::outbox::{Bell, MessageId, NewMessage, Sent};
use crate::identity::Fingerprint;
use crate::record::{FencingToken, HolderId, Record, RecordedResult, State, Timestamp};

/// What an operation of a [`ForeignTransaction`] that asks the store itself returns.
pub type Asked<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A statement for another driver.
#[derive(Clone, PartialEq, Eq)]
pub struct ForeignStatement {
    /// The text, with the database's own kind of placeholders.
    pub text: String,
    /// The values, in their order.
    pub values: Vec<String>,
}

impl ForeignStatement {
    /// Makes a statement.
    #[must_use]
    pub fn new(text: impl Into<String>, values: impl IntoIterator<Item = String>) -> Self {
        Self {
            text: text.into(),
            values: values.into_iter().collect(),
        }
    }
}

/// Prints the number of values, never the values.
impl fmt::Debug for ForeignStatement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForeignStatement")
            .field("text", &self.text)
            .field("values", &self.values.len())
            .finish()
    }
}

/// One request in a transaction that another driver has begun, and commits.
///
/// It excludes the store's own claims and transactions, since it takes the same locks and writes the same tables. The
/// statements of one step are run in their order, and the first that fails ends the step.
pub trait ForeignTransaction: fmt::Debug + Send + Sync {
    /// Returns the request, which may be changed before [`grant`](Self::grant).
    fn request(&mut self) -> &mut ClaimRequest;

    /// Says how many calls this one is inside of, in the same transaction. A store may name savepoints by it. 0 unless said.
    fn nest(&mut self, depth: u32) {
        let _ = depth;
    }

    /// Returns what is run first: the lock, and the question for the record. It writes nothing.
    fn begin(&self) -> Vec<ForeignStatement>;

    /// Reads the record from the answer.
    ///
    /// # Errors
    ///
    /// The answer is none, or the transaction is not one of this store's database.
    fn read(&mut self, answer: &str) -> Result<Option<Record>, StoreError>;

    /// Returns what tells the transaction from all others that are open, if the store has it from [`read`](Self::read).
    fn transaction(&self) -> Option<&str> {
        None
    }

    /// Returns what writes the claim that [`decide`](super::decide) has granted, behind a savepoint. It is called on a runtime.
    ///
    /// # Errors
    ///
    /// [`Denied`] if another holder has the lock.
    fn grant(&mut self, attempt: u32, took_over: Option<FencingToken>) -> Result<Vec<ForeignStatement>, Denied>;

    /// Reads the answer to [`grant`](Self::grant), if there is one.
    ///
    /// # Errors
    ///
    /// The answer is none.
    fn granted(&mut self, answer: Option<&str>) -> Result<(), StoreError>;

    /// Returns what sends a message with the commit. The answer is for [`read_sent`]. It is called on a runtime.
    fn send(&self, message: &NewMessage) -> Vec<ForeignStatement>;

    /// Returns the bell of the store's outbox.
    fn bell(&self) -> &Bell;

    /// Returns what records the result, once the work is done.
    fn record(&self, result: &RecordedResult, retention: Duration) -> Vec<ForeignStatement>;

    /// Reads the answer to [`record`](Self::record). Returns what is run last: all that is missing after it is the commit.
    ///
    /// # Errors
    ///
    /// * [`StoreError::CommittedByWork`]: the work has ended the transaction. Nothing is recorded.
    /// * Another holder came back. Nothing is recorded, and what was done is to be rolled back.
    fn recorded(&self, answer: Option<&str>) -> Result<Vec<ForeignStatement>, StoreError>;

    /// Returns what undoes all since [`grant`](Self::grant), and nothing without one. It fails if the transaction is over.
    fn undo(&self) -> Vec<ForeignStatement>;

    /// Says whether the work has ended the transaction, once [`undo`](Self::undo) has failed. The store may be asked, outside of the
    /// transaction. If something `failed`, it counts only what is known to be committed: an error may have ended the transaction
    /// as well, or the connection. Nothing failed if [`record`](Self::record) met no savepoint.
    fn is_ended(&self, failed: bool) -> Asked<'_, bool>;

    /// Leaves the request in doubt, and [held](Record::held) where the store can do that, since the work has committed a part of
    /// what it did. If that cannot be done, the caller knows all the same.
    fn hold(&self) -> Asked<'_, ()>;
}

/// Writes bytes as text for a [`ForeignStatement`]: two hexadecimal digits each.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";

    let digit = |number: u8| char::from(DIGITS[usize::from(number)]);
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

/// Reads bytes from the text of an answer. Returns `None` if there is anything but hexadecimal digits in it.
#[must_use]
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = text.as_bytes().chunks(2).map(|pair| match *pair {
        [high, low] => u8::try_from(digit(high)? * 16 + digit(low)?).ok(),
        _ => None,
    });
    pairs.collect()
}

/// Reads a record from the columns of an answer: the instant, fingerprint, token, holder, attempt, the ends of the lease, of the work and
/// of the retention, and the result. Bytes are hexadecimal digits. Without a token there is no record. Returns `None` if they make no
/// sense.
#[must_use]
pub fn read_record(columns: [Option<&str>; 9]) -> Option<Option<Record>> {
    let [
        now,
        fingerprint,
        token,
        holder,
        attempt,
        lease,
        completed,
        expires,
        result,
    ] = columns;
    let Some(token) = token else { return Some(None) };
    let time = |column: Option<&str>| Some(Timestamp::from_millis(column?.parse().ok()?));
    let fingerprint = match fingerprint {
        None => None,
        Some(digest) => Some(Fingerprint::from_digest(unhex(digest)?.try_into().ok()?)),
    };
    let state = match lease {
        Some(_) => State::InProgress {
            lease_expires: time(lease)?,
        },
        None => State::Completed {
            completed: time(completed)?,
            expires: time(expires)?,
            result: RecordedResult::from_stored(unhex(result?)?),
        },
    };
    Some(Some(Record::new(
        fingerprint,
        FencingToken::new(token.parse().ok()?),
        HolderId::from_bytes(unhex(holder?)?.try_into().ok()?),
        attempt?.parse().ok()?,
        state,
        time(now)?,
    )))
}

/// Reads the answer to a message that was sent: its number, and `new` or `known`.
#[must_use]
pub fn read_sent(answer: &str) -> Option<Sent> {
    let (id, what) = answer.split_once(' ')?;
    let id = MessageId::new(id.parse().ok()?);
    match what {
        "new" => Some(Sent::New(id)),
        "known" => Some(Sent::Duplicate(id)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_as_they_were_written() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(unhex(&hex(&bytes)), Some(bytes));
        assert_eq!(unhex("A0"), Some(vec![160]));
        for text in ["a", "0g", "+1", "é"] {
            assert_eq!(unhex(text), None, "{text}");
        }
    }

    #[test]
    fn a_record_makes_sense_or_is_none() {
        let (holder, digest) = ("0a".repeat(16), "0b".repeat(32));
        let mut columns = [
            Some("7"),
            Some(&*digest),
            Some("1"),
            Some(&*holder),
            Some("2"),
            None,
            Some("5"),
            Some("9"),
            Some("01"),
        ];
        let record = read_record(columns).flatten().expect("a record");
        assert_eq!((record.attempt, record.observed.as_millis()), (2, 7));
        for at in [0, 3, 4, 6, 7, 8] {
            let before = columns[at].take();
            assert_eq!(read_record(columns), None, "without column {at}");
            columns[at] = before;
        }
        columns[2] = None;
        assert_eq!(read_record(columns), Some(None));
    }

    #[test]
    fn what_is_printed_has_no_values() {
        let statement = ForeignStatement::new("SELECT ?", ["secret".to_owned()]);
        assert!(!format!("{statement:?}").contains("secret"));
    }
}
