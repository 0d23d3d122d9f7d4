//! What places an order: `oneflight` over one of the stores, or the handler that most people write.
//!
//! Over SQLite and PostgreSQL, which hold the orders as well, an order's two steps are each done in the way that suits it:
//!
//! ```text
//! the layer: the whole order, under a claim, shared by all duplicates; its answer is recorded
//!  ├─ the payment provider: slow, elsewhere, no transaction open; asked under a key that every attempt repeats
//!  └─ run_in_tx: the row, the messages that have it charged and mailed, and its record; one commit
//! ```
//!
//! Where it can break off, the next attempt under the same key goes on: it finds the authorisation at the provider, and
//! the row in its record. What the messages do is in [`outward`]. Over Redis, see `beside`.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::http::{
    HeaderMap, StatusCode,
    header::{CACHE_CONTROL, LOCATION},
};
use axum::response::{IntoResponse, Response};
use oneflight::http::layer::{Failure, IdempotencyLayer, Outcome};
use oneflight::http::{CorrelationId, KEY_FIELD, KeySource, Problem};
use oneflight::idempotency::{Context, Effect, Idempotency, Recovery};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::outbox::{RelayBuildError, RelayHandle};
use oneflight::store::{OutboxStore, Store, TransactionalStore};
#[cfg(feature = "postgres")]
use oneflight_postgres::PostgresStore;
#[cfg(feature = "redis")]
use oneflight_redis::RedisStore;
use oneflight_sqlite::SqliteStore;

#[cfg(feature = "redis")]
use crate::beside::{beside, place_beside};
use crate::database::{Database, Entry, Orders};
use crate::order::{MAX_BODY, NewOrder, Placed};
use crate::outward::{self, Outward};
use crate::page::Seen;
use crate::payment::Provider;
use crate::place::Place;
use crate::service::BODY_TIME;

/// A process that says nothing for so long counts as dead, and the next service that is asked for its orders takes them
/// over. It is short, since a mistake costs little here: the payment is safe to repeat, and an order's row is looked
/// for.
pub(crate) const LEASE: Duration = Duration::from_secs(3);

/// Records past their retention have no use, and take up space until they are deleted.
const PURGE_EVERY: Duration = Duration::from_secs(60);

/// A request, as far as an order needs it.
#[derive(Debug, Clone)]
pub(crate) struct Incoming {
    pub(crate) key: String,
    pub(crate) correlation: CorrelationId,
    pub(crate) order: NewOrder,
    pub(crate) seen: Arc<Seen>,
}

/// What places orders.
#[derive(Clone)]
pub(crate) enum Handler {
    Naive,
    Sqlite(Idempotency<SqliteStore>),
    #[cfg(feature = "postgres")]
    Postgres(Idempotency<PostgresStore>),
    #[cfg(feature = "redis")]
    Redis(Idempotency<RedisStore>),
}

