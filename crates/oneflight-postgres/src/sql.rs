//! Words that our statements have in common. The procedures in `migrations/` have some of them as well: what was
//! released there does not change with these.

/// The columns of a record, in the order in which it is read.
pub(super) const RECORD: &str =
    "fingerprint, token, holder, attempt, took_over, lease_expires_at, completed_at, expires_at, result, held";

/// One instant for the whole of a statement, in milliseconds. Its words are named in full, like all functions of ours:
/// in the user's transaction, the search path is the user's, and what is found by it need not be the server's.
pub(super) const INSTANT: &str = "instant AS MATERIALIZED (
    SELECT pg_catalog.floor(extract(epoch FROM pg_catalog.clock_timestamp()) OPERATOR(pg_catalog.*) 1000::numeric)::bigint
    AS now)";

/// Leaves the session outside of any transaction, in one message and without a warning where there is none. What was
/// left open is rolled back; after a failure, this fails as well.
pub(super) const LEAVE: &str = "BEGIN; ROLLBACK";

/// Has the rest of the transaction answer in the encoding, and with bytes in the digits, that `sqlx` reads.
pub(super) const PLAIN: &str = "SET LOCAL client_encoding = 'UTF8'; SET LOCAL bytea_output = hex";

/// Has the rest of a transaction of ours find only what is the server's, and what is named with its schema: others may
/// have made functions and operators where the session looks.
pub(super) const PATH: &str = "SET LOCAL search_path = pg_catalog, pg_temp";

/// Past its retention, a record counts as absent.
pub(super) fn absent(r: &str, now: &str) -> String {
    format!("({r}.completed_at IS NOT NULL AND {r}.expires_at <= {now})")
}

/// Notifies those that watch, if there are any: see [`listen`](super::listen).
pub(super) fn notify(channel: &str, watch: &str) -> String {
    format!(
        "CASE WHEN NOT pg_catalog.pg_try_advisory_xact_lock({watch}) THEN pg_catalog.pg_notify({channel}, {watch}::text)::text END"
    )
}
