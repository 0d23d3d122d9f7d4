//! The store goes away, and comes back.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::backend::{Backend, text, until};
use crate::client::{get, keyed, post};
use crate::postgres::{self, SUPERUSER};
use crate::proxy::{Home, PATIENCE, Proxy};
use crate::redis::Server;

/// Writes a configuration over this store.
fn write(home: &Home, backend: SocketAddr, store: &str, more: &str) {
    home.write_text(&format!(
        "listen = \"127.0.0.1:0\"\nupstream.url = \"http://{backend}\"\nadmin.listen = \"127.0.0.1:0\"\n[store]\nurl = {store:?}\n{more}\n"
    ));
}

/// Waits until the proxy says that it is ready, or why it is not.
async fn ready(proxy: &Proxy, status: u16, what: &str) {
    let end = Instant::now() + PATIENCE;
    loop {
        let answer = get(proxy.admin, "/readyz").await;
        if answer.status == status && answer.text().contains(what) {
            return;
        }
        assert!(Instant::now() < end, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn it_is_not_ready_while_redis_may_only_be_read() {
    let (home, redis) = (Home::new(), Server::start(&[]));
    let backend = Backend::by(|_| async { text("done") }).await;
    write(&home, backend.address, &redis.url(), "");
    let proxy = home.start();
    ready(&proxy, 200, "reachable").await;
    let mut connection = redis.client().get_multiplexed_async_connection().await.expect("Redis");
    let mut follow = async |host: &str, port: &str| {
        let told = ::redis::cmd("REPLICAOF")
            .arg(host)
            .arg(port)
            .query_async::<()>(&mut connection)
            .await;
        told.expect("Redis");
    };
    follow("127.0.0.1", &postgres::free_port().to_string()).await;
    ready(&proxy, 503, "cannot be written").await;
    assert_eq!(keyed(proxy.address, "k", "tea").await.status, 503);
    assert_eq!(backend.count(), 0);
    follow("NO", "ONE").await;
    ready(&proxy, 200, "reachable").await;
    assert_eq!(keyed(proxy.address, "k", "tea").await.text(), "done");
    // To ask whether it can be written leaves nothing behind.
    let mut connection = redis.client().get_multiplexed_async_connection().await.expect("Redis");
    let left: Vec<String> = ::redis::cmd("KEYS")
        .arg("*ready*")
        .query_async(&mut connection)
        .await
        .expect("Redis");
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn it_is_not_ready_while_redis_has_no_room_and_to_ask_for_it_touches_no_key_of_others() {
    let (home, redis) = (Home::new(), Server::start(&[]));
    let backend = Backend::by(|_| async { text("done") }).await;
    write(&home, backend.address, &redis.url(), "");
    let mut connection = redis.client().get_multiplexed_async_connection().await.expect("Redis");
    let mut told = async |words: &str| -> String {
        let mut words = words.split(' ');
        let mut command = ::redis::cmd(words.next().expect("a command"));
        command.arg(words.collect::<Vec<_>>());
        command.query_async(&mut connection).await.expect("Redis")
    };
    told("SET ready precious").await;
    // A variable that is empty says nothing.
    let proxy = home.start_with(&[("ONEFLIGHT_PREFIX", "")]);
    ready(&proxy, 200, "reachable").await;
    assert_eq!(told("GET ready").await, "precious");
    told("CONFIG SET maxmemory 1").await;
    ready(&proxy, 503, "cannot be written").await;
    told("CONFIG SET maxmemory 0").await;
    ready(&proxy, 200, "reachable").await;
}

#[tokio::test]
async fn it_is_not_ready_while_the_file_of_sqlite_may_only_be_read() {
    let home = Home::new();
    let backend = Backend::by(|_| async { text("done") }).await;
    home.write(&[backend.address], "");
    let mut proxy = home.start_without_privileges();
    ready(&proxy, 200, "reachable").await;
    assert!(
        proxy
            .wait_for_line("records are kept in the store")
            .contains(&home.store())
    );
    proxy.signal("-TERM");
    let proxy = tokio::task::spawn_blocking(move || {
        proxy.ended();
        let all = std::fs::read_dir(home.path())
            .expect("the directory")
            .map(|entry| entry.expect("an entry").path());
        for file in all.filter(|path| path.display().to_string().contains("records.db")) {
            std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o444)).expect("it is ours");
        }
        (home.start_without_privileges(), home)
    });
    let (proxy, _home) = proxy.await.expect("no panic");
    ready(&proxy, 503, "cannot be written").await;
    assert_eq!(keyed(proxy.address, "k", "tea").await.status, 503);
}

/// A database of its own, and its address at this port.
async fn database(name: &str, port: u16) -> String {
    run("postgres", &format!("CREATE DATABASE {name}")).await;
    format!("postgres://{SUPERUSER}:hunter2@127.0.0.1:{port}/{name}?sslmode=disable")
}

async fn run(database: &str, statement: &str) {
    let server = postgres::server();
    let options = server.options(server.port()).database(database);
    let mut connection = sqlx::PgConnection::connect_with(&options).await.expect("PostgreSQL");
    let ran = sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
        .execute(&mut connection)
        .await;
    ran.expect("a right statement");
}

#[tokio::test]
async fn it_is_not_ready_while_its_role_may_only_read_in_postgres() {
    let home = Home::new();
    let backend = Backend::by(|_| async { text("done") }).await;
    let url = database("readonly", postgres::server().port()).await;
    let tables = oneflight_postgres::PostgresStore::options().open(&url).await;
    drop(tables.expect("a database"));
    let rights = "CREATE ROLE shop LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO shop; GRANT ALL ON ALL SEQUENCES IN SCHEMA public \
                  TO shop";
    run("readonly", rights).await;
    let url = url.replace(&format!("//{SUPERUSER}:"), "//shop:");
    write(&home, backend.address, &url, "");
    let proxy = home.start();
    ready(&proxy, 200, "reachable").await;
    let told = proxy.wait_for_line("records are kept in the store");
    assert!(
        told.contains("PostgreSQL shop@127.0.0.1:") && told.contains("/readonly"),
        "{told}"
    );
    assert_eq!(proxy.told("hunter2"), 0);
    run(
        "readonly",
        "REVOKE INSERT, UPDATE, DELETE ON oneflight_records FROM shop",
    )
    .await;
    ready(&proxy, 503, "cannot be written").await;
    assert_eq!(keyed(proxy.address, "k", "tea").await.status, 503);
    run("readonly", "GRANT INSERT, UPDATE, DELETE ON oneflight_records TO shop").await;
    ready(&proxy, 200, "reachable").await;
    assert_eq!(keyed(proxy.address, "k", "tea").await.text(), "done");
}

/// A way to a server that can be closed: it accepts nothing then, or accepts everything and passes nothing on.
struct Way {
    port: u16,
    state: watch::Sender<Passes>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Passes {
    All,
    /// It keeps connections, and nothing comes of them any more.
    Nothing,
    /// It ends connections, and takes no new ones.
    Nobody,
}

impl Way {
    async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("a port").port();
        let (state, mut seen) = watch::channel(Passes::All);
        tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    _ = seen.wait_for(|passes| *passes == Passes::Nobody) => return,
                };
                let (mut client, _) = accepted.expect("a connection");
                let mut seen = seen.clone();
                tokio::spawn(async move {
                    if *seen.borrow() == Passes::All {
                        let mut server = TcpStream::connect(("127.0.0.1", server)).await.expect("the server");
                        tokio::select! {
                            _ = tokio::io::copy_bidirectional(&mut client, &mut server) => return,
                            _ = seen.wait_for(|passes| *passes != Passes::All) => {}
                        }
                    }
                    let _ = seen.wait_for(|passes| *passes == Passes::Nobody).await;
                });
            }
        });
        Self { port, state }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_does_not_answer_is_waited_for_within_its_time() {
    let backend = Backend::by(|_| async { text("done") }).await;
    for (name, closed) in [("silent", Passes::Nothing), ("refusing", Passes::Nobody)] {
        let home = Home::new();
        let way = Way::to(postgres::server().port()).await;
        write(
            &home,
            backend.address,
            &database(name, way.port).await,
            "timeout = \"2s\"\n[[route]]\nwait = \"50s\"",
        );
        let proxy = home.start();
        assert_eq!(keyed(proxy.address, "before", "tea").await.status, 200);
        way.state.send_replace(closed);
        let before = backend.count();
        for key in ["k", "before"] {
            let asked = Instant::now();
            let answer = keyed(proxy.address, key, "tea").await;
            let waited = asked.elapsed();
            assert_eq!(answer.status, 503, "{name}: {answer:?}");
            assert!(!answer.header("retry-after").is_empty(), "{name}: {answer:?}");
            // It is some 16 s without a time of its own, since the wait of a duplicate is that of the store.
            assert!(waited < Duration::from_secs(4), "{name}: {waited:?}");
        }
        assert_eq!(backend.count(), before, "{name}: nothing is forwarded");
    }
}

