//! A message of the outbox, as the desk shows it.

use std::time::Duration;

use oneflight::store::outbox::{MessageEntry, MessageId, MessageState, OutboxUpkeep};
use serde::Serialize;

use crate::exit::{Code, Failure};
use crate::output::{counted, duration, fields, millis};
use crate::store::unreachable;

/// A message as JSON has it.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    pub(super) id: i64,
    pub(super) topic: String,
    pub(super) state: &'static str,
    pub(super) key: String,
    pub(super) ordering_key: Option<String>,
    pub(super) attempts: u32,
    /// The relay that has it, if one does.
    taken_by: Option<i64>,
    age_ms: u64,
    due_in_ms: Option<u64>,
    expires_in_ms: Option<u64>,
    ended_ms_ago: Option<u64>,
    pub(super) error: Option<String>,
    blocks: bool,
    done: Vec<String>,
    correlation_id: Option<String>,
    payload_bytes: usize,
    #[serde(flatten)]
    pub(super) payload: Option<Payload>,
    #[serde(skip)]
    pub(super) times: Times,
}

/// What is told of its times in a table.
#[derive(Debug)]
pub(super) struct Times {
    pub(super) age: Duration,
    pub(super) due_in: Option<Duration>,
}

/// A payload as it can be printed.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Payload {
    Payload(String),
    PayloadBase64(String),
}

pub(super) fn word(state: MessageState) -> &'static str {
    match state {
        MessageState::Waiting => "waiting",
        MessageState::Parked => "parked",
        MessageState::Dead => "dead",
        MessageState::Ended => "ended",
        _ => "unknown",
    }
}

impl From<MessageEntry> for Shown {
    fn from(entry: MessageEntry) -> Self {
        Self {
            id: entry.id.get(),
            topic: entry.topic.to_string(),
            state: word(entry.state),
            key: entry.key.to_string(),
            ordering_key: entry.ordering_key.map(|key| key.to_string()),
            attempts: entry.attempts,
            taken_by: entry.taken_by.map(|relay| relay.get()),
            age_ms: millis(entry.age),
            due_in_ms: entry.due_in.map(millis),
            expires_in_ms: entry.expires_in.map(millis),
            ended_ms_ago: entry.ended.map(millis),
            error: entry.error,
            blocks: entry.blocks,
            done: entry.done,
            correlation_id: entry.correlation_id.map(|id| id.to_string()),
            payload_bytes: entry.payload_bytes,
            payload: None,
            times: Times {
                age: entry.age,
                due_in: entry.due_in,
            },
        }
    }
}

pub(super) fn letter(it: &Shown) -> String {
    let payload = it.payload.as_ref().map(|payload| match payload {
        Payload::Payload(text) => text.clone(),
        Payload::PayloadBase64(text) => format!("{text} (base64)"),
    });
    fields(&[
        ("id", Some(it.id.to_string())),
        ("topic", Some(it.topic.clone())),
        ("key", Some(it.key.clone())),
        ("ordering key", it.ordering_key.clone()),
        ("sent", Some(format!("{} ago", duration(it.times.age)))),
        ("attempts", Some(it.attempts.to_string())),
        ("last error", it.error.clone()),
        (
            "holds up",
            it.blocks.then(|| "the later messages of its ordering key".to_owned()),
        ),
        ("correlation id", it.correlation_id.clone()),
        (
            "payload",
            payload.or_else(|| Some(format!("{} (see --payload)", counted(it.payload_bytes, "byte")))),
        ),
    ])
}

/// Returns the payload of a dead letter, unless it is none any more.
pub(super) async fn payload<S: OutboxUpkeep>(store: &S, id: MessageId) -> Result<Option<Payload>, Failure> {
    let before = MessageId::new(id.get().saturating_sub(1));
    let found = store.dead_letters(1, Some(before)).await.map_err(unreachable)?;
    let letter = found.into_iter().find(|letter| letter.id == id);
    Ok(letter.map(|letter| match std::str::from_utf8(&letter.payload) {
        Ok(text) => Payload::Payload(text.to_owned()),
        Err(_) => Payload::PayloadBase64(base64::Engine::encode(
            &base64::prelude::BASE64_STANDARD,
            &letter.payload,
        )),
    }))
}

pub(super) fn missing(id: MessageId) -> Failure {
    let advice = format!("there is no message {id}: it never was, or it has ended and is not kept any more");
    Failure::new(Code::No, advice)
}
