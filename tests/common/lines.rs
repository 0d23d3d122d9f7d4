//! Log lines, collected for tests that look at them.

#![allow(dead_code, reason = "each test uses its own part")]

use std::io::Write;
use std::sync::{Arc, Mutex};

use tracing::instrument::WithSubscriber;

/// Where the lines go.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// Writes everything here.
    pub fn subscriber(&self) -> impl tracing::Subscriber + Send + Sync + use<> {
        let lines = self.clone();
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_ansi(false)
            .with_writer(move || lines.clone())
            .finish()
    }

    /// The lines with this word.
    pub fn with(&self, word: &str) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines()
            .filter(|line| line.contains(word))
            .map(str::to_owned)
            .collect()
    }

    /// The one line with this word.
    pub fn the(&self, word: &str) -> String {
        let found = self.with(word);
        assert_eq!(found.len(), 1, "{word:?}: {found:#?}");
        found.into_iter().next().unwrap()
    }
}

/// Without a subscriber on the threads of a pool: everything happens on this one.
pub fn block_on(lines: &Lines, test: impl Future<Output = ()>) {
    let subscriber = lines.subscriber();
    let _default = tracing::subscriber::set_default(subscriber);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test.with_current_subscriber());
}

/// The span of a request.
pub fn request(correlation: &str) -> tracing::Span {
    tracing::info_span!("request", correlation_id = correlation)
}
