//! In which span the driver tells what is done for a caller: whichever polls it.
//!
//! The subscriber is the process's, since it is other threads that poll.

use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

use futures::future::{join_all, poll_immediate};
use parking_lot::Mutex;
use tracing::level_filters::LevelFilter;
use tracing::span::Id;
use tracing::{Instrument, Subscriber, info_span};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

use super::super::queue::Rank;
use super::id;
use super::shop::{Shop, end, granted};
use oneflight::idempotency::Idempotency;
use oneflight::store::{Claim, Store};

/// The names of spans, and of the threads of connections that have entered them.
#[derive(Default)]
struct Entered(Mutex<Vec<(&'static str, String)>>);

static ENTERED: LazyLock<&Entered> = LazyLock::new(|| {
    let entered: &Entered = Box::leak(Box::default());
    let subscriber = Registry::default().with(LevelFilter::INFO).with(Listens(entered));
    tracing::subscriber::set_global_default(subscriber).unwrap();
    entered
});

struct Listens(&'static Entered);

impl Entered {
    /// How often a span was entered on a thread, or on any.
    fn count(&self, span: &str, on: Option<&str>) -> usize {
        let entered = self.0.lock();
        let those = entered
            .iter()
            .filter(|(name, thread)| *name == span && on.is_none_or(|on| on == thread));
        those.count()
    }

    /// The thread of the writer's connection.
    async fn writers(&self, shop: &Shop) -> String {
        let mut turn = shop.turn().await;
        let asks = sqlx::query("SELECT 1").execute(&mut *turn);
        asks.instrument(info_span!("writer")).await.unwrap();
        end(turn);
        let entered = self.0.lock();
        let (_, thread) = entered.iter().rfind(|(name, _)| *name == "writer").unwrap();
        thread.clone()
    }
}

impl<S: Subscriber + for<'s> LookupSpan<'s>> Layer<S> for Listens {
    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        let thread = thread::current();
        let thread = thread.name().filter(|name| name.starts_with("sqlx-sqlite-worker"));
        if let (Some(span), Some(thread)) = (context.span(id), thread) {
            self.0.0.lock().push((span.name(), thread.to_owned()));
        }
    }
}

#[tokio::test]
async fn what_others_poll_is_told_in_the_span_of_the_caller_whose_it_is() {
    let entered = *ENTERED;
    let shop = Shop::open().await;
    let writers = entered.writers(&shop).await;
    // So the connection is set before something is claimed.
    let idem = Idempotency::builder(shop.store.clone()).build();
    let _ = idem.run_in_tx(id("work"), |_| async { Ok(1) }).await.unwrap();
    let mut kept = Box::pin(shop.claim("kept").instrument(info_span!("kept")));
    while shop.store.writer.queue.try_enter(Rank::Lease).is_some() {
        let polled = poll_immediate(&mut kept).await;
        assert!(polled.is_none(), "it was never seen to have the turn");
        tokio::task::yield_now().await;
    }
    // Not polled until it is done.
    let _ = granted(shop.claim("beside").instrument(info_span!("beside")).await);
    let _ = granted(kept.await);
    assert_eq!(entered.count("kept", Some(&writers)), 2);
    assert_eq!(entered.count("beside", Some(&writers)), 1);
}

#[tokio::test]
async fn a_renewal_alone_is_told_in_the_span_of_its_caller_and_several_in_none() {
    let entered = *ENTERED;
    let lease = Duration::from_secs(5);
    for shop in Shop::each().await {
        let claims = [shop.granted("one").await, shop.granted("other").await];
        let renew = |claim, span| {
            let renewal = shop.store.renew(Claim::id(claim), Claim::token(claim), lease);
            renewal.instrument(span)
        };
        let before = entered.count("alone", None);
        renew(&claims[0], info_span!("alone")).await.unwrap();
        assert!(entered.count("alone", None) > before);
        let several = claims.iter().map(|claim| renew(claim, info_span!("several")));
        let renewed = join_all(several).await;
        assert!(renewed.iter().all(Result::is_ok), "{renewed:?}");
        assert_eq!(entered.count("several", None), 0);
    }
}
