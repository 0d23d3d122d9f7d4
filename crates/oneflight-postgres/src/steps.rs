//! The steps of mutations: how they are read, and the store as the contract for steps asks for it.
//!
//! A mutation of steps has a row beside its record, with the token of its last claim. That row is what a step's write
//! locks, not the record: renewals change the record all the time, and wait for nobody.
//!
//! * **A step, then a takeover**: the step's transaction holds the row, shared, until it is committed. The takeover finds
//!   it locked, claims nothing, and is "in progress": its next question finds the step.
//! * **A takeover, then a step**: the step waits for the row, if at all, and finds another token in it: nothing is
//!   written. (Above `READ COMMITTED`, the server refuses the step's transaction.)

use std::time::Duration;

use sqlx::postgres::PgRow;
use tokio::time::Instant;

use super::PostgresStore;
use super::call::Value;
use super::errors::unavailable;
use super::records::{self, column, fingerprint, millis, number, only, rows, takeover, unsigned};
use super::retry::{Tries, tried, tried_within};
use oneflight::identity::{Fingerprint, RequestIdentity};
use oneflight::record::{FencingToken, RecordedResult};
use oneflight::store::{
    ClaimOutcome, ClaimRequest, Denied, Standing, StartedBy, StepId, StepInTransaction, StepRecord, StepStore,
    StepsClaim, StoreError, Takeover, UnfinishedQuery, UnfinishedSteps, WorkflowRecord, WorkflowStart,
    report_unreadable,
};

/// The longest first pause, so that it can be doubled often.
const LONGEST_FIRST_PAUSE: Duration = Duration::from_millis(1 << 32);

/// A step as it goes to the server and comes from it: name, key, and the input's digest and the result in hexadecimal
/// digits.
type Written = (String, String, Option<String>, Option<String>);

fn written(step: &StepRecord) -> Written {
    (
        step.id.name().to_owned(),
        step.id.key().to_owned(),
        step.input.as_ref().map(|input| digits(input.as_bytes())),
        step.result.as_ref().map(|result| digits(result.as_bytes())),
    )
}

fn read((name, key, input, result): Written) -> Result<StepRecord, StoreError> {
    let input = match input {
        None => None,
        Some(input) => {
            let digest = bytes(&input)?.try_into().map_err(|_| StoreError::Corrupt {
                what: "the digest of a step's input is not 32 bytes long",
            })?;
            Some(Fingerprint::from_digest(digest))
        }
    };
    let result = result.as_deref().map(bytes).transpose()?;
    Ok(StepRecord {
        id: StepId::new(name, key),
        input,
        result: result.map(RecordedResult::from_stored),
    })
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut digits, byte| {
        for digit in [byte >> 4, byte & 15] {
            digits.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
        }
        digits
    })
}

fn bytes(digits: &str) -> Result<Vec<u8>, StoreError> {
    let pairs = digits.as_bytes().chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
        u8::from_str_radix(pair, 16).ok()
    });
    pairs.collect::<Option<_>>().ok_or(StoreError::Corrupt {
        what: "a step is not written in hexadecimal digits",
    })
}

/// Returns what is known beside a record, in the columns from this one on, if it is there.
fn known(row: &PgRow, from: usize) -> Result<Option<WorkflowRecord>, StoreError> {
    let Some(token) = column::<Option<i64>>(row, from)? else {
        return Ok(None);
    };
    let steps: Vec<Written> = serde_json::from_str(column(row, from + 6)?).map_err(|_| StoreError::Corrupt {
        what: "the steps of a mutation cannot be read",
    })?;
    Ok(Some(WorkflowRecord {
        token: FencingToken::new(unsigned(token)?),
        name: column(row, from + 1)?,
        version: column(row, from + 2)?,
        input: RecordedResult::from_stored(column::<Vec<u8>>(row, from + 3)?),
        tries: tries(row, from + 4)?,
        held: column(row, from + 5)?,
        steps: steps.into_iter().map(read).collect::<Result<_, _>>()?,
    }))
}

fn tries(row: &PgRow, index: usize) -> Result<u32, StoreError> {
    Ok(u32::try_from(column::<i64>(row, index)?).unwrap_or(u32::MAX))
}

