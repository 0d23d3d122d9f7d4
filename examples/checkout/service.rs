//! The service: `POST /orders` behind `oneflight`, a list of the orders, and a page to click on.
//!
//! What is worth copying is [`place_order`] and what `Shop::place_once` does: read the request within a limit,
//! find its key, run the order in the store's transaction, say how the answer came to be.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Extension, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use oneflight::http::{CorrelationId, Problem, X_REQUEST_ID};
use oneflight::idempotency::{Idempotency, Source};
use oneflight::identity::{IdempotencyKey, RequestId, Scope};
use oneflight::store::SqliteStore;
use serde::Serialize;
use sqlx::SqlitePool;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing::Instrument;

use crate::database;
use crate::naive;
use crate::order::{Answer, MAX_BODY, NewOrder, Placed};
use crate::pace::Pace;

/// A client gets so long to send its body.
const BODY_TIME: Duration = Duration::from_secs(10);

/// Requests in flight get so long to end when the service is told to stop.
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// What a service is started with.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) port: u16,
    pub(crate) db: PathBuf,
    pub(crate) naive: bool,
    pub(crate) pace: Pace,
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
struct Shop {
    pool: SqlitePool,
    pace: Pace,
    /// `None` in a service that is naive.
    idempotency: Option<Idempotency<SqliteStore>>,
}

impl Service {
    /// Opens the database and begins to listen, on the loopback interface only.
    pub(crate) async fn start(config: Config) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let pool = database::open(&config.db).await?;
        let idempotency = if config.naive {
            None
        } else {
            let store = SqliteStore::from_pool(pool.clone()).await?;
            Some(Idempotency::builder(store).build())
        };
        let shop = Shop {
            pool,
            pace: config.pace,
            idempotency,
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

    /// Takes no new requests, answers those that are here, and closes the database.
    pub(crate) async fn stop(self) -> Result<(), Box<dyn Error + Send + Sync>> {
        let Self {
            shop, stop, mut server, ..
        } = self;
        let _ = stop.send(());
        match tokio::time::timeout(DRAIN_TIME, &mut server).await {
            Ok(ended) => ended??,
            Err(_) => {
                server.abort();
                eprintln!("some clients did not go away in {DRAIN_TIME:?}: their connections are cut");
            }
        }
        if let Some(idempotency) = &shop.idempotency {
            // Orders whose clients have gone are still being placed: nothing is cut in half.
            idempotency.close();
            if tokio::time::timeout(DRAIN_TIME, idempotency.drain()).await.is_err() {
                let left = idempotency.in_flight();
                eprintln!("{left} orders did not end in {DRAIN_TIME:?}: their transactions are rolled back");
            }
        }
        shop.pool.close().await;
        Ok(())
    }
}

fn router(shop: Shop) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/orders", post(place_order).get(list_orders))
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
        shop.place(key, correlation.clone(), order).await
    };
    match placed.await {
        Ok((placed, source)) => {
            tracing::info!(order_id = placed.order_id, ?source, "order answered");
            // 201 for the duplicates as well: whoever lost the first answer gets the same one.
            let answer = Answer {
                placed,
                cached: source != Source::Executed,
                source,
            };
            (StatusCode::CREATED, [(CACHE_CONTROL, "no-store")], Json(answer)).into_response()
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
    match tokio::time::timeout(BODY_TIME, to_bytes(body, MAX_BODY)).await {
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

impl Shop {
    async fn place(
        &self,
        key: IdempotencyKey,
        correlation: CorrelationId,
        order: NewOrder,
    ) -> Result<(Placed, Source), Problem> {
        match &self.idempotency {
            Some(idempotency) => self.place_once(idempotency, key, correlation, order).await,
            None => naive::place_order(&self.pool, self.pace, &key, &correlation, &order)
                .await
                .map_err(|error| unavailable(&*error)),
        }
    }

    /// The order and the record of its answer are one commit: there is never the one without the other.
    async fn place_once(
        &self,
        idempotency: &Idempotency<SqliteStore>,
        key: IdempotencyKey,
        correlation: CorrelationId,
        order: NewOrder,
    ) -> Result<(Placed, Source), Problem> {
        let scope = Scope::new("shop").route("POST /orders");
        let id = RequestId::new(scope, key.clone())?.with_known_fingerprint(order.fingerprint());
        let pace = self.pace;
        let reply = idempotency
            .run_in_tx(id, move |tx| {
                Box::pin(async move {
                    pace.work(&key).await;
                    let order_id =
                        database::insert_order(tx.connection(), key.as_str(), correlation.as_str(), &order).await?;
                    Ok(Placed {
                        order_id,
                        item: order.item,
                        quantity: order.quantity,
                    })
                })
            })
            .await
            .inspect_err(|error| {
                // The client is told what it can do, the log what was wrong.
                tracing::warn!(error = error as &dyn Error, "not placed");
            })?;
        let source = reply.source();
        Ok((reply.into_inner(), source))
    }
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
            count: database::count(&shop.pool).await?,
            handler: match shop.idempotency {
                Some(_) => "oneflight",
                None => "naive",
            },
            latest: database::latest(&shop.pool, 20).await?,
        })
    };
    match listed.await {
        Ok(orders) => ([(CACHE_CONTROL, "no-store")], Json(orders)).into_response(),
        Err(error) => unavailable(&error).into_response(),
    }
}

/// `GET /`: the page. Everything that it needs is in it.
async fn page() -> Response {
    const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                          connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'";
    (
        [(CONTENT_SECURITY_POLICY, POLICY), (CACHE_CONTROL, "no-store")],
        Html(include_str!("page.html")),
    )
        .into_response()
}

fn problem(status: StatusCode, detail: &'static str) -> Response {
    Problem::new(status).with_detail(detail).into_response()
}

/// What the database could not do now it may be able to do in a second. The reason is for the log alone.
fn unavailable(error: &dyn std::fmt::Display) -> Problem {
    tracing::error!(%error, "the database does not answer");
    Problem::new(StatusCode::SERVICE_UNAVAILABLE)
        .with_detail("The database does not answer. Repeat the request with the same key.")
        .with_retry_after(Duration::from_secs(1))
}
