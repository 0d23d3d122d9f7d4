//! What goes to the server and not into the application's own log, because values stand in its text.
//!
//! `sqlx` logs the text of a statement when it is over, or given up: at `DEBUG`, and at `WARN` if it took long. The levels are the
//! pool's, and cannot be set for one statement. It logs by `tracing`, where a part of the program can have a subscriber of its
//! own, and this one's is deaf. It is one for the process, which `tracing` knows of. `NoSubscriber` is not: if a line of the program is
//! come to with that for the first time, `tracing` takes it that nobody ever wants to hear that line.
//!
//! Where there is no subscriber, `tracing` hands what it is told to `log`, for the whole program, and only as long as there was none
//! anywhere. So there is none made there: that would end all that the program logs like this. Nothing can be kept out of that
//! log, and values are bound instead, where they can be.

use std::future::Future;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};

use tracing::dispatcher::{get_default, with_default};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{Interest, NoSubscriber};
use tracing::{Dispatch, Event, Metadata, Subscriber};

/// What `sqlx` says that its lines are about.
const TARGET: &str = "sqlx::query";

static DEAF: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(Deaf));

/// Returns whether what a [`Unheard`] future says gets into no log.
pub(super) fn is_possible() -> bool {
    has_subscriber() || !log::log_enabled!(target: TARGET, log::Level::Error)
}

fn has_subscriber() -> bool {
    get_default(|it| !it.is::<NoSubscriber>())
}

/// A subscriber that wants to hear nothing.
struct Deaf;

impl Subscriber for Deaf {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::never()
    }

    fn enabled(&self, _: &Metadata<'_>) -> bool {
        false
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::OFF)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// A future that says nothing to a subscriber, neither when it is polled nor when it is dropped.
#[must_use = "futures do nothing unless they are awaited"]
pub(super) struct Unheard<F>(Option<Pin<Box<F>>>);

impl<F: Future> Unheard<F> {
    pub(super) fn new(future: F) -> Self {
        Self(Some(Box::pin(future)))
    }
}

fn unheard<R>(part: impl FnOnce() -> R) -> R {
    match has_subscriber() {
        true => with_default(&DEAF, part),
        false => part(),
    }
}

impl<F: Future> Future for Unheard<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Some(future) = &mut self.0 else {
            return Poll::Pending;
        };
        let answer = unheard(|| future.as_mut().poll(context));
        if answer.is_ready() {
            unheard(|| self.0 = None);
        }
        answer
    }
}

impl<F> Drop for Unheard<F> {
    fn drop(&mut self) {
        unheard(|| self.0 = None);
    }
}
