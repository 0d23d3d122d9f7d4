//! Backends that are away, die, or keep silent: what was certainly not sent is sent again, and of the rest the truth is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use tokio::sync::{Barrier, Semaphore};

use crate::backend::{Backend, Process, nobody, read, status, text};
use crate::client::{Raw, get, keyed, post};
use crate::proxy::{Home, Proxy};

fn kind(answer: &crate::client::Answer) -> String {
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let kind = problem["type"].as_str().unwrap_or_default();
    kind.rsplit(['.', '/']).nth(1).unwrap_or_default().to_owned()
}

/// The type of a problem, and whether it is this one.
fn is(answer: &crate::client::Answer, name: &str) -> bool {
    answer.text().contains(name) || kind(answer) == name
}

#[tokio::test]
async fn while_the_backend_is_away_nothing_is_done_and_the_key_is_free() {
    let (home, address) = (Home::new(), nobody().await);
    let proxy = Proxy::before(&home, address, "");
    let answer = keyed(proxy.address, "k", "tea").await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(
        is(&answer, "NOT_DONE") && answer.header("retry-after") == "1",
        "{answer:?}"
    );
    // It was not executed, and what tells so inside of the proxy stays there.
    for name in ["idempotency-origin", "x-oneflight-not-sent"] {
        assert!(!answer.headers.contains_key(name), "{answer:?}");
    }
    let answer = post(proxy.address, "/", &[], "tea").await;
    assert_eq!(answer.status, 502);
    assert!(answer.text().contains("\"effect\":\"nothing\""), "{answer:?}");
    let errors = "oneflight_proxy_upstream_errors_total{kind=\"connect\"}";
    assert_eq!(proxy.metric(errors).await, 2.0);
    assert_eq!(get(proxy.admin, "/readyz").await.status, 503);
    assert_eq!(get(proxy.admin, "/healthz").await.status, 200);

    let journal = home.path().join("journal");
    let backend = Process::start(address, &journal).await;
    assert_eq!(keyed(proxy.address, "k", "tea").await.text(), "done: tea");
    assert_eq!(backend.journal(), ["tea"]);
    assert_eq!(get(proxy.admin, "/readyz").await.status, 200);
}

#[tokio::test]
async fn what_one_backend_cannot_take_the_next_one_takes() {
    let (home, away) = (Home::new(), nobody().await);
    let backend = Backend::by(|request| async move { text(read(request).await) }).await;
    home.write(&[away, backend.address], "");
    let proxy = home.start();
    assert_eq!(keyed(proxy.address, "k", "tea").await.text(), "tea");
    assert_eq!(post(proxy.address, "/", &[], "a body, too").await.text(), "a body, too");
    assert_eq!(backend.count(), 2);
}

#[tokio::test]
async fn a_backend_that_was_killed_before_it_read_gets_the_request_when_it_is_back() {
    let (home, address) = (Home::new(), nobody().await);
    let journal = home.path().join("journal");
    let mut backend = Process::start(address, &journal).await;
    let proxy = Proxy::before(&home, address, "");
    // The proxy has a connection now, which dies with the backend.
    assert_eq!(keyed(proxy.address, "first", "tea").await.text(), "done: tea");
    backend.kill();
    let answer = keyed(proxy.address, "k", "coffee").await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(is(&answer, "NOT_DONE"), "{answer:?}");
    let backend = Process::start(address, &journal).await;
    assert_eq!(keyed(proxy.address, "k", "coffee").await.text(), "done: coffee");
    assert_eq!(backend.journal(), ["tea", "coffee"]);
}

#[tokio::test]
async fn a_backend_that_was_killed_after_it_read_leaves_the_request_in_doubt() {
    let (home, address) = (Home::new(), nobody().await);
    let journal = home.path().join("journal");
    let mut backend = Process::start(address, &journal).await;
    let proxy = Proxy::before(&home, address, "");
    let first = tokio::spawn(keyed_owned(proxy.address, "k", "slow tea"));
    crate::backend::until(|| backend.journal().len() == 1).await;
    backend.kill();
    let first = first.await.expect("no panic");
    assert_eq!(first.status, 503, "{first:?}");
    assert!(is(&first, "OUTCOME_UNKNOWN"), "{first:?}");
    let backend = Process::start(address, &journal).await;
    let second = keyed(proxy.address, "k", "slow tea").await;
    assert_eq!(second.status, 409, "{second:?}");
    assert!(
        is(&second, "IN_DOUBT") && second.header("retry-after").is_empty(),
        "{second:?}"
    );
    assert_eq!(backend.journal(), ["slow tea"], "it was not sent again");
}

async fn keyed_owned(to: std::net::SocketAddr, key: &'static str, body: &'static str) -> crate::client::Answer {
    keyed(to, key, body).await
}

