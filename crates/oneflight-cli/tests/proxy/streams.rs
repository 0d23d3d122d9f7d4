//! Without a key everything streams: bodies, events, trailers, and other protocols.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::backend::{Backend, text, until};
use crate::client::Raw;
use crate::proxy::{Home, PATIENCE, Proxy};

type Frames = mpsc::Sender<Result<Frame<Bytes>, std::io::Error>>;

/// A body whose frames are sent by hand.
fn by_hand() -> (Frames, crate::backend::Body) {
    let (frames, mut sent) = mpsc::channel(1);
    let stream = futures::stream::poll_fn(move |cx| sent.poll_recv(cx));
    (frames, StreamBody::new(stream).boxed_unsync())
}

fn data(text: &str) -> Result<Frame<Bytes>, std::io::Error> {
    Ok(Frame::data(Bytes::from(text.to_owned())))
}

async fn connect(proxy: &Proxy) -> hyper::client::conn::http1::SendRequest<crate::backend::Body> {
    let stream = TcpStream::connect(proxy.address).await.expect("a connection");
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .expect("HTTP");
    tokio::spawn(connection.with_upgrades());
    sender
}

#[tokio::test]
async fn the_first_event_comes_before_the_last_is_made() {
    let home = Home::new();
    let (events, body) = by_hand();
    let body = Arc::new(std::sync::Mutex::new(Some(body)));
    let backend = Backend::by(move |_| {
        let body = body.lock().expect("not poisoned").take().expect("one request");
        async move {
            Response::builder()
                .header("content-type", "text/event-stream")
                .body(body)
                .expect("an answer")
        }
    })
    .await;
    let proxy = Proxy::before(&home, backend.address, "");
    let mut client = Raw::to(proxy.address).await;
    client.write("GET /events HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    for event in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
        events.send(data(event)).await.expect("a reader");
        client.until(event).await;
    }
    drop(events);
    client.until("0\r\n\r\n").await;
}

#[tokio::test]
async fn the_first_part_of_a_request_is_read_before_the_last_is_made() {
    let home = Home::new();
    let read = Arc::new(AtomicUsize::new(0));
    let reads = Arc::clone(&read);
    let backend = Backend::by(move |request| {
        let reads = Arc::clone(&reads);
        async move {
            let mut body = request.into_body();
            while let Some(frame) = body.frame().await {
                reads.fetch_add(frame.expect("a frame").into_data().map_or(0, |data| data.len()), SeqCst);
            }
            text(reads.load(SeqCst).to_string())
        }
    })
    .await;
    let proxy = Proxy::before(&home, backend.address, "");
    let (parts, body) = by_hand();
    let request = Request::post("/")
        .header("host", "shop.example")
        .body(body)
        .expect("a request");
    let mut sender = connect(&proxy).await;
    let answer = tokio::spawn(async move { sender.send_request(request).await });
    for sent in 1..=3 {
        parts.send(data("part")).await.expect("a reader");
        until(|| read.load(SeqCst) == 4 * sent).await;
    }
    drop(parts);
    let answer = answer.await.expect("no panic").expect("an answer");
    assert_eq!(crate::client::whole(answer).await.expect("a body").text(), "12");
}

