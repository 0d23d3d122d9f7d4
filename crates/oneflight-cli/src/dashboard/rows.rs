//! What the page gets of records, messages and steps: never a payload, nor the body of an answer.
//!
//! Numbers of the store's are texts, since JavaScript knows no integer of 64 bits. Times are milliseconds, and how long something
//! has been is told by the store's clock.

use std::time::Duration;

use oneflight::RequestIdentity;
use oneflight::record::{DecodeError, Decoded, RecordedResult, State, Verdict};
use oneflight::store::outbox::{MessageEntry, MessageState, RelayEntry, TopicBacklog};
use oneflight::store::{RecordEntry, RecordState, StepRecord, UnfinishedSteps, WorkflowRecord};
use serde::Serialize;

/// The longest error of a message that is shown, in characters.
const LONGEST_ERROR: usize = 1000;

#[derive(Serialize)]
pub(super) struct RecordRow {
    pub(super) scope: String,
    pub(super) key: String,
    token: String,
    attempt: u32,
    /// `in_progress`, `in_doubt` or `completed`.
    pub(super) state: &'static str,
    held: bool,
    /// Whether a person has told the answer, and not the work.
    pub(super) settled: bool,
    correlation_id: Option<String>,
    fingerprint: Option<String>,
    pub(super) observed_ms: u64,
    pub(super) claimed_ms: Option<u64>,
    /// In progress: how long the lease still runs.
    lease_left_ms: Option<u64>,
    /// How long the lease has been over. In progress all the same, it is a mutation of steps that goes on by itself.
    pub(super) since_ms: Option<u64>,
    pub(super) completed_ms: Option<u64>,
    pub(super) expires_ms: Option<u64>,
    pub(super) result: Option<ResultRow>,
}

/// What is recorded of an answer, without the answer.
#[derive(Serialize)]
pub(super) struct ResultRow {
    /// `performed` or `declined`, or why there is no answer: `erased`, `too_large`, `not_encodable`, `unreadable`.
    pub(super) outcome: &'static str,
    /// The codec that wrote it.
    pub(super) codec: Option<String>,
    pub(super) bytes: u64,
}

impl RecordRow {
    pub(super) fn new(entry: &RecordEntry) -> Self {
        let record = &entry.record;
        let observed = record.observed;
        let mut row = Self {
            scope: entry.id.scope().to_owned(),
            key: entry.id.key().to_owned(),
            token: record.token.to_string(),
            attempt: record.attempt,
            state: "in_progress",
            held: record.held,
            settled: record.result().is_some() && record.holder.settles(),
            correlation_id: entry.correlation_id.as_ref().map(ToString::to_string),
            fingerprint: record
                .fingerprint
                .map(|digest| digest.to_string().chars().take(16).collect()),
            observed_ms: observed.as_millis(),
            claimed_ms: entry.claimed.map(|at| at.as_millis()),
            lease_left_ms: None,
            since_ms: None,
            completed_ms: None,
            expires_ms: None,
            result: None,
        };
        match &record.state {
            State::InProgress { lease_expires } if *lease_expires <= observed => {
                if entry.state == RecordState::InDoubt {
                    row.state = "in_doubt";
                }
                row.since_ms = Some(millis(observed.since(*lease_expires)));
            }
            State::InProgress { lease_expires } => row.lease_left_ms = Some(millis(lease_expires.since(observed))),
            State::Completed {
                result,
                completed,
                expires,
            } => {
                row.state = "completed";
                row.completed_ms = Some(completed.as_millis());
                row.expires_ms = Some(expires.as_millis());
                row.result = Some(ResultRow::new(result));
            }
            // A state that came after this.
            _ => row.state = "unknown",
        }
        row
    }
}

impl ResultRow {
    fn new(result: &RecordedResult) -> Self {
        let whole = result.as_bytes().len() as u64;
        let (outcome, codec, bytes) = match result.decode() {
            Ok(Decoded::Value {
                verdict,
                codec,
                payload,
            }) => {
                let outcome = match verdict {
                    // What is left of an erased answer of HTTP says so itself.
                    _ if result.erased().is_none() => "erased",
                    Verdict::Declined => "declined",
                    _ => "performed",
                };
                (outcome, Some(codec.name().to_owned()), payload.len() as u64)
            }
            // What was erased has no limit that it could have exceeded.
            Ok(Decoded::TooLarge { size, limit: 0 }) => ("erased", None, size),
            Ok(Decoded::TooLarge { size, .. }) => ("too_large", None, size),
            Ok(Decoded::NotEncodable) => ("not_encodable", None, 0),
            Ok(_) | Err(DecodeError::Truncated) | Err(_) => ("unreadable", None, whole),
        };
        Self { outcome, codec, bytes }
    }
}

