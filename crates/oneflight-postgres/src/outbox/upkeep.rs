//! What an operator asks of the outbox. All of it but pausing only reads.
//!
//! What a message has come to is in the receipts, beside it. So the messages that wait are those of which no receipt says that
//! they ended, and a question about all of them reads every message and every receipt that is kept, once, and joins them. It has no
//! lock but that of a reader, and keeps no partition from being emptied but for as long as it takes: who is about to lock one
//! asks before whether somebody looks.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection};
use tokio::time::timeout;

use super::asking::Statement;
use super::rows::millis;
use crate::PostgresStore;
use crate::borrowed::Borrowed;
use crate::errors::{late, unavailable};
use crate::names::Names;
use crate::records::{column, rows};
use oneflight::correlation::CorrelationId;
use oneflight::store::StoreError;
use oneflight::store::outbox::{
    MessageEntry, MessageId, MessageQuery, MessageState, OutboxUpkeep, RelayEntry, RelayToken, TopicBacklog,
};

/// Begins a transaction that looks.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED, READ ONLY";

/// How a question is worked out by the server.
#[derive(Clone, Copy)]
enum Reads {
    /// A page, by indexes in their order. The planner would take all rows for a few, and sort them.
    Some,
    /// All messages and all receipts. The planner knows nothing of the arrays, and would take a loop over all for the shorter
    /// way.
    All,
}

impl Reads {
    fn settings(self) -> &'static str {
        match self {
            Self::Some => {
                "SET LOCAL jit = off; SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off;
                 SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"
            }
            Self::All => "SET LOCAL jit = off; SET LOCAL enable_nestloop = off; SET LOCAL work_mem = '32MB'",
        }
    }
}

impl PostgresStore {
    /// Reads, over the outbox's own pool, one question at a time: so relays find a connection however many look.
    async fn look(&self, reads: Reads, statement: Statement<'_>) -> Result<Vec<PgRow>, StoreError> {
        let looked = timeout(self.patience, async {
            let _turn = self.outbox.looks.lock().await;
            // Who is dropped, or fails, leaves no connection behind that still waits for an answer.
            let mut connection = Borrowed::within(self.patience, self.line()).await?;
            let rows = self.look_on(&mut connection, reads, statement).await?;
            connection.give_back();
            Ok(rows)
        });
        looked.await.unwrap_or_else(|_| Err(late())).map_err(unavailable)
    }

    async fn look_on(
        &self,
        connection: &mut sqlx::PgConnection,
        reads: Reads,
        statement: Statement<'_>,
    ) -> sqlx::Result<Vec<PgRow>> {
        let mut transaction = connection.begin_with(BEGIN).await?;
        // A relay that empties a partition does without for now, instead of having all wait that send behind it.
        let settings = format!(
            "SET LOCAL statement_timeout = '{}ms'; {}; SELECT pg_catalog.pg_try_advisory_xact_lock_shared({})",
            self.patience.as_millis().clamp(1, i32::MAX as u128),
            reads.settings(),
            self.outbox.statements.names.house_lock()
        );
        sqlx::raw_sql(AssertSqlSafe(settings))
            .execute(&mut *transaction)
            .await?;
        let rows = statement.fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(rows)
    }

    /// Pauses or resumes a topic. Returns whether it was a change.
    async fn change_topic(&self, text: String, topic: &str) -> Result<bool, StoreError> {
        let change = sqlx::query(AssertSqlSafe(text))
            .persistent(false)
            .bind(topic.to_owned());
        Ok(!self.ask_outbox(change).await?.is_empty())
    }
}

/// The positions that have ended.
fn ended(names: &Names) -> String {
    format!(
        "ended AS MATERIALIZED (SELECT unnest(r.positions) AS position FROM {} r WHERE r.kind IN (2, 4))",
        names.of("receipts")
    )
}

/// The conditions of a query, with the numbers of their parameters. Each is on the table `m`.
struct Conditions {
    texts: Vec<String>,
    /// On what identifies the message, in this column.
    id: String,
}

