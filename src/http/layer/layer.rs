//! The layer and its settings.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Method;
use http::request::Parts;
use tower_layer::Layer;

use super::dialect::Dialect;
use super::execute::{self, Execute};
use super::outcome::{Cookies, Recording};
use super::scope::IntoScope;
use super::service::IdempotencyService;
use crate::http::fingerprints::Fingerprints;
use crate::http::key::KeySource;
use crate::http::problem::Problem;
use crate::idempotency::{Codec, Idempotency};
use crate::identity::{Fingerprint, Scope};
use crate::store::{Store, TransactionalStore};
use crate::telemetry;

/// Whether a request has to carry a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Requirement {
    /// A request without a key is answered with [`KEY_MISSING`](crate::http::kind::KEY_MISSING).
    Required,
    /// A request without a key passes through, and is executed as often as it comes.
    #[default]
    Optional,
    /// A request passes through, with or without a key.
    Off,
}

/// What a duplicate does whose request is in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Duplicates {
    /// It waits for as long as it takes.
    #[default]
    Wait,
    WaitUpTo(Duration),
}

type Predicate = Arc<dyn Fn(&Parts) -> Requirement + Send + Sync>;
type ScopeOf = Arc<dyn Fn(&Parts) -> Result<Scope, Problem> + Send + Sync>;
type FingerprintOf = Arc<dyn Fn(&Parts, &[u8]) -> Result<Fingerprint, Problem> + Send + Sync>;
type RouteOf = Arc<dyn Fn(&Parts) -> String + Send + Sync>;

/// Makes a tower service idempotent: requests with the same `Idempotency-Key` are executed once.
///
/// See the [module](super) for what it does with a request.
///
/// # Examples
///
/// A service of axum's, whose handlers write to the database of the store. The tenant was verified by a layer outside of this
/// one, which left it in the request's extensions:
///
#[cfg_attr(feature = "axum", doc = "```")]
#[cfg_attr(not(feature = "axum"), doc = "```ignore")]
/// use axum::{Router, extract::Json, routing::post};
/// use oneflight::http::layer::IdempotencyLayer;
/// use oneflight::{Idempotency, MemoryStore, Scope};
///
/// #[derive(Clone)]
/// struct Tenant(String);
///
/// async fn charge(body: String) -> String {
///     format!("charged: {body}")
/// }
///
/// let idem = Idempotency::builder(MemoryStore::new()).build();
/// let layer = IdempotencyLayer::new(idem)
///     .required()
///     .scope(|request| request.extensions.get::<Tenant>().map(|tenant| Scope::new(&tenant.0)));
/// let app: Router = Router::new().route("/charges", post(charge)).layer(layer);
/// # let _ = app;
/// ```
#[derive(Clone)]
#[must_use = "a layer does nothing until it is put around a service"]
pub struct IdempotencyLayer {
    settings: Settings,
    warned: Arc<AtomicBool>,
}

/// What the service knows.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) execute: Execute,
    pub(super) keys: KeySource,
    pub(super) fingerprints: Fingerprints,
    pub(super) fingerprint: Option<FingerprintOf>,
    methods: Vec<Method>,
    requirement: Requirement,
    when: Option<Predicate>,
    pub(super) scope: Option<ScopeOf>,
    is_unscoped: bool,
    pub(super) route: Option<RouteOf>,
    duplicates: Duplicates,
    pub(super) recording: Recording,
    pub(super) cookies: Cookies,
    pub(super) max_request_bytes: usize,
    pub(super) request_time: Duration,
    pub(super) max_answer_bytes: usize,
    pub(super) answer_time: Duration,
    pub(super) documentation: Option<Arc<str>>,
    pub(super) dialect: Dialect,
}

impl IdempotencyLayer {
    /// Makes a layer whose handlers work under a lease: for what happens elsewhere, at a payment provider for example.
    ///
    /// Answers are recorded by the codec of `idempotency` if one is set, to encrypt them for example, and otherwise as they are.
    pub fn new<S, C>(idempotency: Idempotency<S, C>) -> Self
    where
        S: Store,
        C: Codec<Vec<u8>>,
    {
        Self::over(execute::under_a_lease(idempotency))
    }

    /// Makes a layer whose handlers work in a transaction of the store's database, which they are given as a
    /// [`Tx`](crate::Tx): what they write is one commit with their recorded answer.
    ///
    /// An answer below 400 commits. One from 400 to 499 declines: what was written is rolled back, and the answer is recorded.
    /// One from 500 on, and a panic, roll everything back and free the key.
    ///
    /// An answer from 400 to 499 before the first statement is about the request itself: a body that axum could not read, or
    /// what the handler found invalid. It frees the key as well, so that a client may correct its request. A handler
    /// [says](super::Outcome) where it wants an answer to be recorded, or not to be.
    ///
    /// The transaction is open while the handler runs: keep it short.
    pub fn transactional<S, C>(idempotency: Idempotency<S, C>) -> Self
    where
        S: TransactionalStore,
        C: Codec<Vec<u8>>,
    {
        Self::over(execute::in_a_transaction(idempotency))
    }

