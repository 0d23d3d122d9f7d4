//! The layer and its settings.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::request::Parts;
use tower_layer::Layer;

use super::dialect::Dialect;
use super::execute::{self, Execute};
use super::key::IntoKey;
use super::outcome::{Cookies, Recording};
use super::scope::IntoScope;
use super::service::IdempotencyService;
use super::settings::{Delivery, Duplicates, Requirement, Settings, Terms, Undone};
use crate::http::fingerprints::Fingerprints;
use crate::http::key::KeySource;
use crate::http::problem::Problem;
use crate::idempotency::{Codec, Idempotency};
use crate::identity::Fingerprint;
use crate::store::{Store, TransactionalStore};
use crate::telemetry;

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
    pub(super) settings: Arc<Settings>,
    warned: Arc<AtomicBool>,
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
        let terms = Terms::of(&idempotency, Undone::Nothing);
        Self::over(execute::under_a_lease(idempotency), terms)
    }

    /// Makes a layer whose handlers work in a transaction of the store's database, which they are given as a
    /// [`Tx`](crate::Tx): what they write is one commit with their recorded answer.
    ///
    /// An answer from 200 to 399 commits. One from 400 to 499 declines: what was written is rolled back, and the answer is recorded.
    /// One from 500 on, and a panic, roll everything back and free the key.
    ///
    /// An answer from 400 to 499 before the first statement is about the request itself: a body that axum could not read, or
    /// what the handler found invalid. It frees the key as well, so that a client may correct its request. A handler
    /// [says](super::Outcome) where it wants an answer to be recorded, or not to be.
    ///
    /// A status below 200 gives the connection to its client: nothing is recorded, and what was written is rolled back.
    ///
    /// Statements go through the [`Tx`](crate::Tx). One on the store's pool waits for the transaction, which waits for the
    /// handler: in SQLite it finds the database locked.
    ///
    /// The transaction is open while the handler runs, and while its answer is read: keep it short. One that loses to another one is rolled back, and not run
    /// again by the layer: the client is told to send its request again.
    pub fn transactional<S, C>(idempotency: Idempotency<S, C>) -> Self
    where
        S: TransactionalStore,
        C: Codec<Vec<u8>>,
    {
        let terms = Terms::of(&idempotency, Undone::Failures);
        Self::over(execute::in_a_transaction(idempotency), terms)
    }

    fn over(execute: Execute, terms: Terms) -> Self {
        let settings = Settings {
            execute,
            terms,
            keys: KeySource::new(),
            key: None,
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
            delivery: Delivery::default(),
            documentation: None,
            dialect: Dialect::default(),
            routes: Arc::default(),
        };
        Self {
            settings: Arc::new(settings),
            warned: Arc::default(),
        }
    }

    fn set(&mut self) -> &mut Settings {
        Arc::make_mut(&mut self.settings)
    }

    /// Sets what a key is valid in: the tenant or the user that the request comes from.
    ///
    /// The function sees the head of the request. It returns a [`Scope`](crate::Scope), `Option<Scope>` or `Result<Scope, Problem>`. A
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
        self.set().scope = Some(Arc::new(move |parts| scope(parts).into_scope()));
        self
    }

    /// Says that all clients share one scope: they have no accounts. There is no warning then.
    ///
    /// The names of hosts share it as well. Where one service answers for several of them, set a [`scope`](Self::scope) by the
    /// host that was asked for.
    pub fn unscoped(mut self) -> Self {
        self.set().is_unscoped = true;
        self
    }

    /// Sets what the route of a request is called in its scope. The default is the route that axum matched, such as
    /// `/orders/{id}`, and otherwise the path. The method is put before it.
    ///
    /// Set it where routes have aliases: a key is the same for all routes of one name.
    pub fn route(mut self, route: impl Fn(&Parts) -> String + Send + Sync + 'static) -> Self {
        self.set().route = Some(Arc::new(route));
        self
    }

    /// Requires a key of every request with one of the [methods](Self::methods).
    pub fn required(mut self) -> Self {
        self.set().requirement = Requirement::Required;
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
        self.set().when = Some(Arc::new(when));
        self
    }

    /// Sets the methods that the layer looks at. The default is POST and PATCH. A request with any other method passes through.
    ///
    /// They are looked for in any case. `patch`, which `fetch` sends as it was written, is another method than `PATCH`: axum answers
    /// it with 405, while some frameworks take it for `PATCH`. It is executed once as well, and its key is another one than that of
    /// `PATCH`.
    pub fn methods(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.set().methods = methods.into_iter().collect();
        self
    }

    /// Sets where keys are looked for, and what is accepted as one. The default is the header `Idempotency-Key`.
    pub fn keys(mut self, keys: KeySource) -> Self {
        self.set().keys = keys;
        self
    }

    /// Sets a function that finds the key, in place of a [`KeySource`]: the id of an event in its body, for example.
    ///
    /// The function sees the head of the request and its whole body. It returns `Option<IdempotencyKey>`, `Option<String>` or
    /// `Result<Option<IdempotencyKey>, Problem>`; `None` is a request without a key. Since the key may stand in the body, the
    /// body of every request is read that has one of the [methods](Self::methods) and is not [off](Requirement::Off), within
    /// [its limit](Self::max_request_bytes).
    ///
    /// ```
    /// use oneflight::http::layer::IdempotencyLayer;
    /// use oneflight::{Idempotency, MemoryStore};
    ///
    /// fn event_id(body: &[u8]) -> Option<String> {
    ///     let event: serde_json::Value = serde_json::from_slice(body).ok()?;
    ///     Some(event["data"]["id"].as_str()?.to_owned())
    /// }
    ///
    /// let idem = Idempotency::builder(MemoryStore::new()).build();
    /// let layer = IdempotencyLayer::new(idem).required().key(|_, body| event_id(body));
    /// # let _ = layer;
    /// ```
    pub fn key<K: IntoKey>(mut self, key: impl Fn(&Parts, &Bytes) -> K + Send + Sync + 'static) -> Self {
        self.set().key = Some(Arc::new(move |parts, body| key(parts, body).into_key()));
        self
    }

    /// Sets what fingerprints are taken of.
    pub fn fingerprints(mut self, fingerprints: Fingerprints) -> Self {
        self.set().fingerprints = fingerprints;
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
        self.set().fingerprint = Some(Arc::new(of));
        self
    }

    /// Limits how long a duplicate waits for a request that is in flight in this process. By default it waits for as long as
    /// that takes.
    ///
    /// After that it is answered with [`IN_PROGRESS`](crate::http::kind::IN_PROGRESS) and `Retry-After`.
    /// [`Duration::ZERO`] is what the draft says (section 2.6): such a duplicate is a conflict at once. For a request that is
    /// in flight in another process, set [`wait`](crate::idempotency::IdempotencyBuilder::wait) as well.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.set().duplicates = Duplicates::WaitUpTo(wait);
        self
    }

    /// Sets which answers are recorded. The default is [`Recording::answers`].
    pub fn recording(mut self, recording: Recording) -> Self {
        self.set().recording = recording;
        self
    }

    /// Sets what becomes of cookies that an answer sets. The default is [`Cookies::Drop`].
    pub fn cookies(mut self, cookies: Cookies) -> Self {
        self.set().cookies = cookies;
        self
    }

    /// Limits the size of the body of a request with a key, in bytes. The default is 2 MiB.
    ///
    /// If the key may stand in a field of the body, that goes for each request whose body may have it.
    ///
    /// The body is read before the handler is called. A larger one is answered with
    /// [`BODY_TOO_LARGE`](crate::http::kind::BODY_TOO_LARGE).
    pub fn max_request_bytes(mut self, bytes: usize) -> Self {
        self.set().max_request_bytes = bytes;
        self
    }

    /// Limits how long the body of a request with a key may take to arrive. The default is 30 s.
    ///
    /// A slower one is answered with [`BODY_TOO_SLOW`](crate::http::kind::BODY_TOO_SLOW).
    pub fn request_time(mut self, time: Duration) -> Self {
        self.set().request_time = time;
        self
    }

    /// Limits the size of an answer that is kept in memory for the requests that share it, in bytes. The default is 2 MiB.
    ///
    /// A larger one is streamed to the client whose request was executed. Others get its outcome without its body. How large a
    /// *recorded* answer may be, is said by
    /// [`max_result_bytes`](crate::idempotency::IdempotencyBuilder::max_result_bytes), with the same consequence.
    pub fn max_answer_bytes(mut self, bytes: usize) -> Self {
        self.set().max_answer_bytes = bytes;
        self
    }

    /// Limits how long the body of an answer may take from its head to its end, before it counts as a stream. The default is 5
    /// s.
    ///
    /// A stream goes to the client whose request was executed. Others get its outcome without its body. `text/event-stream` is
    /// one from the start.
    pub fn answer_time(mut self, time: Duration) -> Self {
        self.set().answer_time = time;
        self
    }

    /// Sends an answer to the client whose request is executed as it comes, while it is collected for the record and for the
    /// others. By default it is sent when all of it is there and recorded.
    ///
    /// The client gets the head as soon as the body has to be waited for, and what is there of the body. It does not hold up the
    /// recording by being slow, or by hanging up. Duplicates wait for the whole answer, as without this.
    ///
    /// The *end* of the body comes when it is known what became of the record: a client that saw the end finds the answer replayed. If
    /// the record could not be written, the head has said so little as the status, and the body ends with an error: the
    /// connection breaks off. To the client that is a lost answer, after which it sends its request again.
    ///
    /// What goes for other answers goes for these as well: one that is [too large](Self::max_answer_bytes), or [takes too
    /// long](Self::answer_time), is recorded without its body, and goes on to its client. One whose body breaks off does so for its
    /// client too, and is in doubt.
    ///
    /// It has no effect [in a transaction](Self::transactional), whose answer must not go out before the commit; where there is no
    /// runtime of tokio's; and for bodies that cannot [break off](super::FromBody::broken).
    pub fn stream_through(mut self) -> Self {
        self.set().delivery = Delivery::Through;
        self
    }

    /// Sets the address of the documentation that problems link to: yours, for your clients.
    pub fn documentation(mut self, uri: impl Into<Arc<str>>) -> Self {
        self.set().documentation = Some(uri.into());
        self
    }

    /// Sets by whose rules clients are told of problems, and of answers that are not to be repeated. The default is
    /// [`Dialect::Draft`].
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.set().dialect = dialect;
        self
    }
}

impl<Inner> Layer<Inner> for IdempotencyLayer {
    type Service = IdempotencyService<Inner>;

    fn layer(&self, inner: Inner) -> Self::Service {
        telemetry::counts::describe();
        let is_told_apart = self.settings.scope.is_some() || self.settings.is_unscoped;
        if !is_told_apart && !self.warned.swap(true, Ordering::Relaxed) {
            telemetry::unscoped();
        }
        // axum calls this for each connection, and some callers of a router for each request.
        IdempotencyService::new(inner, Arc::clone(&self.settings))
    }
}

impl fmt::Debug for IdempotencyLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}
