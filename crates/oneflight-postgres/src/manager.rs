//! Transactions on a connection that we own, counted by `sqlx`.
//!
//! A nested `begin()` of the work is a savepoint because `sqlx` counts what is open. A `Transaction` of `sqlx` would be
//! counted too, but does not give up its connection, which we have to close at times. What counts without one is the
//! trait `TransactionManager`. `sqlx` does not export it, and `sqlx-core` does not promise to keep it: so this file is the
//! only one that uses it.

use sqlx::SqlStr;
use sqlx::postgres::{PgConnection, PgTransactionManager};
use sqlx_core::transaction::TransactionManager;

/// Begins a transaction with this statement.
pub(super) async fn begin(connection: &mut PgConnection, statement: SqlStr) -> sqlx::Result<()> {
    PgTransactionManager::begin(connection, Some(statement)).await
}

/// Commits the innermost transaction.
pub(super) async fn commit(connection: &mut PgConnection) -> sqlx::Result<()> {
    PgTransactionManager::commit(connection).await
}

/// Rolls the innermost transaction back.
pub(super) async fn rollback(connection: &mut PgConnection) -> sqlx::Result<()> {
    PgTransactionManager::rollback(connection).await
}

/// Rolls the innermost transaction back with the next use of the connection. Nobody waits for it.
pub(super) fn start_rollback(connection: &mut PgConnection) {
    PgTransactionManager::start_rollback(connection);
}

/// Returns how many transactions are open, each inside the one before.
pub(super) fn depth(connection: &PgConnection) -> usize {
    PgTransactionManager::get_transaction_depth(connection)
}
