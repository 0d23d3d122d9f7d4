//! The rows by which a storm is judged: of the shop's orders, from whichever database, and of the stand-ins' ledger.

use serde::Serialize;
use sqlx::{ColumnIndex, Decode, FromRow, Type};

use crate::order::Placed;

/// A row of the orders.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) id: i64,
    #[serde(skip)]
    pub(crate) idempotency_key: String,
    pub(crate) item: String,
    pub(crate) quantity: u32,
}

impl<'r, R: sqlx::Row> FromRow<'r, R> for Row
where
    &'static str: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    String: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        let quantity = row.try_get::<i64, _>("quantity")?;
        Ok(Self {
            id: row.try_get("id")?,
            idempotency_key: row.try_get("idempotency_key")?,
            item: row.try_get("item")?,
            quantity: u32::try_from(quantity).map_err(|error| sqlx::Error::Decode(error.into()))?,
        })
    }
}

impl From<Row> for Placed {
    fn from(row: Row) -> Self {
        Self {
            order_id: row.id,
            item: row.item,
            quantity: row.quantity,
        }
    }
}

/// A charge that the payment API has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Charged {
    /// What the shop calls the order.
    pub(crate) reference: String,
    /// How often it was asked for: the first time it was made, and then it was known again by its key.
    pub(crate) times_asked: i64,
}

/// A mail that the mail server has accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mailed {
    /// What the shop calls the order.
    pub(crate) reference: String,
    pub(crate) message_id: String,
}
