//! What happens when things go wrong, tried on each layer: what nobody would wish of a mutation is wrong.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::header::{COOKIE, SET_COOKIE};
use axum::http::{Request, Response, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, post};
use bytes::Bytes;
use futures::FutureExt;
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use tokio::runtime::Builder;
use tokio::sync::Semaphore;
use tokio::task::yield_now;
use tokio::time::timeout;
use tower::ServiceExt;

use crate::entrants::{ANSWER_LIMIT, Entrant, Executions, PATIENCE};
use crate::request::{Keyed, request, with_body};

/// What is tried.
pub const SCENARIOS: [&str; 6] = [
    "two duplicates at once",
    "client hangs up while the handler works, and retries",
    "answer over the limit, sent again",
    "other payload under the same key",
    "answer that sets a cookie, sent again",
    "client without a session, sent again",
];

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// In words.
    pub what: String,
    /// Whether nobody would wish it.
    pub is_wrong: bool,
}

/// What one layer did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conduct {
    /// The entrant.
    pub name: String,
    /// In the order of [`SCENARIOS`].
    pub findings: Vec<Finding>,
}

/// Tries everything on all layers.
///
/// # Panics
///
/// If one of them does not answer in time.
pub fn try_all() -> Vec<Conduct> {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let conducts = Entrant::IDEMPOTENT.map(|entrant| {
        let findings = runtime.block_on(async {
            timeout(PATIENCE, async {
                vec![
                    two_at_once(entrant).await,
                    hung_up(entrant).await,
                    over_the_limit(entrant).await,
                    other_payload(entrant).await,
                    sets_a_cookie(entrant).await,
                    without_a_session(entrant).await,
                ]
            })
            .await
            .expect("it is answered in time")
        });
        let name = entrant.name().to_owned();
        Conduct { name, findings }
    });
    conducts.into()
}

fn finding(what: impl Into<String>, is_wrong: bool) -> Finding {
    let what = what.into();
    Finding { what, is_wrong }
}

fn executed(times: u64) -> String {
    match times {
        1 => "executed once".to_owned(),
        2 => "executed twice".to_owned(),
        times => format!("executed {times} times"),
    }
}

/// A handler that goes on when it is let.
fn held(executions: &Executions, ended: &Executions, gate: &Arc<Semaphore>) -> MethodRouter {
    let (executions, ended, gate) = (executions.clone(), ended.clone(), Arc::clone(gate));
    post(move || {
        executions.add();
        let (ended, gate) = (ended.clone(), Arc::clone(&gate));
        async move {
            let _ = gate.acquire().await;
            ended.add();
            "done"
        }
    })
}

async fn send(app: &Router, request: Request<Body>) -> (StatusCode, axum::http::HeaderMap, Bytes) {
    let Ok(response) = app.clone().oneshot(request).await;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    (parts.status, parts.headers, body)
}

async fn two_at_once(entrant: Entrant) -> Finding {
    let (executions, gate) = (Executions::default(), Arc::new(Semaphore::new(0)));
    let app = entrant.app(held(&executions, &Executions::default(), &gate));
    let open = async {
        // Both have got as far as they get.
        for _ in 0..100 {
            yield_now().await;
        }
        gate.add_permits(8);
    };
    let one = || send(&app, request(Keyed::With(1)));
    let ((first, ..), (second, ..), ()) = futures::join!(one(), one(), open);
    let times = executions.count();
    finding(
        format!(
            "{}, answered {} and {}",
            executed(times),
            first.as_u16(),
            second.as_u16()
        ),
        times != 1,
    )
}

async fn hung_up(entrant: Entrant) -> Finding {
    let (executions, ended, gate) = (
        Executions::default(),
        Executions::default(),
        Arc::new(Semaphore::new(0)),
    );
    let app = entrant.app(held(&executions, &ended, &gate));
    let mut first = Box::pin(send(&app, request(Keyed::With(1))));
    while executions.count() == 0 {
        assert!((&mut first).now_or_never().is_none(), "it waits");
        yield_now().await;
    }
    drop(first);
    gate.add_permits(8);
    let (status, ..) = send(&app, request(Keyed::With(1))).await;
    let (begun, ended) = (executions.count(), ended.count());
    let what = match begun == ended {
        true => format!("{}, the retry answered {}", executed(begun), status.as_u16()),
        false => format!("cancelled half-way, then executed again: begun {begun} times, ended {ended}"),
    };
    finding(what, begun != 1 || ended != 1)
}

/// Sends a request twice to a handler, and returns how often that was executed, and the second answer.
async fn twice(
    entrant: Entrant,
    answer: impl Fn() -> Response<Body> + Clone + Send + Sync + 'static,
    requests: [Request<Body>; 2],
) -> (u64, StatusCode, axum::http::HeaderMap, Bytes) {
    let executions = Executions::default();
    let counted = executions.clone();
    let app = entrant.app(post(move || {
        counted.add();
        std::future::ready(answer())
    }));
    let [first, second] = requests;
    send(&app, first).await;
    let (status, headers, body) = send(&app, second).await;
    (executions.count(), status, headers, body)
}

async fn over_the_limit(entrant: Entrant) -> Finding {
    let answer = || Bytes::from(vec![b'a'; 2 * ANSWER_LIMIT]).into_response();
    let requests = [(); 2].map(|()| request(Keyed::With(1)));
    let (times, status, _, body) = twice(entrant, answer, requests).await;
    let kept = match body.len() == 2 * ANSWER_LIMIT {
        true => "with its body",
        false => "without its body",
    };
    finding(
        format!("{}, answered {} {kept}", executed(times), status.as_u16()),
        times != 1,
    )
}

async fn other_payload(entrant: Entrant) -> Finding {
    let requests = [
        request(Keyed::With(1)),
        with_body(Keyed::With(1), Bytes::from_static(b"{\"customer\":\"somebody else\"}")),
    ];
    let (times, status, ..) = twice(entrant, || "done".into_response(), requests).await;
    match (times, status.is_success()) {
        (1, false) => finding(format!("refused: {}", status.as_u16()), false),
        (1, true) => finding(format!("the first one's answer: {}", status.as_u16()), true),
        _ => finding(format!("a request of its own: {}", executed(times)), true),
    }
}

async fn sets_a_cookie(entrant: Entrant) -> Finding {
    let answer = || ([(SET_COOKIE, "login=secret")], "done").into_response();
    let requests = [(); 2].map(|()| request(Keyed::With(1)));
    let (times, _, headers, _) = twice(entrant, answer, requests).await;
    let is_set = headers
        .get_all(SET_COOKIE)
        .iter()
        .any(|cookie| cookie == "login=secret");
    let what = match is_set {
        true => "sets it again",
        false => "does not set it again",
    };
    finding(format!("{}, {what}", executed(times)), times != 1)
}

async fn without_a_session(entrant: Entrant) -> Finding {
    let requests = [(); 2].map(|()| {
        let mut request = request(Keyed::With(1));
        request.headers_mut().remove(COOKIE);
        request
    });
    let (times, ..) = twice(entrant, || "done".into_response(), requests).await;
    finding(executed(times), times != 1)
}
