//! Round trips: of PostgreSQL counted on the wire, of Redis by the server.

use std::time::Duration;

use futures::StreamExt;
use oneflight::idempotency::{Idempotency, Origin};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight_postgres::PostgresStore;
use redis::cmd;
use tokio::sync::mpsc;

use crate::figures::Figure;
use crate::proxy::Proxy;
use crate::{Failure, postgres, redis_server};

fn id(key: &str) -> Result<RequestIdentity, Failure> {
    Ok(RequestIdentity::new(Scope::new("tenant-7").route("POST /orders"), key)?)
}

pub(crate) async fn measure() -> Result<Vec<Figure>, Failure> {
    let mut figures = of_postgres().await?;
    figures.extend(of_redis().await?);
    Ok(figures)
}

async fn of_postgres() -> Result<Vec<Figure>, Failure> {
    const INSERT: &str = "INSERT INTO orders (item) VALUES ('tea')";
    let schema = postgres::server().schema().await;
    let proxy = Proxy::before(postgres::server().port()).await;
    let pool = schema.pool_through(proxy.port(), 1);
    let store = PostgresStore::from_pool(pool.clone()).await?;
    sqlx::query("CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, item text NOT NULL)")
        .execute(&pool)
        .await?;
    let idem = Idempotency::builder(store).build();

    let mut counts = [0; 6];
    // The first time on a connection, statements are prepared.
    for round in ["first", "second"] {
        let mut counter = Counter::new(&proxy).await;
        sqlx::query("SELECT 1").execute(&pool).await?;
        // The pool tests a connection when it lends it and when it has it back.
        let of_the_pool = counter.trips().await - 1;

        let mut bare = pool.begin().await?;
        sqlx::query(INSERT).execute(&mut *bare).await?;
        bare.commit().await?;
        let bare = counter.trips().await;

        let mut in_tx = Vec::new();
        for expected in [Origin::Executed, Origin::Replayed] {
            let work = idem.run_in_tx(id(&format!("tx-{round}"))?, |mut tx| async move {
                sqlx::query(INSERT).execute(&mut *tx).await?;
                Ok(1)
            });
            check_origin(work.await?.origin(), expected)?;
            in_tx.push(counter.trips().await);
        }
        let mut run = Vec::new();
        for (expected, connections) in [(Origin::Executed, 2), (Origin::Replayed, 1)] {
            let reply = idem.run(id(&format!("run-{round}"))?, |_| async { 1 }).await?;
            check_origin(reply.origin(), expected)?;
            run.push(counter.trips().await - connections * of_the_pool);
        }
        counts = [of_the_pool, bare, in_tx[0], in_tx[1], run[0], run[1]];
    }
    let [of_the_pool, bare, in_tx, in_tx_replayed, run, run_replayed] = counts;
    Ok(vec![
        Figure::count(
            "PostgreSQL, `run_in_tx`: round trips over the bare transaction",
            in_tx - bare,
            1,
        ),
        Figure::count(
            "PostgreSQL, replay of `run_in_tx`: over the bare transaction",
            in_tx_replayed.saturating_sub(bare),
            2,
        ),
        Figure::count(
            format!("PostgreSQL, `run`: round trips (without the pool's own {of_the_pool} for each loan)"),
            run,
            2,
        ),
        Figure::count("PostgreSQL, replay of `run`: round trips", run_replayed, 1),
    ])
}

/// Counts what goes over the wire once it is quiet there: what the pool does with a connection that it has back comes a
/// moment later.
struct Counter<'p> {
    proxy: &'p Proxy,
    before: usize,
}

impl<'p> Counter<'p> {
    async fn new(proxy: &'p Proxy) -> Self {
        let mut counter = Self { proxy, before: 0 };
        counter.trips().await;
        counter
    }

    /// How many there have been since the last time.
    async fn trips(&mut self) -> usize {
        let mut seen = self.proxy.round_trips();
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            match self.proxy.round_trips() {
                now if now == seen => break,
                now => seen = now,
            }
        }
        seen - std::mem::replace(&mut self.before, seen)
    }
}

fn check_origin(origin: Origin, expected: Origin) -> Result<(), Failure> {
    match origin == expected {
        true => Ok(()),
        false => Err(format!("a call was {origin:?} that should have been {expected:?}").into()),
    }
}

async fn of_redis() -> Result<Vec<Figure>, Failure> {
    let server = redis_server::Server::start(&[]);
    let monitor = server.client().get_async_monitor().await?;
    let (sends, mut lines) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut stream = Box::pin(monitor.into_on_message::<String>());
        while let Some(line) = stream.next().await {
            // What scripts do inside of the server is no round trip.
            if !line.contains(" lua] ") && sends.send(line).is_err() {
                return;
            }
        }
    });
    let mut connection = server.connection().await;
    let mut marks = 0;
    let mut commands = async || -> Result<usize, Failure> {
        marks += 1;
        let mark = format!("mark-{marks}");
        cmd("ECHO").arg(&mark).query_async::<String>(&mut connection).await?;
        let mut commands = 0;
        while let Some(line) = lines.recv().await {
            if line.contains(&mark) {
                break;
            }
            commands += 1;
        }
        Ok(commands)
    };

    let idem = Idempotency::builder(server.store("trips:").await).build();
    // Afterwards the server knows the scripts.
    let _ = idem.run(id("first")?, |_| async { 1 }).await?;
    commands().await?;
    let mut counts = Vec::new();
    for expected in [Origin::Executed, Origin::Replayed] {
        check_origin(idem.run(id("second")?, |_| async { 1 }).await?.origin(), expected)?;
        counts.push(commands().await?);
    }
    Ok(vec![
        Figure::count("Redis, `run`: round trips", counts[0], 2),
        Figure::count("Redis, replay of `run`: round trips", counts[1], 1),
    ])
}
