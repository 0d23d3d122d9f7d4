//! Numbers of transactions, and how long they tell which one is meant.
//!
//! A server that crashes forgets which numbers it had given to transactions of which nothing had come to the disk, and gives them out
//! again; so does a standby that takes its place. "Committed" is true of another transaction then. So with the number,
//! the row of `incarnation` is read, which a crash empties: if it is another one by now, the transaction is over, and
//! its number tells nothing.

use sqlx::postgres::PgRow;

use super::records::column;
use oneflight::store::StoreError;

/// The number of a transaction, which no other one has in this incarnation of the server.
#[derive(Debug)]
pub(super) struct Number {
    pub(super) text: String,
    /// `None` if it could not be written after a crash.
    pub(super) incarnation: Option<String>,
}

impl Number {
    /// Reads it, where the incarnation is the column after it.
    pub(super) fn of(row: &PgRow, at: usize) -> Result<Self, StoreError> {
        Ok(Self {
            text: column(row, at)?,
            incarnation: column(row, at + 1)?,
        })
    }

    /// Makes it of what another driver has read.
    pub(super) fn new(text: &str, incarnation: Option<&str>) -> Self {
        Self {
            text: text.to_owned(),
            incarnation: incarnation.map(str::to_owned),
        }
    }

    /// Whether there is a number, and no incarnation that it is of.
    pub(super) fn lacks_incarnation(row: &PgRow, at: usize) -> Result<bool, StoreError> {
        let (number, incarnation): (Option<&str>, Option<&str>) = (column(row, at)?, column(row, at + 1)?);
        Ok(number.is_some() && incarnation.is_none())
    }

    /// Whether the server has crashed since, or another has taken its place. Not known of one whose incarnation could not be
    /// written: then the number is believed.
    pub(super) fn is_past(&self, now: Option<&str>) -> bool {
        self.incarnation.is_some() && self.incarnation.as_deref() != now
    }
}
