//! The routes: the page, what it reads, and who it is for.

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Extension, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use oneflight::store::outbox::{MessageId, MessageQuery, MessageState};
use oneflight::store::{RecordCursor, RecordQuery, RecordState};
use serde::{Deserialize, Serialize};

use super::access::{Denied, Permission, SESSION};
use super::change;
use super::guard::{self, Peer};
use super::problem::Problem;
use super::rows::{MessageRow, RecordRow, RelayRow, TopicRow, UnfinishedRow, millis};
use super::scrape::Metrics;
use super::shared::{self, Shared};
use super::steps;
use super::story::{self, Stories};

/// The largest body of a request: an answer that is recorded by hand has room in it.
const LARGEST_BODY: usize = 256 * 1024;

/// How many rows are on a page.
const ROWS: usize = 25;
/// How many topics, relays and mutations of steps are listed.
const LISTED: usize = 200;

type Answered<T> = Result<Json<T>, Problem>;
type Asked<T> = Result<Query<T>, QueryRejection>;

pub(super) fn router(shared: Arc<Shared>) -> Router {
    let changes = Router::new()
        .route("/resolve", post(change::resolve))
        .route("/redrive", post(change::redrive))
        .route("/cancel", post(change::cancel))
        .route("/pause", post(change::pause))
        .route("/resume", post(change::resume))
        .route("/settle-step", post(steps::settle))
        .route("/resume-steps", post(steps::resume));
    Router::new()
        .route("/", get(page))
        .route("/api/session", get(session))
        .route("/api/login", post(log_in))
        .route("/api/logout", post(log_out))
        .route("/api/metrics", get(metrics))
        .route("/api/records", get(records))
        .route("/api/outbox", get(outbox))
        .route("/api/dead", get(dead))
        .route("/api/steps", get(unfinished))
        .route("/api/story", get(told))
        .nest("/api/change", changes)
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "absent", "there is nothing here"))
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method",
                "this is not asked for in this way",
            )
        })
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&shared), guard::check))
        .with_state(shared)
}

async fn page(State(shared): shared::State) -> Html<&'static str> {
    Html(shared.page.text)
}

/// What the page has to know before it shows anything.
#[derive(Serialize)]
struct Session {
    /// `read_only`, `login` or `everything`.
    may: &'static str,
    /// Why nothing can be changed, if nothing can.
    why: Option<&'static str>,
    csrf: Option<String>,
    store: Option<&'static str>,
    version: Option<&'static str>,
    /// How long an answer is kept that is recorded here.
    #[serde(skip_serializing_if = "Option::is_none")]
    retention_ms: Option<u64>,
}

async fn session(State(shared): shared::State, headers: HeaderMap) -> Json<Session> {
    let (may, why, csrf) = match shared.access.of(guard::session_id(&headers, shared.port)) {
        Permission::ReadOnly => ("read_only", Some(guard::READ_ONLY), None),
        Permission::Nothing => ("login", None, None),
        Permission::Everything(session) => ("everything", None, Some(session.csrf)),
    };
    let is_in = may != "login";
    Json(Session {
        may,
        why,
        csrf,
        store: is_in.then(|| shared.source.name()),
        version: is_in.then_some(env!("CARGO_PKG_VERSION")),
        retention_ms: is_in.then(|| millis(shared.source.retention())),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    token: String,
}

async fn log_in(
    State(shared): shared::State,
    Extension(Peer(peer)): Extension<Peer>,
    headers: HeaderMap,
    given: Result<Json<Given>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(given) = given.map_err(|rejection| Problem::new(rejection.status(), "invalid", rejection.body_text()))?;
    match shared.access.log_in(given.token.trim(), peer.ip()) {
        Ok(begun) => {
            tracing::info!(operator = begun.session.name, from = %peer.ip(), "somebody logged in");
            let secure = headers
                .get(header::ORIGIN)
                .is_some_and(|origin| origin.as_bytes().starts_with(b"https://"));
            let cookie = cookie(shared.port, &begun.id, SESSION.as_secs(), secure);
            Ok((
                [(header::SET_COOKIE, cookie)],
                Json(serde_json::json!({ "csrf": begun.session.csrf })),
            )
                .into_response())
        }
        Err(Denied::Wrong) => {
            tracing::warn!(from = %peer.ip(), "a wrong token was given");
            Err(Problem::new(StatusCode::UNAUTHORIZED, "token", "this is not the token"))
        }
        Err(Denied::TooOften(left)) => {
            let seconds = left.as_secs() + 1;
            let message = format!("too many attempts; try again in {seconds} s");
            let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "attempts", message);
            Ok(([(header::RETRY_AFTER, seconds.to_string())], problem).into_response())
        }
        Err(Denied::NoRandomness) => {
            let message = "the system gives no random numbers";
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "system", message))
        }
    }
}