/// Returns what a row of the list of what is unfinished says.
fn listed(row: &PgRow) -> Result<UnfinishedSteps, StoreError> {
    let id = RequestIdentity::from_stored(column(row, 5)?, column(row, 6)?);
    let id = id.map_err(|_| StoreError::Corrupt {
        what: "a scope or a key is not valid",
    })?;
    let id = match fingerprint(row, 7)? {
        Some(fingerprint) => id.with_known_fingerprint(fingerprint),
        None => id,
    };
    let known = WorkflowRecord {
        token: FencingToken::new(unsigned(column(row, 0)?)?),
        name: column(row, 1)?,
        version: column(row, 2)?,
        input: RecordedResult::not_encodable(),
        tries: tries(row, 3)?,
        held: column(row, 4)?,
        steps: Vec::new(),
    };
    let since = Duration::from_millis(unsigned(column(row, 8)?)?);
    Ok(UnfinishedSteps::new(id, &known, since))
}

/// Returns the outcome of a claim of steps.
fn begun(row: &PgRow, request: &ClaimRequest, by: StartedBy) -> Result<ClaimOutcome<StepsClaim>, StoreError> {
    // What it was asked with in the end.
    let could_take_over: i64 = column(row, 19)?;
    let asked = request.clone().takeover(match could_take_over {
        0 => Takeover::Never,
        token => Takeover::Of(FencingToken::new(unsigned(token)?)),
    });
    let attempt = column::<Option<i64>>(row, 4)?.and_then(|attempt| u32::try_from(attempt).ok());
    let untold = || ClaimOutcome::Denied(records::untold(attempt.unwrap_or(1)));
    if by == StartedBy::Completer && attempt.is_none() {
        let token = FencingToken::new(0);
        return Ok(ClaimOutcome::Denied(Denied::InDoubt { token, attempt: 1 }));
    }
    Ok(match (records::claimed(row, &asked)?, known(row, 12)?) {
        (ClaimOutcome::Granted(claim), Some(workflow)) => ClaimOutcome::Granted(StepsClaim { claim, workflow }),
        // This very holder has claimed without steps.
        (ClaimOutcome::Granted(_), None) => untold(),
        // Another one was faster, and is over already: it is to be asked again.
        (ClaimOutcome::Denied(Denied::InDoubt { token, .. }), _)
            if could_take_over != 0 && number(token) != could_take_over && request.takeover == Takeover::Expired =>
        {
            untold()
        }
        (ClaimOutcome::Denied(denied), _) => ClaimOutcome::Denied(denied),
    })
}

/// Encodes for the server.
fn json(value: &impl serde::Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(StoreError::unavailable)
}

impl StepStore for PostgresStore {
    async fn begin_steps(
        &self,
        request: ClaimRequest,
        start: WorkflowStart,
    ) -> Result<ClaimOutcome<StepsClaim>, StoreError> {
        let fingerprint = request.id.fingerprint();
        let (asked, limit) = (Instant::now(), self.limit(&request));
        let goes_on_with: Vec<_> = start.accepts.iter().chain([&start.version]).collect();
        let goes_on_with = json(&goes_on_with)?;
        let steps = json(&start.steps.iter().map(written).collect::<Vec<_>>())?;
        let values = [
            Value::Text(request.id.scope()),
            Value::Text(request.id.key()),
            Value::Bytes(fingerprint.as_ref().map(|it| &it.as_bytes()[..])),
            Value::Bytes(Some(&request.holder.as_bytes()[..])),
            Value::Number(millis(request.lease)),
            Value::Number(takeover(request.takeover)),
            Value::Number(self.names.keys(&request.id).claim),
            Value::Text(&start.name),
            Value::Text(&start.version),
            Value::Text(&goes_on_with),
            Value::Bytes(Some(start.input.as_bytes())),
            Value::Text(&steps),
            Value::Number(match start.by {
                StartedBy::Caller => 0,
                StartedBy::Completer => 1,
            }),
            Value::Text(records::correlation(&request)),
        ];
        let answered = tried(Tries::on(&self.pool), || {
            let begin = self.message(&self.statements.begin_steps, &values);
            self.ask(limit.saturating_sub(asked.elapsed()), begin)
        });
        begun(only(&answered.await?)?, &request, start.by)
    }

    async fn record_step(&self, id: &RequestIdentity, token: FencingToken, step: StepRecord) -> Result<(), StoreError> {
        let values = [
            Value::Text(id.scope()),
            Value::Text(id.key()),
            Value::Number(number(token)),
            Value::Text(step.id.name()),
            Value::Text(step.id.key()),
            Value::Bytes(step.input.as_ref().map(|it| &it.as_bytes()[..])),
            Value::Bytes(step.result.as_ref().map(RecordedResult::as_bytes)),
        ];
        let record = &self.statements.record_step;
        let rows = self.call_as_holder(self.patience, record, &values).await?;
        records::changed(&rows, token)
    }

