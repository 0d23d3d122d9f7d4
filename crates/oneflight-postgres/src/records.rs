//! How a row becomes a [`Record`], and values become parameters.

use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::{PgRow, Postgres};

use oneflight::correlation::CorrelationId;
use oneflight::identity::{Fingerprint, RequestIdentity};
use oneflight::record::{FencingToken, HolderId, Record, RecordedResult, State, Timestamp};
use oneflight::store::{Claim, ClaimOutcome, ClaimRequest, Decision, Denied, InDoubt, StoreError, Takeover, decide};

/// How long a holder is taken to have a claim if it is only known that it is deciding about it, or has it in a
/// transaction.
const UNTOLD: Duration = Duration::from_secs(1);

/// A duration in the milliseconds of the table, bounded so that adding it to now cannot overflow.
pub(super) fn millis(duration: Duration) -> i64 {
    let millis = Timestamp::default().after(duration).as_millis();
    i64::try_from(millis).unwrap_or(i64::MAX).min(i64::MAX / 2)
}

/// A token in the table's integers. The server would not count so far.
pub(super) fn number(token: FencingToken) -> i64 {
    i64::try_from(token.get()).unwrap_or(i64::MAX)
}

/// A number of rows.
pub(super) fn rows(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// The holders from which the claim may be taken over: none, any, or the holder of one token; tokens begin with 1.
pub(super) fn takeover(takeover: Takeover) -> i64 {
    match takeover {
        Takeover::Never => 0,
        Takeover::Expired => -1,
        Takeover::Of(token) => number(token),
    }
}

/// The id of the request that claims, or an empty text.
pub(super) fn correlation(request: &ClaimRequest) -> &str {
    request.correlation_id.as_ref().map_or("", CorrelationId::as_str)
}

/// A record as it is kept.
pub(super) struct Stored {
    pub(super) fingerprint: Option<Vec<u8>>,
    pub(super) token: i64,
    pub(super) holder: Vec<u8>,
    pub(super) attempt: i64,
    pub(super) lease_expires: Option<i64>,
    pub(super) completed: Option<i64>,
    pub(super) expires: Option<i64>,
    pub(super) result: Option<Vec<u8>>,
    pub(super) held: bool,
}

impl Stored {
    /// Returns the record, as it is at this instant.
    pub(super) fn record(self, now: i64) -> Result<Record, StoreError> {
        const MISSING: StoreError = StoreError::Corrupt {
            what: "a column is not of its type",
        };
        let holder = <[u8; 16]>::try_from(self.holder).map_err(|_| StoreError::Corrupt {
            what: "a holder is not 16 bytes long",
        })?;
        let attempt = u32::try_from(self.attempt).map_err(|_| StoreError::Corrupt {
            what: "an attempt is not a number of 32 bits",
        })?;
        let state = match self.lease_expires {
            Some(lease_expires) => State::InProgress {
                lease_expires: timestamp(lease_expires)?,
            },
            None => State::Completed {
                completed: timestamp(self.completed.ok_or(MISSING)?)?,
                expires: timestamp(self.expires.ok_or(MISSING)?)?,
                result: RecordedResult::from_stored(self.result.ok_or(MISSING)?),
            },
        };
        let mut record = Record::new(
            self.fingerprint.map(digest).transpose()?,
            FencingToken::new(unsigned(self.token)?),
            HolderId::from_bytes(holder),
            attempt,
            state,
            timestamp(now)?,
        );
        record.held = self.held;
        Ok(record)
    }
}

/// Returns the record in a row: its first column is the instant, and the others are `statements::RECORD`. The record is
/// absent if these are null.
pub(super) fn record(row: &PgRow) -> Result<Option<Record>, StoreError> {
    let Some(token) = column::<Option<i64>>(row, 2)? else {
        return Ok(None);
    };
    let stored = Stored {
        fingerprint: column(row, 1)?,
        token,
        holder: column(row, 3)?,
        attempt: column(row, 4)?,
        lease_expires: column(row, 6)?,
        completed: column(row, 7)?,
        expires: column(row, 8)?,
        result: column(row, 9)?,
        held: column(row, 10)?,
    };
    stored.record(column(row, 0)?).map(Some)
}

pub(super) fn fingerprint(row: &PgRow, index: usize) -> Result<Option<Fingerprint>, StoreError> {
    column::<Option<Vec<u8>>>(row, index)?.map(digest).transpose()
}

fn digest(stored: Vec<u8>) -> Result<Fingerprint, StoreError> {
    let digest = <[u8; 32]>::try_from(stored).map_err(|_| StoreError::Corrupt {
        what: "a fingerprint is not 32 bytes long",
    })?;
    Ok(Fingerprint::from_digest(digest))
}

/// Returns the outcome of a claim: a record, and in column 11 whether it is what the claim wrote.
pub(super) fn claimed(row: &PgRow, request: &ClaimRequest) -> Result<ClaimOutcome, StoreError> {
    let written = column::<Option<bool>>(row, 11)? == Some(true);
    outcome(record(row)?, written.then_some(column(row, 5)?), request)
}

/// The same of a claim that is answered with two arrays, of the numbers and of the bytes. If there is no record, there is the instant alone.
pub(super) fn claimed_alone(row: &PgRow, request: &ClaimRequest) -> Result<ClaimOutcome, StoreError> {
    const OTHERWISE: StoreError = StoreError::Corrupt {
        what: "a claim is answered otherwise than it was asked",
    };
    let numbers: Vec<Option<i64>> = column(row, 0)?;
    let bytes: Option<Vec<Option<Vec<u8>>>> = column(row, 1)?;
    let Some(bytes) = bytes else {
        return outcome(None, None, request);
    };
    let [
        now,
        token,
        attempt,
        took_over,
        lease_expires,
        completed,
        expires,
        held,
        written,
    ] = <[_; 9]>::try_from(numbers).map_err(|_| OTHERWISE)?;
    let [fingerprint, holder, result] = <[_; 3]>::try_from(bytes).map_err(|_| OTHERWISE)?;
    let stored = token.map(|token| Stored {
        fingerprint,
        token,
        holder: holder.unwrap_or_default(),
        attempt: attempt.unwrap_or_default(),
        lease_expires,
        completed,
        expires,
        result,
        held: held == Some(1),
    });
    let now = now.ok_or(OTHERWISE)?;
    let record = stored.map(|stored| stored.record(now)).transpose()?;
    outcome(record, (written == Some(1)).then_some(took_over), request)
}

/// Returns the outcome of a claim by the record, and by what it took over if the record is what it wrote.
fn outcome(
    record: Option<Record>,
    written: Option<Option<i64>>,
    request: &ClaimRequest,
) -> Result<ClaimOutcome, StoreError> {
    if let Some(took_over) = written {
        let Some(record) = record else {
            return Err(StoreError::Corrupt {
                what: "a claim was granted without a record",
            });
        };
        let took_over = took_over.map(unsigned).transpose()?.map(FencingToken::new);
        let claim = Claim::new(request.id.clone(), record.token, record.attempt, took_over);
        return Ok(ClaimOutcome::Granted(claim));
    }
    let attempt = record.as_ref().map_or(1, |record| record.attempt);
    match decide(record, request) {
        Decision::Unchanged(outcome) => Ok(outcome),
        // It was free, and another claim was being decided about.
        Decision::Grant { .. } => Ok(ClaimOutcome::Denied(untold(attempt))),
    }
}

/// Another holder has the claim, or is about to; of a transaction nothing else can be seen.
pub(super) fn untold(attempt: u32) -> Denied {
    Denied::InProgress {
        lease_remaining: UNTOLD,
        attempt,
    }
}

/// A row of the list of what is in doubt: a record, and its scope and key in columns 11 and 12.
pub(super) fn doubtful(row: &PgRow) -> Result<InDoubt, StoreError> {
    let id = RequestIdentity::from_stored(column(row, 11)?, column(row, 12)?);
    let id = id.map_err(|_| StoreError::Corrupt {
        what: "a scope or a key is not valid",
    })?;
    let record = record(row)?;
    record
        .and_then(|record| InDoubt::of(id, &record))
        .ok_or(StoreError::Corrupt {
            what: "what is in doubt has no lease",
        })
}

/// Fails if an operation has not met the claim that it was to change, whose token it answers with.
pub(super) fn changed(rows: &[PgRow], token: FencingToken) -> Result<(), StoreError> {
    match column::<Option<i64>>(only(rows)?, 0)? {
        Some(_) => Ok(()),
        None => Err(StoreError::Outdated { token }),
    }
}

/// Returns the row of a statement that always answers with one.
pub(super) fn only(rows: &[PgRow]) -> Result<&PgRow, StoreError> {
    rows.first().ok_or(StoreError::Corrupt {
        what: "the server has left a statement unanswered",
    })
}

pub(super) fn column<'r, T>(row: &'r PgRow, index: usize) -> Result<T, StoreError>
where
    T: sqlx::Decode<'r, Postgres> + sqlx::Type<Postgres>,
{
    row.try_get(index).map_err(|_| StoreError::Corrupt {
        what: "a column is not of its type",
    })
}

pub(super) fn unsigned(number: i64) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|_| StoreError::Corrupt {
        what: "a number is negative",
    })
}

pub(super) fn timestamp(millis: i64) -> Result<Timestamp, StoreError> {
    unsigned(millis).map(Timestamp::from_millis)
}
