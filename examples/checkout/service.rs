//! The service: `POST /orders` behind `oneflight`, the orders as they stand, and a [`page`] to click on.
//!
//! What is worth copying is [`router`]: which layer stands where. The [`handler`](crate::handler) has the one that executes each
//! order once.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Extension, State};
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use oneflight::http::{CorrelationId, CorrelationLayer, Problem};
use oneflight::idempotency::Context;
use oneflight::outbox::RelayHandle;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::database::Database;
use crate::handler::{Handler, Incoming};
use crate::naive;
use crate::outside::ledger::Ledger;
use crate::outside::{Outside, StandIns};
use crate::outward::Outward;
use crate::page::{self, Seen};
use crate::payment::Provider;
use crate::place::{Kind, Place};
use crate::row::Row;

/// A client gets so long to send its body.
pub(crate) const BODY_TIME: Duration = Duration::from_secs(10);

/// Requests in flight get so long to be answered when the service is told to stop, and then orders whose clients have
/// gone get so long to be placed.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// What a service is started with.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) port: u16,
    pub(crate) place: Place,
    pub(crate) naive: bool,
    pub(crate) provider: Provider,
    pub(crate) stand_ins: StandIns,
}

/// A running service.
pub(crate) struct Service {
    address: SocketAddr,
    shop: Shop,
    relay: Option<RelayHandle>,
    outside: Option<Outside>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<std::io::Result<()>>,
}

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct Shop {
    pub(crate) orders: Database,
    pub(crate) handler: Handler,
    pub(crate) seen: Arc<Seen>,
    pub(crate) provider: Provider,
    /// What the naive handler charges and mails by. The other one leaves that to the relay.
    pub(crate) outward: Option<Outward>,
    /// The ledger of the stand-ins, if they run in this process.
    pub(crate) ledger: Option<Ledger>,
}

impl Service {
    /// Opens the database and begins to listen, on the loopback interface only.
    pub(crate) async fn start(config: Config) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let orders = config.place.open().await?;
        let handler = match config.naive {
            true => Handler::Naive,
            false => Handler::over(&config.place, &orders).await?,
        };
        // The naive handler charges and mails by itself. Without an outbox, the other one does not at all.
        let sends = config.naive || config.place.kind() != Kind::Redis;
        let (outside, outward) = match sends {
            true => config
                .stand_ins
                .reach()
                .await
                .map(|(outside, outward)| (outside, Some(outward)))?,
            false => (None, None),
        };
        let relay = match &outward {
            Some(outward) => handler.relay(outward)?,
            None => None,
        };
        let shop = Shop {
            orders,
            handler,
            seen: Arc::default(),
            provider: config.provider,
            outward,
            ledger: outside.as_ref().map(|outside| outside.ledger.clone()),
        };

        let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, config.port));
        let listener = TcpListener::bind(wanted).await.map_err(|error| {
            format!("{wanted} can't be listened on: {error}; choose another --port, or none for a free one")
        })?;
        let address = listener.local_addr()?;

        let (stop, stopped) = oneshot::channel::<()>();
        let app = router(shop.clone());
        let server = tokio::spawn(async move {
            axum::serve(listener, app)
                .with_graceful_shutdown(async {
                    // A sender that is dropped means stop, too.
                    let _ = stopped.await;
                })
                .await
        });
        Ok(Self {
            address,
            shop,
            relay,
            outside,
            stop,
            server,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no new requests, answers those that are here, places the orders of clients that have gone, stops the relay, and
    /// closes the database. When this has returned `Ok`, nothing of the service runs any more.
    ///
    /// What is still in the outbox is delivered by the next service.
    ///
    /// # Errors
    /// What did not end in time is still running: end the process. That is safe, if not polite.
    pub(crate) async fn stop(self) -> Result<(), Box<dyn Error + Send + Sync>> {
        let Self {
            shop,
            stop,
            mut server,
            relay,
            outside,
            ..
        } = self;
        let _ = stop.send(());
        match timeout(DRAIN_TIME, &mut server).await {
            Ok(ended) => ended??,
            Err(_) => {
                server.abort();
                eprintln!("some clients did not go away in {DRAIN_TIME:?}: their connections are cut");
            }
        }
        let rest = async {
            shop.handler.end().await;
            if let Some(relay) = relay {
                relay.stop().await;
            }
            if let Some(outside) = outside {
                outside.end().await;
            }
            // Both wait for connections that are in use.
            shop.handler.close().await;
            shop.orders.close().await;
        };
        timeout(DRAIN_TIME, rest).await.map_err(|_| {
            format!(
                "what was in flight did not end in {DRAIN_TIME:?}, and breaks off with this process: an open transaction \
                 is rolled back, and an order that is asked for again under its key goes on from where it was"
            )
            .into()
        })
    }
}

fn router(shop: Shop) -> Router {
    let orders = match shop.handler.layer() {
        Some(layer) => post(place_order).layer(layer),
        None => post(naive::place_order),
    };
    // The page stands outside of the layer: it makes a redirect of the very answer that is recorded.
    let orders = orders
        .layer(from_fn_with_state(shop.clone(), page::front))
        .get(list_orders);
    Router::new()
        .route("/", get(page::form))
        .route("/figures", get(page::figures))
        .route("/orders", orders)
        .route("/orders/{id}", get(page::order))
        .fallback(|| async {
            problem(
                StatusCode::NOT_FOUND,
                "There is nothing here. POST /orders places an order.",
            )
        })
        .method_not_allowed_fallback(|| async {
            problem(
                StatusCode::METHOD_NOT_ALLOWED,
                "This address knows other methods; the header Allow names them.",
            )
        })
        .layer(CorrelationLayer::new())
        .with_state(shop)
}

/// `POST /orders`, under the layer.
async fn place_order(
    State(shop): State<Shop>,
    Extension(correlation): Extension<CorrelationId>,
    context: Context,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let key = context.id().key().to_owned();
    let incoming = Incoming::read(key, correlation, &shop.seen, &headers, &body)?;
    Ok(shop.handler.place(&shop.orders, shop.provider, context, incoming).await)
}

/// `GET /orders`: how many there are, and the latest.
async fn list_orders(State(shop): State<Shop>) -> Response {
    #[derive(Serialize)]
    struct Orders {
        count: i64,
        handler: &'static str,
        latest: Vec<Row>,
    }

    let listed = async {
        Ok::<_, sqlx::Error>(Orders {
            count: shop.orders.count().await?,
            handler: shop.handler.name(),
            latest: shop.orders.latest(20).await?,
        })
    };
    match listed.await {
        Ok(orders) => ([(CACHE_CONTROL, "no-store")], Json(orders)).into_response(),
        Err(error) => unavailable(&error).into_response(),
    }
}

pub(crate) fn problem(status: StatusCode, detail: &'static str) -> Response {
    Problem::new(status).with_detail(detail).into_response()
}

/// What the database could not do now it may be able to do in a second. The reason is for the log alone.
pub(crate) fn unavailable(error: &dyn std::fmt::Display) -> Problem {
    tracing::error!(%error, "the database does not answer");
    Problem::new(StatusCode::SERVICE_UNAVAILABLE)
        .with_detail("The database does not answer. Repeat the request with the same key.")
        .with_retry_after(Duration::from_secs(1))
}
