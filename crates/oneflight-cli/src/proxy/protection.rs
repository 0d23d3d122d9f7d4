//! The store, whichever it is, as the proxy needs it: layers over it, whether it can be reached, and its end.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use oneflight::http::layer::IdempotencyLayer;
use oneflight::store::Store;
use oneflight::{Idempotency, RequestIdentity, Scope};
use tokio::time::timeout;

use super::config::{Route, StoreSettings};
use super::policy;
use crate::exit::Failure;
use crate::store::{self, Tables, told, with_store};

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What executes once. Reloads keep it: requests before and after share its flights.
#[derive(Clone)]
pub(super) struct Protection {
    store: Arc<dyn Executes>,
    is_away: Arc<AtomicBool>,
}

trait Executes: Send + Sync {
    fn layer(&self, route: &Route) -> IdempotencyLayer;
    fn ask(&self) -> BoxFuture<'_, Result<(), String>>;
    fn close(&self);
    fn drain(&self) -> BoxFuture<'_, ()>;
    fn in_flight(&self) -> usize;
}

impl Protection {
    /// Opens the store, and makes its tables.
    pub(super) async fn open(address: &store::Address, settings: &StoreSettings) -> Result<Self, Failure> {
        let any = address.open(Tables::Make).await?;
        let every = settings.purge_every;
        let store = with_store!(any, |store| {
            let idempotency = Idempotency::builder(store).purge_every(every).build();
            Arc::new(idempotency) as Arc<dyn Executes>
        });
        Ok(Self {
            store,
            is_away: Arc::default(),
        })
    }

    pub(super) fn layer(&self, route: &Route) -> IdempotencyLayer {
        self.store.layer(route)
    }

    /// Asks the store, and keeps in mind whether it answered.
    pub(super) async fn reachable(&self) -> Result<(), String> {
        const LONGEST: Duration = Duration::from_secs(2);
        let asked = timeout(LONGEST, self.store.ask()).await;
        let answered = asked.unwrap_or_else(|_| Err(format!("no answer within {LONGEST:?}")));
        let was_away = self.is_away.swap(answered.is_err(), Ordering::Relaxed);
        match &answered {
            Err(why) if !was_away => tracing::error!(%why, "the store cannot be reached"),
            Ok(()) if was_away => tracing::info!("the store can be reached again"),
            _ => {}
        }
        answered
    }

    /// Whether the store did not answer when it was asked last.
    pub(super) fn is_away(&self) -> bool {
        self.is_away.load(Ordering::Relaxed)
    }

    pub(super) fn close(&self) {
        self.store.close();
    }

    pub(super) async fn drain(&self) {
        self.store.drain().await;
    }

    pub(super) fn in_flight(&self) -> usize {
        self.store.in_flight()
    }
}

impl<S: Store> Executes for Idempotency<S> {
    fn layer(&self, route: &Route) -> IdempotencyLayer {
        policy::layer(self, route)
    }

    fn ask(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let id = RequestIdentity::new(Scope::new("oneflight"), "ready").map_err(|error| told(&error))?;
            self.store().load(&id).await.map(drop).map_err(|error| told(&error))
        })
    }

    fn close(&self) {
        Idempotency::close(self);
    }

    fn drain(&self) -> BoxFuture<'_, ()> {
        Box::pin(Idempotency::drain(self))
    }

    fn in_flight(&self) -> usize {
        Idempotency::in_flight(self)
    }
}
