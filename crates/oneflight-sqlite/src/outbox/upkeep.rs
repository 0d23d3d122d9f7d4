//! What an operator asks of the outbox. All of it but pausing only reads, beside the writer and without its lock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row, ValueRef, query};

use super::super::busy::unavailable;
use super::super::ending::End;
use super::super::file::databases;
use super::super::store::SqliteStore;
use super::rows::{self, NOW, get, read_millis};
use oneflight::store::StoreError;
use oneflight::store::outbox::{
    MessageEntry, MessageQuery, MessageState, OutboxUpkeep, RelayEntry, RelayToken, TopicBacklog,
};

/// The states as the column has them.
const WAITING: i64 = 0;
const PARKED: i64 = 1;
const DEAD: i64 = 2;
const ENDED: i64 = 3;

/// What an optional condition is bound to.
enum Value {
    Number(i64),
    Text(String),
}

/// A condition for each part of the query that is set, and its value.
fn conditions(query: &MessageQuery) -> Vec<(&'static str, Value)> {
    let mut all = Vec::new();
    let text = |value: &Option<String>| value.clone().map(Value::Text);
    let mut also = |condition, value: Option<Value>| all.extend(value.map(|value| (condition, value)));
    also("id = ", query.id.map(|id| Value::Number(id.get())));
    also("id > ", query.after.map(|id| Value::Number(id.get())));
    also("topic = ", text(&query.topic));
    also("key = ", text(&query.key));
    also("ordering_key = ", text(&query.ordering_key));
    let correlation_id = query.correlation_id.as_ref().map(ToString::to_string);
    also("correlation_id = ", text(&correlation_id));
    all
}

/// The condition for a state in the words of the indexes, so that they serve.
fn of_state(state: MessageState) -> &'static str {
    match state {
        MessageState::Waiting => " AND state = 0 AND state < 3",
        MessageState::Parked => " AND state = 1 AND state < 3",
        MessageState::Dead => " AND state = 2 AND state < 3",
        MessageState::Ended => " AND state = 3",
        _ => " AND 0",
    }
}

impl SqliteStore {
    /// Reads rows of a table in a transaction of its own, which takes no lock that a writer waits for. Where there are
    /// none, one row has null in all of its columns.
    async fn look(&self, table: String, values: &[Value]) -> Result<Vec<SqliteRow>, StoreError> {
        let text = format!(
            concat!(
                "BEGIN; SELECT * FROM ",
                databases!(),
                " LEFT JOIN ({}) AS found ON true; COMMIT"
            ),
            table
        );
        self.fetch(None, || {
            let look = query(AssertSqlSafe(text.clone())).persistent(false);
            values.iter().fold(look, |look, value| match value {
                Value::Number(number) => look.bind(*number),
                Value::Text(text) => look.bind(text.clone()),
            })
        })
        .await
    }
}

fn duration(from: i64, to: i64) -> Duration {
    read_millis(to.saturating_sub(from))
}

fn state(number: i64) -> Result<MessageState, StoreError> {
    match number {
        WAITING => Ok(MessageState::Waiting),
        PARKED => Ok(MessageState::Parked),
        DEAD => Ok(MessageState::Dead),
        ENDED => Ok(MessageState::Ended),
        _ => Err(StoreError::Corrupt {
            what: "a message is in no state that is known",
        }),
    }
}

fn entry(row: &SqliteRow) -> Result<MessageEntry, StoreError> {
    let message = rows::message(row)?;
    let now: i64 = get(row, "now")?;
    let state = state(get(row, "state")?)?;
    let is_to_come = matches!(state, MessageState::Waiting | MessageState::Parked);
    Ok(MessageEntry {
        id: message.id,
        topic: message.topic,
        key: message.key,
        ordering_key: message.ordering_key,
        state,
        attempts: message.attempts,
        taken_by: get::<Option<i64>>(row, "taken_by")?.map(RelayToken::new),
        age: message.age,
        due_in: message.due_in.filter(|due| is_to_come && !due.is_zero()),
        expires_in: message.expires_in,
        ended: get::<Option<i64>>(row, "ended_at")?.map(|at| duration(at, now)),
        error: get(row, "error")?,
        blocks: get(row, "blocks")?,
        done: message.done,
        correlation_id: message.correlation_id,
        payload_bytes: message.payload_bytes,
    })
}

fn relay(row: &SqliteRow) -> Result<RelayEntry, StoreError> {
    Ok(RelayEntry {
        token: RelayToken::new(get(row, "token")?),
        group: get::<&str>(row, "team")?.into(),
        beats: get(row, "beats")?,
        shards: u16::try_from(get::<i64>(row, "shards")?).unwrap_or(u16::MAX),
    })
}

