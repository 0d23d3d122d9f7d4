//! Log lines, collected for tests that look at them.

#![allow(dead_code, reason = "each test uses its own part")]

use std::io::Write;
use std::sync::{Arc, LazyLock, Mutex};

use tracing::Dispatch;
use tracing::instrument::WithSubscriber;
use tracing::subscriber::NoSubscriber;

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
        beside_other_tests();
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

/// Lets a subscriber of one thread hear of places in the code that another thread of this process was the first to reach. While
/// `tracing` knows one subscriber only, it asks that of the thread that reaches a place, finds none there, and remembers that
/// nobody listens. So it gets to know a second one, which listens to nothing.
pub fn beside_other_tests() {
    static DEAF: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::new()));
    LazyLock::force(&DEAF);
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
