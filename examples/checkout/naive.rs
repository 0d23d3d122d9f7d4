//! The handler that most people write first: look the key up, do the work, store the answer.
//!
//! Nothing in it is wrong by itself, and by hand it works: click, and click again, and there is one order. It has two
//! gaps. Two requests that come together both look up before either has stored; and a request that breaks off (or a
//! process that dies) between the order and its answer leaves an order that the next attempt does not know of.

use std::error::Error;

use axum::body::Bytes;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use oneflight::http::layer::IDEMPOTENCY_ORIGIN;
use oneflight::http::{CorrelationId, Problem, require_key};
use oneflight::idempotency::Origin;

use crate::database::{Database, Entry};
use crate::handler::{Incoming, answer};
use crate::order::Placed;
use crate::payment::Provider;
use crate::service::{Shop, unavailable};

/// `POST /orders`, without the layer.
pub(crate) async fn place_order(
    State(shop): State<Shop>,
    Extension(correlation): Extension<CorrelationId>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let key = require_key(&headers, &body)?.to_string();
    let incoming = Incoming::read(key, correlation, &shop.seen, &headers, &body)?;
    let placed = place(&shop.orders, shop.provider, &incoming).await;
    let (placed, origin) = placed.map_err(|error| unavailable(&*error))?;
    let mut response = answer(placed);
    let origin = HeaderValue::from_static(origin.as_str());
    response.headers_mut().insert(IDEMPOTENCY_ORIGIN, origin);
    Ok(response)
}

async fn place(
    database: &Database,
    provider: Provider,
    incoming: &Incoming,
) -> Result<(Placed, Origin), Box<dyn Error + Send + Sync>> {
    let Incoming {
        key,
        correlation,
        order,
        seen,
    } = incoming;

    // Have we seen this key?
    if let Some(answer) = database.answer(key).await? {
        return Ok((serde_json::from_str(&answer)?, Origin::Replayed));
    }

    seen.executed();

    // No: have it paid, under a new key for each attempt, as client libraries do unless they are given one, …
    let payment = provider.authorise(key, &format!("{:032x}", fastrand::u128(..))).await;

    // … and place the order.
    let entry = Entry {
        key,
        correlation_id: correlation.as_str(),
        payment: &payment,
        order,
    };
    let placed = Placed {
        order_id: database.enter(&entry).await?,
        item: order.item.clone(),
        quantity: order.quantity,
    };

    // And remember the answer for the next time.
    database.remember(key, serde_json::to_string(&placed)?).await?;
    Ok((placed, Origin::Executed))
}
