//! What a store has of the outbox, and the text of its statements. What takes more than one step is a function of the
//! server's; see `migrations/0004_outbox.sql`.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicUsize};

use std::time::Duration;

use sqlx::postgres::PgPool;
use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::names::Names;
use oneflight::store::outbox::{Bell, PAGE_PAYLOAD_BYTES};

/// The number of partitions of messages, and of receipts.
pub(super) const MESSAGES: i16 = 6;
pub(super) const RECEIPTS: i16 = 4;

/// Whether there is something in each partition of a table.
fn used(names: &Names, table: &str, partitions: i16) -> String {
    let each = (0..partitions).map(|slot| format!("EXISTS (SELECT FROM {})", names.of(&format!("{table}_{slot}"))));
    each.collect::<Vec<_>>().join(", ")
}

/// What a store has of the outbox.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) bell: Bell,
    pub(super) statements: Statements,
    pub(super) pool: OnceLock<PgPool>,
    /// A position that was drawn before a transaction of this process began that is over.
    pub(super) drawn: AtomicI64,
    /// How many shards the relays of this process have.
    pub(super) owned: AtomicUsize,
    pub(super) sends_hints: AtomicBool,
    pub(super) hears_hints: AtomicBool,
    /// Is held by the one that cancels or postpones a message.
    pub(super) withdraws: Mutex<()>,
    /// Is held by the operator who looks at all messages.
    pub(super) looks: Mutex<()>,
    /// How long partitions are left alone that somebody uses, and since when.
    pub(super) leaves_alone: parking_lot::Mutex<Option<(Instant, Duration)>>,
    /// What a transaction is like here unless it says otherwise.
    pub(super) usual: AtomicU8,
}

/// A transaction that does not say what it is to be like is what the outbox needs: it sees what was committed before each
/// statement, and may write.
pub(super) const FITS: u8 = 1;
/// It is not, so each has to say.
pub(super) const MUST_SAY: u8 = 2;

impl Parts {
    pub(super) fn new(names: &Names) -> Self {
        Self {
            bell: Bell::new(),
            statements: Statements::new(names),
            pool: OnceLock::new(),
            drawn: AtomicI64::new(0),
            owned: AtomicUsize::new(0),
            withdraws: Mutex::default(),
            looks: Mutex::default(),
            leaves_alone: parking_lot::Mutex::default(),
            sends_hints: AtomicBool::new(false),
            hears_hints: AtomicBool::new(false),
            usual: AtomicU8::new(0),
        }
    }
}

/// The columns of a message, in the order in which it is read.
fn message(payload: &str) -> String {
    format!(
        "m.id, m.position, m.shard, m.attempts, m.sent_at, m.expires_at, m.topic, m.key, m.ordering_key, m.content_type, \
         {payload} AS payload, m.headers, m.correlation_id, m.traceparent, m.done, m.due_at, \
         pg_catalog.octet_length(m.payload) AS bytes"
    )
}

/// The statements of one store.
#[derive(Debug)]
pub(super) struct Statements {
    pub(super) send: SqlStr,
    pub(super) foreign_send: String,
    pub(super) withdraw: SqlStr,
    pub(super) dead_letters: SqlStr,
    pub(super) redrive: SqlStr,
    pub(super) beat: SqlStr,
    pub(super) first: SqlStr,
    pub(super) window: SqlStr,
    pub(super) blocked: SqlStr,
    pub(super) load: SqlStr,
    pub(super) take: SqlStr,
    pub(super) settle: SqlStr,
    pub(super) leave: SqlStr,
    pub(super) bring_back_due: SqlStr,
    pub(super) slots: SqlStr,
    pub(super) rotate: SqlStr,
    pub(super) names: Names,
}

