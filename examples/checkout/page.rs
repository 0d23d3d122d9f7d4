//! The page: a form that is sent once, with scripts and without, and what it shows of the shop.
//!
//! With scripts, the page talks to `POST /orders` as any client does, in JSON. Without them, its form is posted, and the
//! browser is sent on to the order by a redirect, so that a reload of what it then shows sends nothing again:
//!
//! ```text
//! GET /  the form, with a key in it ──► POST /orders ──► 303 ──► GET /orders/17?origin=executed
//!  ▲                                        │ no order
//!  └── the same key, until it was answered ─┴──► what went wrong, as a page
//! ```
//!
//! [`front`] makes that of the very answers that other clients get: it stands before the layer and its record, and
//! knows of neither. Which order a form is for is decided by its key alone, here and everywhere.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use axum::Json;
use axum::body::to_bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETAG, IF_NONE_MATCH, LOCATION, RETRY_AFTER, VARY,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Redirect, Response};
use minijinja::Environment;
use minijinja::value::Serde;
use oneflight::http::layer::IDEMPOTENCY_ORIGIN;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::order::Placed;
use crate::service::{Shop, problem, unavailable};

/// A problem, as `front` reads it, has at most so many bytes.
const MAX_PROBLEM: usize = 64 * 1024;

/// The page talks to its service, and to nothing else.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// What this process has seen since it started.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    requests: AtomicU64,
    executions: AtomicU64,
}

impl Seen {
    /// Counts an order that is begun: the mutation, as often as it runs.
    pub(crate) fn executed(&self) {
        self.executions.fetch_add(1, Relaxed);
    }
}

/// The figures beside the form. What the database does not tell now is left open.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    handler: &'static str,
    requests: u64,
    executions: u64,
    records: Option<i64>,
    orders: Option<i64>,
    charges: Option<i64>,
    mails: Option<i64>,
}

impl Figures {
    async fn of(shop: &Shop) -> Self {
        let (charges, mails) = match &shop.ledger {
            Some(ledger) => ledger.count().await.ok().unzip(),
            None => (None, None),
        };
        Self {
            handler: shop.handler.name(),
            requests: shop.seen.requests.load(Relaxed),
            executions: shop.seen.executions.load(Relaxed),
            records: shop.handler.records(&shop.orders).await.ok().flatten(),
            orders: shop.orders.count().await.ok(),
            charges,
            mails,
        }
    }
}

/// What the page shows beside the figures: a form for this key, or this order, or this problem.
#[derive(Debug, Default, Serialize)]
struct Shown {
    key: Option<Uuid>,
    placed: Option<Placed>,
    origin: Option<Origin>,
    problem: Option<Told>,
}

/// What a page says of a problem.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Told {
    status: u16,
    title: String,
    detail: String,
}

/// `GET /figures`
pub(crate) async fn figures(State(shop): State<Shop>) -> Response {
    ([(CACHE_CONTROL, "no-store")], Json(Figures::of(&shop).await)).into_response()
}

/// `GET /`: the form, with a key in it.
///
/// The key is the page's entity tag. A browser that shows the page from its cache (back, and back again) posts the same
/// key. One that asks for it again (a reload, impatient or not) sends the tag, and gets the same key back until there is
/// an order under it.
pub(crate) async fn form(State(shop): State<Shop>, headers: HeaderMap) -> Response {
    let mut key = Uuid::new_v4();
    if let Some(had) = key_of_tag(&headers) {
        match shop.orders.find(&had.to_string()).await {
            Ok(Some(_)) => {}
            Ok(None) => key = had,
            Err(error) => {
                let problem = unavailable(&error);
                let told = Told {
                    title: problem.title().to_owned(),
                    detail: problem.detail().unwrap_or_default().to_owned(),
                    ..Told::default()
                };
                return tell(&shop, problem.status(), told).await;
            }
        }
    }
    // Kept by the browser, so that back shows it as it was; asked for again whenever it is not for back.
    let cache = [
        (CACHE_CONTROL, "private, no-cache".to_owned()),
        (ETAG, format!("\"{key}\"")),
    ];
    let shown = Shown {
        key: Some(key),
        ..Shown::default()
    };
    (cache, page(&shop, StatusCode::OK, shown).await).into_response()
}

/// The key of the page that the browser has.
fn key_of_tag(headers: &HeaderMap) -> Option<Uuid> {
    let tag = headers.get(IF_NONE_MATCH)?.to_str().ok()?;
    tag.trim_start_matches("W/").trim_matches('"').parse().ok()
}

