//! The handler that most people write first: look the key up, do the work, store the answer.
//!
//! Nothing in it is wrong by itself, and by hand it works: click, and click again, and there is one order. It has three
//! gaps. Two requests that come together both look up before either has stored. A request that breaks off (or a
//! process that dies) between the order and its answer leaves an order that the next attempt does not know of. And one that
//! dies between the order and its charge, or its mail, leaves an order that nobody charges, or mails.

use std::error::Error;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use oneflight::http::layer::IDEMPOTENCY_ORIGIN;
use oneflight::http::{CorrelationId, Problem, require_key};
use oneflight::idempotency::Origin;

use crate::database::Entry;
use crate::handler::{Incoming, answer};
use crate::order::Placed;
use crate::outward;
use crate::service::Shop;

/// `POST /orders`, without the layer.
pub(crate) async fn place_order(
    State(shop): State<Shop>,
    Extension(correlation): Extension<CorrelationId>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let key = require_key(&headers, &body)?.to_string();
    let incoming = Incoming::read(key, correlation, &shop.seen, &headers, &body)?;
    let placed = place(&shop, &incoming).await;
    let (placed, origin) = placed.map_err(|error| {
        tracing::error!(%error, "the order was not placed, or not to its end");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE)
            .with_detail("The order may have been placed. Repeat the request with the same key.")
            .with_retry_after(Duration::from_secs(1))
    })?;
    let mut response = answer(placed);
    let origin = HeaderValue::from_static(origin.as_str());
    response.headers_mut().insert(IDEMPOTENCY_ORIGIN, origin);
    Ok(response)
}

async fn place(shop: &Shop, incoming: &Incoming) -> Result<(Placed, Origin), Box<dyn Error + Send + Sync>> {
    let (database, provider) = (&shop.orders, shop.provider);
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

    // … place the order, …
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

    // Charge it, and mail the receipt, …
    if let Some(outward) = &shop.outward {
        let (charge, receipt) = outward::of(&placed, key, &payment);
        let status = outward.charge(&format!("{:032x}", fastrand::u128(..)), &charge).await?;
        if !status.is_success() {
            return Err(format!("the payment API answered {status}").into());
        }
        let letter = outward::letter(&format!("{:032x}", fastrand::u128(..)), &receipt)?;
        outward.mail(letter).await?;
    }

    // … and remember the answer for the next time.
    database.remember(key, serde_json::to_string(&placed)?).await?;
    Ok((placed, Origin::Executed))
}
