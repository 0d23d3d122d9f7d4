//! What passes from a client to a backend and back, and what stays on its connection.

use crate::backend::{Backend, text};
use crate::client::{Raw, get, post, send};
use crate::proxy::{Home, Proxy};

/// Answers with the head of the request, as it came.
async fn mirror() -> Backend {
    Backend::raw(|mut client| async move {
        loop {
            let head = client.head().await;
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: X-Inner, keep-alive\r\nX-Inner: 1\r\nKeep-Alive: timeout=9\r\n\
                 X-End-To-End: 1\r\n\r\n{head}",
                head.len()
            );
            client.write(&answer).await;
        }
    })
    .await
}

#[tokio::test]
async fn what_is_of_a_connection_stays_there_both_ways() {
    let (home, backend) = (Home::new(), mirror().await);
    let proxy = Proxy::before(&home, backend.address, "");
    let headers = [
        ("connection", "X-Mine, keep-alive"),
        ("x-mine", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("te", "gzip"),
        ("x-for-the-backend", "1"),
    ];
    let answer = send(proxy.address, "GET", "/a%20b/../c?d=%2F&&e", &headers, "").await;
    let head = answer.text();
    assert!(head.starts_with("GET /a%20b/../c?d=%2F&&e HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("x-for-the-backend: 1\r\n"), "{head}");
    assert!(head.contains("via: 1.1 oneflight\r\n"), "{head}");
    for line in [
        "x-mine",
        "keep-alive",
        "proxy-connection",
        "te:",
        "connection",
        "expect",
    ] {
        assert!(!head.contains(line), "{line}: {head}");
    }
    assert_eq!(answer.header("x-end-to-end"), "1");
    assert_eq!(answer.header("via"), "1.1 oneflight");
    assert!(!answer.headers.contains_key("x-inner") && !answer.headers.contains_key("keep-alive"));
}

#[tokio::test]
async fn host_origin_and_forwarded_lines_arrive_untouched_and_none_is_added() {
    let (home, backend) = (Home::new(), mirror().await);
    let proxy = Proxy::before(&home, backend.address, "");
    let headers = [
        ("origin", "https://shop.example:8443"),
        ("x-forwarded-host", "shop.example:8443"),
    ];
    let head = send(proxy.address, "GET", "/", &headers, "").await.text();
    for line in [
        "host: shop.example\r\n",
        "origin: https://shop.example:8443\r\n",
        "x-forwarded-host: shop.example:8443\r\n",
    ] {
        assert!(head.contains(line), "{line}: {head}");
    }
    let head = get(proxy.address, "/").await.text();
    assert!(!head.contains("x-forwarded") && !head.contains("origin"), "{head}");

    let proxy = Proxy::before(
        &home,
        backend.address,
        "forward = { x-forwarded = \"append\", via = \"\" }",
    );
    let head = send(proxy.address, "GET", "/", &[("x-forwarded-for", "10.0.0.1")], "")
        .await
        .text();
    for line in [
        "x-forwarded-for: 10.0.0.1, 127.0.0.1\r\n",
        "x-forwarded-proto: http\r\n",
        "x-forwarded-host: shop.example\r\n",
    ] {
        assert!(head.contains(line), "{line}: {head}");
    }
    assert!(!head.contains("via"), "{head}");
}

#[tokio::test]
async fn an_absolute_target_names_the_host_and_connect_is_no_method_here() {
    let (home, backend) = (Home::new(), mirror().await);
    let proxy = Proxy::before(&home, backend.address, "");
    let mut client = Raw::to(proxy.address).await;
    client
        .write("GET http://other.example/x?y HTTP/1.1\r\nHost: shop.example\r\n\r\n")
        .await;
    client.head().await;
    let head = client.head().await;
    assert!(
        head.starts_with("GET /x?y HTTP/1.1\r\n") && head.contains("host: other.example\r\n"),
        "{head}"
    );

    let mut client = Raw::to(proxy.address).await;
    client
        .write("CONNECT other.example:443 HTTP/1.1\r\nHost: other.example:443\r\n\r\n")
        .await;
    assert!(client.head().await.starts_with("HTTP/1.1 405 "));
    let before = backend.count();
    let mut client = Raw::to(proxy.address).await;
    client
        .write("OPTIONS / HTTP/1.1\r\nHost: shop.example\r\nMax-Forwards: 0\r\n\r\n")
        .await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 "));
    assert_eq!(backend.count(), before, "it was the last hop");
}

#[tokio::test]
async fn a_request_that_could_be_read_in_two_ways_does_not_become_two() {
    let home = Home::new();
    let backend = Backend::by(|request| async move {
        let path = request.uri().path().to_owned();
        text(format!("{path} {:?}", crate::backend::read(request).await))
    })
    .await;
    let proxy = Proxy::before(&home, backend.address, "");
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: shop.example\r\n\r\n";
    for (lines, body, is_read) in [
        (
            "Content-Length: 4\r\nTransfer-Encoding: chunked",
            format!("0\r\n\r\n{smuggled}"),
            true,
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 4",
            format!("0\r\n\r\n{smuggled}"),
            true,
        ),
        ("Content-Length: 0\r\nContent-Length: 44", smuggled.to_owned(), false),
        ("Content-Length: +0", smuggled.to_owned(), false),
        (
            "Transfer-Encoding: chunked, identity",
            format!("0\r\n\r\n{smuggled}"),
            false,
        ),
        ("Transfer-Encoding: xchunked", format!("0\r\n\r\n{smuggled}"), false),
        ("Transfer-Encoding : chunked", format!("0\r\n\r\n{smuggled}"), false),
        ("Transfer-Encoding: chunked", format!("0x0\r\n\r\n{smuggled}"), true),
        ("X: y\nHost: two.example", String::new(), false),
        ("Host: two.example", String::new(), false),
    ] {
        let before = backend.count();
        let mut client = Raw::to(proxy.address).await;
        client
            .write(&format!(
                "POST /first HTTP/1.1\r\nHost: shop.example\r\n{lines}\r\n\r\n{body}"
            ))
            .await;
        // It is closed after the answer, or not answered at all: nothing that follows is taken for a request.
        let read = client.end_or_first_answer().await;
        assert!(!read.contains("/smuggled"), "{lines}: {read}");
        match is_read {
            true => assert!(backend.count() <= before + 1, "{lines}"),
            false => assert!(read.starts_with("HTTP/1.1 400 "), "{lines}: {read}"),
        }
    }
}

#[tokio::test]
async fn heads_are_limited_in_size_and_in_time() {
    let (home, backend) = (Home::new(), mirror().await);
    let limits = "clients = { header-time = \"300ms\", header-size = \"8 KiB\", header-lines = 20 }";
    let proxy = Proxy::before(&home, backend.address, limits);
    let long = "x".repeat(16 * 1024);
    assert_eq!(
        send(proxy.address, "GET", "/", &[("x-long", &long)], "").await.status,
        431
    );
    let many: Vec<(String, String)> = (0..30).map(|at| (format!("x-{at}"), at.to_string())).collect();
    let many: Vec<(&str, &str)> = many
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(send(proxy.address, "GET", "/", &many, "").await.status, 431);
    let mut slow = Raw::to(proxy.address).await;
    slow.write("GET / HTTP/1.1\r\nHost: shop").await;
    let read = slow.end().await;
    assert!(!read.contains("200"), "{read}");
    // Of these it is not even known which protocol is spoken.
    for begins in ["", "P", "PRI * HT"] {
        let mut slow = Raw::to(proxy.address).await;
        slow.write(begins).await;
        assert_eq!(slow.end().await, "", "{begins:?}");
    }
    assert_eq!(get(proxy.address, "/").await.status, 200);
}

#[tokio::test]
async fn http_2_with_prior_knowledge_is_spoken_to_clients() {
    let (home, backend) = (Home::new(), mirror().await);
    let proxy = Proxy::before(&home, backend.address, "");
    let stream = tokio::net::TcpStream::connect(proxy.address)
        .await
        .expect("a connection");
    let executor = hyper_util::rt::TokioExecutor::new();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io)
        .await
        .expect("HTTP/2");
    tokio::spawn(connection);
    let request = http::Request::get("http://shop.example/two")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(http_body_util::Empty::<bytes::Bytes>::new())
        .expect("a request");
    let answer = crate::client::whole(sender.send_request(request).await.expect("an answer"))
        .await
        .expect("a body");
    let head = answer.text();
    assert!(
        head.starts_with("GET /two HTTP/1.1\r\n") && head.contains("host: shop.example\r\n"),
        "{head}"
    );
    assert!(
        head.contains("cookie: a=1; b=2\r\n") && head.contains("via: 2.0 oneflight\r\n"),
        "{head}"
    );
}

#[tokio::test]
async fn a_correlation_id_goes_to_the_backend_and_back() {
    let (home, backend) = (Home::new(), mirror().await);
    let proxy = Proxy::before(&home, backend.address, "");
    let answer = post(proxy.address, "/", &[("x-correlation-id", "mine-7")], "").await;
    assert!(answer.text().contains("x-correlation-id: mine-7\r\n"), "{answer:?}");
    assert_eq!(answer.header("x-correlation-id"), "mine-7");
    let answer = get(proxy.address, "/").await;
    let made = answer.header("x-correlation-id").to_owned();
    assert!(made.len() > 8 && answer.text().contains(&format!("x-correlation-id: {made}\r\n")));
}

#[tokio::test]
async fn answers_without_a_body_keep_what_they_say_of_it() {
    let home = Home::new();
    let backend = Backend::raw(|mut client| async move {
        loop {
            let head = client.head().await;
            let answer = match head.starts_with("HEAD") {
                true => "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n",
                false => "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n",
            };
            client.write(answer).await;
        }
    })
    .await;
    let proxy = Proxy::before(&home, backend.address, "");
    let mut client = Raw::to(proxy.address).await;
    client
        .write("HEAD / HTTP/1.1\r\nHost: shop.example\r\n\r\nGET / HTTP/1.1\r\nHost: shop.example\r\n\r\n")
        .await;
    let head = client.head().await;
    assert!(head.contains("content-length: 1234\r\n"), "{head}");
    let head = client.head().await;
    assert!(
        head.starts_with("HTTP/1.1 304 ") && !head.contains("content-length"),
        "{head}"
    );
    assert_eq!(backend.count(), 1, "the connection is used again");
}

#[tokio::test]
async fn a_body_of_any_method_arrives_whether_or_not_its_length_is_known() {
    let home = Home::new();
    let backend = Backend::by(|request| async move {
        let method = request.method().clone();
        text(format!("{method} {}", crate::backend::read(request).await))
    })
    .await;
    let proxy = Proxy::before(&home, backend.address, "");
    for method in ["GET", "DELETE", "POST", "QUERY"] {
        for framed in [
            "Content-Length: 4\r\n\r\nbody",
            "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
        ] {
            let mut client = Raw::to(proxy.address).await;
            client
                .write(&format!("{method} / HTTP/1.1\r\nHost: shop.example\r\n{framed}"))
                .await;
            assert!(client.head().await.starts_with("HTTP/1.1 200 "));
            client.until(&format!("{method} body")).await;
        }
    }
}

#[tokio::test]
async fn a_coding_of_transfer_that_would_be_lost_is_not_passed_on() {
    let home = Home::new();
    let backend = Backend::raw(|mut client| async move {
        client.head().await;
        client
            .write("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n")
            .await;
        client.end().await;
    })
    .await;
    let proxy = Proxy::before(&home, backend.address, "");
    for lines in [
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
    ] {
        let mut client = Raw::to(proxy.address).await;
        client
            .write(&format!(
                "POST / HTTP/1.1\r\nHost: shop.example\r\n{lines}\r\n\r\n4\r\nbody\r\n0\r\n\r\n"
            ))
            .await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 501 "), "{lines}: {head}");
    }
    assert_eq!(backend.count(), 0);
    assert_eq!(get(proxy.address, "/").await.status, 502);
}

#[tokio::test]
async fn the_protocol_that_a_backend_needs_is_named_to_the_client() {
    let home = Home::new();
    let backend = Backend::raw(|mut client| async move {
        client.head().await;
        client
            .write("HTTP/1.1 426 Upgrade Required\r\nUpgrade: echo\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n")
            .await;
        client.end().await;
    })
    .await;
    let proxy = Proxy::before(&home, backend.address, "");
    let answer = get(proxy.address, "/").await;
    assert_eq!((answer.status.as_u16(), answer.header("upgrade")), (426, "echo"));
}

#[tokio::test]
async fn what_is_of_a_connection_does_not_say_whose_request_it_is() {
    let (home, backend) = (Home::new(), mirror().await);
    let proxy = Proxy::before(&home, backend.address, "[[route]]\nscope = \"header X-Tenant\"");
    let of = |connection| {
        let headers = [("connection", connection), ("x-tenant", "a"), ("idempotency-key", "k")];
        async move { post(proxy.address, "/", &headers, "").await }
    };
    assert_eq!(of("keep-alive, X-Tenant").await.status, 403);
    assert_eq!(of("keep-alive").await.status, 200);
    // A key that the backend does not get is no key.
    let answer = of("keep-alive, Idempotency-Key").await;
    assert!(!answer.headers.contains_key("idempotency-origin"), "{answer:?}");
}

/// Some backends take `post` for `POST`.
#[tokio::test]
async fn a_method_is_protected_however_it_is_written() {
    let (home, backend) = (Home::new(), Backend::by(|_| async { text("done") }).await);
    let more = "[[route]]\npath = \"/refunds\"\nkey.required = \"required\"";
    let proxy = Proxy::before(&home, backend.address, more);
    for path in ["/orders", "/refunds"] {
        for replayed in ["", "true"] {
            let answer = send(proxy.address, "post", path, &[("idempotency-key", "a7f3")], "tea").await;
            assert_eq!(answer.header("idempotency-replayed"), replayed, "{path}");
        }
    }
    assert_eq!(send(proxy.address, "post", "/refunds", &[], "tea").await.status, 400);
    assert_eq!(backend.count(), 2);
}

#[tokio::test]
async fn a_status_without_a_reason_is_replayed_without_one() {
    let backend = Backend::raw(|mut client| async move {
        client.until("tea").await;
        client.write("HTTP/1.1 299 \r\nContent-Length: 4\r\n\r\ndone").await;
    })
    .await;
    let home = Home::new();
    let proxy = Proxy::before(&home, backend.address, "");
    for origin in ["executed", "replayed"] {
        let mut client = Raw::to(proxy.address).await;
        let asked = "POST /orders HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\nContent-Length: 3\r\n\r\ntea";
        client.write(asked).await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 299 \r\n") && head.contains(origin), "{head}");
    }
}
