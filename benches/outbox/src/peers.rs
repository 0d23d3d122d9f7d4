//! What the relay is compared with.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use graphile_worker::{IntoTaskHandlerResult, JobSpec, LocalQueueConfig, TaskHandler, WorkerContext, WorkerOptions};
use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::curve::{Curve, watch};
use crate::postgres::Schema;
use crate::relay::hold;

/// What is to be beaten: rows that are taken and deleted, by two connections.
pub async fn bare(schema: &Schema, backlog: usize, held: bool) -> Result<Curve, Failure> {
    let pool = schema.pool(4);
    sqlx::raw_sql("CREATE TABLE jobs (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, payload text NOT NULL)")
        .execute(&pool)
        .await?;
    sqlx::query(
        "INSERT INTO jobs (payload) SELECT 'a payload of some forty bytes, as ids are' FROM generate_series(1, $1)",
    )
    .bind(i64::try_from(backlog)?)
    .execute(&pool)
    .await?;
    let snapshot = if held { Some(hold(&pool).await?) } else { None };
    let arrived = Arc::new(AtomicUsize::new(0));
    for _ in 0..2 {
        let (pool, arrived) = (pool.clone(), Arc::clone(&arrived));
        tokio::spawn(async move {
            let take = "DELETE FROM jobs WHERE id IN (
                            SELECT id FROM jobs ORDER BY id LIMIT 100 FOR UPDATE SKIP LOCKED) RETURNING id, payload";
            loop {
                let rows = sqlx::query(take).fetch_all(&pool).await.map_or(0, |rows| rows.len());
                if rows == 0 {
                    return;
                }
                arrived.fetch_add(rows, SeqCst);
            }
        });
    }
    let what = if held { "bare loop, snapshot held" } else { "bare loop" };
    let curve = watch(what.to_owned(), backlog, &arrived).await;
    drop(snapshot);
    Ok(curve)
}

/// A job that counts, and does nothing else.
#[derive(Clone, Serialize, Deserialize)]
struct Nothing {
    payload: String,
}

static DONE: AtomicUsize = AtomicUsize::new(0);

impl TaskHandler for Nothing {
    const IDENTIFIER: &'static str = "nothing";

    async fn run(self, _: WorkerContext) -> impl IntoTaskHandlerResult {
        DONE.fetch_add(1, SeqCst);
        Ok::<(), String>(())
    }
}

/// `graphile_worker`, as its guide has it for small jobs in great number: jobs are fetched and completed in batches.
pub async fn graphile(schema: &Schema, backlog: usize) -> Result<Curve, Failure> {
    let pool = schema.pool(8);
    let worker = WorkerOptions::default()
        .pg_pool(pool.clone())
        .schema("graphile_worker")
        .concurrency(16)
        .local_queue(LocalQueueConfig::builder().size(1000).build())
        .complete_job_batch_delay(Duration::from_millis(5))
        .define_job::<Nothing>()
        .init()
        .await?;
    let (utils, spec) = (worker.create_utils(), JobSpec::default());
    let job = Nothing {
        payload: "a payload of some forty bytes, as ids are".to_owned(),
    };
    let batch: Vec<_> = (0..1000).map(|_| (job.clone(), &spec)).collect();
    for _ in 0..backlog.div_ceil(1000) {
        utils.add_jobs(&batch).await?;
    }
    DONE.store(0, SeqCst);
    let worker = Arc::new(worker);
    let runs = tokio::spawn({
        let worker = Arc::clone(&worker);
        async move { worker.run().await.map_err(|error| error.to_string()) }
    });
    let curve = watch("graphile_worker".to_owned(), backlog, &DONE).await;
    worker.request_shutdown();
    runs.await??;
    Ok(curve)
}
