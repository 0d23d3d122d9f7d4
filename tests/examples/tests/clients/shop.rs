//! What the tests with real clients share: a shop whose API is shaped like Stripe's, and clients as processes.
//!
//! Everything listens on free ports of the loopback, works in temporary folders, and ends with its test.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(dead_code, unreachable_pub, reason = "each test uses its own part")]

use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, RETRY_AFTER};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Form, Json, Router};
use oneflight::Scope;
use oneflight::http::layer::IdempotencyLayer;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

#[path = "../../../common/proxy.rs"]
pub mod proxy;

/// The secret key by which clients authenticate.
pub const SECRET: &str = "sk_test_shop";

/// A request that came, and what it was answered, seen from outside of the layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// The number of the listener that it came to.
    pub listener: usize,
    pub key: String,
    pub status: u16,
    /// Empty if the layer said none.
    pub origin: String,
}

/// What a shop does is counted here, whatever number of listeners it has.
#[derive(Clone)]
pub struct Shop(Arc<Ledger>);

struct Ledger {
    executions: AtomicUsize,
    exchanges: watch::Sender<Vec<Exchange>>,
    begun: Semaphore,
    gate: Semaphore,
}

/// Dropped, it stops listening.
pub struct Listener {
    pub port: u16,
    task: JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shop {
    pub fn new() -> Self {
        Self(Arc::new(Ledger {
            executions: AtomicUsize::new(0),
            exchanges: watch::Sender::default(),
            begun: Semaphore::new(0),
            gate: Semaphore::new(0),
        }))
    }

    /// Listens with a layer of its own, as another process of the shop would.
    pub async fn listen(&self, number: usize, layer: IdempotencyLayer) -> Listener {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let app = Router::new()
            .route("/v1/charges", post(charge))
            .layer(layer.scope(account))
            .layer(from_fn_with_state((self.clone(), number), noted))
            .with_state(self.clone());
        let task = tokio::spawn(async move { axum::serve(socket, app).await.unwrap() });
        Listener { port, task }
    }

    /// How often the handler was called.
    pub fn executions(&self) -> usize {
        self.0.executions.load(Ordering::SeqCst)
    }

    pub fn exchanges(&self) -> Vec<Exchange> {
        self.0.exchanges.borrow().clone()
    }

    /// The statuses of all answers, in their order.
    pub fn statuses(&self) -> Vec<u16> {
        self.exchanges().iter().map(|exchange| exchange.status).collect()
    }

    /// Waits until a slow charge has begun.
    pub async fn begun(&self) {
        within(self.0.begun.acquire()).await.unwrap().forget();
    }

    /// Lets a slow charge go on.
    pub fn open(&self) {
        self.0.gate.add_permits(1);
    }

    /// Waits until an exchange is as said.
    pub async fn until(&self, is: impl Fn(&Exchange) -> bool) {
        let mut exchanges = self.0.exchanges.subscribe();
        within(exchanges.wait_for(|all| all.iter().any(&is))).await.unwrap();
    }
}

/// Whose secret key it is. What a client writes there is looked up, and never taken at its word.
fn account(request: &Parts) -> Option<Scope> {
    let secret = request.headers.get(AUTHORIZATION)?.to_str().ok()?;
    (secret.strip_prefix("Bearer ")? == SECRET).then(|| Scope::new("acct_shop"))
}

async fn noted(State((shop, listener)): State<(Shop, usize)>, request: Request, next: Next) -> Response {
    let text = |headers: &HeaderMap, name| match headers.get(name) {
        Some(value) => value.to_str().unwrap().to_owned(),
        None => String::new(),
    };
    let key = text(request.headers(), "idempotency-key");
    let noted = tokio::spawn(async move {
        let answer = next.run(request).await;
        let exchange = Exchange {
            listener,
            key,
            status: answer.status().as_u16(),
            origin: text(answer.headers(), "idempotency-origin"),
        };
        shop.0.exchanges.send_modify(|all| all.push(exchange));
        answer
    });
    // The client may be gone by now.
    noted.await.unwrap()
}

#[derive(Deserialize)]
struct Order {
    amount: u64,
    source: String,
}

/// The source says what becomes of the charge, as Stripe's test tokens do.
async fn charge(State(shop): State<Shop>, Form(order): Form<Order>) -> Response {
    let number = shop.0.executions.fetch_add(1, Ordering::SeqCst) + 1;
    let failed = |status: u16, kind: &str| {
        let error = json!({"error": {"type": kind, "message": format!("Attempt {number}.")}});
        (StatusCode::from_u16(status).unwrap(), Json(error))
    };
    match order.source.as_str() {
        "tok_declined" => failed(402, "card_error").into_response(),
        "tok_conflict" => failed(409, "invalid_request_error").into_response(),
        "tok_broken" => failed(500, "api_error").into_response(),
        "tok_busy" if number == 1 => ([(RETRY_AFTER, "2")], failed(503, "api_error")).into_response(),
        "tok_slow" => {
            shop.0.begun.add_permits(1);
            shop.0.gate.acquire().await.unwrap().forget();
            done(number, order.amount).into_response()
        }
        _ => done(number, order.amount).into_response(),
    }
}

fn done(number: usize, amount: u64) -> Json<Value> {
    Json(json!({"id": format!("ch_{number}"), "object": "charge", "amount": amount}))
}

/// What takes longer than this has gone wrong. It is so long for the sake of installations.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    let longest = Duration::from_secs(300);
    tokio::time::timeout(longest, future)
        .await
        .expect("done in five minutes")
}

/// A command of a program that bin/setup installs. It does not outlive the test, and reaches the loopback without a proxy.
pub fn command(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program.as_ref());
    command.kill_on_drop(true).stdin(Stdio::null()).env("NO_PROXY", "*");
    command
}

/// Runs a command to its end, and fails the test if it fails.
pub async fn run(command: &mut Command) -> Output {
    let program = command.as_std().get_program().to_owned();
    let output = within(command.output()).await;
    let output = output.unwrap_or_else(|error| panic!("{program:?} cannot be run ({error}): run bin/setup"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program:?}: {} {told}", output.status);
    output
}
