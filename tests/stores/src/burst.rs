//! The long tail of a burst: many callers over few keys at once, on a small pool of PostgreSQL.
//!
//! How long a connection is held is seen by the pool's own hooks, which tell connections apart by when they were made: so they are
//! made one after the other, and before the burst.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use oneflight::idempotency::Idempotency;
use oneflight::identity::{RequestIdentity, Scope};
use oneflight_postgres::PostgresStore;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::time::sleep;

use crate::figures::Figure;
use crate::{Extent, Failure, postgres};

const KEYS: u64 = 100;
const CONNECTIONS: u32 = 5;

/// Connections are made at least so long apart, and told apart by half of it.
const APART: Duration = Duration::from_millis(20);

pub(crate) async fn measure(extent: Extent) -> Result<Figure, Failure> {
    let callers = extent.of(10_000, 1_000);
    let server = postgres::Server::start("");
    let schema = server.schema().await;
    let holds = Holds::default();
    let pool = holds.pool(&schema).await?;
    sqlx::raw_sql("CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, item text NOT NULL)")
        .execute(&pool)
        .await?;
    let idem = Arc::new(Idempotency::builder(PostgresStore::from_pool(pool.clone()).await?).build());
    holds.forget();

    let begun = Instant::now();
    let calls: Vec<_> = (0..callers)
        .map(|number| tokio::spawn(call(Arc::clone(&idem), number % KEYS)))
        .collect();
    let mut waits = Vec::new();
    for call in calls {
        waits.push(call.await??);
    }
    let all = begun.elapsed();
    let orders: i64 = sqlx::query_scalar("SELECT count(*) FROM orders")
        .fetch_one(&pool)
        .await?;
    if orders != i64::try_from(KEYS)? {
        return Err(format!("the burst placed {orders} orders under {KEYS} keys").into());
    }
    waits.sort_unstable();
    let longest = holds.longest().ok_or("no connection was given back")?;
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    Ok(Figure::held(
        format!("PostgreSQL, `run_in_tx`: {callers} callers at once over {KEYS} keys, a pool of {CONNECTIONS}"),
        "published",
        format!(
            "p50 {:.0} ms, p99 {:.0} ms, all in {:.0} ms; longest hold of a connection {:.1} ms",
            millis(waits[waits.len() / 2]),
            millis(waits[waits.len() * 99 / 100]),
            millis(all),
            millis(longest)
        ),
    ))
}

/// Asks for an order, and returns how long that took.
async fn call(idem: Arc<Idempotency<PostgresStore>>, key: u64) -> Result<Duration, Failure> {
    let begun = Instant::now();
    let id = RequestIdentity::new(Scope::new("tenant-7"), format!("00000000-0000-4000-8000-{key:012x}"))?;
    let order = idem.run_in_tx(id, |mut tx| async move {
        sqlx::query("INSERT INTO orders (item) VALUES ('tea')")
            .execute(&mut *tx)
            .await?;
        Ok(1)
    });
    let _ = order.await?;
    Ok(begun.elapsed())
}

/// When which connection was lent, and how long the longest loan was.
#[derive(Clone, Default)]
struct Holds(Arc<Mutex<Vec<Loan>>>);

struct Loan {
    made: Instant,
    since: Instant,
    longest: Duration,
}

impl Holds {
    async fn pool(&self, schema: &postgres::Schema) -> Result<PgPool, Failure> {
        let (lent, back) = (self.clone(), self.clone());
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .idle_timeout(None)
            .max_lifetime(None)
            // The burst is longer than a call that waits for a connection is patient otherwise.
            .acquire_timeout(Duration::from_secs(300))
            .before_acquire(move |_, meta| {
                lent.lent(meta.age);
                Box::pin(async { Ok(true) })
            })
            .after_release(move |_, meta| {
                back.given_back(meta.age);
                Box::pin(async { Ok(true) })
            })
            .connect_lazy_with(schema.options.clone());
        let mut made = Vec::new();
        for _ in 0..CONNECTIONS {
            made.push(pool.acquire().await?);
            sleep(APART).await;
        }
        Ok(pool)
    }

    fn lent(&self, age: Duration) {
        let now = Instant::now();
        let mut loans = self.0.lock().expect("no panic");
        match of(&mut loans, now - age) {
            Some(loan) => loan.since = now,
            None => loans.push(Loan {
                made: now - age,
                since: now,
                longest: Duration::ZERO,
            }),
        }
    }

    fn given_back(&self, age: Duration) {
        let now = Instant::now();
        // The first loan of each is that of its making, of which nobody told.
        if let Some(loan) = of(&mut self.0.lock().expect("no panic"), now - age) {
            loan.longest = loan.longest.max(now - loan.since);
        }
    }

    fn forget(&self) {
        for loan in self.0.lock().expect("no panic").iter_mut() {
            // What is given back late was lent before the burst.
            loan.since = Instant::now();
            loan.longest = Duration::ZERO;
        }
    }

    fn longest(&self) -> Option<Duration> {
        let loans = self.0.lock().expect("no panic");
        loans.iter().map(|loan| loan.longest).max()
    }
}

fn of(loans: &mut [Loan], made: Instant) -> Option<&mut Loan> {
    let apart = |loan: &Loan| loan.made.max(made) - loan.made.min(made);
    loans.iter_mut().find(|loan| apart(loan) < APART / 2)
}
