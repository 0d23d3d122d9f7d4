//! The text of our statements on steps, beside the calls of procedures.

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use super::call::{Message, Value};
use super::names::Names;
use super::sql::INSTANT;
use oneflight::identity::RequestIdentity;
use oneflight::store::{Standing, StepId};

/// The statements on steps that are no calls.
#[derive(Debug)]
pub(super) struct StepStatements {
    unfinished: String,
    standing: String,
    held: String,
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
                        CASE WHEN ours THEN pg_catalog.pg_current_xact_id()::text END
                 FROM turn"
            )),
            record: sql(format!(
                "WITH {INSTANT}, turn AS MATERIALIZED (
                    SELECT pg_catalog.pg_current_xact_id_if_assigned()::text IS NOT DISTINCT FROM $8 AS ours),
                 held AS MATERIALIZED (
                    SELECT id FROM {workflows} w WHERE scope = $1 AND key = $2 AND token = $3 AND {is_held} FOR KEY SHARE),
                 written AS (
                    INSERT INTO {steps} AS s (workflow, name, key, token, input, result, recorded_at)
                    SELECT id, $4, $5, $3, $6, $7, now FROM held, instant, turn WHERE ours
                    ON CONFLICT (workflow, name, key) DO UPDATE SET result = coalesce(s.result, EXCLUDED.result)
                    RETURNING workflow)
                 SELECT ours, EXISTS (SELECT FROM written) FROM turn"
            )),
            unfinished: format!(
                "WITH {INSTANT} SELECT w.token, w.name, w.version, w.tries, w.held, w.scope, w.key, r.fingerprint,
                        now - r.lease_expires_at
                 FROM instant, {records} r JOIN {workflows} w USING (scope, key, token)
                 WHERE r.completed_at IS NULL AND r.lease_expires_at <= now"
            ),
            standing: format!("AND {is_held} RETURNING token"),
            held: is_held,
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

    /// Deletes a step that has no result, if this token holds the claim.
    pub(super) fn forget(&self, id: &RequestIdentity, token: i64, step: &StepId) -> Message {
        let Self {
            held, workflows, steps, ..
        } = self;
        let (scope, key) = (Value::Text(id.scope()), Value::Text(id.key()));
        let (name, of) = (Value::Text(step.name()), Value::Text(step.key()));
        Message::outside(&format!(
            "WITH held AS MATERIALIZED (
                SELECT id FROM {workflows} w WHERE scope = {scope} AND key = {key} AND token = {token} AND {held}
                FOR KEY SHARE),
             forgotten AS (
                DELETE FROM {steps} s USING held
                WHERE s.workflow = held.id AND s.name = {name} AND s.key = {of} AND s.result IS NULL)
             SELECT id FROM held"
        ))
    }

    pub(super) fn set_standing(&self, id: &RequestIdentity, token: i64, standing: Standing) -> Message {
        let set = match standing {
            Standing::HandedBack => "tries = greatest(tries - 1, 0)",
            Standing::Held => "held = true",
            Standing::Resumed => "tries = 0, held = false",
        };
        let Self {
            standing, workflows, ..
        } = self;
        let (scope, key) = (Value::Text(id.scope()), Value::Text(id.key()));
        Message::outside(&format!(
            "UPDATE {workflows} w SET {set} WHERE scope = {scope} AND key = {key} AND token = {token} {standing}"
        ))
    }
}
