//! What an order does outside of the shop: its charge and its receipt.
//!
//! ```text
//! run_in_tx: the row, two messages, the record ──one commit──▶ outbox ──▶ relay ─┬─▶ payment API, under the message's key
//!                                                                                └─▶ mail server, the key in Message-ID
//! ```
//!
//! The handler calls neither. What was committed is delivered by the relay of whichever process lives, as often as it
//! takes; what was rolled back was never sent. The payment API knows a repetition by its key. Mail knows no keys: a
//! mail that was accepted by a server which then died comes twice, under the same `Message-ID`.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::http::{Request, StatusCode};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::transport::smtp;
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};
use oneflight::http::IDEMPOTENCY_KEY;
use oneflight::outbox::{
    Delivery, DeliveryError, Message, Relay, RelayBuildError, RelayHandle, Retry, SendError, TargetOptions,
};
use oneflight::store::OutboxStore;
use serde::{Deserialize, Serialize};

use crate::database::Failure;
use crate::handler::LEASE;
use crate::order::Placed;
use crate::outside::Addresses;

/// A stopping relay waits so long for what it delivers.
const GRACE: Duration = Duration::from_secs(3);

const CENTS: u64 = 250;

/// The payload of `payment.charge`: what an authorised payment is to be charged with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Charge {
    /// What the shop calls the order: its idempotency key.
    pub(crate) reference: String,
    pub(crate) authorisation: String,
    pub(crate) cents: u64,
}

/// The payload of `mail.receipt`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Receipt {
    pub(crate) reference: String,
    pub(crate) order: Placed,
}

/// An order's charge and its receipt.
pub(crate) fn of(placed: &Placed, reference: &str, authorisation: &str) -> (Charge, Receipt) {
    let charge = Charge {
        reference: reference.to_owned(),
        authorisation: authorisation.to_owned(),
        cents: CENTS * u64::from(placed.quantity),
    };
    let receipt = Receipt {
        reference: reference.to_owned(),
        order: placed.clone(),
    };
    (charge, receipt)
}

/// The messages of an order, for its transaction. The mail goes out when the charge has been made.
pub(crate) fn messages(placed: &Placed, reference: &str, authorisation: &str) -> Result<[Message; 2], SendError> {
    let (charge, receipt) = of(placed, reference, authorisation);
    let order = format!("order-{}", placed.order_id);
    Ok([
        Message::new("payment.charge", &charge)?.ordering_key(&order),
        Message::new("mail.receipt", &receipt)?.ordering_key(order),
    ])
}

/// A receipt as a mail. `key` is what it is known by: it is no other mail if it is sent again.
pub(crate) fn letter(key: &str, receipt: &Receipt) -> Result<lettre::Message, Failure> {
    let Placed {
        order_id,
        item,
        quantity,
    } = &receipt.order;
    let reference = HeaderName::new_from_ascii_str("X-Order-Reference");
    let mail = lettre::Message::builder()
        .from("The shop <orders@shop.example>".parse()?)
        .to("customer@home.example".parse()?)
        .message_id(Some(format!("<{key}@shop.example>")))
        .raw_header(HeaderValue::new(reference, receipt.reference.clone()))
        .subject(format!("Receipt of order {order_id}"))
        .body(format!("Thank you for your order {order_id}: {quantity} x {item}."))?;
    Ok(mail)
}

/// What reaches the payment API and the mail server.
#[derive(Clone)]
pub(crate) struct Outward {
    payments: String,
    client: Client<HttpConnector, Full<Bytes>>,
    mailer: AsyncSmtpTransport<Tokio1Executor>,
}

impl Outward {
    pub(crate) fn to(addresses: Addresses) -> Self {
        let Addresses { payments, mail } = addresses;
        Self {
            payments: format!("http://{payments}/v1/charges"),
            client: Client::builder(TokioExecutor::new()).build_http(),
            // On the loopback interface there is nobody to hide it from.
            mailer: AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(mail.ip().to_string())
                .port(mail.port())
                .build(),
        }
    }

    /// Asks for a charge under this key. The body of a charge is the same whenever it is asked for.
    pub(crate) async fn charge(&self, key: &str, charge: &Charge) -> Result<StatusCode, Failure> {
        let request = Request::post(&self.payments)
            .header(IDEMPOTENCY_KEY, key)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(serde_json::to_vec(charge)?))?;
        Ok(self.client.request(request).await?.status())
    }

    /// Sends a mail.
    pub(crate) async fn mail(&self, mail: lettre::Message) -> Result<(), smtp::Error> {
        self.mailer.send(mail).await.map(drop)
    }

    /// Delivers what the outbox of this store has, until the handle stops it.
    pub(crate) fn relay<S: OutboxStore>(&self, store: S) -> Result<RelayHandle, RelayBuildError> {
        let (this, other) = (self.clone(), self.clone());
        let charge = move |delivery: Delivery| {
            let this = this.clone();
            async move {
                match this
                    .charge(delivery.key(), &delivery.json()?)
                    .await
                    .map_err(DeliveryError::retry)?
                {
                    status if status.is_success() => Ok(()),
                    // Handled just now, for a relay that has died; or not well.
                    status if status == StatusCode::CONFLICT || status.is_server_error() => {
                        Err(DeliveryError::retry(format!("the payment API answered {status}")))
                    }
                    status => Err(DeliveryError::rejected(format!("the payment API answered {status}"))),
                }
            }
        };
        let mail = move |delivery: Delivery| {
            let this = other.clone();
            async move {
                let mail = letter(delivery.key(), &delivery.json()?).map_err(DeliveryError::rejected)?;
                this.mail(mail).await.map_err(|error| match error.is_permanent() {
                    true => DeliveryError::rejected(error),
                    false => DeliveryError::retry(error),
                })
            }
        };
        // The stand-ins are back soon. Before others, one would be more patient.
        let retry = Retry::new()
            .first_pause(Duration::from_millis(100))
            .longest_pause(Duration::from_secs(1))
            .attempts(1_000);
        let options = || TargetOptions::new().retry(retry);
        let relay = Relay::builder(store).lease(LEASE).grace(GRACE);
        let relay = relay.target_with("payment.*", charge, options());
        Ok(relay.target_with("mail.*", mail, options()).build()?.spawn())
    }
}
