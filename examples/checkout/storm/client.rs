//! One client of the storm: a keep-alive connection, and the patience to repeat a request until it is answered.
//!
//! It repeats what may be repeated under an idempotency key, which is everything that got no answer (the connection
//! broke, the service is away) and the two answers that ask for it (409 while the key is busy, 503). Any other answer
//! than success is final. All waiting ends at the storm's deadline.

use std::fmt;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::header::{CONTENT_TYPE, HOST, RETRY_AFTER};
use axum::http::response::Parts;
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use oneflight::http::{IDEMPOTENCY_KEY, KEY_FIELD};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

use super::plan::Spelling;
use crate::order::{Answer, NewOrder};

/// An answer may have so many bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// One attempt may take so long.
const ATTEMPT_TIME: Duration = Duration::from_secs(30);

/// No pause between two attempts is longer, whatever the service asks for.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// A request that can be sent any number of times.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    key_header: Option<String>,
    content_type: &'static str,
    body: Bytes,
}

impl Prepared {
    pub(crate) fn new(spelling: Spelling, key: &str, order: &NewOrder) -> Self {
        let NewOrder { item, quantity } = order;
        let json = |value: serde_json::Value| ("application/json", value.to_string());
        let plain = || json(json!({ "item": item, "quantity": quantity }));
        let (key_header, (content_type, body)) = match spelling {
            Spelling::QuotedHeader => (Some(format!("\"{key}\"")), plain()),
            Spelling::BareHeader => (Some(key.to_owned()), plain()),
            Spelling::JsonField => (
                None,
                json(json!({ KEY_FIELD: key, "item": item, "quantity": quantity })),
            ),
            Spelling::FormField => {
                let form = form_urlencoded::Serializer::new(String::new())
                    .append_pair(KEY_FIELD, key)
                    .append_pair("item", item)
                    .append_pair("quantity", &quantity.to_string())
                    .finish();
                (None, ("application/x-www-form-urlencoded", form))
            }
        };
        Self {
            key_header,
            content_type,
            body: body.into(),
        }
    }

    fn request(&self, address: SocketAddr) -> Result<Request<Full<Bytes>>, axum::http::Error> {
        let mut request = Request::post("/orders")
            .header(HOST, address.to_string())
            .header(CONTENT_TYPE, self.content_type);
        if let Some(key) = &self.key_header {
            request = request.header(IDEMPOTENCY_KEY, key);
        }
        request.body(Full::new(self.body.clone()))
    }

    /// The same request as bytes, for the client that is gone before it is answered.
    fn bytes(&self, address: SocketAddr) -> Vec<u8> {
        let key = self
            .key_header
            .as_ref()
            .map(|key| format!("{IDEMPOTENCY_KEY}: {key}\r\n"))
            .unwrap_or_default();
        let mut bytes = format!(
            "POST /orders HTTP/1.1\r\nhost: {address}\r\ncontent-type: {}\r\n{key}content-length: {}\r\n\r\n",
            self.content_type,
            self.body.len()
        )
        .into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// Why a request was given up.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The service answered, and not with an order.
    NoOrder { status: StatusCode, body: String },
    /// The service answered with something that is no answer of this service.
    Unreadable(String),
    /// The time of the storm is over.
    OutOfTime { last: String },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoOrder { status, body } => write!(f, "answered with {status}: {body}"),
            Self::Unreadable(what) => write!(f, "answered with something unreadable: {what}"),
            Self::OutOfTime { last } => write!(f, "not answered in time; at last: {last}"),
        }
    }
}

/// One client. Uses one connection at a time, and keeps it as long as it holds.
pub(crate) struct Client {
    address: SocketAddr,
    deadline: Instant,
    connection: Option<SendRequest<Full<Bytes>>>,
    random: fastrand::Rng,
    /// How many attempts broke off or were told to come again, and were repeated.
    pub(crate) retries: u64,
}

type Broken = Box<dyn std::error::Error + Send + Sync>;

impl Client {
    pub(crate) fn new(address: SocketAddr, deadline: Instant, seed: u64) -> Self {
        Self {
            address,
            deadline,
            connection: None,
            random: fastrand::Rng::with_seed(seed),
            retries: 0,
        }
    }

    /// Sends the request on a connection of its own, waits a little, and cuts the connection. Says whether the
    /// request went out and was not answered before the cut.
    pub(crate) async fn hang_up(&mut self, prepared: &Prepared, after: Duration) -> bool {
        let sent = async {
            let mut stream = TcpStream::connect(self.address).await?;
            stream.write_all(&prepared.bytes(self.address)).await?;
            stream.flush().await?;
            Ok::<_, std::io::Error>(stream)
        };
        match timeout_at(self.deadline, sent).await {
            Ok(Ok(stream)) => {
                sleep(after).await;
                let answer = stream.try_read(&mut [0]);
                drop(stream);
                // Whatever else there is to read, be it the end: the client did not leave before it.
                answer.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
            }
            _ => false,
        }
    }

    /// Sends the request until it is answered.
    pub(crate) async fn ask(&mut self, prepared: &Prepared) -> Result<Answer, Failure> {
        let mut pause = Duration::from_millis(5);
        if Instant::now() >= self.deadline {
            let last = "it was not sent".to_owned();
            return Err(Failure::OutOfTime { last });
        }
        loop {
            let until = self.deadline.min(Instant::now() + ATTEMPT_TIME);
            let (last, wait) = match timeout_at(until, self.attempt(prepared)).await {
                Ok(Ok((parts, body))) if parts.status.is_success() => {
                    return Answer::of(&parts.headers, &body).map_err(Failure::Unreadable);
                }
                Ok(Ok((parts, _)))
                    if matches!(parts.status, StatusCode::CONFLICT | StatusCode::SERVICE_UNAVAILABLE) =>
                {
                    (parts.status.to_string(), retry_after(&parts.headers))
                }
                Ok(Ok((Parts { status, .. }, body))) => {
                    let body = String::from_utf8_lossy(&body).chars().take(300).collect();
                    return Err(Failure::NoOrder { status, body });
                }
                Ok(Err(broken)) => (broken.to_string(), None),
                Err(_) => ("no answer in time".to_owned(), None),
            };
            // Half of the pause is chance, so that clients which failed together do not return together.
            let wait = wait.unwrap_or(pause).min(MAX_PAUSE);
            pause = (pause * 2).min(MAX_PAUSE / 4);
            let wait = wait.mul_f64(0.5 + self.random.f64() / 2.0);
            if Instant::now() + wait >= self.deadline {
                return Err(Failure::OutOfTime { last });
            }
            self.retries += 1;
            sleep(wait).await;
        }
    }

    /// One attempt: the answer's head and its body.
    async fn attempt(&mut self, prepared: &Prepared) -> Result<(Parts, Bytes), Broken> {
        let mut connection = match self.connection.take() {
            Some(connection) if !connection.is_closed() => connection,
            _ => self.connect().await?,
        };
        connection.ready().await?;
        let response = connection.send_request(prepared.request(self.address)?).await?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
        // Not before here: a connection whose answer was not read to its end is of no more use.
        self.connection = Some(connection);
        Ok((parts, body))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Broken> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Ends when the sender is dropped, or the other side closes.
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// What `Retry-After` asks for.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}
