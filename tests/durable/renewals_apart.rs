//! `Renewals`: what is asked for on one runtime, or is not wanted any more, is no concern of what is asked for on another.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{self, Waker};
use std::time::{Duration, Instant};

use crate::lines::beside_other_tests;
use crate::renewals::{LEASE, LONG, Server, gathered, id, renew, runtime};
use oneflight::record::FencingToken;
use oneflight::store::Renewals;
use tokio::runtime::{Builder, Runtime};
use tracing::Subscriber;
use tracing::instrument::Instrument;
use tracing::span;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, registry};

/// Its window is 0.2 s.
const SHORT: Duration = Duration::from_millis(9_600);

fn resting() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Does something when the span of a request is closed.
struct Closes<D>(D);

impl<S: Subscriber + for<'s> LookupSpan<'s>, D: Fn() + Send + Sync + 'static> Layer<S> for Closes<D> {
    fn on_close(&self, id: span::Id, context: Context<'_, S>) {
        if context.span(&id).is_some_and(|span| span.name() == "request") {
            (self.0)();
        }
    }
}

/// Asks for a renewal in the span of a request, and is gone before that is sent: it was not wanted by then.
async fn asks_and_is_gone(renewals: &Renewals<Server>, token: u64, lease: Duration) {
    let id = id();
    let asked = renewals.renew(&id, FencingToken::new(token), lease);
    let mut asked = Box::pin(asked.instrument(tracing::info_span!("request")));
    assert!(futures::poll!(&mut asked).is_pending());
}

#[tokio::test]
async fn a_subscriber_that_is_told_of_a_renewal_that_nobody_wants_holds_no_other_up() {
    beside_other_tests();
    let (server, renewals) = gathered();
    let (is_told, is_held_up) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let closes = Closes({
        let (renewals, is_told, is_held_up) = (renewals.clone(), Arc::clone(&is_told), Arc::clone(&is_held_up));
        move || {
            let (renews, renewed) = mpsc::channel();
            let renewals = renewals.clone();
            std::thread::spawn(move || renews.send(resting().block_on(renew(&renewals, 4, SHORT))));
            is_held_up.store(renewed.recv_timeout(LONG / 3).is_err(), Ordering::SeqCst);
            is_told.store(true, Ordering::SeqCst);
        }
    });
    let _guard = tracing::subscriber::set_default(registry().with(closes));
    renew(&renewals, 1, SHORT).await.unwrap();
    asks_and_is_gone(&renewals, 2, SHORT).await;
    renew(&renewals, 3, SHORT).await.unwrap();
    assert!(is_told.load(Ordering::SeqCst), "this test no longer finds it");
    assert!(!is_held_up.load(Ordering::SeqCst));
    assert_eq!(server.messages().concat().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_panics_ends_no_task_that_gathers() {
    beside_other_tests();
    let (server, renewals) = gathered();
    let closes = Closes(|| panic!("the subscriber panics"));
    let _guard = tracing::subscriber::set_default(registry().with(closes));
    renew(&renewals, 1, LEASE).await.unwrap();
    for token in [2, 4] {
        asks_and_is_gone(&renewals, token, LEASE).await;
        let begun = tokio::time::Instant::now();
        renew(&renewals, token + 1, LEASE).await.unwrap();
        // And not two windows later, by another task.
        assert!(begun.elapsed() <= LEASE / 48, "{:?}", begun.elapsed());
    }
    // Nor does one whose span is closed when it is answered keep the others from that.
    let mut asked = [6, 7, 8].map(|token| Box::pin(renew(&renewals, token, LEASE)));
    for asked in &mut asked {
        let mut context = task::Context::from_waker(Waker::noop());
        let polled = tracing::info_span!("request").in_scope(|| asked.as_mut().poll(&mut context));
        assert!(polled.is_pending());
    }
    let renewed = futures::future::join_all(asked).await;
    assert!(renewed.iter().all(Result::is_ok), "{renewed:?}");
    assert_eq!(server.messages(), [vec![1], vec![3], vec![5], vec![6, 7, 8]]);
}

#[test]
fn a_renewal_waits_for_nothing_that_was_sent_without_it() {
    let (one, other, many) = (resting(), resting(), runtime());
    // On a busy machine one may take as long as a window.
    let took = (0..5).map(|_| {
        let (server, renewals) = gathered();
        let begun = Instant::now();
        one.block_on(renew(&renewals, 1, LEASE)).unwrap();
        other.block_on(renew(&renewals, 2, LEASE)).unwrap();
        many.block_on(renew(&renewals, 3, LEASE)).unwrap();
        assert_eq!(server.messages(), [[1], [2], [3]]);
        begun.elapsed()
    });
    let least = took.min().unwrap();
    assert!(least < LEASE / 48, "{least:?}");
}

#[test]
fn a_renewal_waits_for_a_window_after_it_could_have_gone_along() {
    let (rests, many) = (resting(), runtime());
    let (server, renewals) = gathered();
    let begun = Instant::now();
    many.block_on(renew(&renewals, 1, SHORT)).unwrap();
    // The runtime with threads of its own takes these along, or would have.
    rests.block_on(renew(&renewals, 2, SHORT)).unwrap();
    rests.block_on(renew(&renewals, 3, SHORT)).unwrap();
    assert!(begun.elapsed() >= 2 * SHORT / 48, "{:?}", begun.elapsed());
    assert_eq!(server.messages(), [[1], [2], [3]]);
}
