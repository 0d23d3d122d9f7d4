//! How a relay in another process learns that there is something to deliver, before it looks by itself.
//!
//! ```text
//! commit ──▶ bell ──▶ relays of this process
//!               └──after a moment, unless a relay of this process has all shards──▶ NOTIFY ──▶ other processes: bell
//! ```
//!
//! The notification is a statement of its own, after the user's commit and on a connection of the outbox's, so that no
//! commit of the user's takes its turn for it. Commits within a moment share one, and more of them while there are many. A hint
//! that is lost, since its process ended in that moment for one, costs the time until the relay looks by itself.
//!
//! Where a pooler shares sessions, nothing is heard; a store that is opened for one does not listen.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPool, PgPoolOptions};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use crate::PostgresStore;
use crate::outbox_parts::Parts;
use oneflight::store::jitter;
use oneflight::store::outbox::SHARDS;

/// How long commits are gathered for one notification.
const MOMENT: Duration = Duration::from_millis(2);
/// How long none is sent after one: while there are many commits, notifications would be as many transactions beside them.
const REST: Duration = Duration::from_millis(6);
/// How long a lost connection is left alone.
const PAUSE: Duration = Duration::from_secs(2);

impl PostgresStore {
    /// Sends hints from now on, if there is a runtime to send them on.
    pub(super) fn send_hints(&self) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if !self.outbox.sends_hints.swap(true, Ordering::SeqCst) {
            let (parts, pool, patience) = (Arc::downgrade(&self.outbox), self.line().clone(), self.patience);
            let local = self.outbox.bell.listen_to_own();
            let sends = Sends(Weak::clone(&parts));
            runtime.spawn(async move {
                let _sends = sends;
                hint(parts, local, pool, patience).await;
            });
        }
    }

    /// Hears hints from now on.
    pub(super) fn hear_hints(&self) {
        if !self.prepares || self.outbox.hears_hints.swap(true, Ordering::SeqCst) {
            return;
        }
        let line = self.line().clone();
        let hears = Hears(Arc::downgrade(&self.outbox));
        tokio::spawn(async move { hear(hears, line).await });
    }
}

/// A task that ends, with its runtime perhaps, is begun again when it is next asked for.
struct Sends(Weak<Parts>);

impl Drop for Sends {
    fn drop(&mut self) {
        if let Some(parts) = self.0.upgrade() {
            parts.sends_hints.store(false, Ordering::SeqCst);
        }
    }
}

struct Hears(Weak<Parts>);

impl Drop for Hears {
    fn drop(&mut self) {
        if let Some(parts) = self.0.upgrade() {
            parts.hears_hints.store(false, Ordering::SeqCst);
        }
    }
}

async fn hint(parts: Weak<Parts>, mut local: oneflight::store::outbox::Listener, pool: PgPool, patience: Duration) {
    while local.rung_or_gone().await {
        let Some(parts) = parts.upgrade() else {
            return;
        };
        if parts.owned.load(Ordering::SeqCst) == usize::from(SHARDS) {
            continue;
        }
        let channel = parts.statements.names.outbox_channel();
        drop(parts);
        sleep(MOMENT).await;
        // In one piece, whatever is between here and the server, and without waiting for the disk.
        let notify = format!(
            "SELECT pg_catalog.set_config('synchronous_commit', 'off', true), pg_catalog.pg_notify('{}', '')",
            channel.replace('\'', "''")
        );
        // It is a hint.
        let _ = timeout(patience, sqlx::raw_sql(AssertSqlSafe(notify)).execute(&pool)).await;
        sleep(REST).await;
    }
}

async fn hear(hears: Hears, line: PgPool) {
    loop {
        // A connection of its own, with the credentials of now.
        let options = PgConnectOptions::clone(&line.connect_options());
        let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(options);
        let Some(parts) = hears.0.upgrade() else {
            return;
        };
        let channel = parts.statements.names.outbox_channel();
        let mut gone = parts.bell.listen_to_own();
        drop(parts);
        if let Ok(mut listener) = PgListener::connect_with(&pool).await
            && listener.listen(&channel).await.is_ok()
        {
            loop {
                tokio::select! {
                    heard = listener.try_recv() => match (heard, hears.0.upgrade()) {
                        (Ok(Some(_)), Some(parts)) => parts.bell.echo(),
                        _ => break,
                    },
                    still_there = gone.rung_or_gone() => if !still_there {
                        return;
                    },
                }
            }
        }
        sleep(PAUSE + jitter(PAUSE)).await;
    }
}