    fn over(execute: Execute) -> Self {
        let settings = Settings {
            execute,
            keys: KeySource::new(),
            fingerprints: Fingerprints::new(),
            fingerprint: None,
            methods: vec![Method::POST, Method::PATCH],
            requirement: Requirement::default(),
            when: None,
            scope: None,
            is_unscoped: false,
            route: None,
            duplicates: Duplicates::default(),
            recording: Recording::answers(),
            cookies: Cookies::default(),
            max_request_bytes: 2 * 1024 * 1024,
            request_time: Duration::from_secs(30),
            max_answer_bytes: 2 * 1024 * 1024,
            answer_time: Duration::from_secs(5),
            documentation: None,
            dialect: Dialect::default(),
        };
        Self {
            settings,
            warned: Arc::default(),
        }
    }

    /// Sets what a key is valid in: the tenant or the user that the request comes from.
    ///
    /// The function sees the head of the request. It returns a [`Scope`], `Option<Scope>` or `Result<Scope, Problem>`. A
    /// request for which it returns `None` is answered with
    /// [`PRINCIPAL_MISSING`](crate::http::kind::PRINCIPAL_MISSING) and is not executed.
    ///
    /// Take the principal from what was *verified*, such as an extension that your authentication has set, and never from
    /// something that a client can write at will: a client that names another tenant would read that tenant's answers. Method
    /// and route are added to the scope, unless it has a route.
    ///
    /// Without such a function all clients share one scope. Then the header `Authorization` is a part of the fingerprint: a
    /// client with another one gets a [conflict](crate::http::kind::KEY_REUSED) for another client's key, and never its answer.
    /// A cookie is not.
    pub fn scope<R: IntoScope>(mut self, scope: impl Fn(&Parts) -> R + Send + Sync + 'static) -> Self {
        self.settings.scope = Some(Arc::new(move |parts| scope(parts).into_scope()));
        self
    }

    /// Says that all clients share one scope: they have no accounts. There is no warning then.
    pub fn unscoped(mut self) -> Self {
        self.settings.is_unscoped = true;
        self
    }

    /// Sets what the route of a request is called in its scope. The default is the route that axum matched, such as
    /// `/orders/{id}`, and otherwise the path. The method is put before it.
    ///
    /// Set it where routes have aliases: a key is the same for all routes of one name.
    pub fn route(mut self, route: impl Fn(&Parts) -> String + Send + Sync + 'static) -> Self {
        self.settings.route = Some(Arc::new(route));
        self
    }

    /// Requires a key of every request with one of the [methods](Self::methods).
    pub fn required(mut self) -> Self {
        self.settings.requirement = Requirement::Required;
        self
    }

    /// Sets by a function whether a request has to carry a key: by route, header, or whatever its head says. It is asked for
    /// requests with one of the [methods](Self::methods) only.
    ///
    /// ```
    /// use oneflight::http::layer::{IdempotencyLayer, Requirement};
    /// use oneflight::{Idempotency, MemoryStore};
    ///
    /// let idem = Idempotency::builder(MemoryStore::new()).build();
    /// let layer = IdempotencyLayer::new(idem).when(|request| match request.uri.path() {
    ///     "/charges" => Requirement::Required,
    ///     "/search" => Requirement::Off,
    ///     _ => Requirement::Optional,
    /// });
    /// # let _ = layer;
    /// ```
    pub fn when(mut self, when: impl Fn(&Parts) -> Requirement + Send + Sync + 'static) -> Self {
        self.settings.when = Some(Arc::new(when));
        self
    }

    /// Sets the methods that the layer looks at. The default is POST and PATCH. A request with any other method passes through.
    pub fn methods(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.settings.methods = methods.into_iter().collect();
        self
    }

    /// Sets where keys are looked for, and what is accepted as one. The default is the header `Idempotency-Key`.
    pub fn keys(mut self, keys: KeySource) -> Self {
        self.settings.keys = keys;
        self
    }

    /// Sets what fingerprints are taken of.
    pub fn fingerprints(mut self, fingerprints: Fingerprints) -> Self {
        self.settings.fingerprints = fingerprints;
        self
    }

    /// Sets a function that takes the fingerprint of a request, of its head and its body, in place of
    /// [`fingerprints`](Self::fingerprints).
    ///
    /// It says what makes two requests the same: take all of it that matters, and not the key. It may answer with a problem if the
    /// request is not valid. That is not recorded, and the key stays free.
    ///
    /// ```
    /// use oneflight::http::Problem;
    /// use oneflight::http::layer::IdempotencyLayer;
    /// use oneflight::{Fingerprint, Idempotency, MemoryStore};
    ///
    /// let idem = Idempotency::builder(MemoryStore::new()).build();
    /// let layer = IdempotencyLayer::new(idem).fingerprint(|request, body| {
    ///     let cents: u64 = serde_json::from_slice(body).map_err(|error| Problem::malformed_body(error.to_string()))?;
    ///     let path = request.uri.path();
    ///     Ok(Fingerprint::builder().part("path", path).part("cents", cents.to_be_bytes()).build())
    /// });
    /// # let _ = layer;
    /// ```
    pub fn fingerprint(
        mut self,
        of: impl Fn(&Parts, &[u8]) -> Result<Fingerprint, Problem> + Send + Sync + 'static,
    ) -> Self {
        self.settings.fingerprint = Some(Arc::new(of));
        self
    }

