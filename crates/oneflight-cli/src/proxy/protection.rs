//! The store, whichever it is, as the proxy needs it: layers over it, whether it can be reached, and its end.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use oneflight::http::layer::IdempotencyLayer;
use oneflight::record::FencingToken;
use oneflight::store::{Store, StoreError};
use oneflight::{Idempotency, RequestIdentity, Scope};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::config::{Route, StoreSettings};
use super::policy;
use crate::exit::Failure;
use crate::store::{self, AnyStore, Tables, told, with_store};

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What executes once. Reloads keep it: requests before and after share its flights.
#[derive(Clone)]
pub(super) struct Protection {
    store: Arc<dyn Executes>,
    is_away: Arc<AtomicBool>,
    writes: Arc<Writes>,
}

/// Whether the store can be written.
struct Writes {
    /// A script that has nothing to write says nothing of that: of Redis, it is asked beside the store.
    redis: Option<RedisWrites>,
    /// When it was asked last, and what it answered.
    last: Mutex<Option<(Instant, Result<(), String>)>>,
}

struct RedisWrites {
    url: String,
    /// A key that is never there.
    key: String,
}

/// The store is not asked more often whether it can be written.
const ASKED_EVERY: Duration = Duration::from_secs(1);

/// A store that answers later is away.
const LONGEST: Duration = Duration::from_secs(2);

trait Executes: Send + Sync {
    fn layer(&self, route: &Route) -> IdempotencyLayer;
    fn ask(&self) -> BoxFuture<'_, Result<(), String>>;
    fn write(&self) -> BoxFuture<'_, Result<(), String>>;
    fn close(&self);
    fn drain(&self) -> BoxFuture<'_, ()>;
    fn in_flight(&self) -> usize;
}

impl Protection {
    /// Opens the store, and makes its tables.
    pub(super) async fn open(address: &store::Address, settings: &StoreSettings) -> Result<Self, Failure> {
        let any = address.open(Tables::Make).await?;
        let (every, patience) = (settings.purge_every, patience(settings.timeout));
        let redis = match (&any, &address.url) {
            (AnyStore::Redis(_), Some(url)) => Some(RedisWrites {
                url: url.clone(),
                key: format!("{}ready", store::said(&address.prefix).unwrap_or("oneflight:")),
            }),
            _ => None,
        };
        let store = with_store!(any, |store| {
            let idempotency = Idempotency::builder(store)
                .purge_every(every)
                .store_patience(patience)
                .build();
            Arc::new(idempotency) as Arc<dyn Executes>
        });
        Ok(Self {
            store,
            is_away: Arc::default(),
            writes: Arc::new(Writes {
                redis,
                last: Mutex::default(),
            }),
        })
    }

    pub(super) fn layer(&self, route: &Route) -> IdempotencyLayer {
        self.store.layer(route)
    }

    /// Asks the store, and keeps in mind whether it answered.
    pub(super) async fn reachable(&self) -> Result<(), String> {
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

    /// Asks the store whether it answers, and from time to time whether it can be written.
    pub(super) async fn ready(&self) -> Result<(), String> {
        self.reachable().await?;
        // Those that ask at once wait for one answer.
        let mut last = self.writes.last.lock().await;
        if let Some((at, known)) = &*last
            && at.elapsed() < ASKED_EVERY
        {
            return known.clone();
        }
        let asked = timeout(LONGEST, async {
            match &self.writes.redis {
                Some(redis) => redis.write().await,
                None => self.store.write().await,
            }
        });
        let answered = asked
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {LONGEST:?}")));
        let answered = answered.map_err(|why| format!("it answers, and cannot be written: {why}"));
        let was_written = !matches!(&*last, Some((_, Err(_))));
        match &answered {
            Err(why) if was_written => tracing::error!(%why, "the store cannot be written"),
            Ok(()) if !was_written => tracing::info!("the store can be written again"),
            _ => {}
        }
        *last = Some((Instant::now(), answered.clone()));
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

/// How long a request waits for the store's answer: what is left of the whole is for giving back what may have been granted, which
/// takes up to a second.
fn patience(timeout: Duration) -> Duration {
    timeout.saturating_sub(Duration::from_secs(1))
}

impl RedisWrites {
    /// Changes a member of a set that is not there, and makes none. A server that may not be written, or has no room, does not do it.
    async fn write(&self) -> Result<(), String> {
        let asked = async {
            let client = redis::Client::open(self.url.as_str())?;
            let mut connection = client.get_multiplexed_async_connection().await?;
            redis::cmd("ZADD")
                .arg(&self.key)
                .arg("XX")
                .arg(0)
                .arg("ready")
                .query_async::<u64>(&mut connection)
                .await
        };
        asked.await.map(drop).map_err(|error| told(&error))
    }
}

/// Whose record is asked for, and is never there.
fn nobody() -> Result<RequestIdentity, String> {
    RequestIdentity::new(Scope::new("oneflight"), "ready").map_err(|error| told(&error))
}

impl<S: Store> Executes for Idempotency<S> {
    fn layer(&self, route: &Route) -> IdempotencyLayer {
        policy::layer(self, route)
    }

    fn ask(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let id = nobody()?;
            self.store().load(&id).await.map(drop).map_err(|error| told(&error))
        })
    }

    /// Renews a claim that nobody has: nothing changes, and a database that may only be read says so all the same.
    fn write(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let renewed = self.store().renew(&nobody()?, FencingToken::new(1), LONGEST * 3).await;
            match renewed {
                Ok(()) | Err(StoreError::Outdated { .. }) => Ok(()),
                Err(error) => Err(told(&error)),
            }
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
