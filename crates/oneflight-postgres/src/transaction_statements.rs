//! The text of the statements of a transaction that reads a record, and writes it at its end.

use super::names::Names;
use super::sql::{INSTANT, RECORD, absent, notify};

/// The same for a transaction that another driver has begun: all values are text.
#[derive(Debug)]
pub(super) struct ForeignStatements {
    pub(super) look: String,
    pub(super) record: String,
}

/// Stands for null in an answer. A value that is missing is empty.
pub(super) const NULL: &str = "-";

impl ForeignStatements {
    pub(super) fn new(names: &Names) -> Self {
        let look = look(names, ["$1::text", "$2::text", "$3::text"]);
        let bytes = |name: &str| format!("pg_catalog.encode({name}, 'hex')");
        let columns = [
            "now::text",
            &bytes("fingerprint"),
            "token::text",
            &bytes("holder"),
            "attempt::text",
            "lease_expires_at::text",
            "completed_at::text",
            "expires_at::text",
            &bytes("result"),
            "held::text",
            "ours::text",
            "number",
            "incarnation",
            // The turn of this call, also if it did not get the lock.
            "(pg_catalog.current_setting('oneflight.turn', true) IN ($3::text, pg_catalog.concat('not ', $3::text)))::text",
        ];
        let columns = columns.map(|column| format!("coalesce({column}, '{NULL}')"));
        let optional = |value: &str| format!("nullif({value}::text, '')");
        let bytes = |value: &str| format!("pg_catalog.decode({}, 'hex')", optional(value));
        let int = |value: &str| format!("{}::bigint", optional(value));
        let values = [
            "$1::text",
            "$2::text",
            &bytes("$3"),
            &bytes("$4"),
            &int("$5"),
            &int("$6"),
            &int("$7"),
            &bytes("$8"),
            &int("$9"),
            "$10::text",
            &int("$11"),
            "$12::text",
        ];
        let answer = "(CASE WHEN NOT ours THEN 'ended' WHEN EXISTS (SELECT FROM written) THEN 'written' ELSE 'taken' END) AS oneflight";
        Self {
            look: format!(
                "SELECT pg_catalog.concat_ws(' ', {}) AS oneflight FROM ({look}) looked",
                columns.join(", ")
            ),
            record: record(names, values, answer),
        }
    }
}

/// Reads the record by scope and key, for whose turn it is. The transaction gets its number here, unless what was read is an
/// answer.
pub(super) fn look(names: &Names, [scope, key, turn]: [&str; 3]) -> String {
    let (records, incarnation) = (names.of("records"), names.of("incarnation"));
    format!(
        "WITH {INSTANT}, turn AS MATERIALIZED (
            SELECT pg_catalog.current_setting('oneflight.turn', true) IS NOT DISTINCT FROM {turn} AS ours)
         SELECT now, r.*, ours, CASE WHEN ours AND coalesce(greatest(lease_expires_at, expires_at) <= now, true)
                                     THEN pg_catalog.pg_current_xact_id()::text END AS number,
                (SELECT id::text FROM {incarnation}) AS incarnation
         FROM instant CROSS JOIN turn LEFT JOIN (
            SELECT {RECORD} FROM {records} WHERE scope = {scope} AND key = {key}) r ON true"
    )
}

/// Writes the record of a transaction by its number. Takes, after scope and key: fingerprint, holder, attempt, what it took
/// over, retention, result, the number of those that watch, the number of the transaction, the token that was read, and the id of
/// the request, or an empty text.
pub(super) fn record(names: &Names, values: [&str; 12], answer: &str) -> String {
    let [
        scope,
        key,
        fingerprint,
        holder,
        attempt,
        took_over,
        retention,
        result,
        watch,
        number,
        seen,
        correlation,
    ] = values;
    let (records, tokens) = (names.of("records"), names.of("tokens").replace('\'', "''"));
    format!(
        "WITH {INSTANT}, turn AS MATERIALIZED (
            SELECT pg_catalog.pg_current_xact_id_if_assigned()::text IS NOT DISTINCT FROM {number} AS ours),
         written AS (
            INSERT INTO {records} AS r (scope, key, token, fingerprint, holder, attempt, took_over, claimed_at,
                                        completed_at, expires_at, result, correlation_id)
            SELECT {scope}, {key}, pg_catalog.nextval('{tokens}'::pg_catalog.regclass), {fingerprint}, {holder}, {attempt},
                   {took_over}, now, now, now + {retention}, {result}, nullif({correlation}, '')
            FROM instant, turn WHERE ours
            ON CONFLICT (scope, key) DO UPDATE
            SET (token, fingerprint, holder, attempt, took_over, claimed_at, lease_expires_at, completed_at,
                 expires_at, result, held, correlation_id)
              = (EXCLUDED.token, EXCLUDED.fingerprint, EXCLUDED.holder, EXCLUDED.attempt, EXCLUDED.took_over,
                 EXCLUDED.claimed_at, NULL, EXCLUDED.completed_at, EXCLUDED.expires_at, EXCLUDED.result, false,
                 coalesce(EXCLUDED.correlation_id, CASE WHEN r.completed_at IS NULL THEN r.correlation_id END))
            WHERE {absent} OR (r.token = {seen} AND r.lease_expires_at <= EXCLUDED.claimed_at)
            RETURNING {notify})
         SELECT {answer} FROM turn",
        absent = absent("r", "EXCLUDED.claimed_at"),
        notify = notify(&format!("'{}'", names.channel()), watch)
    )
}