impl Conditions {
    fn of(query: &MessageQuery) -> Self {
        let (mut texts, mut id, mut number) = (Vec::new(), String::new(), 0);
        let mut next = |is_set: bool| {
            number += i32::from(is_set);
            is_set.then_some(number)
        };
        for (is_set, name) in [
            (query.topic.is_some(), "topic"),
            (query.key.is_some(), "key"),
            (query.ordering_key.is_some(), "ordering_key"),
            (query.correlation_id.is_some(), "correlation_id"),
        ] {
            texts.extend(next(is_set).map(|number| format!(" AND m.{name} = ${number}")));
        }
        for (is_set, operator) in [(query.id.is_some(), "="), (query.after.is_some(), ">")] {
            if let Some(number) = next(is_set) {
                // Writing into a string does not fail.
                let _ = write!(id, " AND m.{{id}} {operator} ${number}");
            }
        }
        Self { texts, id }
    }

    fn on(&self, id: &str) -> String {
        self.texts.concat() + &self.id.replace("{id}", id)
    }
}

/// Chooses the messages of a page: their ids, and the positions of those that stand in the ring. The last place of a message
/// counts.
fn chosen(names: &Names, query: &MessageQuery) -> String {
    let (messages, parked) = (names.of("messages"), names.of("parked"));
    let (conditions, limit) = (Conditions::of(query), rows(query.limit));
    let not_parked = format!("NOT EXISTS (SELECT FROM {parked} p WHERE p.id = m.id)");
    let has_ended = "EXISTS (SELECT FROM ended e WHERE e.position = m.position)";
    let (in_ring, in_parked) = match query.state {
        None => (Some(String::new()), Some("")),
        Some(MessageState::Waiting) => (Some(format!(" AND NOT {has_ended}")), None),
        Some(MessageState::Ended) => (Some(format!(" AND {has_ended}")), None),
        Some(MessageState::Parked) => (None, Some(" AND m.due IS NOT NULL")),
        Some(MessageState::Dead) => (None, Some(" AND m.due IS NULL")),
        Some(_) => (None, None),
    };
    let mut parts = Vec::new();
    if let Some(state) = in_ring {
        // Hidden from the planner, which would expect one row, and sort all.
        parts.push(format!(
            "(SELECT m.id, m.position FROM {messages} m
              WHERE coalesce(m.id = m.position, false){} AND {not_parked}
                AND NOT EXISTS (SELECT FROM {messages} n WHERE n.id = m.id AND n.id <> n.position){state}
              ORDER BY m.position LIMIT {limit})",
            conditions.on("position")
        ));
        parts.push(format!(
            "(SELECT m.id, m.position FROM {messages} m
              WHERE m.id <> m.position{} AND {not_parked}
                AND m.position = (SELECT max(n.position) FROM {messages} n WHERE n.id = m.id AND n.id <> n.position){state}
              ORDER BY m.id LIMIT {limit})",
            conditions.on("id")
        ));
    }
    if let Some(state) = in_parked {
        parts.push(format!(
            "(SELECT m.id, NULL::bigint AS position FROM {parked} m WHERE true{}{state} ORDER BY m.id LIMIT {limit})",
            conditions.on("id")
        ));
    }
    format!(
        "chosen AS MATERIALIZED (SELECT id, position FROM ({}) found ORDER BY id LIMIT {limit})",
        parts.join(" UNION ALL ")
    )
}