#[derive(Serialize)]
pub(super) struct StepRow {
    /// Its name, and its key if it has one.
    pub(super) title: String,
    step: String,
    step_key: String,
    pub(super) state: StepState,
    result: Option<ResultRow>,
    /// The key under which it is known to what it calls.
    downstream_key: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StepState {
    Done,
    /// It was begun, may be done once at most, and has not told what it did.
    InDoubt,
    /// It was done, and its answer is not kept.
    AnswerLost,
}

impl StepState {
    pub(super) fn of(step: &StepRecord) -> Self {
        match step.result.as_ref().map(RecordedResult::decode) {
            None => Self::InDoubt,
            Some(Ok(Decoded::TooLarge { .. } | Decoded::NotEncodable)) => Self::AnswerLost,
            Some(_) => Self::Done,
        }
    }
}

impl StepRow {
    fn new(id: &RequestIdentity, step: &StepRecord) -> Self {
        Self {
            title: step.id.to_string(),
            step: step.id.name().to_owned(),
            step_key: step.id.key().to_owned(),
            state: StepState::of(step),
            result: step.result.as_ref().map(ResultRow::new),
            downstream_key: step.id.downstream_key(id),
        }
    }

    /// What is recorded of its answer.
    pub(super) fn told(&self) -> Option<&ResultRow> {
        self.result.as_ref()
    }
}

/// How many steps of a mutation are shown.
const STEPS: usize = 200;

#[derive(Serialize)]
pub(super) struct WorkflowRow {
    pub(super) name: String,
    version: String,
    tries: u32,
    held: bool,
    token: String,
    pub(super) steps: Vec<StepRow>,
    more_steps: usize,
}

impl WorkflowRow {
    pub(super) fn new(id: &RequestIdentity, workflow: &WorkflowRecord) -> Self {
        let steps = workflow.steps.iter().take(STEPS);
        Self {
            name: workflow.name.clone(),
            version: workflow.version.clone(),
            tries: workflow.tries,
            held: workflow.held,
            token: workflow.token.to_string(),
            steps: steps.map(|step| StepRow::new(id, step)).collect(),
            more_steps: workflow.steps.len().saturating_sub(STEPS),
        }
    }
}

#[derive(Serialize)]
pub(super) struct UnfinishedRow {
    scope: String,
    key: String,
    token: String,
    workflow: String,
    version: String,
    tries: u32,
    held: bool,
    since_ms: u64,
}

impl UnfinishedRow {
    pub(super) fn new(unfinished: &UnfinishedSteps) -> Self {
        Self {
            scope: unfinished.id.scope().to_owned(),
            key: unfinished.id.key().to_owned(),
            token: unfinished.token.to_string(),
            workflow: unfinished.name.clone(),
            version: unfinished.version.clone(),
            tries: unfinished.tries,
            held: unfinished.held,
            since_ms: millis(unfinished.since),
        }
    }
}

#[derive(Serialize)]
pub(super) struct MessageRow {
    pub(super) id: String,
    pub(super) topic: String,
    key: String,
    ordering_key: Option<String>,
    /// `waiting`, `parked`, `dead` or `ended`.
    pub(super) state: &'static str,
    pub(super) attempts: u32,
    taken_by: Option<String>,
    pub(super) age_ms: u64,
    pub(super) due_in_ms: Option<u64>,
    expires_in_ms: Option<u64>,
    pub(super) ended_ms: Option<u64>,
    pub(super) error: Option<String>,
    blocks: bool,
    done: Vec<String>,
    correlation_id: Option<String>,
    pub(super) payload_bytes: usize,
}

impl MessageRow {
    pub(super) fn new(message: &MessageEntry) -> Self {
        Self {
            id: message.id.to_string(),
            topic: message.topic.to_string(),
            key: message.key.to_string(),
            ordering_key: message.ordering_key.as_ref().map(ToString::to_string),
            state: match message.state {
                MessageState::Waiting => "waiting",
                MessageState::Parked => "parked",
                MessageState::Dead => "dead",
                MessageState::Ended => "ended",
                _ => "unknown",
            },
            attempts: message.attempts,
            taken_by: message.taken_by.map(|token| token.get().to_string()),
            age_ms: millis(message.age),
            due_in_ms: message.due_in.map(millis),
            expires_in_ms: message.expires_in.map(millis),
            ended_ms: message.ended.map(millis),
            error: message.error.as_deref().map(shortened),
            blocks: message.blocks,
            done: message.done.iter().take(20).cloned().collect(),
            correlation_id: message.correlation_id.as_ref().map(ToString::to_string),
            payload_bytes: message.payload_bytes,
        }
    }
}

#[derive(Serialize)]
pub(super) struct TopicRow {
    topic: String,
    waiting: u64,
    parked: u64,
    dead: u64,
    oldest_ms: Option<u64>,
    paused: bool,
}

impl TopicRow {
    pub(super) fn new(topic: &TopicBacklog) -> Self {
        Self {
            topic: topic.topic.to_string(),
            waiting: topic.waiting,
            parked: topic.parked,
            dead: topic.dead,
            oldest_ms: topic.oldest.map(millis),
            paused: topic.is_paused,
        }
    }
}

#[derive(Serialize)]
pub(super) struct RelayRow {
    token: String,
    group: String,
    beats: String,
    shards: u16,
}

impl RelayRow {
    pub(super) fn new(relay: &RelayEntry) -> Self {
        Self {
            token: relay.token.get().to_string(),
            group: relay.group.to_string(),
            beats: relay.beats.to_string(),
            shards: relay.shards,
        }
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(LONGEST_ERROR) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
