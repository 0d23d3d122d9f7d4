//! The service that messages are delivered to: a stand-in for an API that takes idempotency keys, as Stripe's does. It is in the
//! driver's process, so no fault of a worker takes its memory away.
//!
//! ```text
//! arrives ─▶ key known? ─ done ─▶ the answer of the first time
//!                │      └ begun ─▶ 409
//!                └ new ─▶ in a mood ─▶ begun ─▶ its effect ─▶ done ─▶ 200
//!                              └─▶ 500, 429, no answer, too late an answer: with the effect or without it
//! ```
//!
//! What has begun goes on, also if the client goes away meanwhile. Effects are kept in the order in which they happen.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fastrand::Rng;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};

use crate::messages::Key;
use crate::notes::Note;

/// How long a relay waits for an answer.
pub const TIME_LIMIT: Duration = Duration::from_millis(400);
/// How often a message finds it in a bad mood, at each path.
const FAILURES: u8 = 3;
/// How many times in a round a client is kept waiting beyond its limit, or asked to wait for a second.
const PAUSES: u8 = 2;

/// What was done for a message, once.
pub struct Effect {
    pub path: String,
    pub note: Note,
}

/// What it is going to do with a message that it does not know.
#[derive(Clone, Copy)]
enum Mood {
    /// Do it, and say so.
    Good,
    /// Fail.
    Failing,
    /// Do it, and fail then.
    FailingLate,
    /// Ask for a second.
    Busy,
    /// Give no answer in time, and do nothing.
    Asleep,
    /// Do it when nobody waits for the answer any more.
    Slow,
    /// Close the connection.
    Gone,
    /// Do it, and close the connection in place of an answer.
    GoneLate,
}

/// What is known of a key.
enum Known {
    Begun,
    Done(Bytes),
}

#[derive(Default)]
struct Books {
    random: Rng,
    keys: HashMap<(String, String), Known>,
    failures: HashMap<(String, String), u8>,
    pauses: u8,
    effects: Vec<Effect>,
    last: Option<Instant>,
    repeated: usize,
    failed: usize,
    /// Of which it is known now how to do it.
    mended: HashSet<(Key, usize)>,
    wrong: Vec<String>,
}

/// What the receiver saw of a round.
#[derive(Default)]
pub struct Seen {
    pub effects: Vec<Effect>,
    /// When the last effect happened.
    pub last: Option<Instant>,
    /// How often something came that had been done.
    pub repeated: usize,
    /// How often it answered with a failure, or not at all.
    pub failed: usize,
    /// What must not be.
    pub wrong: Vec<String>,
}

#[derive(Default)]
struct Desk {
    books: Mutex<Books>,
    is_away: AtomicBool,
}

pub struct Receiver {
    url: String,
    desk: Arc<Desk>,
}

/// The connection is closed without an answer.
#[derive(Debug)]
struct Cut;

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no answer")
    }
}

impl std::error::Error for Cut {}

impl Receiver {
    /// Begins to serve, on a free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let desk = Arc::<Desk>::default();
        tokio::spawn(accept(listener, Arc::clone(&desk)));
        Self { url, desk }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Begins to count a round, with moods that are drawn from this seed.
    pub fn begin(&self, seed: u64) {
        let mut books = self.desk.books.lock();
        books.random = Rng::with_seed(seed);
        books.pauses = PAUSES;
    }

    /// How many effects there were in this round so far.
    pub fn effects(&self) -> usize {
        self.desk.books.lock().effects.len()
    }

    /// Closes every connection that something is asked over, from now on or no more.
    pub fn be_away(&self, is_away: bool) {
        self.desk.is_away.store(is_away, Ordering::SeqCst);
    }

    /// Does what it has refused, if it comes again.
    pub fn mend(&self, note: &Note) {
        self.desk.books.lock().mended.insert((note.key.clone(), note.part));
    }

    /// Ends a round.
    pub fn end(&self) -> Seen {
        let mut books = self.desk.books.lock();
        Seen {
            effects: std::mem::take(&mut books.effects),
            last: books.last.take(),
            repeated: std::mem::take(&mut books.repeated),
            failed: std::mem::take(&mut books.failed),
            wrong: std::mem::take(&mut books.wrong),
        }
    }
}

async fn accept(listener: TcpListener, desk: Arc<Desk>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        tokio::spawn(serve(stream, Arc::clone(&desk)));
    }
}

