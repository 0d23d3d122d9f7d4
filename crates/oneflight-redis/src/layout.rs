//! How a record is kept: a string, whose places [`prelude.lua`](../scripts/prelude.lua) lists.
//!
//! The scripts read and write the head. This file writes the tail, which they take over as it is, and reads the whole.

use std::fmt::{self, Write};
use std::ops::Range;

use oneflight::correlation::CorrelationId;
use oneflight::identity::Fingerprint;
use oneflight::record::{HolderId, Record, RecordedResult, State, Timestamp};
use oneflight::store::{ClaimRequest, StoreError};

use super::step::Text;
use super::tokens::Shard;

pub(super) const TOKEN: Range<usize> = 1..17;
const ATTEMPT: Range<usize> = 17..27;
/// When the lease ends, or when it was completed.
const FIRST: Range<usize> = 27..43;
const EXPIRES: Range<usize> = 43..59;
const HOLDER: Range<usize> = 59..75;
const HAS_FINGERPRINT: usize = 75;

/// A number of the head, as it is written.
pub(super) fn decimal(number: u64) -> String {
    format!("{number:016}")
}

/// Writes a number of the head.
pub(super) fn write_decimal(text: &mut Text<'_>, number: u64) -> fmt::Result {
    write!(text, "{number:016}")
}

/// Writes the end of a record in progress, as a claim brings it along.
pub(super) fn write_tail(text: &mut Text<'_>, request: &ClaimRequest) -> fmt::Result {
    text.bytes(request.holder.as_bytes())?;
    match request.id.fingerprint() {
        Some(fingerprint) => {
            text.bytes(b"1")?;
            text.bytes(fingerprint.as_bytes())?;
        }
        None => text.bytes(b"0")?,
    }
    // An id has up to 128 bytes.
    let correlation = request.correlation_id.as_ref().map_or("", |id| id.as_str());
    write!(text, "{:03}{correlation}", correlation.len())
}

/// Reads a record, as it was at that instant, and the id of the request that claimed.
pub(super) fn record(
    stored: &[u8],
    observed: Timestamp,
    shard: Shard,
) -> Result<(Record, Option<CorrelationId>), StoreError> {
    let part = |place: Range<usize>| stored.get(place).ok_or_else(cut_short);
    let time = |place| number(part(place)?).map(Timestamp::from_millis);
    let token = shard.token(number(part(TOKEN)?)?).ok_or_else(cut_short)?;
    let attempt = u32::try_from(number(part(ATTEMPT)?)?).map_err(|_| cut_short())?;
    let holder = HolderId::from_bytes(part(HOLDER)?.try_into().map_err(|_| cut_short())?);
    let mut at = HAS_FINGERPRINT + 1;
    let fingerprint = match part(HAS_FINGERPRINT..at)? {
        b"1" => {
            at += 32;
            let digest = part(at - 32..at)?.try_into().map_err(|_| cut_short())?;
            Some(Fingerprint::from_digest(digest))
        }
        _ => None,
    };
    let length = usize::try_from(number(part(at..at + 3)?)?).map_err(|_| cut_short())?;
    at += 3 + length;
    // An id that is none was not written by us, and is no reason to hide the record.
    let correlation = str::from_utf8(part(at - length..at)?).ok();
    let correlation = correlation.and_then(|id| CorrelationId::new(id).ok());
    let state = match stored[0] {
        b'c' => State::Completed {
            completed: time(FIRST)?,
            expires: time(EXPIRES)?,
            result: RecordedResult::from_stored(&stored[at..]),
        },
        _ => State::InProgress {
            lease_expires: time(FIRST)?,
        },
    };
    let mut record = Record::new(fingerprint, token, holder, attempt, state, observed);
    record.held = stored[0] == b'h';
    Ok((record, correlation))
}

/// Reads a decimal number.
pub(super) fn number(text: &[u8]) -> Result<u64, StoreError> {
    let text = str::from_utf8(text).map_err(|_| cut_short())?;
    text.parse().map_err(|_| cut_short())
}

fn cut_short() -> StoreError {
    StoreError::Corrupt {
        what: "an answer is not what our scripts answer",
    }
}