#[derive(Debug, Deserialize)]
pub(crate) struct Asked {
    origin: Origin,
}

/// What the redirect says of the answer. Anyone can write it into the address; it is shown, and decides nothing.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Origin {
    Executed,
    Collapsed,
    Replayed,
}

/// `GET /orders/{id}`: an order, as a page or as JSON.
pub(crate) async fn order(
    State(shop): State<Shop>,
    Path(id): Path<String>,
    asked: Result<Query<Asked>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    let found = match id.parse() {
        Ok(id) => shop.orders.order(id).await,
        Err(_) => Ok(None),
    };
    let placed: Placed = match found {
        Ok(Some(row)) => row.into(),
        Ok(None) => return problem(StatusCode::NOT_FOUND, "There is no order of this number."),
        Err(error) => return unavailable(&error).into_response(),
    };
    let answer = match wants_page(&headers) {
        true => {
            // Without a word on how the answer came to be, it is one from the record.
            let origin = asked.map_or(Origin::Replayed, |Query(asked)| asked.origin);
            let shown = Shown {
                placed: Some(placed),
                origin: Some(origin),
                ..Shown::default()
            };
            page(&shop, StatusCode::OK, shown).await
        }
        false => Json(placed).into_response(),
    };
    ([(CACHE_CONTROL, "no-store"), (VARY, "accept")], answer).into_response()
}

/// Stands before `POST /orders`: counts the request, and answers a form that a browser has posted by a page.
///
/// What the handler answers stays what it is, and is recorded as that: the same order may be asked for with scripts now
/// and without them in a minute.
pub(crate) async fn front(State(shop): State<Shop>, request: Request, next: Next) -> Response {
    shop.seen.requests.fetch_add(1, Relaxed);
    let for_page = wants_page(request.headers());
    let response = next.run(request).await;
    if !for_page {
        return response;
    }
    let (parts, body) = response.into_parts();
    if let (true, Some(location)) = (parts.status.is_success(), text(parts.headers.get(LOCATION))) {
        let origin = text(parts.headers.get(IDEMPOTENCY_ORIGIN)).unwrap_or("replayed");
        return Redirect::to(&format!("{location}?origin={origin}")).into_response();
    }
    let told = match to_bytes(body, MAX_PROBLEM).await {
        Ok(body) => serde_json::from_slice(&body).unwrap_or_default(),
        Err(_) => Told::default(),
    };
    let mut page = tell(&shop, parts.status, told).await;
    if let Some(after) = parts.headers.get(RETRY_AFTER) {
        page.headers_mut().insert(RETRY_AFTER, after.clone());
    }
    page
}

async fn tell(shop: &Shop, status: StatusCode, mut told: Told) -> Response {
    told.status = status.as_u16();
    if status.is_server_error() || status == StatusCode::CONFLICT {
        told.detail
            .push_str(" In a browser, that is: reload this page, or go back and order again. It stays one order.");
    }
    let shown = Shown {
        problem: Some(told),
        ..Shown::default()
    };
    ([(CACHE_CONTROL, "no-store")], page(shop, status, shown).await).into_response()
}

/// Whether who asks is a browser that is to show the answer, and no script and no program.
fn wants_page(headers: &HeaderMap) -> bool {
    text(headers.get(ACCEPT)).is_some_and(|accept| accept.contains("text/html"))
}

fn text(value: Option<&HeaderValue>) -> Option<&str> {
    value?.to_str().ok()
}

/// The page with this on it. Everything else that it needs is in it.
async fn page(shop: &Shop, status: StatusCode, shown: Shown) -> Response {
    #[derive(Serialize)]
    struct Values {
        #[serde(flatten)]
        shown: Shown,
        figures: Figures,
    }

    let values = Serde(Values {
        shown,
        figures: Figures::of(shop).await,
    });
    // By its name, what is put into it is escaped as HTML.
    match Environment::new().render_named_str("page.html", include_str!("page.html"), values) {
        Ok(page) => (status, [(CONTENT_SECURITY_POLICY, POLICY)], Html(page)).into_response(),
        Err(error) => {
            tracing::error!(%error, "the page cannot be made");
            problem(
                StatusCode::INTERNAL_SERVER_ERROR,
                "The page cannot be made. Orders can be placed without it.",
            )
        }
    }
}
