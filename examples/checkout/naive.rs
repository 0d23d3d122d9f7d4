//! The handler that most people write first: look the key up, do the work, store the answer.
//!
//! Nothing in it is wrong by itself, and by hand it works: click, and click again, and there is one order. It has two
//! gaps. Two requests that come together both look up before either has stored; and a request that breaks off (or a
//! process that dies) between the order and its answer leaves an order that the next attempt does not know of.

use std::error::Error;

use oneflight::http::CorrelationId;
use oneflight::idempotency::Source;
use oneflight::identity::IdempotencyKey;
use sqlx::SqlitePool;

use crate::database::insert_order;
use crate::order::{NewOrder, Placed};
use crate::payment::Provider;

pub(crate) async fn place_order(
    pool: &SqlitePool,
    provider: Provider,
    key: &IdempotencyKey,
    correlation: &CorrelationId,
    order: &NewOrder,
) -> Result<(Placed, Source), Box<dyn Error + Send + Sync>> {
    // Have we seen this key?
    let known: Option<String> = sqlx::query_scalar("SELECT answer FROM answers WHERE idempotency_key = ?")
        .bind(key.as_str())
        .fetch_optional(pool)
        .await?;
    if let Some(answer) = known {
        return Ok((serde_json::from_str(&answer)?, Source::Replayed));
    }

    // No: have it paid, under a new key for each attempt, as client libraries do unless they are given one, …
    let payment = provider.authorise(key, &format!("{:032x}", fastrand::u128(..))).await;

    // … and place the order.
    let mut connection = pool.acquire().await?;
    let order_id = insert_order(&mut connection, key.as_str(), correlation.as_str(), &payment, order).await?;
    let placed = Placed {
        order_id,
        item: order.item.clone(),
        quantity: order.quantity,
    };

    // And remember the answer for the next time.
    sqlx::query("INSERT INTO answers (idempotency_key, answer) VALUES (?, ?) ON CONFLICT DO NOTHING")
        .bind(key.as_str())
        .bind(serde_json::to_string(&placed)?)
        .execute(&mut *connection)
        .await?;
    Ok((placed, Source::Executed))
}
