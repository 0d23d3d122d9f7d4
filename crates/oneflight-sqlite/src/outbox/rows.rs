//! How a row becomes a message.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::super::busy::unavailable;
use oneflight::correlation::CorrelationId;
use oneflight::store::StoreError;
use oneflight::store::outbox::{DeadLetter, MessageId, Shard, StoredMessage, TraceParent};

/// The instant, in milliseconds.
pub(super) const NOW: &str = "CAST(unixepoch('subsec') * 1000 AS INTEGER)";

/// What separates the names of targets, and names from values.
const SEPARATOR: char = '\u{1f}';

/// The columns of a message, with this in place of its payload.
pub(super) fn columns(payload: &str) -> String {
    format!(
        "id, position, shard, attempts, sent_at, due_at, expires_at, topic, key, ordering_key, content_type, headers,
         correlation_id, traceparent, done, {payload} AS payload, length(payload) AS bytes, {NOW} AS now"
    )
}

pub(super) fn read_millis(number: i64) -> Duration {
    Duration::from_millis(u64::try_from(number).unwrap_or(0))
}

pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}

/// Numbers for the text of a statement.
pub(super) fn list(numbers: impl IntoIterator<Item = i64>) -> String {
    let numbers: Vec<String> = numbers.into_iter().map(|number| number.to_string()).collect();
    numbers.join(", ")
}

pub(super) fn shards(shards: &[Shard]) -> String {
    list(shards.iter().map(|shard| i64::from(shard.get())))
}

pub(super) fn get<'r, T>(row: &'r SqliteRow, name: &str) -> Result<T, StoreError>
where
    T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    row.try_get(name).map_err(unavailable)
}

fn unsigned(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

pub(super) fn message(row: &SqliteRow) -> Result<StoredMessage, StoreError> {
    let now: i64 = get(row, "now")?;
    let text = |name: &str| get::<&str>(row, name).map(Arc::<str>::from);
    let optional = |name: &str| get::<Option<&str>>(row, name);
    Ok(StoredMessage {
        id: MessageId::new(get(row, "id")?),
        position: get(row, "position")?,
        shard: Shard::new(u16::try_from(get::<i64>(row, "shard")?).unwrap_or(u16::MAX)),
        attempts: unsigned(get(row, "attempts")?),
        due_in: get::<Option<i64>>(row, "due_at")?.map(|at| read_millis(at - now)),
        expires_in: get::<Option<i64>>(row, "expires_at")?.map(|at| read_millis(at - now)),
        is_cancelled: get::<Option<i64>>(row, "expires_at")? == Some(0),
        age: read_millis(now - get::<i64>(row, "sent_at")?),
        done: split(optional("done")?),
        topic: text("topic")?,
        key: text("key")?,
        ordering_key: optional("ordering_key")?.map(Arc::from),
        content_type: text("content_type")?,
        payload: get::<Option<&[u8]>>(row, "payload")?.unwrap_or_default().into(),
        payload_bytes: usize::try_from(get::<i64>(row, "bytes")?).unwrap_or(0),
        headers: read_headers(optional("headers")?.unwrap_or_default()),
        correlation_id: optional("correlation_id")?.and_then(|id| CorrelationId::new(id).ok()),
        trace_parent: optional("traceparent")?.and_then(|parent| TraceParent::new(parent).ok()),
    })
}

pub(super) fn dead_letter(row: &SqliteRow) -> Result<DeadLetter, StoreError> {
    Ok(DeadLetter {
        id: MessageId::new(get(row, "id")?),
        topic: get::<&str>(row, "topic")?.into(),
        key: get::<&str>(row, "key")?.into(),
        ordering_key: get::<Option<&str>>(row, "ordering_key")?.map(Arc::from),
        attempts: unsigned(get(row, "attempts")?),
        error: get::<Option<String>>(row, "error")?.unwrap_or_default(),
        blocks: get(row, "blocks")?,
        payload: get::<&[u8]>(row, "payload")?.into(),
    })
}

fn split(names: Option<&str>) -> Vec<String> {
    let names = names
        .unwrap_or_default()
        .split(SEPARATOR)
        .filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

/// Names, each with what separates it from the next.
pub(super) fn joined(names: &[String]) -> String {
    names.iter().map(|name| format!("{name}{SEPARATOR}")).collect()
}

pub(super) fn write_headers(headers: &[(String, String)]) -> Option<String> {
    let written = headers
        .iter()
        .map(|(name, value)| format!("{name}{SEPARATOR}{value}\n"));
    (!headers.is_empty()).then(|| written.collect())
}

fn read_headers(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().filter_map(|line| line.split_once(SEPARATOR));
    lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
