//! How answers of the scripts become outcomes and [`Record`]s, and values become arguments.
//!
//! What happens most is answered with a token or a number, and everything else with a list that begins with a word. An
//! answer that does not look like that is [`StoreError::Corrupt`]: of a record that something else wrote, or of a server
//! that is not Redis.

use std::fmt;
use std::time::Duration;

use redis::Value;

use super::errors::unavailable;
use super::layout::{self, number};
use super::step::Text;
use super::tokens::Shard;
use oneflight::correlation::CorrelationId;
use oneflight::record::{FencingToken, Record, Timestamp};
use oneflight::store::{Claim, ClaimOutcome, ClaimRequest, Denied, StoreError, Takeover};

/// What stands in a list of what is in progress beside the keys of records: its score is the last token of the shard.
const LAST_TOKEN: &[u8] = b"\xff";
/// Added to any time of the next ten thousand years, it is still a number that is written.
const LONGEST: u64 = 1 << 52;

/// A duration in milliseconds.
pub(super) fn millis(duration: Duration) -> u64 {
    Timestamp::default().after(duration).as_millis().min(LONGEST)
}

/// Writes the holders from which the claim may be taken over.
pub(super) fn write_takeover(text: &mut Text<'_>, takeover: Takeover, shard: Shard) -> fmt::Result {
    let of = match takeover {
        Takeover::Never => None,
        Takeover::Expired => return text.bytes(b"expired"),
        Takeover::Of(token) => shard.count(token),
    };
    match of {
        Some(count) => layout::write_decimal(text, count),
        None => text.bytes(b"never"),
    }
}

/// An answer, taken apart.
pub(super) enum Answer {
    /// Of a claim: it is of what is new.
    Granted(u64),
    /// Of an operation by the holder of a token: whether the token is that of the claim.
    Done(bool),
    /// A word, and what belongs to it.
    Of(Vec<u8>, std::vec::IntoIter<Value>),
}

/// What a claim came to, and whether the server had to be told how far it had counted.
pub(super) struct Claimed {
    pub(super) outcome: ClaimOutcome,
    pub(super) set_back: bool,
}

impl Answer {
    pub(super) fn new(value: Value) -> Result<Self, StoreError> {
        let parts = match value {
            Value::BulkString(token) => return number(&token).map(Self::Granted),
            Value::Int(done) => return Ok(Self::Done(done == 1)),
            Value::Array(parts) => parts,
            _ => return Err(malformed()),
        };
        let mut rest = parts.into_iter();
        let Some(Value::BulkString(word)) = rest.next() else {
            return Err(malformed());
        };
        match &word[..] {
            b"corrupt" => Err(corrupt(&bytes(&mut rest)?)),
            _ => Ok(Self::Of(word, rest)),
        }
    }

    /// Returns the outcome of a claim.
    pub(super) fn claimed(self, request: ClaimRequest, shard: Shard) -> Result<Claimed, StoreError> {
        let known = |count| shard.token(count).ok_or_else(malformed);
        let (word, mut rest) = match self {
            Self::Granted(count) => {
                let claim = Claim::new(request.id, known(count)?, 1, None);
                return Ok(Claimed {
                    outcome: ClaimOutcome::Granted(claim),
                    set_back: false,
                });
            }
            Self::Done(_) => return Err(malformed()),
            Self::Of(word, rest) => (word, rest),
        };
        let rest = &mut rest;
        let mut set_back = false;
        let outcome = match &word[..] {
            b"granted" => {
                let (token, attempt) = (known(counted(rest)?)?, attempt(rest)?);
                let took_over = maybe(rest)?.map(|count| number(&count).and_then(known)).transpose()?;
                set_back = counted(rest)? != 0;
                ClaimOutcome::Granted(Claim::new(request.id, token, attempt, took_over))
            }
            b"in progress" => ClaimOutcome::Denied(Denied::InProgress {
                lease_remaining: Duration::from_millis(counted(rest)?),
                attempt: attempt(rest)?,
            }),
            b"in doubt" => ClaimOutcome::Denied(Denied::InDoubt {
                token: known(counted(rest)?)?,
                attempt: attempt(rest)?,
            }),
            b"conflict" => ClaimOutcome::Denied(Denied::Conflict),
            b"record" => ClaimOutcome::Denied(Denied::Completed(whole_record(rest, shard)?.0)),
            _ => return Err(malformed()),
        };
        Ok(Claimed { outcome, set_back })
    }

    /// Returns the outcome of an operation by the holder of a token.
    pub(super) fn done(self, token: FencingToken) -> Result<(), StoreError> {
        match self {
            Self::Done(true) => Ok(()),
            Self::Done(false) => Err(StoreError::Outdated { token }),
            Self::Granted(_) | Self::Of(..) => Err(malformed()),
        }
    }

