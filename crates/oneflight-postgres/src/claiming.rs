//! Claims that [go together](super::together).
//!
//! A message decides about what can be decided without a doubt and without waiting: what has no record is claimed, and what has one that
//! stands is answered with it. A lease that is over, a result past its retention, and a large one are for the claim that goes alone.

use std::future::Future;
use std::vec::IntoIter;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgHasArrayType, PgRow, Postgres};
use sqlx::{Decode, Type};

use super::call::{Message, Value};
use super::records::{self, Stored, column};
use super::shared::{Messenger, Step};
use oneflight::record::FencingToken;
use oneflight::store::{Claim, ClaimOutcome, ClaimRequest, Decision, StoreError, decide};

/// A claim that is wanted.
pub(super) struct Claiming {
    pub(super) request: ClaimRequest,
    /// The number of its lock.
    pub(super) lock: i64,
}

impl Step for Claiming {
    type Answer = ClaimOutcome;

    fn bytes(&self) -> usize {
        self.request.id.scope().len() + self.request.id.key().len()
    }

    fn lend(messenger: &Messenger) -> impl Future<Output = sqlx::Result<PoolConnection<Postgres>>> + Send {
        messenger.way.pool.acquire()
    }

    fn message(messenger: &Messenger, steps: &[Self]) -> Message {
        let requests = || steps.iter().map(|step| &step.request);
        let fingerprints: Vec<_> = requests().map(|it| it.id.fingerprint()).collect();
        let digests = fingerprints.iter().map(|it| it.as_ref().map(|it| &it.as_bytes()[..]));
        let holders = requests().map(|it| Some(&it.holder.as_bytes()[..]));
        messenger.way.message(
            &messenger.statements.claim_together,
            &[
                Value::Texts(&requests().map(|it| it.id.scope()).collect::<Vec<_>>()),
                Value::Texts(&requests().map(|it| it.id.key()).collect::<Vec<_>>()),
                Value::ManyBytes(&digests.collect::<Vec<_>>()),
                Value::ManyBytes(&holders.collect::<Vec<_>>()),
                Value::Numbers(&requests().map(|it| records::millis(it.lease)).collect::<Vec<_>>()),
                Value::Numbers(&steps.iter().map(|step| step.lock).collect::<Vec<_>>()),
                Value::Texts(&requests().map(records::correlation).collect::<Vec<_>>()),
            ],
        )
    }

    fn answers(steps: &[Self], rows: &[PgRow]) -> Result<Vec<Option<ClaimOutcome>>, StoreError> {
        let mut said = Said::of(records::only(rows)?, steps.len())?;
        steps.iter().map(|step| said.next(&step.request)).collect()
    }
}

/// What a message says, with an element for each claim.
struct Said {
    now: i64,
    granted: IntoIter<Option<i64>>,
    alone: IntoIter<Option<bool>>,
    fingerprint: IntoIter<Option<Vec<u8>>>,
    token: IntoIter<Option<i64>>,
    holder: IntoIter<Option<Vec<u8>>>,
    attempt: IntoIter<Option<i64>>,
    lease_expires: IntoIter<Option<i64>>,
    completed: IntoIter<Option<i64>>,
    expires: IntoIter<Option<i64>>,
    result: IntoIter<Option<Vec<u8>>>,
    held: IntoIter<Option<bool>>,
}

impl Said {
    fn of(row: &PgRow, claims: usize) -> Result<Self, StoreError> {
        Ok(Self {
            now: column(row, 0)?,
            granted: elements(row, 1, claims)?,
            alone: perhaps(row, 2, claims)?,
            fingerprint: perhaps(row, 3, claims)?,
            token: perhaps(row, 4, claims)?,
            holder: perhaps(row, 5, claims)?,
            attempt: perhaps(row, 6, claims)?,
            lease_expires: perhaps(row, 7, claims)?,
            completed: perhaps(row, 8, claims)?,
            expires: perhaps(row, 9, claims)?,
            result: perhaps(row, 10, claims)?,
            held: perhaps(row, 11, claims)?,
        })
    }

    /// Returns what is said to the next claim, or nothing if it has to go alone.
    fn next(&mut self, request: &ClaimRequest) -> Result<Option<ClaimOutcome>, StoreError> {
        let (granted, alone) = (self.granted.next().flatten(), self.alone.next().flatten());
        let stored = self.stored();
        if let Some(token) = granted {
            let token = FencingToken::new(records::unsigned(token)?);
            let claim = Claim::new(request.id.clone(), token, 1, None);
            return Ok(Some(ClaimOutcome::Granted(claim)));
        }
        if alone == Some(true) {
            return Ok(None);
        }
        let Some(stored) = stored else {
            // Another claim was being decided about.
            return Ok(Some(ClaimOutcome::Denied(records::untold(1))));
        };
        Ok(match decide(Some(stored.record(self.now)?), request) {
            Decision::Unchanged(outcome) => Some(outcome),
            Decision::Grant { .. } => None,
        })
    }

    fn stored(&mut self) -> Option<Stored> {
        let token = self.token.next().flatten();
        let stored = Stored {
            fingerprint: self.fingerprint.next().flatten(),
            token: token.unwrap_or_default(),
            holder: self.holder.next().flatten().unwrap_or_default(),
            attempt: self.attempt.next().flatten().unwrap_or_default(),
            lease_expires: self.lease_expires.next().flatten(),
            completed: self.completed.next().flatten(),
            expires: self.expires.next().flatten(),
            result: self.result.next().flatten(),
            held: self.held.next().flatten().unwrap_or_default(),
        };
        token.map(|_| stored)
    }
}

/// Returns a column that has an element for each claim.
fn elements<T>(row: &PgRow, index: usize, claims: usize) -> Result<IntoIter<Option<T>>, StoreError>
where
    T: for<'r> Decode<'r, Postgres> + Type<Postgres> + PgHasArrayType,
{
    one_for_each(column(row, index)?, claims)
}

/// The same of a column that is null if all claims are granted.
fn perhaps<T>(row: &PgRow, index: usize, claims: usize) -> Result<IntoIter<Option<T>>, StoreError>
where
    T: for<'r> Decode<'r, Postgres> + Type<Postgres> + PgHasArrayType,
{
    let elements: Option<Vec<Option<T>>> = column(row, index)?;
    elements.map_or_else(|| Ok(Vec::new().into_iter()), |elements| one_for_each(elements, claims))
}

fn one_for_each<T>(elements: Vec<Option<T>>, claims: usize) -> Result<IntoIter<Option<T>>, StoreError> {
    match elements.len() == claims {
        true => Ok(elements.into_iter()),
        false => Err(StoreError::Corrupt {
            what: "the server has left a claim unanswered",
        }),
    }
}