#[tokio::test]
async fn while_the_store_is_away_keys_fail_closed_or_pass_as_the_route_says() {
    let (home, redis) = (Home::new(), Server::start(&[]));
    let backend = Backend::by(|_| async { text("done") }).await;
    home.write_text(&format!(
        "listen = \"127.0.0.1:0\"\nupstream.url = \"http://{}\"\nadmin.listen = \"127.0.0.1:0\"\nstore.url = {:?}\n\
         [[route]]\nwait = \"1s\"\n[[route]]\npath = \"/pass\"\nwait = \"1s\"\nstore-away = \"pass\"\n",
        backend.address,
        redis.url()
    ));
    let proxy: Proxy = home.start();
    let sent = async |path: &str, key: &str| post(proxy.address, path, &[("idempotency-key", key)], "tea").await;
    assert_eq!(sent("/fail", "k").await.status, 200);
    assert_eq!(get(proxy.admin, "/readyz").await.status, 200);
    redis.kill();
    assert_eq!(get(proxy.admin, "/readyz").await.status, 503);
    let before = backend.count();
    let failed = sent("/fail", "k").await;
    assert_eq!(failed.status, 503, "{failed:?}");
    assert!(!failed.header("retry-after").is_empty(), "{failed:?}");
    assert_eq!(backend.count(), before, "it fails closed");
    assert_eq!(
        post(proxy.address, "/fail", &[], "tea").await.status,
        200,
        "without a key nothing is asked of the store"
    );
    assert_eq!(sent("/pass", "k").await.text(), "done");
    assert_eq!(sent("/pass", "k").await.text(), "done");
    assert_eq!(backend.count(), before + 3, "unprotected, as the route says");
    redis.start_again();
    proxy.wait_for_line("the store can be reached again");
    until(|| true).await;
    assert_eq!(sent("/pass", "k2").await.header("idempotency-origin"), "executed");
    assert_eq!(sent("/pass", "k2").await.header("idempotency-origin"), "replayed");
}