/// The statement for a page of messages.
fn page(names: &Names, query: &MessageQuery) -> String {
    let (messages, receipts, parked, now) = (
        names.of("messages"),
        names.of("receipts"),
        names.of("parked"),
        names.of("now"),
    );
    format!(
        "WITH {}, {},
         entries AS (
            SELECT m.id, m.topic, m.key, m.ordering_key, CASE WHEN t.has_ended THEN 3 ELSE 0 END AS state,
                   m.attempts + t.taken AS attempts, t.taken_by, m.sent_at, coalesce(t.due, m.due_at) AS due, m.expires_at,
                   t.ended_at, t.error,
                   m.id <> m.position AND m.ordering_key IS NOT NULL AND NOT t.has_ended AS blocks,
                   coalesce(m.done, '{{}}') || t.done AS done, m.correlation_id, pg_catalog.octet_length(m.payload) AS bytes
            FROM {messages} m CROSS JOIN LATERAL (
                SELECT coalesce(bool_or(r.kind IN (2, 4)), false) AS has_ended,
                       (array_agg(CASE WHEN r.kind = 1 THEN r.token END ORDER BY r.seq DESC))[1] AS taken_by,
                       count(*) FILTER (WHERE r.kind = 1) - count(DISTINCT r.taking) FILTER (WHERE r.kind = 5) AS taken,
                       max(r.due) FILTER (WHERE r.kind = 3) AS due, max(r.at) FILTER (WHERE r.kind IN (2, 4)) AS ended_at,
                       (array_agg(r.detail ORDER BY r.seq DESC) FILTER (WHERE r.kind = 3))[1] AS error,
                       coalesce(array_agg(r.detail) FILTER (WHERE r.kind = 6), '{{}}') AS done
                FROM (SELECT r.kind, r.seq, r.at, r.token, r.due, r.detail,
                             count(*) FILTER (WHERE r.kind = 1) OVER (ORDER BY r.seq) AS taking
                      FROM {receipts} r WHERE r.span @> m.position AND m.position = ANY (r.positions)) r) t
            WHERE m.position = ANY (ARRAY(SELECT c.position FROM chosen c WHERE c.position IS NOT NULL))
            UNION ALL
            SELECT p.id, p.topic, p.key, p.ordering_key, CASE WHEN p.due IS NULL THEN 2 ELSE 1 END, p.attempts, NULL,
                   p.sent_at, p.due, p.expires_at, NULL, p.error, p.blocks, coalesce(p.done, '{{}}'), p.correlation_id,
                   pg_catalog.octet_length(p.payload)
            FROM {parked} p WHERE p.id = ANY (ARRAY(SELECT c.id FROM chosen c WHERE c.position IS NULL)))
         SELECT id, topic, key, ordering_key, state, attempts, taken_by, instant - sent_at, due - instant,
                expires_at - instant, instant - ended_at, nullif(error, ''), blocks, done, correlation_id, bytes
         FROM entries CROSS JOIN (SELECT {now}() AS instant) clock ORDER BY id",
        ended(names),
        chosen(names, query),
    )
}

fn state(number: i32) -> MessageState {
    match number {
        0 => MessageState::Waiting,
        1 => MessageState::Parked,
        2 => MessageState::Dead,
        _ => MessageState::Ended,
    }
}

fn entry(row: &PgRow) -> Result<MessageEntry, StoreError> {
    let time = |at| Ok(column::<Option<i64>>(row, at)?.map(millis));
    let state = state(column(row, 4)?);
    let is_to_come = matches!(state, MessageState::Waiting | MessageState::Parked);
    Ok(MessageEntry {
        id: MessageId::new(column(row, 0)?),
        topic: column::<&str>(row, 1)?.into(),
        key: column::<&str>(row, 2)?.into(),
        ordering_key: column::<Option<&str>>(row, 3)?.map(Arc::from),
        state,
        attempts: u32::try_from(column::<i64>(row, 5)?).unwrap_or(0),
        taken_by: column::<Option<i64>>(row, 6)?.map(RelayToken::new),
        age: time(7)?.unwrap_or_default(),
        due_in: time(8)?.filter(|due: &Duration| is_to_come && !due.is_zero()),
        expires_in: time(9)?,
        ended: time(10)?,
        error: column(row, 11)?,
        blocks: column(row, 12)?,
        done: column(row, 13)?,
        correlation_id: column::<Option<&str>>(row, 14)?.and_then(|id| CorrelationId::new(id).ok()),
        payload_bytes: usize::try_from(column::<i32>(row, 15)?).unwrap_or(0),
    })
}

fn relay(row: &PgRow) -> Result<RelayEntry, StoreError> {
    Ok(RelayEntry {
        token: RelayToken::new(column(row, 0)?),
        group: column::<&str>(row, 1)?.into(),
        beats: column(row, 2)?,
        shards: u16::try_from(column::<i64>(row, 3)?).unwrap_or(u16::MAX),
    })
}

