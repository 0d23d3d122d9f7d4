//! How a row becomes a message.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgRow;

use super::super::records::column;
use oneflight::correlation::CorrelationId;
use oneflight::store::StoreError;
use oneflight::store::outbox::{DeadLetter, MessageId, Shard, StoredMessage, TraceParent};

/// Milliseconds, as a time that is not negative.
pub(super) fn millis(number: i64) -> Duration {
    Duration::from_millis(u64::try_from(number).unwrap_or(0))
}

pub(super) fn shards(numbers: Vec<i16>) -> Vec<Shard> {
    let known = numbers.into_iter().filter_map(|number| u16::try_from(number).ok());
    known.map(Shard::new).collect()
}

pub(super) fn numbers(shards: &[Shard]) -> Vec<i16> {
    shards
        .iter()
        .map(|shard| i16::try_from(shard.get()).unwrap_or(-1))
        .collect()
}

/// Reads the columns of a message from this one on. `None` if there is none in this row.
pub(super) fn message(row: &PgRow, from: usize, now: i64) -> Result<Option<StoredMessage>, StoreError> {
    let Some(id) = column::<Option<i64>>(row, from)? else {
        return Ok(None);
    };
    let text = |index: usize| column::<&str>(row, from + index).map(Arc::<str>::from);
    let optional = |index: usize| column::<Option<&str>>(row, from + index);
    let headers = match optional(11)? {
        Some(headers) => read_headers(headers),
        None => Vec::new(),
    };
    Ok(Some(StoredMessage {
        id: MessageId::new(id),
        position: column(row, from + 1)?,
        shard: Shard::new(u16::try_from(column::<i16>(row, from + 2)?).unwrap_or(u16::MAX)),
        attempts: u32::try_from(column::<i32>(row, from + 3)?).unwrap_or(0),
        due_in: column::<Option<i64>>(row, from + 15)?.map(|at| millis(at - now)),
        age: millis(now - column::<i64>(row, from + 4)?),
        expires_in: column::<Option<i64>>(row, from + 5)?.map(|at| millis(at - now)),
        is_cancelled: column::<Option<i64>>(row, from + 5)? == Some(0),
        topic: text(6)?,
        key: text(7)?,
        ordering_key: optional(8)?.map(Arc::from),
        content_type: text(9)?,
        payload: column::<Option<&[u8]>>(row, from + 10)?.unwrap_or_default().into(),
        payload_bytes: usize::try_from(column::<i32>(row, from + 16)?).unwrap_or(0),
        headers,
        correlation_id: optional(12)?.and_then(|id| CorrelationId::new(id).ok()),
        trace_parent: optional(13)?.and_then(|parent| TraceParent::new(parent).ok()),
        done: column::<Option<Vec<String>>>(row, from + 14)?.unwrap_or_default(),
    }))
}

pub(super) fn dead_letter(row: &PgRow) -> Result<DeadLetter, StoreError> {
    Ok(DeadLetter {
        id: MessageId::new(column(row, 0)?),
        topic: column::<&str>(row, 1)?.into(),
        key: column::<&str>(row, 2)?.into(),
        ordering_key: column::<Option<&str>>(row, 3)?.map(Arc::from),
        attempts: u32::try_from(column::<i32>(row, 4)?).unwrap_or(0),
        error: column(row, 5)?,
        blocks: column(row, 6)?,
        payload: column::<&[u8]>(row, 7)?.into(),
    })
}

/// Names and values, each ended by a character that neither may have.
pub(super) fn write_headers(headers: &[(String, String)]) -> Option<String> {
    let written = headers.iter().map(|(name, value)| format!("{name}\u{1f}{value}\n"));
    (!headers.is_empty()).then(|| written.collect())
}

fn read_headers(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().filter_map(|line| line.split_once('\u{1f}'));
    lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
