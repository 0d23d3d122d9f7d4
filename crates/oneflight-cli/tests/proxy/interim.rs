//! Interim answers: who passes them on, to whom, and whose decision the body of a request is.

use crate::backend::Backend;
use crate::client::Raw;
use crate::proxy::{Home, Proxy};

const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n";

#[tokio::test]
async fn early_hints_reach_a_client_of_http_1_before_the_answer_is_there() {
    let home = Home::new();
    let backend = Backend::raw(|mut client| async move {
        loop {
            client.head().await;
            client.write(HINTS).await;
            // The answer waits for a sign that the hints were passed on: another request, at another connection.
            crate::backend::until(|| SEEN.load(std::sync::atomic::Ordering::SeqCst)).await;
            client.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let proxy = Proxy::before(&home, backend.address, "");
    let mut client = Raw::to(proxy.address).await;
    for _ in 0..2 {
        client.write("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
        let hints = client.head().await;
        assert!(hints.starts_with("HTTP/1.1 103 Early Hints\r\n"), "{hints}");
        assert!(hints.contains("link: </style.css>; rel=preload\r\n"), "{hints}");
        SEEN.store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(client.head().await.starts_with("HTTP/1.1 200 "));
        client.until("ok").await;
    }
    // An older client would take them for the answer.
    let mut client = Raw::to(proxy.address).await;
    client.write("GET / HTTP/1.0\r\nHost: shop.example\r\n\r\n").await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.0 200 "), "{head}");
    // What is executed once is answered to several clients: hints are not.
    let mut client = Raw::to(proxy.address).await;
    client
        .write("POST / HTTP/1.1\r\nHost: shop.example\r\nIdempotency-Key: k\r\nContent-Length: 0\r\n\r\n")
        .await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}

static SEEN: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

#[tokio::test]
async fn whether_a_body_is_wanted_is_the_backends_decision() {
    let home = Home::new();
    let backend = Backend::raw(|mut client| async move {
        let head = client.head().await;
        assert!(head.contains("expect: 100-continue\r\n"), "{head}");
        if head.starts_with("POST /no ") {
            client
                .write("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno")
                .await;
        } else {
            assert!(client.read.is_empty(), "the body waits");
            client.write("HTTP/1.1 100 Continue\r\n\r\n").await;
            client.until("body").await;
            client
                .write("HTTP/1.1 201 Created\r\nContent-Length: 3\r\n\r\nyes")
                .await;
        }
        client.end().await;
    })
    .await;
    // A backend that never says anything is waited for; this one says it soon.
    let proxy = Proxy::before(&home, backend.address, "upstream.continue-time = \"60s\"");
    let head = |path| {
        format!("POST {path} HTTP/1.1\r\nHost: shop.example\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
    };
    let mut client = Raw::to(proxy.address).await;
    client.write(&head("/no")).await;
    let answer = client.head().await;
    assert!(answer.starts_with("HTTP/1.1 417 "), "{answer}");
    client.until("no").await;

    let mut client = Raw::to(proxy.address).await;
    client.write(&head("/yes")).await;
    let interim = client.head().await;
    assert!(interim.starts_with("HTTP/1.1 100 "), "{interim}");
    client.write("body").await;
    assert!(client.head().await.starts_with("HTTP/1.1 201 "));
}

#[tokio::test]
async fn a_backend_that_knows_nothing_of_expectations_gets_the_body_after_a_while() {
    let home = Home::new();
    let backend = Backend::raw(|mut client| async move {
        client.until("body").await;
        client
            .write("HTTP/1.1 201 Created\r\nContent-Length: 3\r\n\r\nyes")
            .await;
        client.end().await;
    })
    .await;
    let proxy = Proxy::before(&home, backend.address, "");
    let mut client = Raw::to(proxy.address).await;
    client
        .write("POST / HTTP/1.1\r\nHost: shop.example\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        .await;
    assert!(client.head().await.starts_with("HTTP/1.1 100 "));
    client.write("body").await;
    assert!(client.head().await.starts_with("HTTP/1.1 201 "));
}