#[tokio::test]
async fn who_reads_slowly_is_sent_to_slowly() {
    const PART: usize = 64 * 1024;
    const PARTS: usize = 2_000;
    let home = Home::new();
    let made = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&made);
    let backend = Backend::by(move |_| {
        let (frames, body) = by_hand();
        let counts = Arc::clone(&counts);
        tokio::spawn(async move {
            for _ in 0..PARTS {
                if frames
                    .send(Ok(Frame::data(Bytes::from(vec![b'x'; PART]))))
                    .await
                    .is_err()
                {
                    return;
                }
                counts.fetch_add(1, SeqCst);
            }
        });
        async move { Response::new(body) }
    })
    .await;
    let proxy = Proxy::before(&home, backend.address, "");
    let mut client = Raw::to(proxy.address).await;
    client.write("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    client.head().await;
    // What the sockets between hold is a few megabytes; when that is full, nothing moves.
    let mut last = usize::MAX;
    while made.load(SeqCst) != last {
        last = made.load(SeqCst);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(
        last < PARTS / 2,
        "{last} of {PARTS} parts were taken for a client that reads none"
    );
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let home = Home::new();
    let backend = Backend::by(|request| async move {
        assert_eq!(request.headers()["te"], "trailers");
        let collected = request.into_body().collect().await.expect("a body");
        let sum = collected
            .trailers()
            .map(|trailers| trailers["x-sum"].clone())
            .expect("trailers");
        let (frames, body) = by_hand();
        tokio::spawn(async move {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", sum);
            let _ = frames.send(data("answer")).await;
            let _ = frames.send(Ok(Frame::trailers(trailers))).await;
        });
        Response::builder()
            .header("trailer", "x-sum")
            .body(body)
            .expect("an answer")
    })
    .await;
    let proxy = Proxy::before(&home, backend.address, "");
    let mut client = Raw::to(proxy.address).await;
    client
        .write(
            "POST / HTTP/1.1\r\nHost: shop.example\r\nTE: trailers\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n\
             4\r\nbody\r\n0\r\nx-sum: 17\r\n\r\n",
        )
        .await;
    let head = client.head().await;
    assert!(head.contains("trailer: x-sum\r\n"), "{head}");
    client.until("answer").await;
    let trailers = client.head().await;
    assert!(trailers.contains("x-sum: 17\r\n"), "{trailers}");
}

#[tokio::test]
async fn a_connection_that_changes_its_protocol_is_a_tunnel() {
    let home = Home::new();
    let backend = Backend::raw(|mut client| async move {
        let head = client.head().await;
        assert!(head.contains("upgrade: echo\r\n") && head.contains("connection: upgrade\r\n"), "{head}");
        client
            .write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\nhello ")
            .await;
        for _ in 0..3 {
            let line = client.until("\n").await;
            client.write(&line.to_uppercase()).await;
        }
    })
    .await;
    let proxy = Proxy::before(&home, backend.address, "");
    let mut client = Raw::to(proxy.address).await;
    client
        .write("GET /socket HTTP/1.1\r\nHost: shop.example\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        .await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(
        head.contains("upgrade: echo\r\n") && head.contains("connection: upgrade\r\n"),
        "{head}"
    );
    assert!(head.contains("sec-websocket-accept: x\r\n"), "{head}");
    client.until("hello ").await;
    for line in ["one\n", "two\n", "three\n"] {
        client.write(line).await;
        assert_eq!(client.until("\n").await, line.to_uppercase());
    }
    // The end of one side is the end of the other.
    assert_eq!(client.end().await, "");
    assert_eq!(proxy.told("panicked"), 0);
}

#[tokio::test]
async fn an_upgrade_that_is_not_granted_is_an_answer() {
    let home = Home::new();
    let backend = Backend::by(|_| async { text("no socket here") }).await;
    let proxy = Proxy::before(&home, backend.address, "");
    let mut client = Raw::to(proxy.address).await;
    for _ in 0..2 {
        client
            .write("GET /socket HTTP/1.1\r\nHost: shop.example\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
            .await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 "));
        client.until("no socket here").await;
    }
}

#[tokio::test]
async fn who_hangs_up_in_mid_answer_ends_it_at_the_backend() {
    let home = Home::new();
    let (frames, body) = by_hand();
    let body = Arc::new(std::sync::Mutex::new(Some(body)));
    let backend = Backend::by(move |_| {
        let body = body.lock().expect("not poisoned").take().expect("one request");
        async move { Response::new(body) }
    })
    .await;
    let proxy = Proxy::before(&home, backend.address, "");
    let mut client = Raw::to(proxy.address).await;
    client.write("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    frames.send(data("first")).await.expect("a reader");
    client.until("first").await;
    drop(client);
    let ended = timeout(PATIENCE, async { while frames.send(data("more")).await.is_ok() {} });
    ended.await.expect("it is told that nobody reads");
}