    async fn settle_step(
        &self,
        id: &RequestIdentity,
        token: FencingToken,
        step: &StepId,
        answer: Option<RecordedResult>,
    ) -> Result<(), StoreError> {
        let settled = tried_within(self.patience, Tries::on(&self.pool), |left| {
            let settle = self.statements.steps.settle(id, number(token), step, answer.as_ref());
            self.ask_within(left, settle)
        });
        match settled.await?.is_empty() {
            true => Err(StoreError::Outdated { token }),
            false => Ok(()),
        }
    }

    async fn load_steps(&self, id: &RequestIdentity) -> Result<Option<WorkflowRecord>, StoreError> {
        self.load_steps_within(self.patience, id).await
    }

    async fn unfinished_steps(&self, query: UnfinishedQuery) -> Result<Vec<UnfinishedSteps>, StoreError> {
        let kinds = query.kinds.as_ref().map(json).transpose()?;
        let first = millis(query.first_pause.min(LONGEST_FIRST_PAUSE));
        let (longest, limit) = (millis(query.longest_pause), rows(query.limit));
        // As many more as cannot be read: they must not take the places of others.
        let mut unreadable = 0;
        loop {
            let most = limit.saturating_add(unreadable);
            let listed_rows = tried_within(self.patience, Tries::on(&self.pool), |left| {
                let list = self.statements.steps.unfinished(kinds.as_deref(), first, longest, most);
                self.ask(left, list)
            });
            let listed_rows = listed_rows.await?;
            let found: Vec<_> = listed_rows.iter().map(|row| (row, listed(row))).collect();
            let failed = rows(found.iter().filter(|(_, found)| found.is_err()).count());
            if failed > unreadable && rows(listed_rows.len()) >= most {
                unreadable = failed;
                continue;
            }
            let readable = found.into_iter().filter_map(|(row, found)| {
                found
                    .map_err(|error| {
                        let token = column::<i64>(row, 0).unwrap_or_default();
                        report_unreadable(FencingToken::new(token.cast_unsigned()), &error);
                    })
                    .ok()
            });
            return Ok(readable.take(query.limit).collect());
        }
    }

    async fn set_standing(
        &self,
        id: &RequestIdentity,
        token: FencingToken,
        standing: Standing,
    ) -> Result<(), StoreError> {
        let changed = tried_within(self.patience, Tries::on(&self.pool), |left| {
            let set = self.statements.steps.set_standing(id, number(token), standing);
            self.ask_within(left, set)
        });
        match changed.await?.is_empty() {
            true => Err(StoreError::Outdated { token }),
            false => Ok(()),
        }
    }
}

impl PostgresStore {
    /// Claims for a person who is about to settle the request, with its steps if it has any.
    pub(super) async fn claim_to_resolve(&self, request: &ClaimRequest) -> Result<ClaimOutcome, StoreError> {
        let fingerprint = request.id.fingerprint();
        let (asked, limit) = (Instant::now(), self.limit(request));
        let values = [
            Value::Text(request.id.scope()),
            Value::Text(request.id.key()),
            Value::Bytes(fingerprint.as_ref().map(|it| &it.as_bytes()[..])),
            Value::Bytes(Some(&request.holder.as_bytes()[..])),
            Value::Number(millis(request.lease)),
            Value::Number(takeover(request.takeover)),
            Value::Number(self.names.keys(&request.id).claim),
            Value::Text(""),
            Value::Text(""),
            Value::Text("[]"),
            Value::Bytes(Some(&[])),
            Value::Text("[]"),
            Value::Number(2),
            Value::Text(records::correlation(request)),
        ];
        let answered = tried(Tries::on(&self.pool), || {
            let begin = self.message(&self.statements.begin_steps, &values);
            self.ask(limit.saturating_sub(asked.elapsed()), begin)
        });
        records::claimed(only(&answered.await?)?, request)
    }

    pub(super) async fn load_steps_within(
        &self,
        limit: Duration,
        id: &RequestIdentity,
    ) -> Result<Option<WorkflowRecord>, StoreError> {
        let values = [Value::Text(id.scope()), Value::Text(id.key())];
        let rows = self.call_as_holder(limit, &self.statements.load_steps, &values).await?;
        known(only(&rows)?, 0)
    }

    /// Returns whether a step was recorded under the token of this attempt, in the transaction that is over by now.
    pub(super) async fn is_step_recorded(&self, limit: Duration, step: &StepInTransaction) -> Result<bool, StoreError> {
        let look = self
            .statements
            .steps
            .is_recorded(&step.request, number(step.token), &step.id);
        let rows = self.ask_within(limit, look).await.map_err(unavailable)?;
        column(only(&rows)?, 0)
    }
}
