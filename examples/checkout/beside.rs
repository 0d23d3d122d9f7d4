//! What places an order where the records are in Redis, for a program that is built with the feature `redis`.
//!
//! Redis holds the records and not the orders, and no transaction spans the two:
//!
//! ```text
//! the layer: the whole order, under a claim, shared by all duplicates; its answer is recorded
//!  ├─ the payment provider, as above
//!  └─ the row, in the database beside it
//! ```
//!
//! There is no outbox either: a message in Redis would be no part of the row's transaction. So an order's payment is authorised
//! here, and it is neither charged nor mailed.
//!
//! If it breaks off between row and record, the orders are asked whether the row is there. What is left open: a service
//! that stands still between its last look at its lease and its row, for longer than the lease, writes a second row after
//! another has taken over; and what a failover of Redis loses may be ordered again. Where that must not be, the orders
//! need a constraint of their own, or the records a place beside the orders.

use std::error::Error;

use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::response::{IntoResponse, Response};
use oneflight::http::layer::Failure;
use oneflight::idempotency::{self, Context, Doubt, Effect, Idempotency, Recovery, Resolution};
use oneflight::store::Store;

use crate::database::Database;
use crate::handler::{Incoming, LEASE, answer, not_placed};
use crate::order::Placed;
use crate::payment::Provider;
use crate::service::unavailable;

/// Over a store beside the orders: what became of an order whose service died, the orders tell. Its records expire by
/// themselves.
pub(crate) fn beside<S: Store>(store: S, orders: Database) -> Idempotency<S> {
    let ask = move |doubt: Doubt| {
        let orders = orders.clone();
        async move {
            match orders.find(doubt.id.key()).await {
                Ok(Some(row)) => found(&Placed::from(row)).unwrap_or(Resolution::Hold),
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

/// The answer that was lost with its service, as it would have been given.
fn found(placed: &Placed) -> Result<Resolution, Box<dyn Error>> {
    let body = serde_json::to_vec(placed)?;
    let answer = axum::http::Response::builder()
        .status(StatusCode::CREATED)
        .header(LOCATION, placed.location())
        .header(CONTENT_TYPE, "application/json")
        .body(body)?;
    Ok(Resolution::answered(answer)?)
}

/// The order: paid for, and then written beside its record.
pub(crate) async fn place_beside(
    orders: &Database,
    provider: Provider,
    context: Context,
    incoming: Incoming,
) -> Response {
    incoming.seen.executed();
    let payment = provider
        .authorise(&incoming.key, &context.downstream_key("payment"))
        .await;
    if context.is_lease_lost() {
        let elsewhere = idempotency::ErrorKind::LeaseLost;
        let error = idempotency::Error::new(context.id().clone(), elsewhere);
        return not_placed(error.with_effect(Effect::Nothing).into());
    }
    match orders.enter(&incoming.entry(&payment)).await {
        Ok(order_id) => answer(incoming.placed(order_id)),
        // A row that was refused was not written: the next attempt may begin at once.
        Err(error @ (sqlx::Error::Database(_) | sqlx::Error::PoolTimedOut)) => not_placed(unavailable(&error)),
        Err(error) => Failure::from(error).into_response(),
    }
}
