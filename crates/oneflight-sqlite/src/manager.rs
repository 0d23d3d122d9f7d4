//! Transactions on a connection that we own, counted by `sqlx`.
//!
//! A nested `begin()` of the work is a savepoint because `sqlx` counts what is open. A `Transaction` of `sqlx` would be
//! counted too, but does not give up its connection, which we have to close at times. What counts without one is the
//! trait `TransactionManager`. `sqlx` does not export it, and `sqlx-core` does not promise to keep it: so this file is the
//! only one that uses it.

use sqlx::SqlStr;
use sqlx::sqlite::{SqliteConnection, SqliteTransactionManager};
use sqlx_core::transaction::TransactionManager;

/// Begins a transaction with this statement.
pub(super) async fn begin(connection: &mut SqliteConnection, statement: SqlStr) -> sqlx::Result<()> {
    SqliteTransactionManager::begin(connection, Some(statement)).await
}

/// Commits the innermost transaction.
pub(super) async fn commit(connection: &mut SqliteConnection) -> sqlx::Result<()> {
    SqliteTransactionManager::commit(connection).await
}

/// Rolls the innermost transaction back.
pub(super) async fn rollback(connection: &mut SqliteConnection) -> sqlx::Result<()> {
    SqliteTransactionManager::rollback(connection).await
}

/// Rolls the innermost transaction back before the next use of the connection. Nothing waits for it.
pub(super) fn start_rollback(connection: &mut SqliteConnection) {
    SqliteTransactionManager::start_rollback(connection);
}

/// Returns how many transactions are open, each inside the one before.
pub(super) fn depth(connection: &SqliteConnection) -> usize {
    SqliteTransactionManager::get_transaction_depth(connection)
}
