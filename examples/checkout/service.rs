//! The service: `POST /orders` behind `oneflight`, the orders as they stand, and a [`page`] to click on.
//!
//! What is worth copying is [`place_order`]: read the request within a limit, find its key, have the order placed by the
//! [`handler`](crate::handler), say how the answer came to be.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Extension, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, LOCATION};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use oneflight::http::{CorrelationId, Problem, X_REQUEST_ID};
use oneflight::idempotency::Origin;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::Instrument;

use crate::database::{self, Database};
use crate::handler::{Handler, Incoming};
use crate::order::{Answer, MAX_BODY, NewOrder};
use crate::page::{self, ORIGIN, Seen};
use crate::payment::Provider;
use crate::place::Place;

/// A client gets so long to send its body.
const BODY_TIME: Duration = Duration::from_secs(10);

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
}

/// A running service.
pub(crate) struct Service {
    address: SocketAddr,
    shop: Shop,
    stop: oneshot::Sender<()>,
    server: JoinHandle<std::io::Result<()>>,
}

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct Shop {
    pub(crate) orders: Database,
    pub(crate) handler: Handler,
    pub(crate) seen: Arc<Seen>,
    provider: Provider,
}

impl Service {
    /// Opens the database and begins to listen, on the loopback interface only.
    pub(crate) async fn start(config: Config) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let orders = config.place.open().await?;
        let handler = match config.naive {
            true => Handler::Naive,
            false => Handler::over(&config.place, &orders).await?,
        };
        let shop = Shop {
            orders,
            handler,
            seen: Arc::default(),
            provider: config.provider,
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
            stop,
            server,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no new requests, answers those that are here, places the orders of clients that have gone, and closes the
    /// database. When this has returned `Ok`, nothing of the service runs any more.
    ///
    /// # Errors
    /// What did not end in time is still running: end the process. That is safe, if not polite.
    pub(crate) async fn stop(self) -> Result<(), Box<dyn Error + Send + Sync>> {
        let Self {
            shop, stop, mut server, ..
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
            // Waits for connections that are in use.
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
    let orders = post(place_order)
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
        .layer(from_fn(correlate))
        .with_state(shop)
}

/// Gives every request its correlation id: in the log, in the database, in the answer.
async fn correlate(mut request: Request, next: Next) -> Response {
    let id = CorrelationId::from_headers(request.headers());
    let span = tracing::info_span!("request", correlation_id = %id);
    request.extensions_mut().insert(id.clone());
    let mut response = next.run(request).instrument(span).await;
    response.headers_mut().insert(X_REQUEST_ID, id.to_header_value());
    response
}

/// `POST /orders`
async fn place_order(
    State(shop): State<Shop>,
    Extension(correlation): Extension<CorrelationId>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let placed = async {
        let body = read_body(&parts.headers, body).await?;
        let (key, order) = NewOrder::read(&parts.headers, &body)?;
        let correlation = correlation.clone();
        let incoming = Incoming {
            key,
            correlation,
            order,
            seen: Arc::clone(&shop.seen),
        };
        shop.handler.place(&shop.orders, shop.provider, incoming).await
    };
    match placed.await {
        Ok((placed, origin)) => {
            tracing::info!(order_id = placed.order_id, ?origin, "order answered");
            let headers = [
                (CACHE_CONTROL, "no-store".to_owned()),
                (LOCATION, format!("/orders/{}", placed.order_id)),
                (ORIGIN, origin.to_string()),
            ];
            // 201 for the duplicates as well: a client that lost the first answer gets the same one.
            let answer = Answer {
                placed,
                cached: origin != Origin::Executed,
                origin,
            };
            (StatusCode::CREATED, headers, Json(answer)).into_response()
        }
        Err(problem) => {
            // Without the detail, in which a client may read its own words.
            let status = problem.status().as_u16();
            tracing::warn!(status, reason = problem.title(), "order refused");
            problem
                .with_member("correlation_id", correlation.as_str())
                .into_response()
        }
    }
}

async fn read_body(headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > MAX_BODY) {
        return Err(Problem::body_too_large(MAX_BODY));
    }
    match timeout(BODY_TIME, to_bytes(body, MAX_BODY)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) if is_over_limit(&error) => Err(Problem::body_too_large(MAX_BODY)),
        Ok(Err(_)) => Err(Problem::malformed_body(
            "The body broke off. Repeat the request with the same key.",
        )),
        Err(_) => Err(Problem::new(StatusCode::REQUEST_TIMEOUT).with_detail(format!(
            "The body did not arrive in {BODY_TIME:?}. Repeat the request with the same key."
        ))),
    }
}

fn is_over_limit(error: &axum::Error) -> bool {
    error
        .source()
        .is_some_and(|source| source.is::<http_body_util::LengthLimitError>())
}

/// `GET /orders`: how many there are, and the latest.
async fn list_orders(State(shop): State<Shop>) -> Response {
    #[derive(Serialize)]
    struct Orders {
        count: i64,
        handler: &'static str,
        latest: Vec<database::Row>,
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
