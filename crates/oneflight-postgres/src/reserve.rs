//! A way to the server for holders of claims, when the pool has no connection to lend.
//!
//! ```text
//! pool lends at once ──────────────────────────────────▶ its connection
//!        └── not yet ──▶ whichever lends first: the pool, or the reserve of one
//! ```
//!
//! A claim whose lease is not renewed in time is lost while its work goes on. That must not depend on how long others
//! keep what the pool has: all of it may be in transactions of theirs, for longer than a lease.
//!
//! The reserve is a pool of one, with the hooks of the user's pool and with its options as they are by then. It
//! connects when it is first asked, and closes its connection after a minute without use.

use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgPool, Postgres};
use tokio::time::sleep;

/// How long the pool is waited for before the reserve is asked as well.
const AT_ONCE: Duration = Duration::from_millis(100);
/// How long the reserve's connection is kept without use.
const IDLE: Duration = Duration::from_secs(60);

/// The reserve of one store. Clones share it.
#[derive(Clone)]
pub(super) struct Reserve {
    patience: Duration,
    pool: Arc<OnceLock<PgPool>>,
}

impl Reserve {
    /// Makes a reserve whose connection may take this long to be made.
    pub(super) fn new(patience: Duration) -> Self {
        let pool = Arc::default();
        Self { patience, pool }
    }

    /// Lends a connection of the pool's, or that of the reserve if the pool takes longer than a part of this time.
    pub(super) async fn lend(&self, limit: Duration, pool: &PgPool) -> sqlx::Result<PoolConnection<Postgres>> {
        let mut lent = pin!(pool.acquire());
        let mut reserved = pin!(async {
            sleep(AT_ONCE.min(limit / 4)).await;
            self.reserved(pool).acquire().await
        });
        tokio::select! {
            biased;
            lent = &mut lent => match lent {
                Ok(_) | Err(sqlx::Error::PoolClosed) => lent,
                Err(_) => reserved.await,
            },
            reserved = &mut reserved => match reserved {
                Ok(_) => reserved,
                Err(_) => lent.await,
            },
        }
    }

    fn reserved(&self, of: &PgPool) -> &PgPool {
        let options = of.connect_options();
        let reserve = self.pool.get_or_init(|| {
            let hooks = of.options().clone();
            hooks
                .max_connections(1)
                .min_connections(0)
                .idle_timeout(IDLE)
                .acquire_timeout(self.patience)
                .connect_lazy_with((*options).clone())
        });
        reserve.set_connect_options((*options).clone());
        reserve
    }
}