/// Whether there is something in a row of [`SqliteStore::look`].
fn found(row: &SqliteRow, column: &str) -> bool {
    row.try_get_raw(column).is_ok_and(|value| !value.is_null())
}

impl OutboxUpkeep for SqliteStore {
    async fn messages(&self, query: MessageQuery) -> Result<Vec<MessageEntry>, StoreError> {
        let limit = i64::try_from(query.limit).unwrap_or(i64::MAX);
        let (mut texts, mut values) = (String::new(), Vec::new());
        for (condition, value) in conditions(&query) {
            texts.push_str(" AND ");
            texts.push_str(condition);
            texts.push('?');
            values.push(value);
        }
        texts.push_str(query.state.map_or("", of_state));
        let columns = rows::columns("NULL");
        let table = format!(
            "SELECT {columns}, state, taken_by, blocks, ended_at, error FROM main.oneflight_messages
             WHERE true{texts} ORDER BY id LIMIT {limit}"
        );
        let rows = self.look(table, &values).await?;
        rows.iter().filter(|row| found(row, "id")).map(entry).collect()
    }

    async fn backlog(&self) -> Result<Vec<TopicBacklog>, StoreError> {
        // Ids grow with the time of sending.
        let table = format!(
            "SELECT topic, state, number, {NOW} - (SELECT m.sent_at FROM main.oneflight_messages m WHERE m.id = first) AS age
             FROM (SELECT topic, state, count(*) AS number, min(id) AS first FROM main.oneflight_messages
                   WHERE state < 3 GROUP BY topic, state)
             UNION ALL SELECT topic, NULL, 0, NULL FROM main.oneflight_paused"
        );
        let mut topics = BTreeMap::<Arc<str>, TopicBacklog>::new();
        for row in self.look(table, &[]).await?.iter().filter(|row| found(row, "topic")) {
            let topic: Arc<str> = get::<&str>(row, "topic")?.into();
            let it = topics.entry(Arc::clone(&topic)).or_insert(TopicBacklog {
                topic,
                waiting: 0,
                parked: 0,
                dead: 0,
                oldest: None,
                is_paused: false,
            });
            let number = u64::try_from(get::<i64>(row, "number")?).unwrap_or(0);
            match get::<Option<i64>>(row, "state")? {
                None => it.is_paused = true,
                Some(WAITING) => it.waiting = number,
                Some(PARKED) => it.parked = number,
                Some(_) => it.dead = number,
            }
            if let Some(WAITING | PARKED) = get::<Option<i64>>(row, "state")? {
                let age = get::<Option<i64>>(row, "age")?.map(read_millis);
                it.oldest = it.oldest.max(age);
            }
        }
        Ok(topics.into_values().collect())
    }

    async fn relays(&self) -> Result<Vec<RelayEntry>, StoreError> {
        let table = "SELECT r.token, r.team, r.beats, (SELECT count(*) FROM main.oneflight_shards s
                         WHERE s.team = r.team AND s.token = r.token) AS shards
                     FROM main.oneflight_relays r ORDER BY r.token";
        let rows = self.look(table.to_owned(), &[]).await?;
        rows.iter().filter(|row| found(row, "token")).map(relay).collect()
    }

    async fn paused(&self) -> Result<Vec<Arc<str>>, StoreError> {
        let table = "SELECT topic FROM main.oneflight_paused ORDER BY topic";
        let rows = self.look(table.to_owned(), &[]).await?;
        let named = rows.iter().filter(|row| found(row, "topic"));
        named.map(|row| Ok(get::<&str>(row, "topic")?.into())).collect()
    }

    async fn pause(&self, topic: &str) -> Result<bool, StoreError> {
        let pauses =
            format!("INSERT INTO main.oneflight_paused (topic, since) VALUES (?, {NOW}) ON CONFLICT DO NOTHING");
        self.change_topic(pauses, topic).await
    }

    async fn resume(&self, topic: &str) -> Result<bool, StoreError> {
        let resumes = "DELETE FROM main.oneflight_paused WHERE topic = ?".to_owned();
        self.change_topic(resumes, topic).await
    }
}

impl SqliteStore {
    /// Pauses or resumes a topic. Returns whether it was a change.
    async fn change_topic(&self, text: String, topic: &str) -> Result<bool, StoreError> {
        let topic = topic.to_owned();
        self.in_turn(move |connection| {
            Box::pin(async move {
                let change = query(AssertSqlSafe(text)).persistent(false).bind(topic);
                let changed = change.execute(connection).await.map_err(unavailable)?;
                Ok((End::Commit, changed.rows_affected() > 0))
            })
        })
        .await
    }
}
