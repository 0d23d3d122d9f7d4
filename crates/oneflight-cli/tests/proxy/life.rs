//! The configuration is read again, and the proxy is stopped, under load: nothing is dropped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::backend::{Backend, read, text};
use crate::client::{Raw, get, keyed, try_send};
use crate::proxy::{Home, PATIENCE, Proxy};

/// Answers after a moment.
async fn working() -> Backend {
    Backend::by(|request| async move {
        let body = read(request).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        text(body)
    })
    .await
}

/// Sends until it is told to stop, by connections of its own; returns how many were answered, and how each of the others ended.
async fn load(to: SocketAddr, stops: Arc<AtomicBool>, name: usize) -> (usize, Vec<String>) {
    let (mut answered, mut failed) = (0, Vec::new());
    while !stops.load(SeqCst) {
        let key = format!("{name}-{answered}");
        let headers = [("idempotency-key", key.as_str())];
        let headers = if name.is_multiple_of(2) { &headers[..] } else { &[] };
        match try_send(to, "POST", "/load", headers, &key).await {
            Ok(answer) if answer.status == 200 && answer.text() == key => answered += 1,
            Ok(answer) => failed.push(format!("{answer:?}")),
            // Nobody accepts any more.
            Err(error) if error.to_string().contains("refused") => break,
            Err(error) => failed.push(error.to_string()),
        }
    }
    (answered, failed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_under_load_drops_nothing() {
    let (home, backend) = (Home::new(), working().await);
    let proxy = Proxy::before(&home, backend.address, "");
    let stops = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|name| tokio::spawn(load(proxy.address, Arc::clone(&stops), name)))
        .collect();
    let other = working().await;
    for round in 0..20 {
        let upstream = if round % 2 == 0 { other.address } else { backend.address };
        home.write(
            &[upstream],
            &format!("[[route]]\npath = \"/load\"\nretention = \"{}h\"", round + 1),
        );
        if round % 3 == 0 {
            proxy.signal("-HUP");
        } else {
            let told = proxy.reload().await;
            assert_eq!(told.status, 200, "{told:?}");
        }
        // A signal says nothing of its end, and the next file must not be written while this one is read.
        let end = tokio::time::Instant::now() + PATIENCE;
        while proxy.metric("oneflight_proxy_reloads_total{result=\"done\"}").await < f64::from(round + 1) {
            assert!(tokio::time::Instant::now() < end, "it is not read again");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    stops.store(true, SeqCst);
    let mut all = 0;
    for client in clients {
        let (answered, failed) = client.await.expect("no panic");
        assert!(failed.is_empty(), "{failed:?}");
        all += answered;
    }
    assert_eq!(backend.count() + other.count(), all, "each request was executed once");
    assert!(other.count() > 0, "new requests are answered by the new file");
    assert_eq!(
        proxy.metric("oneflight_proxy_reloads_total{result=\"done\"}").await,
        20.0
    );
}

#[tokio::test]
async fn requests_before_and_after_a_reload_share_an_execution() {
    let (home, gate) = (Home::new(), Arc::new(Semaphore::new(0)));
    let open = Arc::clone(&gate);
    let backend = Backend::by(move |request| {
        let open = Arc::clone(&open);
        async move {
            let body = read(request).await;
            open.acquire().await.expect("open").forget();
            text(body)
        }
    })
    .await;
    let proxy = Proxy::before(&home, backend.address, "");
    let to = proxy.address;
    let first = tokio::spawn(async move { keyed(to, "k", "tea").await });
    backend.reached(1).await;
    home.write(
        &[backend.address],
        "[[route]]\npath = \"/orders\"\nretention = \"1h\"\nlease = \"5s\"\nin-doubt = \"rerun\"\nlimits.record = \"1 MiB\"",
    );
    assert_eq!(proxy.reload().await.status, 200);
    let second = tokio::spawn(async move { keyed(to, "k", "tea").await });
    // It waits where it joins, in this process, and not at the store.
    let end = tokio::time::Instant::now() + PATIENCE;
    while proxy.metric("oneflight_waiters{route=\"/orders\"}").await < 1.0 {
        assert!(tokio::time::Instant::now() < end, "it does not wait");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    gate.add_permits(2);
    let (first, second) = (first.await.expect("no panic"), second.await.expect("no panic"));
    assert_eq!(first.header("idempotency-origin"), "executed");
    assert_eq!(second.header("idempotency-origin"), "collapsed");
    assert_eq!(backend.count(), 1);
}

#[tokio::test]
async fn a_file_with_an_error_changes_nothing_and_says_where_it_is() {
    let (home, backend) = (Home::new(), working().await);
    let proxy = Proxy::before(&home, backend.address, "");
    home.write(&[backend.address], "[[route]]\npaht = \"/orders\"");
    let told = proxy.reload().await;
    assert_eq!(told.status, 422);
    assert!(
        told.text().contains("line 6") && told.text().contains("paht") && told.text().contains("`path`"),
        "{told:?}"
    );
    assert_eq!(keyed(proxy.address, "k", "tea").await.text(), "tea");

    let text = format!(
        "listen = \"127.0.0.1:1\"\nupstream.url = \"http://{}\"\nadmin.listen = \"127.0.0.1:0\"\nstore.url = \"another.db\"",
        backend.address
    );
    home.write_text(&text);
    let told = proxy.reload().await;
    assert_eq!(told.status, 422);
    assert!(told.text().contains("`listen` and `store` needs a restart"), "{told:?}");
    assert_eq!(
        proxy.metric("oneflight_proxy_reloads_total{result=\"failed\"}").await,
        2.0
    );
    assert_eq!(get(proxy.address, "/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_to_stop_under_load_it_answers_all_that_it_has_taken() {
    let (home, backend) = (Home::new(), working().await);
    let mut proxy = Proxy::before(&home, backend.address, "");
    let stops = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|name| tokio::spawn(load(proxy.address, Arc::clone(&stops), name)))
        .collect();
    backend.reached(50).await;
    proxy.signal("-TERM");
    let ended = tokio::task::spawn_blocking(move || proxy.ended())
        .await
        .expect("no panic");
    assert!(ended.success(), "{ended}");
    let mut all = 0;
    for client in clients {
        let (answered, failed) = client.await.expect("no panic");
        // A connection may end before its request is read. The count below shows that nothing of such reached the backend.
        let wrong: Vec<_> = failed.iter().filter(|why| why.contains("Answer")).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        all += answered;
    }
    assert_eq!(backend.count(), all, "what reached the backend was answered");
}

#[tokio::test]
async fn told_to_stop_it_waits_for_executions_that_nobody_waits_for() {
    let (home, gate) = (Home::new(), Arc::new(Semaphore::new(0)));
    let (open, done) = (Arc::clone(&gate), Arc::new(AtomicUsize::new(0)));
    let counts = Arc::clone(&done);
    let backend = Backend::by(move |_| {
        let (open, counts) = (Arc::clone(&open), Arc::clone(&counts));
        async move {
            open.acquire().await.expect("open").forget();
            counts.fetch_add(1, SeqCst);
            text("done")
        }
    })
    .await;
    let mut proxy = Proxy::before(&home, backend.address, "");
    let mut client = Raw::to(proxy.address).await;
    client
        .write("POST /orders HTTP/1.1\r\nHost: shop.example\r\nIdempotency-Key: k\r\nContent-Length: 3\r\n\r\ntea")
        .await;
    backend.reached(1).await;
    drop(client);
    proxy.signal("-TERM");
    proxy.wait_for_line("stopping");
    gate.add_permits(1);
    let ended = tokio::task::spawn_blocking(move || proxy.ended())
        .await
        .expect("no panic");
    assert!(ended.success(), "{ended}");
    assert_eq!(done.load(SeqCst), 1);
    let proxy = home.start();
    assert_eq!(
        keyed(proxy.address, "k", "tea").await.header("idempotency-replayed"),
        "true"
    );
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once_and_so_does_the_deadline() {
    let backend = Backend::by(|_| std::future::pending()).await;
    for (more, signals) in [("", 2), ("stop-time = \"200ms\"", 1)] {
        let home = Home::new();
        let mut proxy = Proxy::before(&home, backend.address, more);
        let to = proxy.address;
        let before = backend.count();
        tokio::spawn(async move { try_send(to, "POST", "/orders", &[("idempotency-key", "k")], more).await });
        backend.reached(before + 1).await;
        proxy.signal("-TERM");
        proxy.wait_for_line("stopping");
        if signals == 2 {
            proxy.signal("-INT");
        }
        let ended = tokio::task::spawn_blocking(move || {
            let ended = proxy.ended();
            let told = proxy.wait_for_line("stopped before all was done");
            (ended, told)
        });
        let (ended, told) = ended.await.expect("no panic");
        assert_eq!(ended.code(), Some(75), "{told}");
        let later = "1 execution under a key will be in doubt, once its lease of up to 10s is over";
        assert!(told.contains(later), "{told}");
    }
}

#[tokio::test]
async fn the_time_to_stop_is_that_of_the_file_as_it_was_read_last() {
    let (home, backend) = (Home::new(), Backend::by(|_| std::future::pending()).await);
    let mut proxy = Proxy::before(&home, backend.address, "");
    home.write(&[backend.address], "stop-time = \"200ms\"");
    assert_eq!(proxy.reload().await.status, 200);
    let to = proxy.address;
    tokio::spawn(async move { try_send(to, "POST", "/orders", &[("idempotency-key", "k")], "tea").await });
    backend.reached(1).await;
    proxy.signal("-TERM");
    let told = proxy.wait_for_line("stopping");
    assert!(told.contains("200ms"), "{told}");
    let ended = tokio::task::spawn_blocking(move || proxy.ended())
        .await
        .expect("no panic");
    assert_eq!(ended.code(), Some(75));
}

#[tokio::test]
async fn told_to_stop_it_cuts_what_has_no_end_and_calls_nothing_of_that_in_doubt() {
    let home = Home::new();
    let backend = Backend::raw(|mut client| async move {
        client.head().await;
        client
            .write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
            .await;
        client.end().await;
    })
    .await;
    let mut proxy = Proxy::before(&home, backend.address, "stop-time = \"300ms\"");
    let mut client = Raw::to(proxy.address).await;
    client
        .write("GET /socket HTTP/1.1\r\nHost: shop.example\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        .await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
    proxy.signal("-TERM");
    let (ended, told) = tokio::task::spawn_blocking(move || (proxy.ended(), proxy.wait_for_line("stopped: ")))
        .await
        .expect("no panic");
    assert!(ended.success(), "{ended}: {told}");
    assert!(told.contains("1 tunnel was cut") && !told.contains("doubt"), "{told}");
}

#[tokio::test]
async fn a_request_that_was_cut_off_is_told_apart_from_an_execution_in_doubt() {
    let (home, backend) = (Home::new(), Backend::by(|_| std::future::pending()).await);
    let mut proxy = Proxy::before(&home, backend.address, "stop-time = \"300ms\"");
    let to = proxy.address;
    tokio::spawn(async move { try_send(to, "POST", "/orders", &[], "tea").await });
    backend.reached(1).await;
    proxy.signal("-TERM");
    let (ended, told) = tokio::task::spawn_blocking(move || (proxy.ended(), proxy.wait_for_line("stopped before")))
        .await
        .expect("no panic");
    assert_eq!(ended.code(), Some(75), "{told}");
    assert!(
        told.contains("1 connection was cut off in the middle of a request or an answer") && !told.contains("doubt"),
        "{told}"
    );
}

#[tokio::test]
async fn a_reload_is_made_for_programs_of_operators_and_for_no_page_in_a_browser() {
    let (home, backend) = (Home::new(), working().await);
    home.write_text(&format!(
        "listen = \"127.0.0.1:0\"\nupstream.url = \"http://{}\"\nstore.url = {:?}\n[admin]\nlisten = \"127.0.0.1:0\"\nhosts = \
         \"proxy.ops.example\"",
        backend.address,
        home.store()
    ));
    let proxy = home.start();
    let own = proxy.admin.to_string();
    let own = own.as_str();
    for turned_away in [
        &[("host", "evil.example")][..],
        &[("host", own), ("origin", "https://evil.example")],
        &[("host", own), ("origin", "null")],
        &[("host", own), ("sec-fetch-site", "cross-site")],
    ] {
        let told = proxy.reload_as(turned_away).await;
        assert_eq!(told.status, 403, "{turned_away:?}: {told:?}");
    }
    assert_eq!(
        proxy.metric("oneflight_proxy_reloads_total{result=\"done\"}").await,
        0.0
    );
    for host in [own, "localhost:9464", "proxy.ops.example:9464"] {
        let told = proxy.reload_as(&[("host", host)]).await;
        assert_eq!(told.status, 200, "{host}: {told:?}");
    }
    let told = proxy.reload_as(&[("host", "evil.example")]).await.text();
    assert!(told.contains("admin.hosts"), "{told}");
}
