//! What an error of the server or of the way to it means.

use std::error::Error;
use std::fmt;
use std::io;

use sqlx::error::DatabaseError;
use sqlx::postgres::{PgDatabaseError, PgPool, PgSeverity};

use super::quiet::quiet;
use oneflight::store::{StoreError, StoreFailure, is_caused_by};

/// The role has no right, or a policy of row-level security turns a row down.
const NO_PRIVILEGE: &str = "42501";
const NO_SUCH_FUNCTION: &str = "42883";

/// Returns the SQLSTATE of an error, if the server sent it.
fn code(error: &sqlx::Error) -> Option<std::borrow::Cow<'_, str>> {
    error.as_database_error().and_then(DatabaseError::code)
}

/// Returns whether an error, or one among its causes, is one of the server's whose SQLSTATE satisfies `is_it`.
///
/// A wrapper may leave out the `sqlx::Error` and return only what is inside of it as its source, as
/// `#[error(transparent)]` and `anyhow` do.
fn is_caused_by_code(error: &(dyn Error + 'static), is_it: impl Fn(&str) -> bool) -> bool {
    is_caused_by_server(error, |error| error.code().is_some_and(|code| is_it(&code)))
}

/// The same for all that the server says.
fn is_caused_by_server(error: &(dyn Error + 'static), is_it: impl Fn(&dyn DatabaseError) -> bool) -> bool {
    is_caused_by(error, |error: &sqlx::Error| {
        error.as_database_error().is_some_and(&is_it)
    }) || is_caused_by::<Box<dyn DatabaseError>>(error, |error| is_it(&**error))
}

/// Returns the part of the server's own source that an error is from, which no language changes, and whether it was raised in a function or
/// procedure.
fn raised_by(error: &dyn DatabaseError) -> (Option<&str>, bool) {
    let error = error.try_downcast_ref::<PgDatabaseError>();
    let routine = error.and_then(PgDatabaseError::routine);
    (routine, error.is_some_and(|error| error.r#where().is_some()))
}

/// The transaction lost to another and may be run again: a serialization failure or a deadlock.
pub(super) fn is_conflict(error: &(dyn Error + 'static)) -> bool {
    is_caused_by_code(error, |code| code == "40001" || code == "40P01")
}

/// The server rejected what it was asked for, and will again: a constraint (class 23), or a value (class 22).
pub(super) fn is_violation(error: &(dyn Error + 'static)) -> bool {
    is_caused_by_code(error, |code| code.starts_with("22") || code.starts_with("23"))
}

/// Returns whether an error may be about one of many rows: any that the server answers, but that it cannot do such a thing now (classes
/// 08, 25, 57P, no room, no connection), lost to another transaction, or does not know what was prepared.
pub(super) fn is_perhaps_of_a_row(error: &(dyn Error + 'static)) -> bool {
    const OF_ALL: [&str; 9] = ["08", "25", "57P", "40001", "40P01", "53100", "53300", "26000", "42P05"];
    is_caused_by_code(error, |code| !OF_ALL.iter().any(|it| code.starts_with(it)))
}

/// Returns whether there is no such savepoint, or no transaction for it to be in: the one that was begun is over.
pub(super) fn is_transaction_over(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| code == "3B001" || code == "25P01")
}

/// Returns whether a commit was refused for what the transaction did, so that it is rolled back. After any other error,
/// a shutdown of the server included, that is not certain.
pub(super) fn is_refused_commit(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| code.starts_with("23") || code.starts_with("P0")) || is_conflict(error)
}

/// Returns whether what records together with the commit says that there was nothing to record.
pub(super) fn is_nothing_recorded(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| code == "OF001")
}

/// Returns whether the server has not come to this transaction's number yet. What had the number before a crash was not
/// committed.
pub(super) fn is_unborn_transaction(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| code == "22023")
}

/// The role has no right to what it asked for.
pub(super) fn is_no_privilege(error: &(dyn Error + 'static)) -> bool {
    is_caused_by_code(error, |code| code == NO_PRIVILEGE)
}

/// Returns whether a policy of row-level security turned a row down, or would leave some out where the session wants them all.
fn is_of_a_policy(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| {
        let routine = raised_by(error).0;
        error.code().is_some_and(|code| code == NO_PRIVILEGE)
            && matches!(routine, Some("ExecWithCheckOptions" | "check_enable_rls"))
    })
}

/// Makes the error that the user of the store gets.
pub(super) fn unavailable(error: sqlx::Error) -> StoreError {
    match error {
        // Others had all connections, or were trying to make them, for as long as this waited.
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => StoreError::NoConnection,
        // It was not executed: there is no such prepared statement, or another one of that name.
        error if code(&error).is_some_and(|code| code == "26000" || code == "42P05") => StoreError::Unsupported {
            advice: "a prepared statement was not found in its session: most likely, a pooler shares sessions and does not \
                     keep track of them, such as PgBouncer in transaction mode; let it (`max_prepared_statements`, from \
                     PgBouncer 1.21), use its session mode, or open the store with `without_prepared_statements`",
        },
        error if is_of_a_policy(&error) => StoreError::failed(StoreFailure::Forbidden, ByPolicy(quiet(error))),
        error => match code(&error).and_then(|code| failure(&code)) {
            Some(failure) => StoreError::failed(failure, quiet(error)),
            None => StoreError::unavailable(quiet(error)),
        },
    }
}

/// Returns what a SQLSTATE says of the server, if it says what is to be done. What says that the server was on its way out or
/// in, or the connection lost (classes 08 and 57P), is none: then it was not available.
fn failure(code: &str) -> Option<StoreFailure> {
    Some(match code {
        NO_PRIVILEGE => StoreFailure::Forbidden,
        "25006" => StoreFailure::ReadOnly,
        "53100" => StoreFailure::Full,
        "55P03" => StoreFailure::Locked,
        "57014" => StoreFailure::Cancelled,
        // No such database, schema, table, function or column.
        "3D000" | "3F000" | "42P01" | NO_SUCH_FUNCTION | "42703" => StoreFailure::NotFound,
        "XX001" | "XX002" => StoreFailure::Damaged,
        code if code.starts_with("28") => StoreFailure::NotLoggedIn,
        _ => return None,
    })
}

/// The error if no connection was lent in time: others have them all, or the server does not answer.
pub(super) fn not_lent(pool: &PgPool) -> sqlx::Error {
    match is_used_up(pool) {
        true => sqlx::Error::PoolTimedOut,
        false => late(),
    }
}

/// The error if the server has not answered within our patience, or the caller's.
pub(super) fn late() -> sqlx::Error {
    let what = "the server has not answered for as long as it was waited for";
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, what))
}

/// The error if what was answered is not the answer to what was asked.
pub(super) fn out_of_step() -> sqlx::Error {
    let what = "the connection's answers are out of step: a part of an earlier one had been left unread";
    sqlx::Error::Protocol(what.to_owned())
}

/// Returns whether all connections that the pool may have are in use.
pub(super) fn is_used_up(pool: &PgPool) -> bool {
    pool.num_idle() == 0 && pool.size() >= pool.options().get_max_connections()
}

/// Returns whether the connection was gone already, or went.
pub(super) fn is_lost(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(error) if error.kind() != io::ErrorKind::TimedOut)
}

