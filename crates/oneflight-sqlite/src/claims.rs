//! The statements by which a record is claimed.
//!
//! The code that runs them sees to the lock and the transaction.

use std::borrow::Cow;

use sqlx::sqlite::SqliteConnection;

use super::busy::unavailable;
use super::ending::{Commits, End};
use super::file::{DatabaseFile, databases};
use super::records::{attached, millis, number, select_within};
use super::seal::{close_seal, is_sealable};
use oneflight::identity::RequestIdentity;
use oneflight::record::{FencingToken, Record};
use oneflight::store::{Claim, ClaimOutcome, ClaimRequest, Decision, Purpose, StoreError, decide};

/// Where a claim is made, and so what else is done in the statement that writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claims {
    Outside,
    /// In the transaction of the work, for which a savepoint is set, and which is committed like this.
    InTransaction(Commits),
}

/// What a claim has to know of the record that it replaces.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    token: FencingToken,
    held: bool,
    /// What is completed is only replaced past its retention, and is another request's then.
    is_completed: bool,
}

impl Before {
    pub(super) fn of(record: &Record) -> Self {
        Self {
            token: record.token,
            held: record.held,
            is_completed: record.result().is_some(),
        }
    }
}

/// A statement that fails if a request has a record, with an error that says that something is too big.
pub(super) fn unless_recorded(id: &RequestIdentity) -> String {
    // It depends on the row: SQLite evaluates what does not before it knows of any.
    format!(
        "SELECT zeroblob(9223372036854775807 - (token IS NULL)) FROM main.oneflight_records
         WHERE scope = {scope} AND key = {key}; ",
        scope = text(id.scope()),
        key = text(id.key()),
    )
}

/// The statements that go on with a transaction that is begun for a request without a record: they close the seal of the connection,
/// and set the savepoint of the work. The record comes with the result, since nobody else can write one before. (The work could,
/// by statements of its own: then the record violates the table's key, and all is rolled back.) What
/// begins a transaction cannot have values bound, so they stand in the text.
///
/// A constraint rolls the transaction back if there is a record by now, if the seal does not hold, or if the databases
/// of the connection are not known to be this file alone, and are not.
pub(super) fn hold_new(id: &RequestIdentity, file: Option<&DatabaseFile>) -> String {
    let is_other_file = file.map_or_else(String::new, |file| {
        let path = text(file.path());
        let databases = databases!();
        format!(" OR NOT (SELECT coalesce(main_file, '') = {path} AND attached = 0 FROM {databases})")
    });
    // A row without a description, which there cannot be, where one is not to go on. This table has no index to be looked up.
    format!(
        "INSERT OR ROLLBACK INTO main.oneflight_migrations (description, applied_at)
         SELECT NULL, 0 WHERE NOT ({is_sealable})
             OR EXISTS (SELECT 1 FROM main.oneflight_records WHERE scope = {scope} AND key = {key}){is_other_file};
         {close_seal};
         SAVEPOINT oneflight_work",
        scope = text(id.scope()),
        key = text(id.key()),
        is_sealable = is_sealable!(),
        close_seal = close_seal!(),
    )
}

/// A text as a literal. Nothing but a quote means anything in one. No scope or key has a control character in it, and so
/// none the NUL that would end the statement.
fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// Decides under the write lock, and writes what follows from that. The end of the transaction goes along.
pub(super) async fn claim(
    connection: &mut SqliteConnection,
    request: &ClaimRequest,
    claims: Claims,
    file: &DatabaseFile,
) -> Result<(End, ClaimOutcome), StoreError> {
    let (record, databases) = select_within(connection, &request.id, file).await?;
    let before = record.as_ref().map(Before::of);
    match decide(record, request) {
        Decision::Unchanged(outcome) => Ok((End::RollBack, outcome)),
        Decision::Grant { .. } if claims == Claims::InTransaction(Commits::AtOnce) && databases.has_attached() => {
            Err(attached())
        }
        Decision::Grant { attempt, took_over } => {
            // What goes on to stand beside the record, if it is a mutation of steps.
            let along = before.map(|before| before.token);
            let along = along.filter(|_| request.purpose == Purpose::Resolve);
            if let Some(before) = along {
                let apart = set_apart(connection, &request.id, before);
                apart.await.map_err(unavailable)?;
            }
            let token = grant(connection, request, before, attempt, claims);
            let token = token.await.map_err(unavailable)?;
            if let Some(before) = along {
                let along = take_along(connection, &request.id, before, token);
                along.await.map_err(unavailable)?;
            }
            let claim = Claim::new(request.id.clone(), token, attempt, took_over);
            Ok((End::Commit, ClaimOutcome::Granted(claim)))
        }
    }
}

