//! What is counted exactly: heap allocations of a request, and the bytes that a crowd of duplicates holds.
//!
//! Requests are made before anything is counted, so that what is counted is the service's.

use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use tokio::runtime::Builder;
use tower::layer::util::Identity;
use tower::{Layer, Service, service_fn};

use crate::crowd::{self, Held};
use crate::entrants::{Entrant, Executions, layer, order};
use crate::request::{self, Keyed};

/// The allocations that one request makes under one layer, the handler's included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Allocations {
    /// The entrant.
    pub name: String,
    /// A request without a key.
    pub keyless: f64,
    /// A request with a key of its own.
    pub executed: f64,
    /// A request whose answer is replayed.
    pub replayed: f64,
}

/// Everything that is counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Around a route of axum's.
    pub routes: Vec<Allocations>,
    /// Around a service that allocates nothing itself: without a layer, with one that does nothing, with ours. Requests have no key.
    pub plain: [f64; 3],
    /// By ten thousand duplicates.
    pub held: Held,
}

/// Requests that are counted together.
const CALLS: u64 = 1_000;

/// Counts everything. `live` says how many bytes of the heap are allocated, `allocations` how many allocations there were.
pub fn all(live: impl Fn() -> i64, allocations: impl Fn() -> u64) -> Counts {
    let held = crowd::held(live);
    Counts {
        routes: Entrant::ALL.map(|entrant| of_route(entrant, &allocations)).into(),
        plain: [
            of_service(service_fn(nothing), &allocations),
            of_service(Identity::new().layer(service_fn(nothing)), &allocations),
            of_service(layer().layer(service_fn(nothing)), &allocations),
        ],
        held,
    }
}

async fn nothing(_: Request<Body>) -> Result<Response<Body>, Infallible> {
    Ok(Response::new(Body::empty()))
}

fn of_route(entrant: Entrant, allocations: impl Fn() -> u64) -> Allocations {
    let app = || entrant.app(order(&Executions::default()));
    Allocations {
        name: entrant.name().to_owned(),
        keyless: of_calls(app(), |_| Keyed::Without, &allocations),
        executed: of_calls(app(), Keyed::With, &allocations),
        replayed: of_calls(app(), |_| Keyed::With(1), &allocations),
    }
}

/// Allocations of one call, after as many that are not counted.
fn of_calls(mut app: Router, keyed: impl Fn(u64) -> Keyed, allocations: impl Fn() -> u64) -> f64 {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut counted = 0;
        for number in 1..=2 * CALLS {
            let request = request::request(keyed(number));
            let before = allocations();
            let Ok(response) = app.call(request).await;
            let body = response.into_body().collect().await.expect("a body");
            if number > CALLS {
                counted += allocations() - before;
            }
            drop(body);
        }
        counted as f64 / CALLS as f64
    })
}

fn of_service<S>(mut service: S, allocations: impl Fn() -> u64) -> f64
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut counted = 0;
        for _ in 0..CALLS {
            let request = request::request(Keyed::Without);
            let before = allocations();
            let Ok(response) = service.call(request).await;
            counted += allocations() - before;
            drop(response);
        }
        counted as f64 / CALLS as f64
    })
}
