//! Clients and edges that send a request again by themselves, and know nothing of this crate: curl, nginx, and a client that does
//! as Go's does. Each time the shop charges once.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use axum::http::HeaderName;
use oneflight::http::KeySource;
use oneflight::http::layer::IdempotencyLayer;
use oneflight::{Idempotency, MemoryStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::process::{Child, Command};

use crate::shop::proxy::{Cut, Proxy};
use crate::shop::{Listener, SECRET, Shop, command, run, within};

/// A process of the shop. Those of one store know of each other by it alone.
struct Process {
    idem: Idempotency<MemoryStore>,
    listener: Listener,
}

async fn process(shop: &Shop, number: usize, store: &MemoryStore) -> Process {
    let idem = Idempotency::builder(store.clone())
        .wait(Duration::from_secs(30))
        .build();
    let keys = KeySource::new().alias(HeaderName::from_static("x-idempotency-key"));
    let layer = IdempotencyLayer::new(idem.clone()).keys(keys).required();
    let listener = shop.listen(number, layer).await;
    Process { idem, listener }
}

impl Process {
    fn port(&self) -> u16 {
        self.listener.port
    }
}

/// An answer as curl prints it, with its head.
async fn curl(charge: &str, arguments: &[&str]) -> String {
    let mut curl = command("curl");
    curl.args(["--silent", "--show-error", "--include", "--max-time", "60"]);
    curl.args([
        "--oauth2-bearer",
        SECRET,
        "--header",
        "Idempotency-Key: \"order-7\"",
        "--data",
        charge,
    ]);
    let output = run(curl.args(arguments)).await;
    String::from_utf8(output.stdout).unwrap()
}

fn origins(shop: &Shop) -> Vec<(usize, String)> {
    let exchanges = shop.exchanges().into_iter();
    exchanges.map(|exchange| (exchange.listener, exchange.origin)).collect()
}

fn said(listener: usize, origin: &str) -> (usize, String) {
    (listener, origin.to_owned())
}

#[tokio::test]
async fn curl_that_gets_no_answer_asks_again_and_gets_the_first_one() {
    let (shop, store) = (Shop::new(), MemoryStore::new());
    let only = process(&shop, 1, &store).await;
    let proxy = Proxy::before(only.port()).await;
    proxy.cut("POST /v1/charges", Cut::AfterAnswer);
    let url = format!("http://127.0.0.1:{}/v1/charges", proxy.port());
    // By itself, curl takes an empty answer for final.
    let answer = curl(
        "amount=100&source=tok_visa",
        &["--retry", "3", "--retry-all-errors", &url],
    )
    .await;
    assert!(answer.contains("idempotency-replayed: true"), "{answer}");
    assert!(
        answer.ends_with(r#"{"amount":100,"id":"ch_1","object":"charge"}"#),
        "{answer}"
    );
    assert_eq!((proxy.cuts(), shop.executions()), (1, 1));
    assert_eq!(origins(&shop), [said(1, "executed"), said(1, "replayed")]);
}

#[tokio::test]
async fn curl_comes_back_after_the_time_that_it_is_told() {
    let (shop, store) = (Shop::new(), MemoryStore::new());
    let only = process(&shop, 1, &store).await;
    let url = format!("http://127.0.0.1:{}/v1/charges", only.port());
    let begun = Instant::now();
    let answer = curl("amount=100&source=tok_busy", &["--retry", "3", &url]).await;
    // Two, while its own first pause is one.
    assert!(begun.elapsed() >= Duration::from_secs(2));
    assert!(
        answer.contains("HTTP/1.1 503") && answer.contains("retry-after: 2"),
        "{answer}"
    );
    assert!(answer.ends_with(r#""id":"ch_2","object":"charge"}"#), "{answer}");
    assert_eq!(shop.statuses(), [503, 200]);
}

/// An nginx that asks the second server where the first one gives no answer, also for POST.
struct Edge {
    folder: TempDir,
    _process: Child,
}

impl Edge {
    async fn before(first: u16, second: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().display();
        let settings = format!(
            "daemon off;
             master_process off;
             pid {at}/pid;
             error_log {at}/log;
             events {{}}
             http {{
                 access_log off;
                 client_body_temp_path {at}/client;
                 proxy_temp_path {at}/proxy;
                 fastcgi_temp_path {at}/fastcgi;
                 uwsgi_temp_path {at}/uwsgi;
                 scgi_temp_path {at}/scgi;
                 upstream shop {{
                     server 127.0.0.1:{first};
                     server 127.0.0.1:{second} backup;
                 }}
                 server {{
                     listen unix:{at}/socket;
                     location / {{
                         proxy_pass http://shop;
                         proxy_read_timeout 30s;
                         proxy_next_upstream error timeout non_idempotent;
                     }}
                 }}
             }}"
        );
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, settings).unwrap();
        let mut nginx = nginx();
        nginx.arg("-p").arg(folder.path()).arg("-c").arg(&file);
        let mut process = nginx.spawn().expect("nginx can be run: run bin/setup");
        let socket = folder.path().join("socket");
        // It does not say when it listens.
        within(async {
            while UnixStream::connect(&socket).await.is_err() {
                assert_eq!(process.try_wait().unwrap(), None, "nginx has ended");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        Self {
            folder,
            _process: process,
        }
    }

    async fn charge(&self, charge: &str) -> String {
        let socket = self.folder.path().join("socket");
        let socket = socket.to_str().unwrap();
        curl(charge, &["--unix-socket", socket, "http://edge/v1/charges"]).await
    }

    /// What it has to say of its servers.
    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

/// Debian has it where only the administrator's path leads.
fn nginx() -> Command {
    let debians = "/usr/sbin/nginx";
    match std::fs::exists(debians) {
        Ok(true) => command(debians),
        _ => command("nginx"),
    }
}

#[tokio::test]
async fn nginx_whose_first_server_is_cut_off_after_the_charge_gets_it_from_the_second() {
    let (shop, store) = (Shop::new(), MemoryStore::new());
    let (first, second) = (process(&shop, 1, &store).await, process(&shop, 2, &store).await);
    let proxy = Proxy::before(first.port()).await;
    let edge = Edge::before(proxy.port(), second.port()).await;
    proxy.cut("POST /v1/charges", Cut::Reset);
    let answer = edge.charge("amount=100&source=tok_visa").await;
    assert!(edge.log().contains("Connection reset by peer"), "{}", edge.log());
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("idempotency-replayed: true"), "{answer}");
    assert!(answer.ends_with(r#""id":"ch_1","object":"charge"}"#), "{answer}");
    assert_eq!((proxy.cuts(), shop.executions()), (1, 1));
    assert_eq!(origins(&shop), [said(1, "executed"), said(2, "replayed")]);
}

#[tokio::test]
async fn nginx_whose_first_server_is_cut_off_in_mid_charge_waits_for_it_at_the_second() {
    let (shop, store) = (Shop::new(), MemoryStore::new());
    let (first, second) = (process(&shop, 1, &store).await, process(&shop, 2, &store).await);
    let proxy = Proxy::before(first.port()).await;
    let edge = Edge::before(proxy.port(), second.port()).await;
    // The first server is at work on it when its edge is gone.
    let cut = async {
        shop.begun().await;
        proxy.cut_all();
        within(async {
            while second.idem.in_flight() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        shop.open();
    };
    let (answer, ()) = tokio::join!(edge.charge("amount=100&source=tok_slow"), cut);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with(r#""id":"ch_1","object":"charge"}"#), "{answer}");
    assert!(edge.log().contains("prematurely closed connection"), "{}", edge.log());
    shop.until(|exchange| exchange.origin == "executed").await;
    assert_eq!(shop.executions(), 1);
    let mut origins = origins(&shop);
    origins.sort();
    assert_eq!(origins, [said(1, "executed"), said(2, "replayed")]);
}

/// A client that does with a POST as Go's `net/http` does (`Transport`, `persistConn.shouldRetryRequest`, `Request.isReplayable`):
/// on a connection that was used before, and that ends before the first byte of the answer, it sends the same bytes once more on a
/// new one, provided that they have a header `Idempotency-Key` or `X-Idempotency-Key`.
struct LikeGo {
    port: u16,
    idle: Option<TcpStream>,
    /// By what its connections have ended.
    ended: Vec<ErrorKind>,
}

impl LikeGo {
    async fn charge(&mut self, header: &str, key: &str) -> String {
        let body = "amount=100&source=tok_visa";
        let request = format!(
            "POST /v1/charges HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer {SECRET}\r\n{header}: {key}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        loop {
            let (mut connection, is_reused) = match self.idle.take() {
                Some(connection) => (connection, true),
                None => (TcpStream::connect(("127.0.0.1", self.port)).await.unwrap(), false),
            };
            match Self::exchange(&mut connection, &request).await {
                Ok(answer) => {
                    self.idle = Some(connection);
                    return answer;
                }
                Err(error) => {
                    self.ended.push(error.kind());
                    assert!(is_reused, "it is not sent again");
                }
            }
        }
    }

    /// An error if there is no first byte.
    async fn exchange(connection: &mut TcpStream, request: &str) -> std::io::Result<String> {
        connection.write_all(request.as_bytes()).await?;
        let mut answer = vec![connection.read_u8().await?];
        // All answers of the shop end so.
        while !answer.ends_with(b"}") {
            assert_ne!(connection.read_buf(&mut answer).await.unwrap(), 0);
        }
        Ok(String::from_utf8(answer).unwrap())
    }
}

#[tokio::test]
async fn a_client_like_gos_whose_connection_is_reset_after_the_charge_gets_it_on_another() {
    for header in ["Idempotency-Key", "X-Idempotency-Key"] {
        let (shop, store) = (Shop::new(), MemoryStore::new());
        let only = process(&shop, 1, &store).await;
        let proxy = Proxy::before(only.port()).await;
        let mut client = LikeGo {
            port: proxy.port(),
            idle: None,
            ended: Vec::new(),
        };
        let before = within(client.charge(header, "order-6")).await;
        assert!(before.ends_with(r#""id":"ch_1","object":"charge"}"#), "{before}");
        proxy.cut("order-7", Cut::Reset);
        let answer = within(client.charge(header, "order-7")).await;
        assert_eq!(client.ended, [ErrorKind::ConnectionReset]);
        assert!(answer.contains("idempotency-replayed: true"), "{answer}");
        assert!(answer.ends_with(r#""id":"ch_2","object":"charge"}"#), "{answer}");
        assert_eq!((proxy.cuts(), shop.executions()), (1, 2));
        assert_eq!(
            origins(&shop),
            ["executed", "executed", "replayed"].map(|origin| said(1, origin))
        );
    }
}