    /// Returns the record, if there is one, and the id of the request that claimed.
    pub(super) fn record(self, shard: Shard) -> Result<Option<(Record, Option<CorrelationId>)>, StoreError> {
        match self {
            Self::Of(word, _) if word == b"absent" => Ok(None),
            Self::Of(word, mut rest) if word == b"record" => whole_record(&mut rest, shard).map(Some),
            Self::Of(..) | Self::Granted(_) | Self::Done(_) => Err(malformed()),
        }
    }
}

/// Returns what came of each of so many renewals, given their tokens.
pub(super) fn renewed(value: Value, tokens: &[FencingToken]) -> Result<Vec<Result<(), StoreError>>, StoreError> {
    let Value::Array(parts) = value else {
        return Err(malformed());
    };
    if parts.len() != tokens.len() {
        return Err(malformed());
    }
    let renewed = parts.into_iter().zip(tokens).map(|(part, token)| match part {
        Value::BulkString(wrong) => Err(corrupt(&wrong)),
        other => Answer::new(other.extract_error().map_err(unavailable)?)?.done(*token),
    });
    Ok(renewed.collect())
}

type Rest = std::vec::IntoIter<Value>;

fn whole_record(rest: &mut Rest, shard: Shard) -> Result<(Record, Option<CorrelationId>), StoreError> {
    let observed = Timestamp::from_millis(counted(rest)?);
    layout::record(&bytes(rest)?, observed, shard)
}

fn maybe(rest: &mut Rest) -> Result<Option<Vec<u8>>, StoreError> {
    match rest.next() {
        Some(Value::BulkString(bytes)) => Ok(Some(bytes)),
        Some(Value::Nil) => Ok(None),
        _ => Err(malformed()),
    }
}

fn bytes(rest: &mut Rest) -> Result<Vec<u8>, StoreError> {
    maybe(rest)?.ok_or_else(malformed)
}

fn counted(rest: &mut Rest) -> Result<u64, StoreError> {
    number(&bytes(rest)?)
}

fn attempt(rest: &mut Rest) -> Result<u32, StoreError> {
    u32::try_from(counted(rest)?).map_err(|_| malformed())
}

/// Returns pairs of a record's key and its count.
pub(super) fn in_progress(value: Value) -> Result<Vec<(Vec<u8>, u64)>, StoreError> {
    let Value::Array(parts) = value else {
        return Err(malformed());
    };
    let mut pairs = Vec::with_capacity(parts.len() / 2);
    let mut parts = parts.into_iter();
    while let Some(key) = parts.next() {
        let (Value::BulkString(key), Some(Value::BulkString(count))) = (key, parts.next()) else {
            return Err(malformed());
        };
        if key != LAST_TOKEN {
            pairs.push((key, number(&count)?));
        }
    }
    Ok(pairs)
}

/// Returns where a scan goes on, and the keys that it has found.
pub(super) fn scanned(value: Value) -> Result<(String, Vec<Vec<u8>>), StoreError> {
    let Value::Array(parts) = value else {
        return Err(malformed());
    };
    let Ok([Value::BulkString(place), Value::Array(keys)]) = <[Value; 2]>::try_from(parts) else {
        return Err(malformed());
    };
    let keys = keys.into_iter().map(|key| match key {
        Value::BulkString(key) => Ok(key),
        _ => Err(malformed()),
    });
    let place = String::from_utf8(place).map_err(|_| malformed())?;
    Ok((place, keys.collect::<Result<_, _>>()?))
}

/// Returns the ranges of slots of a cluster, from the first to the last, each with the server that has it.
pub(super) fn slots(value: Value) -> Result<Vec<(i64, i64, Value)>, StoreError> {
    let Value::Array(ranges) = value else {
        return Err(malformed());
    };
    let ranges = ranges.into_iter().map(|range| {
        let Value::Array(parts) = range else {
            return Err(malformed());
        };
        let mut parts = parts.into_iter();
        match (parts.next(), parts.next(), parts.next()) {
            (Some(Value::Int(first)), Some(Value::Int(last)), Some(server)) => Ok((first, last, server)),
            _ => Err(malformed()),
        }
    });
    ranges.collect()
}

pub(super) fn malformed() -> StoreError {
    StoreError::Corrupt {
        what: "an answer is not what our scripts answer",
    }
}

/// What the scripts find wrong with a record.
fn corrupt(what: &[u8]) -> StoreError {
    let what = match what {
        b"key" => "its key holds something else than a string",
        b"head" => "its head is not one of ours, or is cut short",
        b"attempt" => "its attempt is not a number of 32 bits",
        b"tail" => "its holder, fingerprint or id is cut short or too long",
        b"result" => "it is completed and has no result",
        b"last token" => "the last token of its shard is too large to go on from",
        b"list" => "the list of what is in progress in its shard is none",
        _ => "it is not one that this version of oneflight knows",
    };
    StoreError::Corrupt { what }
}