/// Returns whether the server ended the session, or does not answer in it.
pub(super) fn is_session_over(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(_)) || code(error).is_some_and(|code| code.starts_with("57P"))
}

/// Returns whether the server has answered with an error, in a session that goes on: nothing of what was asked for is kept.
///
/// A pooler that has lost the server answers as well, with an error of class 08 or one that ends the session.
pub(super) fn is_rejected(error: &sqlx::Error) -> bool {
    let error = error
        .as_database_error()
        .and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    error.is_some_and(|error| {
        error.severity() == PgSeverity::Error && !["08", "57P"].iter().any(|it| error.code().starts_with(it))
    })
}

/// Returns whether a procedure cannot be used, whatever it is called for: the role has no right to it or to what it needs, or it is not there.
///
/// What a row is turned down for, by a policy or by a trigger that calls what is not there, has the same codes. It is raised within the
/// procedure.
pub(super) fn is_unusable(error: &(dyn Error + 'static)) -> bool {
    is_caused_by_server(error, |error| {
        let (routine, is_within) = raised_by(error);
        match error.code().as_deref() {
            Some(NO_SUCH_FUNCTION) => !is_within,
            Some(NO_PRIVILEGE) => !is_within || routine.is_some_and(|it| it.starts_with("aclcheck_error")),
            _ => false,
        }
    })
}

/// The error of a transaction of which nothing was kept.
pub(super) fn rolled_back(error: sqlx::Error) -> StoreError {
    StoreError::rolled_back(quiet(error))
}

/// The error of a record that could not be written at the end of the work: its transaction is rolled back.
pub(super) fn not_recorded(error: sqlx::Error) -> StoreError {
    match code(&error) {
        _ if is_of_a_policy(&error) => StoreError::rolled_back(ByPolicy(quiet(error))),
        Some(code) if code == NO_PRIVILEGE => StoreError::rolled_back(OtherRole(quiet(error))),
        _ => rolled_back(error),
    }
}

/// The record was written as a role that may not write it.
#[derive(Debug)]
struct OtherRole(sqlx::Error);

impl fmt::Display for OtherRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the role that the work left the transaction with may not write the record; `RESET ROLE` before the work \
             returns, or grant that role SELECT, INSERT and UPDATE on oneflight's records, and on its workflows and steps for a \
             step, and USAGE on its tokens",
        )
    }
}

impl Error for OtherRole {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

/// A policy of row-level security turned a row of ours down.
#[derive(Debug)]
struct ByPolicy(sqlx::Error);

impl fmt::Display for ByPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a policy of row-level security decides on that, and no GRANT changes what it says; have it admit oneflight's rows, or use \
             a role with BYPASSRLS: {}",
            self.0
        )
    }
}

impl Error for ByPolicy {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

/// Returns whether an error is about the session that a connection was lent with, not about the statement: the session
/// is in a transaction, or was; it has other settings or another role, or has forgotten what was prepared in it.
/// Nothing was done.
pub(super) fn is_of_the_session(error: &sqlx::Error) -> bool {
    /// `COMMIT` in a procedure that was called inside of a transaction.
    const CALLED_IN_TRANSACTION: &str = "2D000";
    const NO_SUCH_STATEMENT: &str = "26000";
    const STATEMENT_EXISTS: &str = "42P05";
    /// A plan whose columns have changed, among others.
    const NOT_SUPPORTED: &str = "0A000";
    const NO_LOCK: &str = "55P03";
    const CANCELLED: &str = "57014";
    /// What follows begins with this: a transaction that has failed, or may not write.
    const TRANSACTION_STATE: &str = "25";

    code(error).is_some_and(|code| {
        code.starts_with(TRANSACTION_STATE)
            || [
                CALLED_IN_TRANSACTION,
                NO_SUCH_STATEMENT,
                STATEMENT_EXISTS,
                NOT_SUPPORTED,
                NO_PRIVILEGE,
                NO_LOCK,
                CANCELLED,
            ]
            .contains(&&*code)
    })
}