/// Sets apart what stands beside a record that is about to be replaced, so that it is not deleted with it.
async fn set_apart(connection: &mut SqliteConnection, id: &RequestIdentity, token: FencingToken) -> sqlx::Result<()> {
    let apart =
        sqlx::query("UPDATE main.oneflight_workflows SET token = -token WHERE scope = ?1 AND key = ?2 AND token = ?3");
    let apart = apart.bind(id.scope()).bind(id.key()).bind(number(token));
    apart.execute(connection).await.map(drop)
}

/// Has what was [set apart](set_apart) stand beside the record under its new token, held.
async fn take_along(
    connection: &mut SqliteConnection,
    id: &RequestIdentity,
    before: FencingToken,
    token: FencingToken,
) -> sqlx::Result<()> {
    let along = sqlx::query(
        "UPDATE main.oneflight_workflows SET token = ?4, held = 1 WHERE scope = ?1 AND key = ?2 AND token = -?3",
    );
    let along = along.bind(id.scope()).bind(id.key());
    let along = along.bind(number(before)).bind(number(token));
    along.execute(connection).await.map(drop)
}

macro_rules! grant {
    ($then:literal) => {
        concat!(
            "INSERT OR REPLACE INTO main.oneflight_records
                (scope, key, fingerprint, holder, attempt, state, claimed_at, lease_expires_at, held, correlation_id)
             SELECT ?1, ?2, ?3, ?4, ?5, 'in_progress', now, now + ?6, ?7, ?8
             FROM (SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER) AS now)
             RETURNING token",
            $then
        )
    };
}

/// Draws a token and writes the record as in progress, in place of the one that exists.
pub(super) async fn grant(
    connection: &mut SqliteConnection,
    request: &ClaimRequest,
    before: Option<Before>,
    attempt: u32,
    claims: Claims,
) -> sqlx::Result<FencingToken> {
    let before = before.filter(|before| !before.is_completed);
    let correlation: Option<Cow<'_, str>> = match (&request.correlation_id, before) {
        (Some(id), _) => Some(id.as_str().into()),
        (None, Some(before)) => correlation_of(connection, before.token).await?.map(Cow::from),
        (None, None) => None,
    };
    // One errand to the connection's thread, which is what a small transaction spends its time on.
    let statement = match claims {
        Claims::Outside => grant!(""),
        Claims::InTransaction(_) => grant!("; SAVEPOINT oneflight_work"),
    };
    let fingerprint = request.id.fingerprint();
    let tokens: Vec<i64> = sqlx::query_scalar(statement)
        .bind(request.id.scope())
        .bind(request.id.key())
        .bind(fingerprint.as_ref().map(|it| &it.as_bytes()[..]))
        .bind(&request.holder.as_bytes()[..])
        .bind(attempt)
        .bind(millis(request.lease))
        .bind(before.is_some_and(|before| before.held))
        .bind(correlation.as_deref())
        // All, not one: with the first row in hand, the rest of the statement would not be run.
        .fetch_all(connection)
        .await?;
    let token = tokens.first().ok_or(sqlx::Error::RowNotFound)?;
    Ok(FencingToken::new(u64::try_from(*token).unwrap_or_default()))
}

/// Returns the id of the request that claimed, if it had one. Only a claim that takes over without one asks for it.
async fn correlation_of(connection: &mut SqliteConnection, token: FencingToken) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar("SELECT correlation_id FROM main.oneflight_records WHERE token = ?")
        .bind(number(token))
        .fetch_one(connection)
        .await
}
