//! What places an order: `oneflight` over one of the stores, or the handler that most people write.
//!
//! Over SQLite and PostgreSQL, which hold the orders as well, an order's two steps are each done in the way that suits it:
//!
//! ```text
//! run: the whole order, under a claim, shared by all duplicates
//!  ├─ the payment provider: slow, elsewhere, no transaction open; asked under a key that every attempt repeats
//!  └─ run_in_tx: the row and its record, one commit, in well under a millisecond
//! ```
//!
//! Where it can break off, the next attempt under the same key goes on: it finds the authorisation at the provider, and
//! the row in its record.
//!
//! Redis holds the records and not the orders, and no transaction spans the two:
//!
//! ```text
//! run: the whole order, under a claim, shared by all duplicates
//!  ├─ the payment provider, as above
//!  └─ the row, in the database beside it
//! ```
//!
//! If it breaks off between row and record, the orders are asked whether the row is there. What is left open: a service
//! that stands still between its last look at its lease and its row, for longer than the lease, writes a second row after
//! another has taken over; and what a failover of Redis loses may be ordered again. Where that must not be, the orders
//! need a constraint of their own, or the records a place beside the orders.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use oneflight::http::{CorrelationId, Problem};
use oneflight::idempotency::{
    self, Doubt, Effect, Idempotency, NotDone, Origin, Recovery, Reply, Resolution, Unfinished, Unknown,
};
use oneflight::identity::{IdempotencyKey, RequestIdentity, Scope};
use oneflight::store::{Store, TransactionalStore};
use oneflight_postgres::PostgresStore;
use oneflight_redis::RedisStore;
use oneflight_sqlite::SqliteStore;

use crate::database::{Database, Entry, Orders};
use crate::naive;
use crate::order::{NewOrder, Placed};
use crate::page::Seen;
use crate::payment::Provider;
use crate::place::Place;
use crate::service::unavailable;

/// A process that says nothing for so long counts as dead, and the next service that is asked for its orders takes them
/// over. It is short, since a mistake costs little here: the payment is safe to repeat, and an order's row is looked
/// for.
const LEASE: Duration = Duration::from_secs(3);

/// Records past their retention have no use, and take up space until they are deleted.
const PURGE_EVERY: Duration = Duration::from_secs(60);

/// A request, as far as an order needs it.
#[derive(Debug, Clone)]
pub(crate) struct Incoming {
    pub(crate) key: IdempotencyKey,
    pub(crate) correlation: CorrelationId,
    pub(crate) order: NewOrder,
    pub(crate) seen: Arc<Seen>,
}

/// What places orders.
#[derive(Clone)]
pub(crate) enum Handler {
    Naive,
    Sqlite(Idempotency<SqliteStore>),
    Postgres(Idempotency<PostgresStore>),
    Redis(Idempotency<RedisStore>),
}

impl Handler {
    /// Sets it up over a store that is where the command line says. `orders` is the database that belongs to it.
    pub(crate) async fn over(place: &Place, orders: &Database) -> Result<Self, Box<dyn Error + Send + Sync>> {
        Ok(match (place, orders) {
            (Place::Redis { url, .. }, _) => {
                let store = RedisStore::open(url.as_str())
                    .await
                    .map_err(|error| format!("Redis can't be used: {error}"))?;
                Self::Redis(beside(store, orders.clone()))
            }
            (_, Database::Sqlite(pool)) => Self::Sqlite(within(SqliteStore::from_pool(pool.clone()).await?)),
            (_, Database::Postgres(pool)) => Self::Postgres(within(PostgresStore::from_pool(pool.clone()).await?)),
        })
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Naive => "naive",
            Self::Sqlite(_) | Self::Postgres(_) | Self::Redis(_) => "oneflight",
        }
    }

    pub(crate) async fn place(
        &self,
        orders: &Database,
        provider: Provider,
        incoming: Incoming,
    ) -> Result<(Placed, Origin), Problem> {
        match self {
            Self::Naive => naive::place_order(orders, provider, &incoming)
                .await
                .map_err(|error| unavailable(&*error)),
            Self::Sqlite(it) => place_within(it, provider, incoming).await,
            Self::Postgres(it) => place_within(it, provider, incoming).await,
            Self::Redis(it) => place_beside(it, orders.clone(), provider, incoming).await,
        }
    }

    /// How many orders are on record: in progress, or answered for good. `None` over Redis, which does not count them.
    pub(crate) async fn records(&self, orders: &Database) -> Result<Option<i64>, sqlx::Error> {
        match self {
            Self::Naive => orders.count_answers().await.map(Some),
            Self::Sqlite(_) | Self::Postgres(_) => orders.count_records(WHOLE_ON_RECORD).await.map(Some),
            Self::Redis(_) => Ok(None),
        }
    }

    /// Waits for what is in flight, and refuses what comes after.
    pub(crate) async fn end(&self) {
        match self {
            Self::Naive => {}
            Self::Sqlite(it) => end(it).await,
            Self::Postgres(it) => end(it).await,
            Self::Redis(it) => end(it).await,
        }
    }
}

/// Drained first and closed then: the second step of an order that is on its way is a new flight.
async fn end<S: Store>(idempotency: &Idempotency<S>) {
    idempotency.drain().await;
    idempotency.close();
}

