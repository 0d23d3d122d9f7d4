//! The services that are compared: one route of axum's, bare and under each layer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, post};
use axum_idempotent::{IdempotentLayer, IdempotentOptions};
use bytes::Bytes;
use oneflight::http::layer::IdempotencyLayer;
use oneflight::{Drive, Idempotency, MemoryStore};
use ruts::store::moka::MokaStore;
use ruts::{CookieOptions, SessionLayer};
use tower::layer::util::Identity;
use tower_cookies::CookieManagerLayer;

use crate::request::PATH;

/// Larger answers are not recorded with their bodies, by ours and by the peer.
pub const ANSWER_LIMIT: usize = 2 * 1024 * 1024;

/// What stands around the route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entrant {
    /// Nothing.
    Bare,
    /// tower's layer that does nothing: what axum itself takes for any layer.
    Identity,
    /// `IdempotencyLayer` over a `MemoryStore`.
    Oneflight,
    /// The same, whose work is polled by its callers and not by a task of its own.
    InPlace,
    /// `axum-idempotent` by the header, without looking at the body, over its session layer and its store in memory.
    PeerByHeader,
    /// `axum-idempotent` as it is by default: by a hash of the request, its body included.
    PeerByHash,
}

impl Entrant {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 6] = [
        Self::Bare,
        Self::Identity,
        Self::Oneflight,
        Self::InPlace,
        Self::PeerByHeader,
        Self::PeerByHash,
    ];

    /// Those that make requests idempotent.
    pub const IDEMPOTENT: [Self; 3] = [Self::Oneflight, Self::PeerByHeader, Self::PeerByHash];

    /// What it is called in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare route",
            Self::Identity => "layer that does nothing",
            Self::Oneflight => "oneflight",
            Self::InPlace => "oneflight, `Drive::InPlace`",
            Self::PeerByHeader => "axum-idempotent, by header",
            Self::PeerByHash => "axum-idempotent, by hash",
        }
    }

    /// Returns the service, with a store of its own.
    pub fn app(self, route: MethodRouter) -> Router {
        let app = Router::new().route(PATH, route);
        let app = match self {
            Self::Bare => app,
            Self::Identity => app.layer(Identity::new()),
            Self::Oneflight => app.layer(layer()),
            Self::InPlace => app.layer(layer_driven(Drive::InPlace)),
            Self::PeerByHeader => sessions(app, options().use_idempotency_key_header(None, false)),
            Self::PeerByHash => sessions(app, options()),
        };
        // As a server does it for each connection: otherwise axum lays the layers around the handler at each call.
        app.with_state(())
    }
}

/// Returns our layer, with what is not limited otherwise limited as the peer is.
pub fn layer() -> IdempotencyLayer {
    layer_driven(Drive::Spawned)
}

fn layer_driven(drive: Drive) -> IdempotencyLayer {
    let idem = Idempotency::builder(MemoryStore::new())
        .max_result_bytes(ANSWER_LIMIT)
        .drive(drive)
        .build();
    IdempotencyLayer::new(idem).unscoped()
}

fn options() -> IdempotentOptions {
    IdempotentOptions::new(24 * 60 * 60).max_cached_response_size(ANSWER_LIMIT)
}

/// In the order that its documentation says.
fn sessions(app: Router, options: IdempotentOptions) -> Router {
    let store = MokaStore::builder().max_capacity(10_000_000).build();
    let cookie = CookieOptions::build().name("session");
    app.layer(IdempotentLayer::<MokaStore>::new(options))
        .layer(SessionLayer::new(Arc::new(store)).with_cookie_options(cookie))
        .layer(CookieManagerLayer::new())
}

/// Counts how often a handler was executed.
#[derive(Clone, Debug, Default)]
pub struct Executions(Arc<AtomicU64>);

impl Executions {
    /// Counts one more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how many there were.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Returns the route that is measured: it takes an order, and answers with less than a hundred bytes.
pub fn order(executions: &Executions) -> MethodRouter {
    let executions = executions.clone();
    post(move |body: Bytes| {
        executions.add();
        std::future::ready(accepted(body.len()))
    })
}

fn accepted(bytes: usize) -> Response {
    let headers = [(CONTENT_TYPE, "application/json"), (LOCATION, "/orders/o-7719")];
    let body = format!(r#"{{"order":"o-7719","state":"accepted","bytes":{bytes}}}"#);
    (StatusCode::CREATED, headers, body).into_response()
}

/// The longest that anything is waited for before a measurement counts as failed.
pub const PATIENCE: Duration = Duration::from_secs(30);
