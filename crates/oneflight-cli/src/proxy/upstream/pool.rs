//! The connections to one backend: those that are idle, and how another one is made.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use oneflight::http::layer::FromBody;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout, timeout_at};

use super::super::body::{Body, BoxError};
use super::address::{Address, Tls};
use super::answer::AnswerBody;
use super::connection::{Connection, Unanswered};
use super::failure::{Failure, Reason, Sent};
use super::idle::Idle;
use super::outgoing::Outgoing;
use super::stream::{Counted, Stream};
use super::trust::Trust;

/// A backend and the connections to it. Clones share these.
#[derive(Clone)]
pub(in super::super) struct Pool {
    address: Arc<Address>,
    trust: Trust,
    idle: Arc<Idle>,
}

/// How long a backend may take.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Limits {
    /// To accept a connection.
    pub(in super::super) connect: Duration,
    /// To begin its answer, once the request is on its way.
    pub(in super::super) answer: Duration,
    /// A connection that was idle for longer is not used again.
    pub(in super::super) idle: Duration,
}

impl Pool {
    pub(in super::super) fn new(address: Address, trust: Trust) -> Self {
        Self {
            address: Arc::new(address),
            trust,
            idle: Arc::default(),
        }
    }

    /// Whether it is a pool of connections to this backend.
    pub(in super::super) fn is_of(&self, address: &Address, trust: &Trust) -> bool {
        *self.address == *address && self.trust == *trust
    }

    pub(in super::super) fn address(&self) -> &Address {
        &self.address
    }

    /// Closes the connections that were idle for so long.
    pub(in super::super) fn close_idle(&self, longest: Duration) {
        let closed: Vec<Connection> = {
            let mut idle = self.idle.0.lock();
            // The one that was used last stands last.
            let old = idle.partition_point(|connection| connection.used.elapsed() >= longest);
            idle.drain(..old).collect()
        };
        drop(closed);
    }

    /// Whether the backend accepts connections.
    pub(in super::super) async fn accepts(&self, limits: Limits) -> Result<(), Failure> {
        self.open(limits).await.map(drop)
    }

    /// Sends a request, and returns its answer, or the request with the reason why it could not be sent.
    pub(in super::super) async fn send(
        &self,
        mut request: Request<Outgoing>,
        limits: Limits,
    ) -> Result<Response<Body>, (Failure, Option<Request<Outgoing>>)> {
        // At the latest a new connection takes it, unless that ends as soon as it is made.
        const FRESH: usize = 2;
        let mut fresh = 0;
        loop {
            let connection = match self.reuse(limits.idle).await {
                Some(connection) => connection,
                None => match self.open(limits).await {
                    Ok(connection) => {
                        fresh += 1;
                        connection
                    }
                    Err(failure) => return Err((failure, Some(request))),
                },
            };
            match self.exchange(connection, request, limits).await {
                Ok(answer) => return Ok(answer),
                Err(Unanswered::Unsent(again)) if fresh < FRESH => request = *again,
                Err(Unanswered::Unsent(again)) => {
                    let failure = Failure {
                        reason: Reason::Connect,
                        sent: Sent::Nothing,
                        source: Some("it closes each connection at once".into()),
                    };
                    return Err((failure, Some(*again)));
                }
                Err(Unanswered::Failed(failure)) => return Err((failure, None)),
            }
        }
    }

    async fn reuse(&self, longest: Duration) -> Option<Connection> {
        loop {
            let mut connection = self.idle.0.lock().pop()?;
            if connection.used.elapsed() < longest && connection.stands().await {
                return Some(connection);
            }
        }
    }

    async fn open(&self, limits: Limits) -> Result<Connection, Failure> {
        let failed = |source: BoxError| Failure {
            reason: super::trust::doubted(&source).map_or(Reason::Connect, Reason::Untrusted),
            sent: Sent::Nothing,
            source: Some(source),
        };
        let connected = timeout(limits.connect, async {
            let stream = connect(&self.address, &self.trust).await?;
            Ok(Connection::open(stream).await?)
        });
        match connected.await {
            Ok(connected) => connected.map_err(failed),
            Err(_) => Err(failed(format!("no connection within {:?}", limits.connect).into())),
        }
    }

    async fn exchange(
        &self,
        mut connection: Connection,
        request: Request<Outgoing>,
        limits: Limits,
    ) -> Result<Response<Body>, Unanswered> {
        let progress = request.body().progress();
        let answered = {
            let begun = Instant::now();
            let mut end = begun + limits.answer;
            let mut answered = pin!(connection.send(request));
            loop {
                if let Ok(answered) = timeout_at(end, answered.as_mut()).await {
                    break answered?;
                }
                // The time counts from the end of the request.
                let over = progress.ended_at().max(begun) + limits.answer;
                end = match progress.flows() {
                    true => Instant::now() + limits.answer,
                    false if over > end => over,
                    false => {
                        return Err(Unanswered::Failed(Failure {
                            reason: Reason::TimedOut,
                            sent: Sent::Something,
                            source: None,
                        }));
                    }
                };
            }
        };
        let is_sent = progress.answered();
        let connection = match (answered.status(), is_sent) {
            (StatusCode::SWITCHING_PROTOCOLS, _) => {
                tokio::spawn(connection.until_over());
                None
            }
            // The rest of the request goes on, whether or not the client reads the answer meanwhile.
            (_, false) => {
                let idle = Arc::clone(&self.idle);
                tokio::spawn(async move {
                    if let Some(connection) = connection.until_idle().await {
                        idle.put(connection);
                    }
                });
                None
            }
            (_, true) => Some(connection),
        };
        let (parts, body) = answered.into_parts();
        let body = match (hyper::body::Body::is_end_stream(&body), connection) {
            (true, Some(mut connection)) => {
                let is_over = poll_fn(|cx| Poll::Ready(connection.poll(cx).is_ready())).await;
                if !is_over && connection.is_idle() {
                    self.idle.put(connection);
                }
                Body::empty()
            }
            (true, None) => Body::empty(),
            (false, connection) => Body::from_body(AnswerBody::new(body, connection, Arc::clone(&self.idle))),
        };
        Ok(Response::from_parts(parts, body))
    }
}

async fn connect(address: &Address, trust: &Trust) -> Result<Stream, BoxError> {
    match address {
        Address::Unix(path) => Ok(Counted::new(UnixStream::connect(path).await?).plain()),
        Address::Tcp { host, port, tls } => {
            // An address of IPv6 stands in brackets.
            let plain = host.trim_start_matches('[').trim_end_matches(']');
            let stream = TcpStream::connect((plain, *port)).await?;
            stream.set_nodelay(true)?;
            match tls {
                Tls::Plain => Ok(Counted::new(stream).plain()),
                #[cfg(feature = "tls")]
                Tls::Encrypted => {
                    let name = tokio_rustls::rustls::pki_types::ServerName::try_from(plain.to_owned())?;
                    let stream = Counted::new(stream);
                    let written = stream.written();
                    let stream = trust.connector.connect(name, stream).await?;
                    Ok(Stream::new(stream, written))
                }
                // It cannot be configured then.
                #[cfg(not(feature = "tls"))]
                Tls::Encrypted => Err(format!("{trust:?} has no TLS").into()),
            }
        }
    }
}