async fn log_out(State(shared): shared::State, headers: HeaderMap) -> Response {
    if let Some(id) = guard::session_id(&headers, shared.port) {
        shared.access.log_out(id);
    }
    let cookie = cookie(shared.port, "", 0, false);
    ([(header::SET_COOKIE, cookie)], Json(serde_json::json!({}))).into_response()
}

fn cookie(port: u16, id: &str, seconds: u64, secure: bool) -> String {
    let secure = if secure { "; Secure" } else { "" };
    let name = guard::cookie_name(port);
    format!("{name}={id}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}")
}

async fn metrics(State(shared): shared::State) -> Json<Metrics> {
    Json(shared.scraper.metrics())
}

fn asked<T>(query: Asked<T>) -> Result<T, Problem> {
    query
        .map(|Query(query)| query)
        .map_err(|rejection| Problem::invalid(rejection.body_text()))
}

#[derive(Deserialize)]
struct WhichRecords {
    scope: Option<String>,
    state: Option<String>,
    after: Option<String>,
}

#[derive(Serialize)]
struct Records {
    rows: Vec<RecordRow>,
    next: Option<String>,
    unreadable: u64,
}

async fn records(State(shared): shared::State, query: Asked<WhichRecords>) -> Answered<Records> {
    let which = asked(query)?;
    let state = match which.state.as_deref().filter(|state| !state.is_empty()) {
        None => None,
        Some("in_progress") => Some(RecordState::InProgress),
        Some("in_doubt") => Some(RecordState::InDoubt),
        Some("completed") => Some(RecordState::Completed),
        Some(_) => {
            return Err(Problem::invalid(
                "a state is one of in_progress, in_doubt and completed",
            ));
        }
    };
    let query = RecordQuery {
        scope: which.scope.filter(|scope| !scope.is_empty()),
        state,
        after: which.after.filter(|after| !after.is_empty()).map(RecordCursor::new),
        ..RecordQuery::all(ROWS)
    };
    let page = shared.source.records(query).await?;
    Ok(Json(Records {
        rows: page.entries.iter().map(RecordRow::new).collect(),
        next: page.next.map(|next| next.as_str().to_owned()),
        unreadable: page.unreadable,
    }))
}

#[derive(Serialize)]
struct Outbox {
    topics: Vec<TopicRow>,
    more_topics: usize,
    relays: Vec<RelayRow>,
    more_relays: usize,
}

async fn outbox(State(shared): shared::State) -> Answered<Outbox> {
    let (topics, relays) = (shared.source.backlog().await?, shared.source.relays().await?);
    Ok(Json(Outbox {
        topics: topics.iter().take(LISTED).map(TopicRow::new).collect(),
        more_topics: topics.len().saturating_sub(LISTED),
        relays: relays.iter().take(LISTED).map(RelayRow::new).collect(),
        more_relays: relays.len().saturating_sub(LISTED),
    }))
}

#[derive(Deserialize)]
struct WhichLetters {
    topic: Option<String>,
    after: Option<i64>,
}

#[derive(Serialize)]
struct Letters {
    rows: Vec<MessageRow>,
    next: Option<String>,
}

async fn dead(State(shared): shared::State, query: Asked<WhichLetters>) -> Answered<Letters> {
    let which = asked(query)?;
    let query = MessageQuery {
        topic: which.topic.filter(|topic| !topic.is_empty()),
        state: Some(MessageState::Dead),
        after: which.after.map(MessageId::new),
        limit: ROWS + 1,
        ..MessageQuery::default()
    };
    let mut letters = shared.source.messages(query).await?;
    let more = letters.len() > ROWS;
    letters.truncate(ROWS);
    let next = letters.last().filter(|_| more).map(|last| last.id.to_string());
    let rows = letters.iter().map(MessageRow::new).collect();
    Ok(Json(Letters { rows, next }))
}

#[derive(Serialize)]
struct Unfinished {
    rows: Vec<UnfinishedRow>,
    more: bool,
}

async fn unfinished(State(shared): shared::State) -> Answered<Unfinished> {
    let mut found = shared.source.unfinished(ROWS + 1).await?;
    let more = found.len() > ROWS;
    found.truncate(ROWS);
    let rows = found.iter().map(UnfinishedRow::new).collect();
    Ok(Json(Unfinished { rows, more }))
}

async fn told(State(shared): shared::State, query: Asked<story::Asked>) -> Answered<Stories> {
    Ok(Json(story::tell(&shared.source, asked(query)?).await?))
}