/// Over a store that holds the orders as well: both steps know themselves again by their keys, so that nothing has to
/// settle before they are done again.
fn within<S: TransactionalStore>(store: S) -> Idempotency<S> {
    Idempotency::builder(store)
        .lease(LEASE)
        .recovery(Recovery::Rerun)
        .settle(Duration::ZERO)
        .purge_every(PURGE_EVERY)
        .build()
}

/// Over a store beside the orders: what became of an order whose service died, the orders tell. Its records expire by
/// themselves.
fn beside<S: Store>(store: S, orders: Database) -> Idempotency<S> {
    let ask = move |doubt: Doubt| {
        let orders = orders.clone();
        async move {
            match orders.find(doubt.id.key()).await {
                Ok(Some(row)) => Resolution::completed(&Placed::from(row)).unwrap_or(Resolution::Hold),
                Ok(None) => Resolution::Rerun,
                // Not known now: the next call asks again.
                Err(_) => Resolution::Hold,
            }
        }
    };
    Idempotency::builder(store)
        .lease(LEASE)
        .recovery(Recovery::ask(ask))
        .build()
}

/// The order as a whole, and its row.
const WHOLE: &str = "POST /orders";
const ENTRY: &str = "POST /orders: entry";

/// The scope of the whole, as it stands in a record.
const WHOLE_ON_RECORD: &str = "shop|route=POST /orders";

/// This shop has no logins. One that has adds `.user(…)`: without it, a client that learns of a key reads the answer of
/// another client.
fn identity(operation: &str, incoming: &Incoming) -> Result<RequestIdentity, Problem> {
    let id = RequestIdentity::new(Scope::new("shop").route(operation), incoming.key.clone())?;
    Ok(id.with_known_fingerprint(incoming.order.fingerprint()))
}

/// The order, once: paid for, and then written in one commit with its record.
async fn place_within<S>(
    idempotency: &Idempotency<S>,
    provider: Provider,
    incoming: Incoming,
) -> Result<(Placed, Origin), Problem>
where
    S: TransactionalStore,
    S::Connection: Orders,
{
    let whole = identity(WHOLE, &incoming)?;
    let entry = identity(ENTRY, &incoming)?;

    let steps = idempotency.clone();
    let work = move |context: idempotency::Context| async move {
        incoming.seen.executed();
        // Slow, and no transaction is open: a connection, or SQLite's one writer, is free for the others.
        let payment = provider
            .authorise(&incoming.key, &context.downstream_key("payment"))
            .await;

        // The row and its record are one commit: there is never the one without the other.
        let entered = steps.run_in_tx(entry, move |mut tx| async move {
            let order_id = tx.enter(&incoming.entry(&payment)).await?;
            Ok(incoming.placed(order_id))
        });
        entered
            .await
            .map(Reply::into_inner)
            .map_err(|error| match error.effect() {
                Effect::Nothing => NotDone::because(error).into(),
                // The next attempt finds what was done by its key.
                _ => Unfinished::from(Unknown::because(error)),
            })
    };
    let reply = idempotency.try_run(whole, work).await.map_err(refusal)?;
    let origin = reply.origin();
    Ok((reply.into_inner(), origin))
}

/// The order, once as far as the claim goes: paid for, and then written beside its record.
async fn place_beside<S: Store>(
    idempotency: &Idempotency<S>,
    orders: Database,
    provider: Provider,
    incoming: Incoming,
) -> Result<(Placed, Origin), Problem> {
    let whole = identity(WHOLE, &incoming)?;

    let work = move |context: idempotency::Context| async move {
        incoming.seen.executed();
        let payment = provider
            .authorise(&incoming.key, &context.downstream_key("payment"))
            .await;
        if context.is_lease_lost() {
            return Err(NotDone::because("the order was taken over by another service").into());
        }
        let entered = orders.enter(&incoming.entry(&payment)).await;
        entered
            .map(|order_id| incoming.placed(order_id))
            .map_err(|error| match error {
                // A row that was refused was not written: the next attempt may begin at once.
                sqlx::Error::Database(_) | sqlx::Error::PoolTimedOut => NotDone::because(error).into(),
                _ => Unfinished::from(Unknown::because(error)),
            })
    };
    let reply = idempotency.try_run(whole, work).await.map_err(refusal)?;
    let origin = reply.origin();
    Ok((reply.into_inner(), origin))
}

impl Incoming {
    fn entry<'e>(&'e self, payment: &'e str) -> Entry<'e> {
        Entry {
            key: self.key.as_str(),
            correlation_id: self.correlation.as_str(),
            payment,
            order: &self.order,
        }
    }

    fn placed(&self, order_id: i64) -> Placed {
        Placed {
            order_id,
            item: self.order.item.clone(),
            quantity: self.order.quantity,
        }
    }
}

/// What the client and the log are told. If the entry failed, its error says what was done.
fn refusal(error: idempotency::Error) -> Problem {
    // The client is told what it can do, the log what was wrong.
    tracing::warn!(error = &error as &dyn Error, "not placed");
    error.cause().unwrap_or(&error).clone().into()
}
