//! Promises 12 to 14 on PostgreSQL on a connection whose answers are out of step: `sqlx` leaves the end of the answer to a
//! refused `COPY` unread, and takes it for that of the next statement.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use oneflight::idempotency::{Effect, Idempotency, Origin, Tx};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight_postgres::PostgresStore;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor};

use crate::postgres::server;

/// Where the `COPY` is refused, and what the work does after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rejected {
    Bare,
    /// Inside of a transaction of the work's, which is rolled back.
    Nested,
    /// As that, and with a row that is not read before the end.
    BeforeRow,
    /// As that, and with a failure that is not read before the end.
    BeforeFailure,
    /// As that, and with a failure that is undone, which is not read either.
    BeforeFailureUndone,
}

async fn copy(connection: &mut PgConnection) {
    assert!(connection.copy_out_raw("COPY nope TO STDOUT").await.is_err());
}

async fn work(tx: &mut Tx<PostgresStore>, refused: Rejected) -> sqlx::Result<()> {
    let insert = "INSERT INTO orders (item) VALUES ('tea')";
    sqlx::query(insert).execute(&mut **tx).await?;
    if refused == Rejected::Bare {
        copy(tx).await;
        return Ok(());
    }
    let mut inner = tx.begin().await?;
    copy(&mut inner).await;
    if refused == Rejected::BeforeFailureUndone {
        copy(&mut inner).await;
    }
    let _ = inner.rollback().await;
    match refused {
        Rejected::Bare | Rejected::Nested => {}
        Rejected::BeforeRow => drop(tx.execute(sqlx::raw_sql("SELECT true")).await),
        Rejected::BeforeFailure => drop(tx.execute(sqlx::raw_sql("SELECT 1 / 0")).await),
        Rejected::BeforeFailureUndone => {
            for statement in ["SAVEPOINT s", "SELECT 1 / 0", "ROLLBACK TO s"] {
                let _ = tx.execute(sqlx::raw_sql(statement)).await;
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_whose_answers_are_out_of_step_is_done_only_if_its_rows_are_there() {
    let schema = server().schema().await;
    let store = PostgresStore::from_pool(schema.pool(1)).await.unwrap();
    let table = "CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, item text NOT NULL)";
    sqlx::raw_sql(table).execute(store.pool()).await.unwrap();
    let idem = Idempotency::builder(store).build();
    let direct = schema.pool(1);
    let orders = async || -> i64 {
        let count = sqlx::query_scalar("SELECT count(*) FROM orders");
        count.fetch_one(&direct).await.unwrap()
    };
    for refused in [
        Rejected::Bare,
        Rejected::Nested,
        Rejected::BeforeRow,
        Rejected::BeforeFailure,
        Rejected::BeforeFailureUndone,
    ] {
        let before = orders().await;
        let id = RequestIdentity::new(Scope::new("tenant-7"), format!("{refused:?}")).unwrap();
        let answer = idem.run_in_tx(id.clone(), move |mut tx| async move {
            work(&mut tx, refused).await?;
            Ok(1)
        });
        let answer = answer.await;
        println!("{refused:?}: {answer:?}");
        let kept = orders().await - before;
        match &answer {
            Ok(_) => assert_eq!(kept, 1, "{refused:?}"),
            Err(error) if error.effect() == Effect::Nothing => assert_eq!(kept, 0, "{refused:?}: {error:?}"),
            Err(_) => {}
        }
        // The connection is not lent again.
        let reply = idem.run_in_tx(id, |mut tx| async move {
            let insert = sqlx::query_scalar::<_, i32>("INSERT INTO orders (item) VALUES ('coffee') RETURNING 7");
            Ok(insert.fetch_one(&mut *tx).await?)
        });
        match reply.await {
            Ok(reply) if reply.origin() == Origin::Executed => {
                assert_eq!((*reply, kept), (7, 0), "{refused:?}");
                assert_eq!(orders().await - before, 1, "{refused:?}");
            }
            Ok(_) => assert_eq!(kept, 1, "{refused:?}"),
            Err(error) => panic!("{refused:?}: {error:?}"),
        }
    }
}