    /// Limits how long a duplicate waits for a request that is in flight in this process. By default it waits for as long as
    /// that takes.
    ///
    /// After that it is answered with [`IN_PROGRESS`](crate::http::kind::IN_PROGRESS) and `Retry-After`.
    /// [`Duration::ZERO`] is what the draft says (section 2.6): such a duplicate is a conflict at once. For a request that is
    /// in flight in another process, set [`wait`](crate::idempotency::IdempotencyBuilder::wait) as well.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.settings.duplicates = Duplicates::WaitUpTo(wait);
        self
    }

    /// Sets which answers are recorded. The default is [`Recording::answers`].
    pub fn recording(mut self, recording: Recording) -> Self {
        self.settings.recording = recording;
        self
    }

    /// Sets what becomes of cookies that an answer sets. The default is [`Cookies::Drop`].
    pub fn cookies(mut self, cookies: Cookies) -> Self {
        self.settings.cookies = cookies;
        self
    }

    /// Limits the size of the body of a request with a key, in bytes. The default is 2 MiB.
    ///
    /// The body is read before the handler is called. A larger one is answered with
    /// [`BODY_TOO_LARGE`](crate::http::kind::BODY_TOO_LARGE).
    pub fn max_request_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_request_bytes = bytes;
        self
    }

    /// Limits how long the body of a request with a key may take to arrive. The default is 30 s.
    ///
    /// A slower one is answered with [`BODY_TOO_SLOW`](crate::http::kind::BODY_TOO_SLOW).
    pub fn request_time(mut self, time: Duration) -> Self {
        self.settings.request_time = time;
        self
    }

    /// Limits the size of an answer that is kept in memory for the requests that share it, in bytes. The default is 2 MiB.
    ///
    /// A larger one is streamed to the client whose request was executed. Others get its outcome without its body. How large a
    /// *recorded* answer may be, is said by
    /// [`max_result_bytes`](crate::idempotency::IdempotencyBuilder::max_result_bytes), with the same consequence.
    pub fn max_answer_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_answer_bytes = bytes;
        self
    }

    /// Limits how long the body of an answer may take from its head to its end, before it counts as a stream. The default is 5
    /// s.
    ///
    /// A stream goes to the client whose request was executed. Others get its outcome without its body. `text/event-stream` is
    /// one from the start.
    pub fn answer_time(mut self, time: Duration) -> Self {
        self.settings.answer_time = time;
        self
    }

    /// Sets the address of the documentation that problems link to: yours, for your clients.
    pub fn documentation(mut self, uri: impl Into<Arc<str>>) -> Self {
        self.settings.documentation = Some(uri.into());
        self
    }

    /// Sets by whose rules clients are told of problems, and of answers that are not to be repeated. The default is
    /// [`Dialect::Draft`].
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.settings.dialect = dialect;
        self
    }
}

impl Settings {
    /// Whether a request with this method may be one to execute once.
    pub(super) fn has_method(&self, method: &Method) -> bool {
        self.methods.contains(method)
    }

    pub(super) fn requirement(&self, parts: &Parts) -> Requirement {
        match &self.when {
            Some(when) => when(parts),
            None => self.requirement,
        }
    }

    /// How long a duplicate waits, unless it is for as long as it takes.
    pub(super) fn wait(&self) -> Option<Duration> {
        match self.duplicates {
            Duplicates::Wait => None,
            Duplicates::WaitUpTo(wait) => Some(wait),
        }
    }
}

impl<Inner> Layer<Inner> for IdempotencyLayer {
    type Service = IdempotencyService<Inner>;

    fn layer(&self, inner: Inner) -> Self::Service {
        let is_told_apart = self.settings.scope.is_some() || self.settings.is_unscoped;
        if !is_told_apart && !self.warned.swap(true, Ordering::Relaxed) {
            telemetry::unscoped();
        }
        IdempotencyService::new(inner, Arc::new(self.settings.clone()))
    }
}

impl fmt::Debug for IdempotencyLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyLayer")
            .field("keys", &self.keys)
            .field("fingerprints", &self.fingerprints)
            .field("methods", &self.methods)
            .field("requirement", &self.requirement)
            .field("has_scope", &self.scope.is_some())
            .field("wait", &self.wait())
            .field("recording", &self.recording)
            .field("cookies", &self.cookies)
            .field("max_request_bytes", &self.max_request_bytes)
            .field("request_time", &self.request_time)
            .field("max_answer_bytes", &self.max_answer_bytes)
            .field("answer_time", &self.answer_time)
            .field("documentation", &self.documentation)
            .field("dialect", &self.dialect)
            .finish_non_exhaustive()
    }
}
