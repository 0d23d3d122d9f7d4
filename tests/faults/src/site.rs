//! Where a store's records are: the private server or file of a run, how workers reach it, and what can be done to it.

use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor};

use crate::backend::StoreName;
use crate::disk::Disk;
use crate::pgbouncer::Bouncer;
use crate::{postgres, redis_server};

/// How long a server may take to stop in good order.
const STOPS_WITHIN: Duration = Duration::from_secs(30);

pub enum Site {
    File { folder: PathBuf },
    Postgres(postgres::Server),
    Redis(redis_server::Server),
}

/// How a server is stopped before it is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    InGoodOrder,
    AsACrash,
}

impl Site {
    pub fn start(store: StoreName, folder: PathBuf) -> Self {
        match store {
            StoreName::Sqlite => Self::File { folder },
            // They keep what they say they keep: the defaults.
            StoreName::Postgres => Self::Postgres(postgres::Server::start("")),
            StoreName::Redis => Self::Redis(redis_server::Server::start(&[
                "--appendonly",
                "yes",
                "--appendfsync",
                "always",
            ])),
        }
    }

    /// A file on a small disk.
    pub fn on(disk: &Disk) -> Self {
        Self::File {
            folder: disk.folder().to_owned(),
        }
    }

    /// The server's port, if there is one.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::File { .. } => None,
            Self::Postgres(server) => Some(server.port()),
            Self::Redis(server) => Some(server.port()),
        }
    }

    /// How to reach it, directly or through a proxy at another port.
    pub fn url(&self, proxy: Option<u16>) -> String {
        match self {
            Self::File { folder } => folder.join("records.db").to_str().expect("it is text").to_owned(),
            Self::Postgres(server) => {
                let port = proxy.unwrap_or(server.port());
                format!("postgres://oneflight@127.0.0.1:{port}/postgres?sslmode=disable")
            }
            Self::Redis(server) => format!("redis://127.0.0.1:{}/", proxy.unwrap_or(server.port())),
        }
    }

    /// A pooler before the server, which lends its sessions by this mode. There are enough for all clients, and after a login
    /// that has failed it does not wait for 15 s, as it does by default: what waits for the pooler shows nothing of ours.
    pub fn pooler(&self, mode: &str) -> Bouncer {
        let Self::Postgres(server) = self else {
            unreachable!("there are poolers for PostgreSQL only")
        };
        Bouncer::before(
            server,
            &format!("pool_mode = {mode}\ndefault_pool_size = 100\nserver_login_retry = 1"),
        )
    }

    /// Has the server end the connections of all its clients.
    pub async fn disconnect(&self) {
        match self {
            Self::File { .. } => unreachable!("a file has no clients"),
            Self::Postgres(server) => {
                let options = server.options(server.port());
                let mut connection = PgConnection::connect_with(&options).await.expect("the server answers");
                let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                           WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
                connection.execute(end).await.expect("we may");
            }
            Self::Redis(server) => {
                let mut connection = server.connection().await;
                for clients in ["normal", "pubsub"] {
                    let mut kill = redis::cmd("CLIENT");
                    kill.arg("KILL").arg("TYPE").arg(clients);
                    kill.exec_async(&mut connection).await.expect("we may");
                }
            }
        }
    }

    /// Stops the server and starts it again. Blocks until it is back.
    pub fn restart(&self, stop: Stop) {
        match (self, stop) {
            (Self::File { .. }, _) => unreachable!("a file has no server"),
            (Self::Postgres(server), Stop::InGoodOrder) => server.restart("fast"),
            (Self::Postgres(server), Stop::AsACrash) => server.restart("immediate"),
            (Self::Redis(server), Stop::AsACrash) => {
                server.kill();
                server.start_again();
            }
            (Self::Redis(server), Stop::InGoodOrder) => {
                server.signal("TERM");
                let until = Instant::now() + STOPS_WITHIN;
                while TcpListener::bind(("127.0.0.1", server.port())).is_err() {
                    assert!(Instant::now() < until, "Redis does not stop");
                    std::thread::sleep(Duration::from_millis(5));
                }
                server.start_again();
            }
        }
    }
}
