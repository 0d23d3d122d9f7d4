//! What can be ordered, and how it is read from a request: JSON or a form, strictly.
//!
//! Strictly means: an unknown field, a field given twice, a quantity of 0 are refused with a problem that says what to
//! do. A request that was half understood and then recorded under its key would be repeated half understood.

use axum::http::{HeaderMap, StatusCode};
use oneflight::http::layer::IDEMPOTENCY_ORIGIN;
use oneflight::http::{BodyFormat, KEY_FIELD, Problem};
use oneflight::idempotency::Origin;
use oneflight::identity::Fingerprint;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

/// A request body may have so many bytes.
pub(crate) const MAX_BODY: usize = 16 * 1024;

const MAX_ITEM: usize = 100;
const MAX_QUANTITY: u32 = 1_000;

/// An order as the client asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct NewOrder {
    pub(crate) item: String,
    pub(crate) quantity: u32,
}

/// An order as it stands in the database. This is what is recorded under the key, and replayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Placed {
    pub(crate) order_id: i64,
    pub(crate) item: String,
    pub(crate) quantity: u32,
}

impl Placed {
    /// Where the order is to be seen.
    pub(crate) fn location(&self) -> String {
        format!("/orders/{}", self.order_id)
    }
}

/// An order that was placed, and how the answer came to be, as a client sees it.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) placed: Placed,
    pub(crate) origin: Origin,
}

impl Answer {
    /// Reads a successful answer.
    pub(crate) fn of(headers: &HeaderMap, body: &[u8]) -> Result<Self, String> {
        let origin = headers.get(IDEMPOTENCY_ORIGIN).and_then(|origin| origin.to_str().ok());
        let origin = match origin {
            Some("executed") => Origin::Executed,
            Some("collapsed") => Origin::Collapsed,
            Some("replayed") => Origin::Replayed,
            _ => return Err("it does not say how it came to be".to_owned()),
        };
        let placed = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        Ok(Self { placed, origin })
    }
}

/// The JSON body. The key is read by `oneflight::http`; here it is only known to be no mistake.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonOrder {
    item: String,
    quantity: u32,
    #[serde(rename = "idempotency_key")]
    _key: Option<IgnoredAny>,
}

impl NewOrder {
    /// Reads the order of a request.
    pub(crate) fn read(headers: &HeaderMap, body: &[u8]) -> Result<Self, Problem> {
        let order = match BodyFormat::of(headers) {
            Some(BodyFormat::Json) => Self::from_json(body)?,
            Some(BodyFormat::Form) => Self::from_form(body)?,
            _ => {
                return Err(Problem::unsupported_media_type(
                    "application/json or application/x-www-form-urlencoded",
                ));
            }
        };
        order.check()?;
        Ok(order)
    }

    fn from_json(body: &[u8]) -> Result<Self, Problem> {
        let malformed = |what: &str| {
            Problem::malformed_body(format!(
                "The body is not the JSON of an order: {what}. Send an object such as \
                 {{\"item\": \"tea\", \"quantity\": 1}}, with nothing else in it than an idempotency_key."
            ))
        };
        // Left to itself, serde takes an array for a struct: its elements for the fields, in order.
        if body.trim_ascii_start().first() == Some(&b'[') {
            return Err(malformed("it is an array"));
        }
        let JsonOrder { item, quantity, .. } = serde_json::from_slice(body).map_err(|error| {
            // The parser names what it met, which may be long.
            let error: String = error.to_string().chars().take(200).collect();
            malformed(&error)
        })?;
        Ok(Self { item, quantity })
    }

    fn from_form(body: &[u8]) -> Result<Self, Problem> {
        let (mut item, mut quantity) = (None, None);
        for (name, value) in form_urlencoded::parse(body) {
            let field = match name.as_ref() {
                "item" => &mut item,
                "quantity" => &mut quantity,
                // Read, and turned away if given twice, by the layer.
                KEY_FIELD => continue,
                _ => {
                    return Err(Problem::malformed_body(
                        "The form has a field that is not known here. Send item, quantity and idempotency_key.",
                    ));
                }
            };
            if field.replace(value.into_owned()).is_some() {
                return Err(Problem::malformed_body(
                    "The form has a field twice. Send each of item, quantity and idempotency_key once.",
                ));
            }
        }
        let (Some(item), Some(quantity)) = (item, quantity) else {
            return Err(Problem::malformed_body(
                "The form lacks a field. Send both item and quantity.",
            ));
        };
        let quantity = quantity.parse().map_err(|_| {
            invalid(format!(
                "The quantity is not a whole number. Send one from 1 to {MAX_QUANTITY}."
            ))
        })?;
        Ok(Self { item, quantity })
    }

    fn check(&self) -> Result<(), Problem> {
        if self.item.trim().is_empty()
            || self.item.chars().count() > MAX_ITEM
            || self.item.chars().any(char::is_control)
        {
            return Err(invalid(format!(
                "The item must be a name of 1 to {MAX_ITEM} characters, none of them a control character."
            )));
        }
        if !(1..=MAX_QUANTITY).contains(&self.quantity) {
            return Err(invalid(format!("The quantity must be from 1 to {MAX_QUANTITY}.")));
        }
        Ok(())
    }

    /// What makes two orders the same order. Taken from what was understood and not from the bytes, so that a retry
    /// may be a form where the first attempt was JSON, or put its spaces elsewhere.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::builder()
            .part("item", &self.item)
            .part("quantity", self.quantity.to_string())
            .build()
    }
}

/// The application's own kind of problem, beside the ones of `oneflight::http::kind`.
fn invalid(detail: String) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST)
        .with_type("https://shop.example/problems/invalid-order")
        .with_title("The order is not valid")
        .with_detail(detail)
}
