//! What all processes that serve have in common: a log, and an end.

use std::io::IsTerminal;

use crate::cli::End;

impl End {
    /// Begins to log, on standard error.
    pub(crate) fn log(self) {
        tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false)
            .with_max_level(match self.until_eof {
                true => tracing::Level::ERROR,
                false => tracing::Level::INFO,
            })
            .init();
    }

    /// Ends when the process is to stop.
    pub(crate) async fn asked_for(self) -> std::io::Result<()> {
        match self.until_eof {
            true => {
                end_of_input().await;
                Ok(())
            }
            false => stop_asked_for().await,
        }
    }
}

/// Ends when the process is asked to stop, by Ctrl-C or SIGTERM.
async fn stop_asked_for() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}

/// Ends when standard input does: with the process that holds its other end, in whichever way that ends.
async fn end_of_input() {
    let (over, ended) = tokio::sync::oneshot::channel::<()>();
    // A thread that is not waited for: a read from standard input cannot be called off.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        drop(over);
    });
    // Never sent to: what is heard is that it was dropped.
    let _ = ended.await;
}