#[tokio::test]
async fn where_the_file_says_so_what_is_in_doubt_is_sent_again() {
    let home = Home::new();
    // The first request of all is read and not answered.
    static FIRST: AtomicBool = AtomicBool::new(true);
    let backend = Backend::raw(|mut client| async move {
        client.until("tea").await;
        if !FIRST.swap(false, SeqCst) {
            client
                .write("HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\ndone")
                .await;
            client.end().await;
        }
    })
    .await;
    let proxy = Proxy::before(
        &home,
        backend.address,
        "[[route]]\nin-doubt = \"rerun\"\nsettle = \"0\"",
    );
    let first = keyed(proxy.address, "k", "tea").await;
    assert!(is(&first, "OUTCOME_UNKNOWN"), "{first:?}");
    let second = keyed(proxy.address, "k", "tea").await;
    assert_eq!((second.status.as_u16(), second.text().as_str()), (201, "done"));
    assert_eq!(backend.count(), 2);
}

#[tokio::test]
async fn without_a_key_nothing_that_was_sent_is_sent_again() {
    let home = Home::new();
    let backend = Backend::raw(|mut client| async move {
        client.head().await;
    })
    .await;
    let proxy = Proxy::before(&home, backend.address, "");
    for method in ["POST", "GET"] {
        let before = backend.count();
        let answer = crate::client::send(proxy.address, method, "/", &[], "").await;
        assert_eq!(answer.status, 502);
        assert!(answer.text().contains("\"effect\":\"unknown\""), "{answer:?}");
        assert_eq!(backend.count(), before + 1);
    }
}

#[tokio::test]
async fn a_backend_that_keeps_silent_is_waited_for_only_so_long() {
    let home = Home::new();
    let backend = Backend::by(|_| std::future::pending()).await;
    let proxy = Proxy::before(&home, backend.address, "upstream.answer-time = \"300ms\"");
    let answer = post(proxy.address, "/", &[], "tea").await;
    assert_eq!(answer.status, 504, "{answer:?}");
    let answer = keyed(proxy.address, "k", "tea").await;
    assert!(is(&answer, "OUTCOME_UNKNOWN"), "{answer:?}");
    assert_eq!(keyed(proxy.address, "k", "tea").await.status, 409);
    assert_eq!(backend.count(), 2);
}

#[tokio::test]
async fn the_time_for_an_answer_begins_when_the_request_was_sent() {
    let home = Home::new();
    let pause = std::time::Duration::from_secs;
    let backend = Backend::by(move |request| async move {
        let body = read(request).await;
        tokio::time::sleep(pause(2)).await;
        text(body)
    })
    .await;
    // Counted from anything before the end of the request, it would be over before the answer.
    let proxy = Proxy::before(&home, backend.address, "upstream.answer-time = \"4s\"");
    let mut client = Raw::to(proxy.address).await;
    client
        .write("POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 4\r\n\r\nbo")
        .await;
    tokio::time::sleep(pause(7)).await;
    client.write("dy").await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}

