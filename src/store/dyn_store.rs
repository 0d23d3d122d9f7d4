//! A store whose type is not named, so that what holds an `Idempotency` needs no type parameter.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::claim::{Claim, ClaimOutcome, ClaimRequest};
use super::contract::{InDoubt, Store};
use super::error::StoreError;
use super::memory::MemoryStore;
use super::watch::Watch;
use crate::identity::RequestIdentity;
use crate::record::{FencingToken, Record, RecordedResult};

/// Any [`Store`], behind a pointer. Clones share it.
///
/// Each operation costs one allocation more, for its future, and one call through a pointer.
///
/// Work in a transaction is not possible over it, since its connection has a type: for
/// [`run_in_tx`](crate::idempotency::Idempotency::run_in_tx), name the store's type.
///
/// # Examples
///
/// The configuration selects the store, and the type of the application's state does not depend on it:
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use oneflight::store::DynStore;
/// use oneflight::{Idempotency, MemoryStore, RequestIdentity, Scope};
///
/// #[derive(Clone)]
/// struct App {
///     idem: Idempotency<DynStore>,
/// }
///
/// let store = match std::env::var("STORE").as_deref() {
///     // Ok(url) => DynStore::new(RedisStore::open(url).await?),
///     _ => DynStore::new(MemoryStore::new()),
/// };
/// let app = App { idem: Idempotency::builder(store).build() };
///
/// let id = RequestIdentity::new(Scope::new("tenant-7").route("POST /orders"), "a7f3")?;
/// let reply = app.idem.run(id, |_| async { "order 1".to_owned() }).await?;
/// assert_eq!(*reply, "order 1");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct DynStore(Arc<dyn Erased>);

impl DynStore {
    /// Erases the type of a store.
    #[must_use]
    pub fn new(store: impl Store) -> Self {
        Self(Arc::new(store))
    }
}

/// Shares the store with its other owners.
impl<S: Store> From<Arc<S>> for DynStore {
    fn from(store: Arc<S>) -> Self {
        Self(store)
    }
}

impl From<MemoryStore> for DynStore {
    fn from(store: MemoryStore) -> Self {
        Self::new(store)
    }
}

impl fmt::Debug for DynStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynStore").finish_non_exhaustive()
    }
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// [`Store`] with its futures in boxes, so that it can be behind a pointer.
trait Erased: Send + Sync {
    fn claim(&self, request: ClaimRequest) -> Answer<'_, Result<ClaimOutcome, StoreError>>;

    fn renew<'a>(
        &'a self,
        id: &'a RequestIdentity,
        token: FencingToken,
        lease: Duration,
    ) -> Answer<'a, Result<(), StoreError>>;

    fn end_lease<'a>(
        &'a self,
        id: &'a RequestIdentity,
        token: FencingToken,
        left: Duration,
    ) -> Answer<'a, Result<(), StoreError>>;

    fn complete(&self, claim: Claim, result: RecordedResult, retention: Duration)
    -> Answer<'_, Result<(), StoreError>>;

    fn release(&self, claim: Claim) -> Answer<'_, Result<(), StoreError>>;

    fn load<'a>(&'a self, id: &'a RequestIdentity) -> Answer<'a, Result<Option<Record>, StoreError>>;

    fn purge(&self, limit: usize) -> Answer<'_, Result<usize, StoreError>>;

    fn in_doubt(&self, limit: usize, after: Option<FencingToken>) -> Answer<'_, Result<Vec<InDoubt>, StoreError>>;

    fn watch<'a>(&'a self, id: &'a RequestIdentity) -> Answer<'a, Watch>;
}

impl<S: Store> Erased for S {
    fn claim(&self, request: ClaimRequest) -> Answer<'_, Result<ClaimOutcome, StoreError>> {
        Box::pin(Store::claim(self, request))
    }

    fn renew<'a>(
        &'a self,
        id: &'a RequestIdentity,
        token: FencingToken,
        lease: Duration,
    ) -> Answer<'a, Result<(), StoreError>> {
        Box::pin(Store::renew(self, id, token, lease))
    }

    fn end_lease<'a>(
        &'a self,
        id: &'a RequestIdentity,
        token: FencingToken,
        left: Duration,
    ) -> Answer<'a, Result<(), StoreError>> {
        Box::pin(Store::end_lease(self, id, token, left))
    }

    fn complete(
        &self,
        claim: Claim,
        result: RecordedResult,
        retention: Duration,
    ) -> Answer<'_, Result<(), StoreError>> {
        Box::pin(Store::complete(self, claim, result, retention))
    }

    fn release(&self, claim: Claim) -> Answer<'_, Result<(), StoreError>> {
        Box::pin(Store::release(self, claim))
    }

    fn load<'a>(&'a self, id: &'a RequestIdentity) -> Answer<'a, Result<Option<Record>, StoreError>> {
        Box::pin(Store::load(self, id))
    }

    fn purge(&self, limit: usize) -> Answer<'_, Result<usize, StoreError>> {
        Box::pin(Store::purge(self, limit))
    }

    fn in_doubt(&self, limit: usize, after: Option<FencingToken>) -> Answer<'_, Result<Vec<InDoubt>, StoreError>> {
        Box::pin(Store::in_doubt(self, limit, after))
    }

    fn watch<'a>(&'a self, id: &'a RequestIdentity) -> Answer<'a, Watch> {
        Box::pin(Store::watch(self, id))
    }
}

impl Store for DynStore {
    async fn claim(&self, request: ClaimRequest) -> Result<ClaimOutcome, StoreError> {
        self.0.claim(request).await
    }

    async fn renew(&self, id: &RequestIdentity, token: FencingToken, lease: Duration) -> Result<(), StoreError> {
        self.0.renew(id, token, lease).await
    }

    async fn end_lease(&self, id: &RequestIdentity, token: FencingToken, left: Duration) -> Result<(), StoreError> {
        self.0.end_lease(id, token, left).await
    }

    async fn complete(&self, claim: Claim, result: RecordedResult, retention: Duration) -> Result<(), StoreError> {
        self.0.complete(claim, result, retention).await
    }

    async fn release(&self, claim: Claim) -> Result<(), StoreError> {
        self.0.release(claim).await
    }

    async fn load(&self, id: &RequestIdentity) -> Result<Option<Record>, StoreError> {
        self.0.load(id).await
    }

    async fn purge(&self, limit: usize) -> Result<usize, StoreError> {
        self.0.purge(limit).await
    }

    async fn in_doubt(&self, limit: usize, after: Option<FencingToken>) -> Result<Vec<InDoubt>, StoreError> {
        self.0.in_doubt(limit, after).await
    }

    async fn watch(&self, id: &RequestIdentity) -> Watch {
        self.0.watch(id).await
    }
}
