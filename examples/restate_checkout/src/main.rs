//! An order service that has outgrown the library: Restate carries its orders out, **under the same keys**.
//!
//! ```text
//! bin/restate storm --kills 20
//! ```
//!
//! starts all of it, kills one part after the other, and counts what came of it. [`front`] is what is worth reading first, then
//! [`service`]; [`steps`] is how it was before the move. Restate's server is no part of this program. docs/durable-execution.md says
//! when to move, and how.

mod cli;
mod front;
mod order;
mod restate;
mod service;
mod steps;

use std::error::Error;
use std::net::Ipv4Addr;
use std::time::Duration;

use clap::Parser;
use oneflight_sqlite::SqliteStore;
use restate_sdk::prelude::{Endpoint, HttpServer};
use tokio::net::{TcpListener, TcpSocket};

use crate::cli::{Cli, Part};
use crate::order::Outside;
use crate::service::Checkout;

/// Nobody is waited for longer. What was asked for goes on, and is asked for again under the same key.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cli = Cli::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let store = SqliteStore::open(&cli.db).await?;
    order::create(store.pool()).await?;
    let outside = Outside {
        url: cli.outside,
        client: reqwest::Client::builder().timeout(PATIENCE).build()?,
    };
    let listener = listen(cli.port)?;
    println!("listening at http://{}", listener.local_addr()?);
    match cli.part {
        Part::Front(args) => front::serve(listener, args, store, outside).await?,
        Part::Service => {
            let pool = store.pool().clone();
            let endpoint = Endpoint::builder().bind(Checkout { pool, outside }).build();
            HttpServer::new(endpoint).serve(listener).await;
        }
    }
    Ok(())
}

/// Connections take `TCP_NODELAY` from their listener, on Linux. The SDK's server does not set it, and each step of an order is an exchange of
/// small frames with Restate: without it, each waits some 40 ms for an acknowledgement.
fn listen(port: u16) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_nodelay(true)?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::LOCALHOST, port).into())?;
    socket.listen(1024)
}
