//! How answers of the scripts become outcomes and [`Record`]s, and values become arguments.
//!
//! An answer is a list that begins with a word. An answer that does not look like one is [`StoreError::Corrupt`]: of a
//! record that something else wrote, or of a server that is not Redis.

use std::time::Duration;

use redis::Value;

use super::names::Keys;
use super::tokens::Shard;
use oneflight::correlation::CorrelationId;
use oneflight::identity::Fingerprint;
use oneflight::record::{FencingToken, HolderId, Record, RecordedResult, State, Timestamp};
use oneflight::store::{Claim, ClaimOutcome, ClaimRequest, Denied, StoreError, Takeover};

/// Added to any time until the year 142000, it is still a number that Lua counts exactly.
const LONGEST: u64 = 1 << 52;

/// A duration in milliseconds.
pub(super) fn millis(duration: Duration) -> u64 {
    Timestamp::default().after(duration).as_millis().min(LONGEST)
}

/// The holders from which the claim may be taken over.
pub(super) fn takeover(takeover: Takeover, keys: &Keys) -> String {
    match takeover {
        Takeover::Never => "never".to_owned(),
        Takeover::Expired => "expired".to_owned(),
        Takeover::Of(token) => keys
            .count(token)
            .map_or_else(|| "never".to_owned(), |count| count.to_string()),
    }
}

/// An answer, taken apart.
pub(super) struct Answer {
    word: Vec<u8>,
    rest: std::vec::IntoIter<Value>,
}

/// What a claim came to, and whether the server had to be told how far it had counted.
pub(super) struct Claimed {
    pub(super) outcome: ClaimOutcome,
    pub(super) set_back: bool,
}

impl Answer {
    pub(super) fn new(value: Value) -> Result<Self, StoreError> {
        let Value::Array(parts) = value else {
            return Err(malformed());
        };
        let mut rest = parts.into_iter();
        let Some(Value::BulkString(word)) = rest.next() else {
            return Err(malformed());
        };
        let mut answer = Self { word, rest };
        match &answer.word[..] {
            b"corrupt" => Err(StoreError::Corrupt {
                what: wrong(&answer.bytes()?),
            }),
            _ => Ok(answer),
        }
    }

    /// Returns the outcome of a claim.
    pub(super) fn claimed(mut self, request: &ClaimRequest, shard: Shard) -> Result<Claimed, StoreError> {
        let mut set_back = false;
        let outcome = match &self.word[..] {
            b"granted" => {
                let (token, attempt) = (self.token(shard)?, self.attempt()?);
                let took_over = self.maybe_number()?.map(|count| self.known(shard, count)).transpose()?;
                set_back = self.number()? != 0;
                ClaimOutcome::Granted(Claim::new(request.id.clone(), token, attempt, took_over))
            }
            b"in progress" => ClaimOutcome::Denied(Denied::InProgress {
                lease_remaining: Duration::from_millis(self.number()?),
                attempt: self.attempt()?,
            }),
            b"in doubt" => ClaimOutcome::Denied(Denied::InDoubt {
                token: self.token(shard)?,
                attempt: self.attempt()?,
            }),
            b"conflict" => ClaimOutcome::Denied(Denied::Conflict),
            b"record" => ClaimOutcome::Denied(Denied::Completed(self.whole_record(shard)?)),
            _ => return Err(malformed()),
        };
        Ok(Claimed { outcome, set_back })
    }

    /// Returns the outcome of an operation by the holder of a token.
    pub(super) fn done(self, token: FencingToken) -> Result<(), StoreError> {
        match &self.word[..] {
            b"done" => Ok(()),
            b"outdated" => Err(StoreError::Outdated { token }),
            _ => Err(malformed()),
        }
    }

    /// Returns the record, if there is one.
    pub(super) fn record(mut self, shard: Shard) -> Result<Option<Record>, StoreError> {
        match &self.word[..] {
            b"absent" => Ok(None),
            b"record" => self.whole_record(shard).map(Some),
            _ => Err(malformed()),
        }
    }