#[tokio::test]
async fn a_connection_that_the_backend_closed_meanwhile_is_not_used_again() {
    let home = Home::new();
    // It says that it keeps the connection, and closes it.
    let backend = Backend::raw(|mut client| async move {
        client.until("tea").await;
        client.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    })
    .await;
    let proxy = Proxy::before(&home, backend.address, "");
    for number in 1..=20 {
        let key = number.to_string();
        assert_eq!(keyed(proxy.address, &key, "tea").await.text(), "ok");
        assert_eq!(post(proxy.address, "/", &[], "tea").await.text(), "ok");
    }
    assert_eq!(backend.count(), 40);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_in_doubt() {
    let home = Home::new();
    let backend = Backend::raw(|mut client| async move {
        client.until("tea").await;
        client.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await;
    })
    .await;
    let proxy = Proxy::before(&home, backend.address, "");
    let answer = keyed(proxy.address, "k", "tea").await;
    assert!(is(&answer, "OUTCOME_UNKNOWN"), "{answer:?}");
    assert_eq!(keyed(proxy.address, "k", "tea").await.status, 409);
    assert_eq!(backend.count(), 1);
    // Without a key the client sees what the backend did.
    let answer = crate::client::try_send(proxy.address, "POST", "/", &[], "tea").await;
    assert!(answer.is_err(), "{answer:?}");
}

#[tokio::test]
async fn a_proxy_that_was_killed_in_mid_execution_does_not_send_again() {
    let (home, address) = (Home::new(), nobody().await);
    let journal = home.path().join("journal");
    let backend = Process::start(address, &journal).await;
    let lease = "[[route]]\nlease = \"500ms\"\nwait = \"20s\"";
    let proxy = Proxy::before(&home, address, lease);
    let to = proxy.address;
    let first = tokio::spawn(async move {
        crate::client::try_send(to, "POST", "/orders", &[("idempotency-key", "k")], "slow tea").await
    });
    crate::backend::until(|| backend.journal().len() == 1).await;
    proxy.signal("-KILL");
    assert!(first.await.expect("no panic").is_err());
    let proxy = home.start();
    let again = keyed(proxy.address, "k", "slow tea").await;
    assert_eq!(again.status, 409, "{again:?}");
    assert!(is(&again, "IN_DOUBT"), "{again:?}");
    assert_eq!(backend.journal(), ["slow tea"], "it was not sent again");
}

#[tokio::test]
async fn what_a_killed_proxy_left_is_not_sent_again_before_it_has_settled() {
    const SETTLE: std::time::Duration = std::time::Duration::from_secs(3);
    let home = Home::new();
    static FIRST: AtomicBool = AtomicBool::new(true);
    let backend = Backend::raw(|mut client| async move {
        client.until("tea").await;
        if FIRST.swap(false, SeqCst) {
            // It goes on, whatever became of the proxy.
            std::future::pending::<()>().await;
        }
        client
            .write("HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\ndone")
            .await;
        client.end().await;
    })
    .await;
    let route = "[[route]]\nin-doubt = \"rerun\"\nlease = \"300ms\"\nsettle = \"3s\"\nwait = \"50s\"";
    let proxy = Proxy::before(&home, backend.address, route);
    let to = proxy.address;
    let first = tokio::spawn(async move {
        crate::client::try_send(to, "POST", "/orders", &[("idempotency-key", "k")], "tea").await
    });
    backend.reached(1).await;
    proxy.signal("-KILL");
    let killed = std::time::Instant::now();
    assert!(first.await.expect("no panic").is_err());
    let proxy = home.start();
    let again = keyed(proxy.address, "k", "tea").await;
    assert_eq!((again.status.as_u16(), again.text().as_str()), (201, "done"));
    assert!(killed.elapsed() >= SETTLE, "sent again after {:?}", killed.elapsed());
    assert_eq!(backend.count(), 2);
}

#[tokio::test]
async fn a_protocol_that_nobody_asked_for_is_no_answer() {
    let home = Home::new();
    let backend = Backend::raw(|mut client| async move {
        let head = client.head().await;
        assert!(!head.contains("upgrade"), "{head}");
        client
            .write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\nhello")
            .await;
        client.end().await;
    })
    .await;
    let proxy = Proxy::before(&home, backend.address, "");
    let answer = post(proxy.address, "/", &[], "").await;
    assert_eq!(answer.status, 502, "{answer:?}");
    assert!(answer.text().contains("\"effect\":\"unknown\""), "{answer:?}");
    let answer = keyed(proxy.address, "k", "").await;
    assert!(is(&answer, "OUTCOME_UNKNOWN"), "{answer:?}");
    assert_eq!(keyed(proxy.address, "k", "").await.status, 409);
    // A request with a key asks for no other protocol, since its answer is for others as well.
    let asks = [
        ("idempotency-key", "k2"),
        ("connection", "upgrade"),
        ("upgrade", "echo"),
    ];
    let answer = post(proxy.address, "/orders", &asks, "").await;
    assert!(is(&answer, "OUTCOME_UNKNOWN"), "{answer:?}");
    assert_eq!(proxy.told("panicked"), 0);
}

#[tokio::test]
async fn what_the_backend_says_of_itself_is_passed_on() {
    let home = Home::new();
    let backend = Backend::by(|_| async { status(503, "closed today") }).await;
    let proxy = Proxy::before(&home, backend.address, "");
    assert_eq!(keyed(proxy.address, "k", "tea").await.text(), "closed today");
    assert_eq!(post(proxy.address, "/", &[], "tea").await.text(), "closed today");
}

#[tokio::test]
async fn requests_are_answered_although_every_kept_connection_was_closed() {
    const KEPT: usize = 200;
    const AFTER: usize = 4;
    let home = Home::new();
    let all = Arc::new(Barrier::new(KEPT));
    let (closes, closed) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (gate, counts, began) = (Arc::clone(&closes), Arc::clone(&closed), Arc::new(AtomicUsize::new(0)));
    let backend = Backend::raw(move |mut client| {
        let (all, gate, counts) = (Arc::clone(&all), Arc::clone(&gate), Arc::clone(&counts));
        let is_kept = began.fetch_add(1, SeqCst) < KEPT;
        async move {
            const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            client.until("tea").await;
            if is_kept {
                all.wait().await;
                client.write(ANSWER).await;
                gate.acquire().await.expect("open").forget();
                drop(client);
                counts.fetch_add(1, SeqCst);
                return;
            }
            for _ in 1..AFTER {
                client.write(ANSWER).await;
                client.until("tea").await;
            }
            client.write(ANSWER).await;
            client.end().await;
        }
    })
    .await;
    let more = "upstream = { answer-time = \"2s\", idle-time = \"1h\" }";
    home.write_text(&format!(
        "listen = \"127.0.0.1:0\"\nadmin.listen = \"127.0.0.1:0\"\nstore.url = {:?}\n{}",
        home.store(),
        more.replace("{ ", &format!("{{ url = \"http://{}\", ", backend.address))
    ));
    let proxy = home.start();
    let first = futures::future::join_all((0..KEPT).map(|_| post(proxy.address, "/", &[], "tea"))).await;
    assert!(first.iter().all(|answer| answer.text() == "ok"));
    closes.add_permits(KEPT);
    crate::backend::until(|| closed.load(SeqCst) == KEPT).await;
    for _ in 0..AFTER {
        assert_eq!(post(proxy.address, "/", &[], "tea").await.text(), "ok");
    }
}