impl Statements {
    pub(super) fn new(names: &Names) -> Self {
        let sql = |text: String| AssertSqlSafe(text).into_sql_str();
        let of = |name: &str| names.of(name);
        let (messages, receipts, parked, now) = (of("messages"), of("receipts"), of("parked"), of("now"));
        let whole = message("m.payload");
        let short = message(&format!(
            "CASE WHEN pg_catalog.octet_length(m.payload) <= {PAGE_PAYLOAD_BYTES} THEN m.payload END"
        ));
        // What is the same for every row of a reading.
        let reading = format!(
            "reading AS MATERIALIZED (
                SELECT pg_catalog.pg_current_snapshot() AS snapshot, {now}() AS instant,
                       (SELECT min(due) FROM {parked} WHERE due IS NOT NULL) AS due)"
        );
        let figures = "reading.snapshot::text, reading.instant, reading.due - reading.instant";
        Self {
            send: sql(format!(
                "SELECT message_id, is_new FROM {}($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
                of("send")
            )),
            foreign_send: foreign_send(&of("send")),
            withdraw: sql(format!("SELECT {}($1, $2)", of("withdraw"))),
            dead_letters: sql(format!(
                "SELECT id, topic, key, ordering_key, attempts, coalesce(error, ''), blocks, payload
                 FROM {parked} WHERE due IS NULL AND id > $2 ORDER BY id LIMIT $1"
            )),
            redrive: sql(format!(
                "SELECT {}(ARRAY(SELECT id FROM {parked} WHERE id = $1 AND due IS NULL FOR UPDATE), true, false)",
                of("bring_back")
            )),
            beat: sql(format!(
                "SELECT my_token, my_shards, peer_tokens, peer_beats, news, due_in, last_position,
                        ARRAY(SELECT topic::text FROM {} ORDER BY topic)
                 FROM {}($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
                of("paused"),
                of("beat")
            )),
            // $1 shards, $2 the position before, $3 the snapshot to read up to or null, $4 how many rows.
            first: sql(format!(
                "WITH {reading},
                 page AS MATERIALIZED (
                    SELECT m.* FROM {messages} m
                    WHERE m.position > $2 AND m.shard = ANY ($1)
                      AND ($3 IS NULL OR pg_catalog.pg_visible_in_snapshot(m.xid, $3::pg_catalog.pg_snapshot))
                    ORDER BY m.position LIMIT $4),
                 bounds AS MATERIALIZED (SELECT min(position) AS low, max(position) AS high, count(*) AS rows FROM page),
                 told AS MATERIALIZED (
                    SELECT r.kind, r.due, r.detail, p.position,
                           count(*) FILTER (WHERE r.kind = 1) OVER (PARTITION BY p.position ORDER BY r.seq) AS taking
                    FROM bounds b
                    JOIN {receipts} r ON r.span && pg_catalog.int8range(b.low, b.high, '[]')
                    CROSS JOIN LATERAL unnest(r.positions) p (position)
                    WHERE p.position BETWEEN b.low AND b.high),
                 became AS MATERIALIZED (
                    SELECT position, bool_or(kind IN (2, 4)) AS has_ended,
                           count(*) FILTER (WHERE kind = 1) - count(DISTINCT taking) FILTER (WHERE kind = 5) AS taken,
                           max(due) FILTER (WHERE kind = 3) AS due, array_agg(detail) FILTER (WHERE kind = 6) AS done
                    FROM told GROUP BY position)
                 SELECT {figures}, bounds.high, bounds.rows, left_over.*
                 FROM reading CROSS JOIN bounds LEFT JOIN LATERAL (
                    SELECT {short}, b.taken, b.due, b.done AS more_done FROM page m LEFT JOIN became b USING (position)
                    WHERE b.has_ended IS NOT TRUE) left_over ON true
                 ORDER BY left_over.position"
            )),
            // $5 the snapshot that was read before, $6 the first number that it does not know, $7 a bound for positions.
            // The comparison of numbers is hidden from the planner, which would else read by them and sort.
            window: sql(format!(
                "WITH {reading}
                 SELECT {figures}, page.* FROM reading LEFT JOIN LATERAL (
                    SELECT * FROM (
                        (SELECT {short} FROM {messages} m
                         WHERE m.position > greatest($2, $7) AND coalesce(m.xid >= $6::pg_catalog.xid8, false)
                           AND m.shard = ANY ($1)
                           AND ($3 IS NULL OR pg_catalog.pg_visible_in_snapshot(m.xid, $3::pg_catalog.pg_snapshot))
                         ORDER BY m.position LIMIT $4)
                        UNION ALL
                        (SELECT late.* FROM pg_catalog.pg_snapshot_xip($5::pg_catalog.pg_snapshot) x
                         CROSS JOIN LATERAL (
                            SELECT {short} FROM {messages} m
                            WHERE m.xid = x AND m.position > $2 AND m.shard = ANY ($1)
                              AND ($3 IS NULL OR pg_catalog.pg_visible_in_snapshot(m.xid, $3::pg_catalog.pg_snapshot))
                            ORDER BY m.position LIMIT $4) late)
                    ) found ORDER BY position LIMIT $4) page ON true
                 ORDER BY page.position"
            )),
            // What has come back stands behind later messages of its ordering key.
            blocked: sql(format!(
                "SELECT ordering_key, id, topic FROM {parked} WHERE blocks AND shard = ANY ($1) AND ordering_key IS NOT NULL
                 UNION ALL
                 SELECT m.ordering_key, m.id, m.topic FROM {messages} m
                 WHERE m.id <> m.position AND m.shard = ANY ($1) AND m.ordering_key IS NOT NULL AND NOT EXISTS (
                    SELECT FROM {receipts} r
                    WHERE r.kind IN (2, 4) AND r.span @> m.position AND m.position = ANY (r.positions))"
            )),
            load: sql(format!(
                "SELECT {now}(), {whole} FROM {messages} m WHERE m.position = ANY ($1) ORDER BY m.position"
            )),
            take: sql(format!(
                "SELECT lost_shards, cancelled, postponed, last_position FROM {}($1, $2, $3, $4, $5)",
                of("take")
            )),
            settle: sql(format!(
                "SELECT {}($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
                of("settle")
            )),
            leave: sql(format!("DELETE FROM {} WHERE team = $1 AND token = $2", of("relays"))),
            bring_back_due: sql(format!("SELECT {}($1)", of("bring_back_due"))),
            slots: sql(format!(
                "SELECT r.messages, r.receipts, abs({now}() - r.since), ARRAY[{}], ARRAY[{}] FROM {} r",
                used(names, "messages", MESSAGES),
                used(names, "receipts", RECEIPTS),
                of("rotation")
            )),
            rotate: sql(format!(
                "UPDATE {} SET messages = $2, receipts = $3, since = {now}() WHERE messages = $1",
                of("rotation")
            )),
            names: names.clone(),
        }
    }
}

/// What sends a message with text for values, by the name of the function. An optional value that is missing is empty.
fn foreign_send(function: &str) -> String {
    let optional = |at: u32| format!("nullif(${at}::text, '')");
    let values = [
        "$1::text::smallint".to_owned(),
        "$2::text".to_owned(),
        "$3::text".to_owned(),
        "$4::text::boolean".to_owned(),
        optional(5),
        "$6::text".to_owned(),
        "pg_catalog.decode($7::text, 'hex')".to_owned(),
        optional(8),
        optional(9),
        optional(10),
        format!("{}::bigint", optional(11)),
        format!("{}::bigint", optional(12)),
        "$13::text::boolean".to_owned(),
    ];
    let values = values.map(|value| format!("ARRAY[{value}]"));
    format!(
        "SELECT message_id::text || CASE WHEN is_new THEN ' new' ELSE ' known' END AS oneflight FROM {function}({})",
        values.join(", ")
    )
}
