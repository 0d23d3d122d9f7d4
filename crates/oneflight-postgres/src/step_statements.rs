//! The text of our statements on steps, beside the calls of procedures.

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use super::call::{Message, Value};
use super::names::Names;
use super::sql::INSTANT;
use oneflight::identity::RequestIdentity;
use oneflight::record::RecordedResult;
use oneflight::store::{Standing, StepId};

/// The statements on steps that are no calls.
#[derive(Debug)]
pub(super) struct StepStatements {
    unfinished: String,
    standing: String,
    records: String,
    workflows: String,
    steps: String,
    begin: String,
    pub(super) look: SqlStr,
    pub(super) record: SqlStr,
}

impl StepStatements {
    /// `begin` begins a transaction of the work.
    pub(super) fn new(names: &Names, begin: &str) -> Self {
        let sql = |text: String| AssertSqlSafe(text).into_sql_str();
        let (records, workflows, steps) = (names.of("records"), names.of("workflows"), names.of("steps"));
        let is_held = format!(
            "EXISTS (SELECT FROM {records} r WHERE r.scope = w.scope AND r.key = w.key AND r.token = w.token
                                               AND r.completed_at IS NULL)"
        );
        Self {
            begin: begin.to_owned(),
            // The transaction gets its number here.
            look: sql(format!(
                "WITH turn AS MATERIALIZED (
                    SELECT pg_catalog.current_setting('oneflight.turn', true) IS NOT DISTINCT FROM $4 AS ours)
                 SELECT ours, EXISTS (SELECT FROM {workflows} w
                                      WHERE scope = $1 AND key = $2 AND token = $3 AND {is_held}),
                        CASE WHEN ours THEN pg_catalog.pg_current_xact_id()::text END,
                        (SELECT id::text FROM {incarnation})
                 FROM turn",
                incarnation = names.of("incarnation"),
            )),
            record: sql(format!(
                "WITH {INSTANT}, turn AS MATERIALIZED (
                    SELECT pg_catalog.pg_current_xact_id_if_assigned()::text IS NOT DISTINCT FROM $8 AS ours),
                 held AS MATERIALIZED (
                    SELECT id FROM {workflows} w WHERE scope = $1 AND key = $2 AND token = $3 AND {is_held} FOR KEY SHARE),
                 written AS (
                    INSERT INTO {steps} AS s (workflow, name, key, token, input, result, recorded_at)
                    SELECT id, $4, $5, $3, $6, $7, now FROM held, instant, turn WHERE ours
                    ON CONFLICT (workflow, name, key) DO UPDATE
                    SET token = CASE WHEN s.result IS NULL THEN EXCLUDED.token ELSE s.token END,
                        result = coalesce(s.result, EXCLUDED.result)
                    RETURNING workflow)
                 SELECT ours, EXISTS (SELECT FROM written) FROM turn"
            )),
            unfinished: format!(
                "WITH {INSTANT} SELECT w.token, w.name, w.version, w.tries, w.held, w.scope, w.key, r.fingerprint,
                        now - r.lease_expires_at
                 FROM instant, {records} r JOIN {workflows} w USING (scope, key, token)
                 WHERE r.completed_at IS NULL AND r.lease_expires_at <= now"
            ),
            standing: format!("AND {is_held}"),
            records,
            workflows,
            steps,
        }
    }

    /// Begins the transaction of a step, as [`Statements::begin`](super::statements::Statements::begin) does that of a
    /// request, but with no lock: its claim is held already.
    pub(super) fn begin(&self, turn: &str, correlation: &str) -> SqlStr {
        let Self { begin, .. } = self;
        AssertSqlSafe(format!(
            "{begin}; SELECT pg_catalog.set_config('oneflight.turn', '{turn}', true){correlation}; SAVEPOINT oneflight_work"
        ))
        .into_sql_str()
    }

    /// What is unfinished, of these kinds (JSON) or of all.
    pub(super) fn unfinished(&self, kinds: Option<&str>, first: i64, longest: i64, limit: i64) -> Message {
        let asked = match kinds {
            None => String::new(),
            Some(kinds) => format!(
                "AND NOT w.held AND w.name <> ''
                 AND EXISTS (SELECT FROM jsonb_array_elements({kinds}::jsonb) kind
                             WHERE kind->>0 = w.name AND kind->1 ? w.version)
                 AND now - r.lease_expires_at >= CASE w.tries WHEN 0 THEN 0
                    ELSE least({longest}, {first}::bigint << least(w.tries - 1, 30)::integer) END",
                kinds = Value::Text(kinds),
            ),
        };
        let Self { unfinished, .. } = self;
        Message::outside(&format!(
            "{unfinished} {asked} ORDER BY r.lease_expires_at LIMIT {limit}"
        ))
    }

    /// Whether a step is recorded under this token.
    pub(super) fn is_recorded(&self, id: &RequestIdentity, token: i64, step: &StepId) -> Message {
        let Self { workflows, steps, .. } = self;
        let (scope, key) = (Value::Text(id.scope()), Value::Text(id.key()));
        let (name, of) = (Value::Text(step.name()), Value::Text(step.key()));
        Message::outside(&format!(
            "SELECT EXISTS (
                SELECT FROM {workflows} w JOIN {steps} s ON s.workflow = w.id
                WHERE w.scope = {scope} AND w.key = {key} AND s.name = {name} AND s.key = {of} AND s.token = {token}
                  AND s.result IS NOT NULL)"
        ))
    }

    /// Names the record of a claim whose lease is over, as `ended`. It is locked, so that nobody renews it meanwhile.
    fn ended(&self, id: &RequestIdentity, token: i64) -> String {
        let Self { records, .. } = self;
        let (scope, key) = (Value::Text(id.scope()), Value::Text(id.key()));
        format!(
            "{INSTANT}, ended AS MATERIALIZED (
                SELECT r.token FROM {records} r, instant
                WHERE r.scope = {scope} AND r.key = {key} AND r.token = {token} AND r.completed_at IS NULL
                  AND r.lease_expires_at <= now
                FOR SHARE OF r)"
        )
    }

    /// Writes down the answer of a step, or deletes one that has no result, if its mutation is held.
    pub(super) fn settle(
        &self,
        id: &RequestIdentity,
        token: i64,
        step: &StepId,
        answer: Option<&RecordedResult>,
    ) -> Message {
        let Self { workflows, steps, .. } = self;
        let (scope, key) = (Value::Text(id.scope()), Value::Text(id.key()));
        let (name, of) = (Value::Text(step.name()), Value::Text(step.key()));
        let is_it = format!("s.workflow = held.id AND s.name = {name} AND s.key = {of}");
        let settled = match answer {
            Some(answer) => {
                let answer = Value::Bytes(Some(answer.as_bytes()));
                format!(
                    "UPDATE {steps} s SET result = {answer}, token = {token}, recorded_at = now FROM held, instant
                     WHERE {is_it}"
                )
            }
            None => format!("DELETE FROM {steps} s USING held WHERE {is_it} AND s.result IS NULL"),
        };
        Message::outside(&format!(
            "WITH {ended},
             held AS MATERIALIZED (
                SELECT w.id FROM {workflows} w, ended
                WHERE w.scope = {scope} AND w.key = {key} AND w.token = ended.token AND w.held
                FOR KEY SHARE OF w),
             settled AS ({settled})
             SELECT id FROM held",
            ended = self.ended(id, token),
        ))
    }

    pub(super) fn set_standing(&self, id: &RequestIdentity, token: i64, standing: Standing) -> Message {
        let Self {
            standing: if_held,
            workflows,
            ..
        } = self;
        let set = match standing {
            Standing::HandedBack => "tries = greatest(tries - 1, 0)",
            Standing::Held | Standing::GivenUp => "held = true",
            Standing::Resumed => "tries = 0, held = false",
        };
        let (with, from, unless) = match standing {
            Standing::GivenUp => (
                format!("WITH {}", self.ended(id, token)),
                "FROM ended",
                "AND NOT w.held",
            ),
            Standing::HandedBack | Standing::Held | Standing::Resumed => (String::new(), "", ""),
        };
        let (scope, key) = (Value::Text(id.scope()), Value::Text(id.key()));
        Message::outside(&format!(
            "{with} UPDATE {workflows} w SET {set} {from}
             WHERE w.scope = {scope} AND w.key = {key} AND w.token = {token} {if_held} {unless}
             RETURNING w.token"
        ))
    }
}
