//! The proxy's door: connections of clients, and their requests.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::header::{ALLOW, HOST, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::Watcher;
use oneflight::http::{Problem, X_CORRELATION_ID};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::body::Body;
use super::config::Clients;
use super::forward::{Client, bad_gateway};
use super::headers::{self, Asked};
use super::interim::{Interim, WithInterim};
use super::state::State;
use super::telemetry::InFlight;

/// The target of the access log.
const ACCESS: &str = "oneflight::access";

/// Accepts connections until it is told to stop, and those that are waiting then.
pub(super) async fn accept(
    listener: TcpListener,
    state: Arc<State>,
    stops: CancellationToken,
    watcher: impl Fn() -> Watcher,
) {
    let serve = |stream: TcpStream, address| {
        let _ = stream.set_nodelay(true);
        let served = connection(stream, address, Arc::clone(&state), watcher());
        state.connections.spawn(served);
    };
    while let Some(accepted) = stops.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, address)) => serve(stream, address),
            Err(error) => {
                // Of a client that is gone already, or of files that are all in use.
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
    // To their clients they are made.
    while let Poll::Ready(Ok((stream, address))) = poll_fn(|cx| Poll::Ready(listener.poll_accept(cx))).await {
        serve(stream, address);
    }
}

async fn connection(stream: TcpStream, address: SocketAddr, state: Arc<State>, watcher: Watcher) {
    let clients = state.current().config.clients;
    let interim = Interim::default();
    let client = Client {
        address,
        interim: interim.clone(),
    };
    let service = service_fn(move |request| answer(request, client.clone(), Arc::clone(&state)));
    let server = server(clients);
    let stream = WithInterim::new(TokioIo::new(stream), interim, clients.header_time);
    let connection = server.serve_connection_with_upgrades(stream, service);
    if let Err(error) = watcher.watch(connection.into_owned()).await {
        tracing::debug!(%error, client = %address, "a connection broke");
    }
}

fn server(clients: Clients) -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(clients.header_time)
        .max_headers(clients.header_lines)
        .max_buf_size(clients.header_size.0);
    server
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(clients.header_time)
        .max_header_list_size(u32::try_from(clients.header_size.0).unwrap_or(u32::MAX));
    server
}

async fn answer(
    request: Request<Incoming>,
    client: Client,
    state: Arc<State>,
) -> Result<Response<Body>, std::convert::Infallible> {
    let begun = Instant::now();
    let _in_flight = InFlight::begins(&state.in_flight);
    client.interim.begins();
    let mut request = request.map(Body::incoming);
    let generation = state.current();
    let admitted = admit(&mut request);
    let way = generation.way(request.method(), request.uri().path(), &state.protection);
    if let Err(answer) = admitted {
        way.answers.count(answer.status());
        return Ok(*answer);
    }
    // What is of the connection only is nobody's to look at from here on: the layer sees what the backend gets.
    let asked = Asked::of(request.headers());
    headers::leave_connection(request.headers_mut());
    request.extensions_mut().insert(asked);
    let address = client.address;
    request.extensions_mut().insert(client);
    let logged = tracing::enabled!(target: ACCESS, tracing::Level::INFO).then(|| {
        (
            request.method().clone(),
            request.uri().path().to_owned(),
            request.version(),
        )
    });
    let answered = way.answer(request).await;
    let mut answer = answered.unwrap_or_else(|failure| bad_gateway(&failure));
    // The connection says its own.
    *answer.version_mut() = Version::HTTP_11;
    leave_reason_empty(&mut answer);
    way.answers.count(answer.status());
    if let Some((method, path, version)) = logged {
        let header = |name| {
            answer
                .headers()
                .get(name)
                .and_then(|value: &HeaderValue| value.to_str().ok())
        };
        tracing::info!(
            target: ACCESS,
            client = %address,
            %method,
            path,
            ?version,
            route = &**way.name,
            status = answer.status().as_u16(),
            milliseconds = begun.elapsed().as_secs_f64() * 1e3,
            correlation_id = header(X_CORRELATION_ID),
            origin = header(oneflight::http::layer::IDEMPOTENCY_ORIGIN),
        );
    }
    Ok(answer)
}

/// Leaves the reason of a status empty that has none, as in a replay: hyper would write `<none>`.
fn leave_reason_empty(answer: &mut Response<Body>) {
    if answer.status().canonical_reason().is_none() && answer.extensions().get::<ReasonPhrase>().is_none() {
        answer.extensions_mut().insert(ReasonPhrase::from_static(b""));
    }
}

/// Says whether a request can be forwarded at all, and gives it the `Host` that its target names.
fn admit(request: &mut Request<Body>) -> Result<(), Box<Response<Body>>> {
    if request.method() == Method::CONNECT {
        let mut answer: Response<Body> = Problem::new(StatusCode::METHOD_NOT_ALLOWED)
            .with_title("Not a tunnel")
            .with_detail("This is a proxy of one service: it connects to no other.")
            .into_response();
        answer.headers_mut().insert(
            ALLOW,
            HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        );
        return Err(Box::new(answer));
    }
    if !headers::is_only_chunked(request.headers()) {
        return Err(Box::new(
            Problem::new(StatusCode::NOT_IMPLEMENTED)
                .with_title("A coding that is not known here")
                .with_detail("`Transfer-Encoding` is `chunked`, or is left away: a coding of content stands in `Content-Encoding`.")
                .into_response(),
        ));
    }
    if let Some(authority) = request.uri().authority() {
        // What the target says goes before `Host` (RFC 9112, section 3.2.2; RFC 9113, section 8.3.1).
        let host = authority.as_str().rsplit('@').next().unwrap_or_default();
        if let Ok(host) = HeaderValue::from_str(host) {
            request.headers_mut().insert(HOST, host);
        }
    }
    let hosts = request.headers().get_all(HOST).iter().count();
    let is_ambiguous = hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11);
    match is_ambiguous {
        false => Ok(()),
        true => Err(Box::new(
            Problem::new(StatusCode::BAD_REQUEST)
                .with_title("Not for one host")
                .with_detail("A request has exactly one Host.")
                .into_response(),
        )),
    }
}