impl OutboxUpkeep for PostgresStore {
    async fn messages(&self, query: MessageQuery) -> Result<Vec<MessageEntry>, StoreError> {
        let reads = match query.state {
            Some(MessageState::Waiting | MessageState::Ended) => Reads::All,
            _ => Reads::Some,
        };
        let text = page(&self.outbox.statements.names, &query);
        let mut statement = sqlx::query(AssertSqlSafe(text)).persistent(false);
        let correlation_id = query.correlation_id.as_ref().map(ToString::to_string);
        for text in [query.topic, query.key, query.ordering_key, correlation_id]
            .into_iter()
            .flatten()
        {
            statement = statement.bind(text);
        }
        for id in [query.id, query.after].into_iter().flatten() {
            statement = statement.bind(id.get());
        }
        self.look(reads, statement).await?.iter().map(entry).collect()
    }

    async fn backlog(&self) -> Result<Vec<TopicBacklog>, StoreError> {
        let names = &self.outbox.statements.names;
        let (messages, parked, now) = (names.of("messages"), names.of("parked"), names.of("now"));
        let text = format!(
            "WITH {}
             SELECT m.topic, count(*), 0::bigint, 0::bigint, {now}() - min(m.sent_at), false FROM {messages} m
             WHERE NOT EXISTS (SELECT FROM ended e WHERE e.position = m.position) GROUP BY m.topic
             UNION ALL
             SELECT p.topic, 0, count(*) FILTER (WHERE p.due IS NOT NULL), count(*) FILTER (WHERE p.due IS NULL),
                    {now}() - min(p.sent_at) FILTER (WHERE p.due IS NOT NULL), false FROM {parked} p GROUP BY p.topic
             UNION ALL
             SELECT topic, 0, 0, 0, NULL, true FROM {}",
            ended(names),
            names.of("paused"),
        );
        let statement = sqlx::query(AssertSqlSafe(text)).persistent(false);
        let mut topics = BTreeMap::<Arc<str>, TopicBacklog>::new();
        for row in self.look(Reads::All, statement).await? {
            let topic: Arc<str> = column::<&str>(&row, 0)?.into();
            let number = |at| Ok(u64::try_from(column::<i64>(&row, at)?).unwrap_or(0));
            let it = topics.entry(Arc::clone(&topic)).or_insert(TopicBacklog {
                topic,
                waiting: 0,
                parked: 0,
                dead: 0,
                oldest: None,
                is_paused: false,
            });
            it.waiting += number(1)?;
            it.parked += number(2)?;
            it.dead += number(3)?;
            it.oldest = it.oldest.max(column::<Option<i64>>(&row, 4)?.map(millis));
            it.is_paused |= column::<bool>(&row, 5)?;
        }
        Ok(topics.into_values().collect())
    }

    async fn relays(&self) -> Result<Vec<RelayEntry>, StoreError> {
        let names = &self.outbox.statements.names;
        let text = format!(
            "SELECT r.token, r.team, r.beats,
                    (SELECT count(*) FROM {} s WHERE s.team = r.team AND s.token = r.token)
             FROM {} r ORDER BY r.token",
            names.of("shards"),
            names.of("relays"),
        );
        let statement = sqlx::query(AssertSqlSafe(text)).persistent(false);
        self.look(Reads::Some, statement).await?.iter().map(relay).collect()
    }

    async fn paused(&self) -> Result<Vec<Arc<str>>, StoreError> {
        let text = format!(
            "SELECT topic FROM {} ORDER BY topic",
            self.outbox.statements.names.of("paused")
        );
        let statement = sqlx::query(AssertSqlSafe(text)).persistent(false);
        let rows = self.look(Reads::Some, statement).await?;
        rows.iter().map(|row| Ok(column::<&str>(row, 0)?.into())).collect()
    }

    async fn pause(&self, topic: &str) -> Result<bool, StoreError> {
        let names = &self.outbox.statements.names;
        let pauses = format!(
            "INSERT INTO {} (topic, since) VALUES ($1, {}()) ON CONFLICT DO NOTHING RETURNING true",
            names.of("paused"),
            names.of("now"),
        );
        self.change_topic(pauses, topic).await
    }

    async fn resume(&self, topic: &str) -> Result<bool, StoreError> {
        let paused = self.outbox.statements.names.of("paused");
        let resumes = format!("DELETE FROM {paused} WHERE topic = $1 RETURNING true");
        self.change_topic(resumes, topic).await
    }
}
