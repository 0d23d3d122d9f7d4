//! The listener: connections are limited in number, their heads and answers in time, and a signal ends them when they are idle.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::guard::Peer;
use super::limits::{Addresses, Unread};

const CONNECTIONS: usize = 128;
/// How many of them an address of another machine has.
const OF_AN_ADDRESS: usize = 16;
/// How long a client may leave an answer unread.
const UNREAD: Duration = Duration::from_secs(30);
/// How long a client may take to send a head, and may say nothing between two requests.
const HEAD: Duration = Duration::from_secs(20);
const LARGEST_HEAD: usize = 16 * 1024;
/// How long what is under way may take once the dashboard is to end.
const FAREWELL: Duration = Duration::from_secs(10);

/// Serves until the process is told to end.
pub(super) async fn until_stopped(listener: TcpListener, router: Router, changes: TaskTracker) {
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(LARGEST_HEAD);
    let addresses = Addresses::default();
    let (graceful, room) = (GracefulShutdown::new(), Arc::new(Semaphore::new(CONNECTIONS)));
    let stopped = stopped();
    tokio::pin!(stopped);
    loop {
        let accepted = async {
            let permit = Arc::clone(&room).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = &mut stopped => break,
            accepted = accepted => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // No more files, say: they come back.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(of_address) = addresses.admit(peer.ip(), OF_AN_ADDRESS) else {
            tracing::debug!(%peer, "an address has too many connections");
            continue;
        };
        let stream = Unread::within(stream, UNREAD);
        let router = router.clone();
        let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(Peer(peer));
            let request: Request = request.map(axum::body::Body::new);
            router.clone().oneshot(request)
        });
        let connection = graceful.watch(server.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection failed");
            }
            drop((permit, of_address));
        });
    }
    drop(listener);
    let over = async {
        graceful.shutdown().await;
        // Of who asked and went away as well.
        changes.close();
        changes.wait().await;
    };
    if tokio::time::timeout(FAREWELL, over).await.is_err() {
        tracing::warn!("what was under way was cut off");
    }
}

/// Returns when the process is told to end.
async fn stopped() {
    let interrupted = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending::<()>();
    tokio::select! {
        () = interrupted => {}
        () = terminated => {}
    }
}
