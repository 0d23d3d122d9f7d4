//! What all of the proxy shares: the current generation, and how the next one comes to be.

use std::path::PathBuf;
use std::sync::Arc;

use metrics::Gauge;
use parking_lot::{Mutex, RwLock};
use tokio_util::task::TaskTracker;

use super::config::Config;
use super::generation::Generation;
use super::protection::Protection;
use super::telemetry::{self, Reloaded};
use super::tunnel::Tunnels;

/// The proxy as it runs.
pub(super) struct State {
    path: PathBuf,
    current: RwLock<Arc<Generation>>,
    /// One reload at a time.
    reloads: Mutex<()>,
    pub(super) protection: Protection,
    pub(super) tunnels: Tunnels,
    /// The connections of clients.
    pub(super) connections: TaskTracker,
    pub(super) in_flight: Gauge,
}

impl State {
    pub(super) fn new(path: PathBuf, config: Config, protection: Protection) -> Self {
        let tunnels = Tunnels::default();
        let first = Generation::new(config, &protection, None, &tunnels);
        Self {
            path,
            current: RwLock::new(Arc::new(first)),
            reloads: Mutex::default(),
            protection,
            tunnels,
            connections: TaskTracker::new(),
            in_flight: telemetry::in_flight(),
        }
    }

    /// Returns what a request that comes now is answered by.
    pub(super) fn current(&self) -> Arc<Generation> {
        Arc::clone(&self.current.read())
    }

    /// Reads the file again. If there is an error in it, or if it asks for what needs a restart, all stays as it is.
    pub(super) fn reload(&self) -> Result<(), String> {
        let _one = self.reloads.lock();
        let read = Config::read(&self.path).map_err(|failure| failure.to_string());
        let next = read.and_then(|next| {
            let before = self.current();
            needs_restart(&before.config, &next)?;
            Ok(Generation::new(next, &self.protection, Some(&before), &self.tunnels))
        });
        match next {
            Ok(next) => {
                *self.current.write() = Arc::new(next);
                telemetry::reloaded(Reloaded::Done);
                tracing::info!(file = %self.path.display(), "the configuration was read again");
                Ok(())
            }
            Err(why) => {
                telemetry::reloaded(Reloaded::Failed);
                tracing::error!(%why, "the configuration was not read again: all stays as it was");
                Err(why)
            }
        }
    }
}

/// Whether a change can be made only by a restart.
fn needs_restart(before: &Config, next: &Config) -> Result<(), String> {
    let changed = [
        ("listen", before.listen != next.listen),
        ("store", before.store != next.store),
        ("admin.listen", before.admin != next.admin),
    ];
    let changed: Vec<&str> = changed.iter().filter(|(_, is)| *is).map(|(what, _)| *what).collect();
    match changed.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "a change of `{}` needs a restart: nothing was changed",
            changed.join("` and `")
        )),
    }
}