async fn serve(stream: TcpStream, desk: Arc<Desk>) {
    let service = service_fn(move |request| take(Arc::clone(&desk), request));
    // A client that was killed, or cut off.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn take(desk: Arc<Desk>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Cut> {
    if desk.is_away.load(Ordering::SeqCst) {
        return Err(Cut);
    }
    let path = request.uri().path().to_owned();
    let key = request.headers().get("idempotency-key");
    let key = key.and_then(|key| key.to_str().ok()).unwrap_or_default().to_owned();
    let body = request.into_body().collect().await.map_err(|_| Cut)?.to_bytes();
    // By itself, so that it goes on without its client.
    let answer = tokio::spawn(async move { desk.answer((path, key), body).await });
    let status = answer.await.ok().flatten().ok_or(Cut)?;
    let response = Response::builder().status(status);
    let response = match status {
        StatusCode::TOO_MANY_REQUESTS => response.header(header::RETRY_AFTER, "1"),
        _ => response,
    };
    response.body(Full::default()).map_err(|_| Cut)
}

impl Desk {
    /// Answers with a status, or not at all.
    async fn answer(&self, of: (String, String), body: Bytes) -> Option<StatusCode> {
        let (mood, pace) = match self.books.lock().look(&of, &body) {
            Ok(mood) => mood,
            Err(status) => return Some(status),
        };
        tokio::time::sleep(pace).await;
        match mood {
            Mood::Good | Mood::FailingLate | Mood::GoneLate => self.books.lock().act(&of, &body),
            Mood::Slow => {
                tokio::time::sleep(TIME_LIMIT.mul_f64(1.5)).await;
                self.books.lock().act(&of, &body);
            }
            Mood::Asleep => {
                tokio::time::sleep(TIME_LIMIT.mul_f64(1.5)).await;
                self.books.lock().keys.remove(&of);
            }
            Mood::Failing | Mood::Busy | Mood::Gone => {
                self.books.lock().keys.remove(&of);
            }
        }
        match mood {
            Mood::Good | Mood::Slow | Mood::Asleep => Some(StatusCode::OK),
            Mood::Failing | Mood::FailingLate => Some(StatusCode::INTERNAL_SERVER_ERROR),
            Mood::Busy => Some(StatusCode::TOO_MANY_REQUESTS),
            Mood::Gone | Mood::GoneLate => None,
        }
    }
}

impl Books {
    /// Looks a key up: what is to be done about it and how fast, or what is answered at once.
    fn look(&mut self, of: &(String, String), body: &Bytes) -> Result<(Mood, Duration), StatusCode> {
        match self.keys.get(of) {
            Some(Known::Begun) => return Err(StatusCode::CONFLICT),
            Some(Known::Done(first)) => {
                self.repeated += 1;
                if first == body {
                    return Err(StatusCode::OK);
                }
                self.wrong.push(format!("{} came to {} with two payloads", of.1, of.0));
                return Err(StatusCode::BAD_REQUEST);
            }
            None => {}
        }
        let Ok(note) = serde_json::from_slice::<Note>(body) else {
            self.wrong.push(format!("{} came to {} with no note", of.1, of.0));
            return Err(StatusCode::BAD_REQUEST);
        };
        if note.is_refused && !self.mended.contains(&(note.key.clone(), note.part)) {
            return Err(StatusCode::UNPROCESSABLE_ENTITY);
        }
        self.keys.insert(of.clone(), Known::Begun);
        let mood = self.mood(of);
        Ok((mood, Duration::from_micros(self.random.u64(..8_000))))
    }

    fn mood(&mut self, of: &(String, String)) -> Mood {
        let failures = self.failures.entry(of.clone()).or_default();
        if *failures == FAILURES {
            return Mood::Good;
        }
        let mood = match self.random.u8(..100) {
            0..=6 => Mood::Failing,
            7..=11 => Mood::FailingLate,
            12..=15 => Mood::Gone,
            16..=21 => Mood::GoneLate,
            pause @ 22..=33 if self.pauses > 0 => match pause % 3 {
                0 => Mood::Busy,
                1 => Mood::Asleep,
                _ => Mood::Slow,
            },
            _ => return Mood::Good,
        };
        *failures += 1;
        self.failed += 1;
        self.pauses -= u8::from(matches!(mood, Mood::Busy | Mood::Asleep | Mood::Slow));
        mood
    }

    fn act(&mut self, of: &(String, String), body: &Bytes) {
        self.keys.insert(of.clone(), Known::Done(body.clone()));
        let note = serde_json::from_slice(body).expect("it was looked at before");
        let path = of.0.clone();
        self.effects.push(Effect { path, note });
        self.last = Some(Instant::now());
    }
}
