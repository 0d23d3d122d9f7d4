//! Connections that changed to another protocol: bytes pass both ways until both ends have ended.

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tokio_util::task::TaskTracker;

/// The tunnels of the proxy.
#[derive(Clone, Debug, Default)]
pub(super) struct Tunnels(TaskTracker);

impl Tunnels {
    /// Joins a client's connection to a backend's, as soon as both have changed.
    pub(super) fn join(&self, client: OnUpgrade, backend: OnUpgrade) {
        self.0.spawn(async move {
            let (client, backend) = match tokio::try_join!(client, backend) {
                Ok(both) => both,
                Err(error) => return tracing::debug!(%error, "a connection did not change its protocol"),
            };
            let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
            if let Err(error) = copy_bidirectional(&mut client, &mut backend).await {
                tracing::debug!(%error, "a tunnel broke");
            }
        });
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// Waits until there is none.
    pub(super) async fn ended(&self) {
        self.0.close();
        self.0.wait().await;
    }
}