impl Handler {
    /// Sets it up over a store that is where the command line says. `orders` is the database that belongs to it.
    pub(crate) async fn over(place: &Place, orders: &Database) -> Result<Self, Box<dyn Error + Send + Sync>> {
        Ok(match (place, orders) {
            #[cfg(feature = "redis")]
            (Place::Redis { url, .. }, _) => {
                let store = RedisStore::open(url.as_str())
                    .await
                    .map_err(|error| format!("Redis can't be used: {error}"))?;
                Self::Redis(beside(store, orders.clone()))
            }
            (_, Database::Sqlite(pool)) => Self::Sqlite(within(SqliteStore::from_pool(pool.clone()).await?)),
            #[cfg(feature = "postgres")]
            (_, Database::Postgres(pool)) => Self::Postgres(within(PostgresStore::from_pool(pool.clone()).await?)),
        })
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Naive => "naive",
            _ => "oneflight",
        }
    }

    /// Returns the layer that executes each order once. The naive handler has none.
    pub(crate) fn layer(&self) -> Option<IdempotencyLayer> {
        let layer = match self {
            Self::Naive => return None,
            Self::Sqlite(it) => IdempotencyLayer::new(it.clone()),
            #[cfg(feature = "postgres")]
            Self::Postgres(it) => IdempotencyLayer::new(it.clone()),
            #[cfg(feature = "redis")]
            Self::Redis(it) => IdempotencyLayer::new(it.clone()),
        };
        // This shop has no logins. One that has adds `.user(…)`: without it, a client that learns of a key reads the answer of
        // another client.
        let layer = layer.scope(|_| Scope::new(SHOP)).required();
        // A plain form has its key in a field. What is not a valid order never gets to use up its key.
        let layer = layer.keys(KeySource::new().field(KEY_FIELD));
        let layer = layer.fingerprint(|request, body| Ok(NewOrder::read(&request.headers, body)?.fingerprint()));
        Some(layer.max_request_bytes(MAX_BODY).request_time(BODY_TIME))
    }

    /// Places an order: the work of the layer.
    pub(crate) async fn place(
        &self,
        #[cfg_attr(
            not(feature = "redis"),
            expect(unused_variables, reason = "records in Redis are not beside them")
        )]
        orders: &Database,
        provider: Provider,
        context: Context,
        incoming: Incoming,
    ) -> Response {
        match self {
            Self::Sqlite(it) => place_within(it, provider, context, incoming).await,
            #[cfg(feature = "postgres")]
            Self::Postgres(it) => place_within(it, provider, context, incoming).await,
            #[cfg(feature = "redis")]
            Self::Redis(_) => place_beside(orders, provider, context, incoming).await,
            Self::Naive => Failure::because("the naive handler has no layer").into_response(),
        }
    }

    /// Starts the relay that delivers what orders have sent. There is none where there is no outbox.
    pub(crate) fn relay(&self, outward: &Outward) -> Result<Option<RelayHandle>, RelayBuildError> {
        match self {
            Self::Naive => Ok(None),
            Self::Sqlite(it) => outward.relay(it.store().clone()).map(Some),
            #[cfg(feature = "postgres")]
            Self::Postgres(it) => outward.relay(it.store().clone()).map(Some),
            // Redis holds the records and not the orders: a message in it would be no part of an order's transaction.
            #[cfg(feature = "redis")]
            Self::Redis(_) => Ok(None),
        }
    }

    /// How many orders are on record: in progress, or answered for good. `None` over Redis, which does not count them.
    pub(crate) async fn records(&self, orders: &Database) -> Result<Option<i64>, sqlx::Error> {
        match self {
            Self::Naive => orders.count_answers().await.map(Some),
            #[cfg(feature = "redis")]
            Self::Redis(_) => Ok(None),
            _ => orders.count_records(WHOLE_ON_RECORD).await.map(Some),
        }
    }

    /// Waits for what is in flight, and refuses what comes after.
    pub(crate) async fn end(&self) {
        match self {
            Self::Naive => {}
            Self::Sqlite(it) => end(it).await,
            #[cfg(feature = "postgres")]
            Self::Postgres(it) => end(it).await,
            #[cfg(feature = "redis")]
            Self::Redis(it) => end(it).await,
        }
    }

    /// Closes the connection that the store has beside those of the orders, and waits for that. Who closes the pool alone does not.
    pub(crate) async fn close(&self) {
        if let Self::Sqlite(it) = self {
            it.store().close().await;
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

const SHOP: &str = "shop";

/// The scope of an order, as it stands in a record: the layer adds method and route.
const WHOLE_ON_RECORD: &str = "shop|route=POST /orders";

/// The row of an order is a step of its own.
const ENTRY: &str = "POST /orders: entry";

/// The order: paid for, and then written in one commit with the record of this step.
async fn place_within<S>(
    idempotency: &Idempotency<S>,
    provider: Provider,
    context: Context,
    incoming: Incoming,
) -> Response
where
    S: OutboxStore,
    S::Connection: Orders,
{
    incoming.seen.executed();
    let entry = match RequestIdentity::new(Scope::new(SHOP).route(ENTRY), &incoming.key) {
        Ok(entry) => entry.with_known_fingerprint(incoming.order.fingerprint()),
        Err(error) => return Problem::from(error).into_response(),
    };
    // Slow, and no transaction is open: a connection, or SQLite's one writer, is free for the others.
    let payment = provider
        .authorise(&incoming.key, &context.downstream_key("payment"))
        .await;

    // The row, its messages and its record are one commit: there is never the one without the others.
    let entered = idempotency.run_in_tx(entry, move |mut tx| async move {
        let placed = incoming.placed(tx.enter(&incoming.entry(&payment)).await?);
        let _ = tx
            .send_all(outward::messages(&placed, &incoming.key, &payment)?)
            .await?;
        Ok(placed)
    });
    match entered.await {
        Ok(placed) => answer(placed.into_inner()),
        Err(error) if error.effect() == Effect::Nothing => not_placed(error.into()),
        // The next attempt finds what was done by its key.
        Err(error) => Failure::from(error).into_response(),
    }
}

/// The answer to an order, by whatever handler.
pub(crate) fn answer(placed: Placed) -> Response {
    tracing::info!(order_id = placed.order_id, "order placed");
    let headers = [(CACHE_CONTROL, "no-store".to_owned()), (LOCATION, placed.location())];
    (StatusCode::CREATED, headers, Json(placed)).into_response()
}

/// Nothing was done: the key is free.
pub(crate) fn not_placed(problem: Problem) -> Response {
    (Outcome::NothingDone, problem).into_response()
}

impl Incoming {
    /// Reads the order of a request with this key.
    pub(crate) fn read(
        key: String,
        correlation: CorrelationId,
        seen: &Arc<Seen>,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Self, Problem> {
        Ok(Self {
            key,
            correlation,
            order: NewOrder::read(headers, body)?,
            seen: Arc::clone(seen),
        })
    }

    pub(crate) fn entry<'e>(&'e self, payment: &'e str) -> Entry<'e> {
        Entry {
            key: &self.key,
            correlation_id: self.correlation.as_str(),
            payment,
            order: &self.order,
        }
    }

    pub(crate) fn placed(&self, order_id: i64) -> Placed {
        Placed {
            order_id,
            item: self.order.item.clone(),
            quantity: self.order.quantity,
        }
    }
}