    fn whole_record(&mut self, shard: Shard) -> Result<Record, StoreError> {
        let observed = self.timestamp()?;
        let token = self.token(shard)?;
        let fingerprint = match self.maybe()? {
            None => None,
            Some(digest) => {
                let digest = digest.try_into().map_err(|_| malformed())?;
                Some(Fingerprint::from_digest(digest))
            }
        };
        let holder = HolderId::from_bytes(self.bytes()?.try_into().map_err(|_| malformed())?);
        let attempt = self.attempt()?;
        let state = match self.maybe_number()? {
            Some(lease_expires) => {
                // Of a result, and of when it was recorded and expires.
                for _ in 0..3 {
                    self.maybe()?;
                }
                State::InProgress {
                    lease_expires: Timestamp::from_millis(lease_expires),
                }
            }
            None => State::Completed {
                completed: self.timestamp()?,
                expires: self.timestamp()?,
                result: RecordedResult::from_stored(self.bytes()?),
            },
        };
        let mut record = Record::new(fingerprint, token, holder, attempt, state, observed);
        record.held = self.maybe()?.is_some();
        Ok(record)
    }

    /// Returns the record, if there is one, and the id of the request that claimed.
    pub(super) fn entry(mut self, shard: Shard) -> Result<Option<(Record, Option<CorrelationId>)>, StoreError> {
        match &self.word[..] {
            b"absent" => Ok(None),
            b"record" => {
                let record = self.whole_record(shard)?;
                // An id that is none was not written by us, and is no reason to hide the record.
                let id = self
                    .maybe()?
                    .and_then(|id| CorrelationId::new(str::from_utf8(&id).ok()?).ok());
                Ok(Some((record, id)))
            }
            _ => Err(malformed()),
        }
    }

    fn maybe(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        match self.rest.next() {
            Some(Value::BulkString(bytes)) => Ok(Some(bytes)),
            Some(Value::Nil) => Ok(None),
            _ => Err(malformed()),
        }
    }

    fn bytes(&mut self) -> Result<Vec<u8>, StoreError> {
        self.maybe()?.ok_or_else(malformed)
    }

    fn maybe_number(&mut self) -> Result<Option<u64>, StoreError> {
        self.maybe()?.map(|text| number(&text)).transpose()
    }

    fn number(&mut self) -> Result<u64, StoreError> {
        number(&self.bytes()?)
    }

    fn timestamp(&mut self) -> Result<Timestamp, StoreError> {
        self.number().map(Timestamp::from_millis)
    }

    fn attempt(&mut self) -> Result<u32, StoreError> {
        u32::try_from(self.number()?).map_err(|_| malformed())
    }

    fn token(&mut self, shard: Shard) -> Result<FencingToken, StoreError> {
        let count = self.number()?;
        self.known(shard, count)
    }

    fn known(&self, shard: Shard, count: u64) -> Result<FencingToken, StoreError> {
        shard.token(count).ok_or_else(malformed)
    }
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
        pairs.push((key, number(&count)?));
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

fn number(text: &[u8]) -> Result<u64, StoreError> {
    let text = std::str::from_utf8(text).map_err(|_| malformed())?;
    text.parse().map_err(|_| malformed())
}

fn malformed() -> StoreError {
    StoreError::Corrupt {
        what: "an answer is not what our scripts answer",
    }
}

/// What the scripts find wrong with a record, in the words of the field.
fn wrong(field: &[u8]) -> &'static str {
    match field {
        b"key" => "its key holds something else than a hash",
        b"token" => "its token is missing or not a number",
        b"attempt" => "its attempt is missing or not a number of 32 bits",
        b"holder" => "its holder is missing or not 16 bytes long",
        b"fingerprint" => "its fingerprint is not 32 bytes long",
        b"state" => "it is neither in progress nor completed, or both",
        b"result" => "it is completed and has no result",
        b"last token" => "the last token of its shard is not a number, or is too large to go on from",
        _ => "it is not one that this version of oneflight knows",
    }
}
