//! Connections that wait for their next request.

use parking_lot::Mutex;
use tokio::time::Instant;

use super::connection::Connection;

/// The connections without a request.
#[derive(Default)]
pub(super) struct Idle(pub(super) Mutex<Vec<Connection>>);

/// More idle connections than this are not kept.
const MOST_IDLE: usize = 256;

impl Idle {
    /// Keeps a connection for the next request.
    pub(super) fn put(&self, mut connection: Connection) {
        connection.used = Instant::now();
        let mut idle = self.0.lock();
        if idle.len() < MOST_IDLE {
            idle.push(connection);
        }
    }
}
