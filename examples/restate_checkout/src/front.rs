//! The front: takes each order once under the client's key, and has it carried out.
//!
//! ```text
//! the layer: the whole order, under a claim, shared by all duplicates; its answer is recorded
//!  └─ handed over to Restate, under a key that every attempt repeats
//!      └─ reserve, charge, book, mail: each under its own key, and in Restate's journal
//! ```
//!
//! A front that dies in between leaves a doubt, and the next one asks Restate what became of the order.

use std::error::Error;
use std::time::Duration;

use axum::extract::State;
use axum::http::{Response, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use oneflight::http::Problem;
use oneflight::http::layer::{Failure, IdempotencyLayer};
use oneflight::idempotency::{Context, Doubt, Recovery, Resolution};
use oneflight::{Idempotency, RequestIdentity, Scope};
use oneflight_sqlite::SqliteStore;
use sqlx::SqlitePool;
use tokio::net::TcpListener;

use crate::cli::{By, FrontArgs, Keys};
use crate::order::{Intent, Order, Outside, Placed, items};
use crate::restate::{NotPlaced, Restate};
use crate::steps::InSteps;

/// A front that says nothing for so long counts as dead. It is short, since a mistake costs little: whatever is asked for twice is
/// known by its key.
const LEASE: Duration = Duration::from_secs(3);

/// The step of an order that is the whole of it: its downstream key is Restate's idempotency key.
const WHOLE: &str = "order";

/// What the handler needs.
#[derive(Clone)]
struct Front {
    by: By,
    keys: Keys,
    restate: Restate,
    in_steps: InSteps,
}

pub(crate) async fn serve(
    listener: TcpListener,
    args: FrontArgs,
    store: SqliteStore,
    outside: Outside,
) -> Result<(), Box<dyn Error>> {
    let FrontArgs { by, keys, restate } = args;
    let restate = Restate {
        ingress: restate,
        client: outside.client.clone(),
    };
    let asked = restate.clone();
    let recovery = Recovery::ask(move |doubt| what_became_of_it(asked.clone(), doubt));
    let pool = store.pool().clone();
    let idem = Idempotency::builder(store).lease(LEASE).recovery(recovery).build();
    let in_steps = InSteps::new(&idem, outside);
    let completer = in_steps.complete()?;
    let layer = IdempotencyLayer::new(idem).required().unscoped(); // With accounts: `.scope(…)`.
    let orders = post(place).layer(layer).with_state(Front {
        by,
        keys,
        restate,
        in_steps,
    });
    let orders = orders.get(list).with_state(pool);
    axum::serve(listener, Router::new().route("/orders", orders)).await?;
    completer.stop().await;
    Ok(())
}

async fn list(State(pool): State<SqlitePool>) -> Result<Json<Vec<String>>, Failure> {
    Ok(Json(items(&pool).await?))
}

async fn place(
    State(front): State<Front>,
    context: Context,
    Json(order): Json<Order>,
) -> Result<Json<Placed>, Problem> {
    // The keys depend on the client's key and on the step alone: every attempt, and either way, has the same.
    let key_of = |step: &str| match front.keys {
        Keys::Derived => context.downstream_key(step),
        Keys::Random => format!("{:032x}", fastrand::u128(..)),
    };
    let key = key_of(WHOLE);
    // Known to the library as an order in steps, and to Restate as an invocation.
    let id = RequestIdentity::new(Scope::new("shop").route("order in steps"), &key)?.with_fingerprint(&order.item);
    let intent = Intent::new(order, key_of);
    let placed = front.carried_out(&key, id, &intent).await;
    placed.map(Json).map_err(|reason| match reason {
        // This is not recorded, and the key is free: the next request hands the same order over, under the same key.
        NotPlaced::Unknown(error) => {
            tracing::warn!(%error, "the order is not placed yet");
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE).with_retry_after(Duration::from_secs(1));
            problem.with_detail("The order is not placed yet. Repeat the request with the same key.")
        }
        // This is, and the client gets it each time.
        NotPlaced::Failed(status, said) => {
            tracing::error!(%status, said, "the order has failed for good");
            Problem::new(status).with_detail("The order has failed. Another one needs another key.")
        }
    })
}

impl Front {
    /// New orders go one way. An order that was begun in the other way is finished there.
    async fn carried_out(&self, key: &str, id: RequestIdentity, intent: &Intent) -> Result<Placed, NotPlaced> {
        match self.by {
            By::Restate if self.in_steps.has_begun(&id).await? => Ok(self.in_steps.place(id, intent).await?),
            By::Restate => self.restate.place(key, intent).await,
            By::Steps => match self.restate.attach(key).await? {
                Some(placed) => Ok(placed),
                None => Ok(self.in_steps.place(id, intent).await?),
            },
        }
    }
}

/// A front has died with this order. Restate knows whether it was handed over, and waits with us if it is not placed yet.
async fn what_became_of_it(restate: Restate, doubt: Doubt) -> Resolution {
    match restate.attach(&doubt.downstream_key(WHOLE)).await {
        Ok(Some(placed)) => answered(&placed).unwrap_or(Resolution::Hold),
        // If it lands after all, this key is known by then, and the next attempt waits for that very order. A failure it finds as well.
        Ok(None) | Err(NotPlaced::Failed(..)) => Resolution::Rerun,
        Err(NotPlaced::Unknown(error)) => {
            tracing::warn!(%error, "nobody can say what became of the order");
            Resolution::Hold
        }
    }
}

fn answered(placed: &Placed) -> Option<Resolution> {
    let body = serde_json::to_vec(placed).ok()?;
    let answer = Response::builder()
        .header("content-type", "application/json")
        .body(body);
    Resolution::answered(answer.ok()?).ok()
}
