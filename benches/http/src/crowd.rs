//! Ten thousand duplicates of one request, whose answer has 1 MiB, in flight together. Without sockets: over loopback they
//! would wait for 10 GiB to be sent.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use axum::Router;
use axum::response::Response;
use axum::routing::post;
use bytes::Bytes;
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use tokio::runtime::Builder;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tower::ServiceExt;

use crate::entrants::{Entrant, Executions, PATIENCE};
use crate::request::{self, Keyed};

/// How many duplicates there are, the one that is executed included.
pub const CROWD: usize = 10_000;

/// The size of the answer, in bytes.
pub const ANSWER: usize = 1024 * 1024;

/// When the callers had the whole answer, in milliseconds after the handler was let go on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// The caller whose request was executed.
    pub leader: f64,
    /// The median of the others.
    pub median: f64,
    /// All but a hundredth of the others.
    pub p99: f64,
    /// The last of the others.
    pub last: f64,
}

/// A crowd in front of a handler that goes on when all wait.
struct Scene {
    app: Router,
    executions: Executions,
    waiting: AtomicUsize,
    everybody_waits: Notify,
    gate: Notify,
}

impl Scene {
    fn set() -> Arc<Self> {
        Arc::new_cyclic(|scene| {
            let executions = Executions::default();
            let (counted, scene) = (executions.clone(), scene.clone());
            let handler = post(move || {
                counted.add();
                let scene: Option<Arc<Self>> = scene.upgrade();
                async move {
                    if let Some(scene) = scene {
                        scene.gate.notified().await;
                    }
                    Bytes::from(vec![b'a'; ANSWER])
                }
            });
            Self {
                app: Entrant::Oneflight.app(handler),
                executions,
                waiting: AtomicUsize::new(0),
                everybody_waits: Notify::new(),
                gate: Notify::new(),
            }
        })
    }

    /// Sends the request, and says when it waits.
    async fn call(self: Arc<Self>) -> Response {
        let mut answered = pin!(self.app.clone().oneshot(request::request(Keyed::With(1))));
        let mut is_waiting = false;
        let Ok(response) = poll_fn(|cx| {
            let polled = answered.as_mut().poll(cx);
            if polled.is_pending() && !is_waiting {
                is_waiting = true;
                if self.waiting.fetch_add(1, Ordering::SeqCst) + 1 == CROWD {
                    self.everybody_waits.notify_one();
                }
            }
            match polled {
                Poll::Ready(response) => Poll::Ready(response),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        response
    }
}

async fn patiently<F: Future>(awaited: F) -> F::Output {
    timeout(PATIENCE, awaited).await.expect("it ends in time")
}

fn origin(response: &Response) -> &[u8] {
    response
        .headers()
        .get("idempotency-origin")
        .map_or(b"", |origin| origin.as_bytes())
}

/// Returns the times of a crowd of tasks on two workers.
///
/// # Panics
///
/// If the handler was not executed once, or somebody did not get the whole answer by waiting for it.
pub fn times() -> Times {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let scene = Scene::set();
    let mut times = runtime.block_on(async {
        let mut crowd = JoinSet::new();
        let let_go = Arc::new(std::sync::OnceLock::new());
        for _ in 0..CROWD {
            let (scene, let_go) = (Arc::clone(&scene), Arc::clone(&let_go));
            crowd.spawn(async move {
                let response = scene.call().await;
                let is_leader = origin(&response) == b"executed";
                assert!(is_leader || origin(&response) == b"collapsed", "it waited");
                let body = response.into_body().collect().await.expect("a body").to_bytes();
                let at = Instant::now();
                assert_eq!(body.len(), ANSWER);
                let let_go: &Instant = let_go.get().expect("everybody waited");
                (is_leader, at.duration_since(*let_go))
            });
        }
        patiently(scene.everybody_waits.notified()).await;
        let_go.set(Instant::now()).expect("once");
        scene.gate.notify_one();
        patiently(crowd.join_all()).await
    });
    assert_eq!(scene.executions.count(), 1);
    times.sort_by_key(|(is_leader, time)| (!is_leader, *time));
    assert!(times[0].0 && !times[1].0, "one of them was executed");
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let others: Vec<f64> = times[1..].iter().map(|(_, time)| millis(*time)).collect();
    Times {
        leader: millis(times[0].1),
        median: others[others.len() / 2],
        p99: others[others.len() * 99 / 100],
        last: others[others.len() - 1],
    }
}

/// What a crowd holds while all have their answers, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// While all wait, for each of them: its task, its request, its place in the flight.
    pub waiting: f64,
    /// When all have their answers: everything that was not there before.
    pub answered: f64,
}

/// Returns what a crowd holds, on one thread. `live` says how many bytes of the heap are allocated.
pub fn held(live: impl Fn() -> i64) -> Held {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let scene = Scene::set();
    let mut answers = Vec::with_capacity(CROWD);
    runtime.block_on(async {
        let before = live();
        let mut crowd = JoinSet::new();
        for _ in 0..CROWD {
            crowd.spawn(Arc::clone(&scene).call());
        }
        patiently(scene.everybody_waits.notified()).await;
        let waiting = live() - before;
        scene.gate.notify_one();
        while let Some(answer) = patiently(crowd.join_next()).await {
            answers.push(answer.expect("no panic"));
        }
        drop(crowd);
        let answered = live() - before;
        let collapsed = answers.iter().filter(|answer| origin(answer) == b"collapsed").count();
        assert_eq!((scene.executions.count(), collapsed), (1, CROWD - 1));
        Held {
            waiting: waiting as f64 / CROWD as f64,
            answered: answered as f64,
        }
    })
}
