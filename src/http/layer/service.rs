//! The service: from a request to its answer.
//!
//! ```text
//! request ──method, requirement: not ours──────────────────▶ inner service, as if there were no layer
//!    │ ──no key───────────────────────▶ inner service, or 400
//!    ▼
//! key ─▶ scope ─▶ body, within limits ─▶ fingerprint ─▶ executed once ──▶ answer
//!                                                           │
//!                            the work: inner service ─▶ its body, within limits ─▶ what is to become of it
//! ```
//!
//! What the answer is, is `answer.rs`'s affair, and how it is executed once is `execute.rs`'s.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{self, Poll};
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, response};
use http_body_util::LengthLimitError;
use tokio::runtime::Handle;
use tower_service::Service;

use super::answer::{Answer, Answered};
use super::body::{self, FromBody, Part, Read, Whole};
use super::duplicate::{self, Turned};
use super::execute::{BoxFuture, Lent, Ran, Work};
use super::future::ResponseFuture;
use super::guard::guarded;
use super::headers::{self, IDEMPOTENCY_ORIGIN, IDEMPOTENCY_ORIGINAL_DATE, IDEMPOTENCY_REPLAYED};
use super::outcome::{Cookies, Outcome};
use super::own::{Own, OwnAnswer, OwnBody};
use super::scope;
use super::seen::Seen;
use super::settings::{Delivery, Requirement, Settings, Undone};
use super::through::{self, Ending, Sent};
use crate::correlation;
use crate::http::mapping;
use crate::http::problem::Problem;
use crate::idempotency::{Context, Error, Origin, Reply};
use crate::identity::{Fingerprint, IdempotencyKey, IdentityError, RequestIdentity};
use crate::telemetry::counts::{Held, Route};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The service that an [`IdempotencyLayer`](super::IdempotencyLayer) puts around another one.
#[derive(Clone)]
pub struct IdempotencyService<Inner> {
    inner: Inner,
    settings: Arc<Settings>,
}

impl<Inner> IdempotencyService<Inner> {
    pub(super) fn new(inner: Inner, settings: Arc<Settings>) -> Self {
        Self { inner, settings }
    }
}

impl<Inner, Q, A> Service<Request<Q>> for IdempotencyService<Inner>
where
    Inner: Service<Request<Q>, Response = Response<A>> + Clone + Send + 'static,
    Inner::Future: Send + 'static,
    Inner::Error: fmt::Display + Send + 'static,
    Q: FromBody<Error: Send + Into<BoxError>>,
    A: FromBody<Error: Send>,
{
    type Response = Response<A>;
    type Error = Inner::Error;
    type Future = ResponseFuture<Inner::Future, A, Inner::Error>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let settings = &self.settings;
        if !settings.has_method(request.method()) {
            return ResponseFuture::through(self.inner.call(request));
        }
        let (parts, body) = request.into_parts();
        let requirement = match guarded(|| settings.requirement(&parts)) {
            Ok(requirement) => requirement,
            Err(problem) => return ResponseFuture::ready(settings.told(&settings.seen(&parts), problem)),
        };
        if requirement == Requirement::Off {
            return ResponseFuture::through(self.inner.call(Request::from_parts(parts, body)));
        }
        let key = match settings.key_in_head(&parts) {
            Ok(key) => key,
            Err(problem) => return ResponseFuture::ready(settings.told(&settings.seen(&parts), problem)),
        };
        if key.as_ref().is_some_and(|key| is_executed(&parts, key)) {
            return ResponseFuture::through(self.inner.call(Request::from_parts(parts, body)));
        }
        if key.is_none() && settings.is_key_out_of_sight(&parts) {
            let problem = Problem::unsupported_media_type("the key in a header, or a body without Content-Encoding");
            return ResponseFuture::ready(settings.told(&settings.seen(&parts), problem));
        }
        if key.is_none() && !settings.is_key_in_body(&parts) {
            return match requirement {
                Requirement::Required => {
                    ResponseFuture::ready(settings.told(&settings.seen(&parts), settings.key_missing()))
                }
                _ => ResponseFuture::through(self.inner.call(Request::from_parts(parts, body))),
            };
        }
        // What readiness reserves goes back: a request that waits must not hold it, and the work is made ready anew.
        let inner = self.inner.clone();
        self.inner = inner.clone();
        let settings = Arc::clone(settings);
        ResponseFuture::keyed(Box::pin(answer(settings, inner, parts, body, key, requirement)))
    }
}

/// Answers a request that carries a key, or may carry one in its body.
async fn answer<Inner, Q, A>(
    settings: Arc<Settings>,
    mut inner: Inner,
    parts: Parts,
    body: Q,
    key_in_head: Option<IdempotencyKey>,
    requirement: Requirement,
) -> Result<Response<A>, Inner::Error>
where
    Inner: Service<Request<Q>, Response = Response<A>> + Send + 'static,
    Inner::Future: Send + 'static,
    Inner::Error: fmt::Display + Send + 'static,
    Q: FromBody<Error: Send + Into<BoxError>>,
    A: FromBody<Error: Send>,
{
    let mut seen = settings.seen(&parts);
    // What the head shows to be wrong is answered before the body is read.
    let id_in_head = match key_in_head.map(|key| settings.identity(&parts, key)).transpose() {
        Ok(id) => id,
        Err(problem) => return Ok(settings.told(&seen, problem)),
    };
    let body = match settings.read(&parts.headers, body).await {
        Ok(body) => body,
        Err(problem) => return Ok(settings.told(&seen, problem)),
    };
    let id = match id_in_head {
        // There is no other place to look at.
        Some(id) if !settings.is_key_in_body(&parts) => Ok(id),
        id_in_head => match (settings.find_key(&parts, &body.bytes), id_in_head) {
            // The two agree, or there would be an error.
            (Ok(Some(key)), _) if is_executed(&parts, &key) => {
                poll_fn(|cx| inner.poll_ready(cx)).await?;
                return inner.call(Request::from_parts(parts, body.into_body())).await;
            }
            (Ok(Some(_)), Some(id)) => Ok(id),
            (Ok(Some(key)), None) => settings.identity(&parts, key),
            (Ok(None), _) if requirement == Requirement::Required => Err(settings.key_missing()),
            (Ok(None), _) => {
                poll_fn(|cx| inner.poll_ready(cx)).await?;
                return inner.call(Request::from_parts(parts, body.into_body())).await;
            }
            (Err(problem), _) => Err(problem),
        },
    };
    let known = match id {
        Ok(id) => settings
            .fingerprint(&parts, &body.bytes)
            .await
            .map(|of| id.with_known_fingerprint(of)),
        Err(problem) => Err(problem),
    };
    let id = match known {
        Ok(id) => id,
        Err(problem) => return Ok(settings.told(&seen, problem)),
    };
    seen.open(&parts, &id);
    let own = Own::default();
    let (left, of, route) = (own.clone(), Arc::clone(&settings), seen.route.clone());
    let runtime = settings.streams_on::<A>();
    let delivery = match runtime {
        Some(_) => Delivery::Through,
        None => Delivery::Whole,
    };
    let work = move |lent: Lent| {
        let mut request = Request::from_parts(parts, body.into_body());
        lent(request.extensions_mut());
        // The answer is for all who ask, whatever encodings each accepts.
        request.headers_mut().remove(ACCEPT_ENCODING);
        let executes = route.executes();
        Box::pin(async move {
            let _executes = executes;
            if let Err(error) = poll_fn(|cx| inner.poll_ready(cx)).await {
                return Ran::NotBegun(error.to_string().into());
            }
            of.ran(inner.call(request).await, left, &route, delivery).await
        }) as BoxFuture<Ran>
    };
    let (turn, work) = duplicate::watched(work);
    let work: Work = Box::new(work);
    let mut executed = Box::pin(seen.around((settings.execute)(id, work)));
    let waits = seen.route.waits();
    let first = poll_fn(|cx| match (executed.as_mut().poll(cx), &runtime) {
        (Poll::Ready(result), _) => Poll::Ready(First::Result(result)),
        (Poll::Pending, Some(runtime)) => own
            .poll_begun(cx)
            .map(|begun| First::Begun(Box::new(begun), runtime.clone())),
        (Poll::Pending, None) => Poll::Pending,
    });
    let first = match settings.wait() {
        None => first.await,
        Some(wait) => match turn.within(wait, first).await {
            Ok(first) => first,
            Err(Turned) => return Ok(settings.told(&seen, mapping::in_flight())),
        },
    };
    let (begun, runtime) = match first {
        First::Result(result) => return Ok(settings.response(&seen, result, own)),
        First::Begun(begun, runtime) => (begun, runtime),
    };
    let (response, ending) = settings.begun(*begun);
    let status = response.status();
    // Its client may be slow, or hang up: what is collected, and recorded, waits for nobody.
    runtime.spawn(correlation::carry(correlation::current(), async move {
        let _waits = waits;
        let told = settings.ended(&seen, status, executed.await);
        if let Some(ending) = ending {
            ending.tell(told);
        }
    }));
    Ok(response)
}

/// What a call sees first.
enum First<A: FromBody> {
    Result(Result<Reply<Answer>, Error>),
    /// The answer begins, which streams through. The work goes on as a task.
    Begun(Box<OwnAnswer<A>>, Handle),
}

impl Settings {
    /// Reads the body of a request within its limits.
    async fn read<Q>(&self, headers: &HeaderMap, body: Q) -> Result<Whole, Problem>
    where
        Q: FromBody<Error: Into<BoxError>>,
    {
        let limit = self.max_request_bytes;
        let declared = headers.get(http::header::CONTENT_LENGTH);
        let declared = declared.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if declared.is_some_and(|length| length > limit as u64) {
            return Err(Problem::body_too_large(limit));
        }
        let begun = tokio::time::Instant::now();
        match body::read(body, limit, self.request_time).await {
            Read::Whole(whole) => Ok(whole),
            Read::Part(_) if begun.elapsed() >= self.request_time => Err(Problem::body_too_slow(self.request_time)),
            Read::Part(_) => Err(Problem::body_too_large(limit)),
            Read::Broken(error) => Err(match is_over_a_limit(error.into()) {
                // That of a layer further out, such as tower-http's.
                true => Problem::body_over_a_limit(),
                // Most often nobody is there any more to read this.
                false => Problem::malformed_body("It broke off before its end."),
            }),
        }
    }

    /// Returns whose request it is, under which key.
    fn identity(&self, parts: &Parts, key: IdempotencyKey) -> Result<RequestIdentity, Problem> {
        RequestIdentity::new(scope::of(self, parts)?, key).map_err(|error| match error {
            // Such as a header of the gateway's that is there and empty.
            IdentityError::ScopePartEmpty { .. } => Problem::principal_missing(),
            error => error.into(),
        })
    }

    /// Returns the digest of what is asked for.
    async fn fingerprint(&self, parts: &Parts, body: &Bytes) -> Result<Fingerprint, Problem> {
        let fingerprint = match &self.fingerprint {
            Some(of) => guarded(|| of(parts, body))??,
            None => {
                let (path, query) = (scope::path(parts), parts.uri.query());
                let of = &self.fingerprints;
                of.of(&parts.method, path, query, &parts.headers, body, &self.keys)
                    .await
            }
        };
        Ok(match &self.scope {
            Some(_) => fingerprint,
            None => with_credentials(fingerprint, &parts.headers),
        })
    }

    /// Returns the runtime on which an answer goes on that streams through, if answers with such bodies do.
    fn streams_on<A: FromBody>(&self) -> Option<Handle> {
        let is_set = self.delivery == Delivery::Through && matches!(self.terms.undone, Undone::Nothing);
        let may_break = || A::broken("it is only asked".into()).is_some();
        Handle::try_current().ok().filter(|_| is_set && may_break())
    }

    /// Takes the handler's answer apart, and says what is to become of it.
    async fn ran<A, E>(
        self: Arc<Self>,
        answered: Result<Response<A>, E>,
        own: Own<A>,
        route: &Route,
        delivery: Delivery,
    ) -> Ran
    where
        A: FromBody<Error: Send>,
        E: fmt::Display,
    {
        let (parts, body) = match answered {
            Ok(response) => response.into_parts(),
            Err(error) => return Ran::Broke(error.to_string().into()),
        };
        #[cfg(feature = "axum")]
        if let Some(reason) = super::failure::taken(&parts.extensions) {
            return Ran::Broke(reason);
        }
        let said = self.recording.said(&parts);
        let outcome = said.unwrap_or_else(|| self.recording.of(&parts));
        let sorted = headers::sorted(&parts.headers);
        let is_unread = outcome == Outcome::OutcomeOnly || is_stream(&parts);
        let length = parts.headers.get(CONTENT_LENGTH).cloned();
        let is_recorded = matches!(outcome, Outcome::Record | Outcome::OutcomeOnly);
        let status = parts.status;
        let mut own_parts = Some(parts);
        let mut leave = |body| {
            if let Some(parts) = own_parts.take() {
                own.leave(OwnAnswer { parts, body });
            }
        };
        let sent = match delivery {
            _ if is_unread => Sent::Kept(Read::Part(Part::unread(body))),
            // With its head, its client has seen the end of it.
            Delivery::Through if !body.is_end_stream() => {
                let begin = |body| leave(OwnBody::Through { body, is_recorded });
                through::read(body, length.as_ref(), self.max_answer_bytes, self.answer_time, begin).await
            }
            _ => Sent::Kept(body::read(body, self.max_answer_bytes, self.answer_time).await),
        };
        let whole = match sent {
            Sent::Kept(Read::Whole(whole)) => {
                leave(OwnBody::Whole(whole.clone()));
                Some(whole)
            }
            Sent::Kept(Read::Part(part)) => {
                leave(OwnBody::Part(part));
                None
            }
            Sent::Whole(whole) => Some(whole),
            Sent::Part => None,
            Sent::Kept(Read::Broken(_)) | Sent::Broken if outcome == Outcome::NothingDone => None,
            // What it was at work at broke off with it.
            Sent::Kept(Read::Broken(_)) | Sent::Broken => {
                return Ran::Broke("the body of the handler's answer broke off".into());
            }
        };
        let is_shared = outcome != Outcome::OutcomeOnly && (sorted.cookies == 0 || self.cookies == Cookies::Drop);
        let body = whole.filter(|_| is_shared).map(|whole| whole.for_others());
        route.dropped_cookies(sorted.cookies);
        let answer = Answer {
            status,
            headers: sorted.shared,
            held: Held::new(body.as_ref().map_or(0, |body| body.bytes.len())),
            body,
            at: SystemTime::now(),
        };
        let answer = match answer.body {
            Some(_) => answer,
            None => answer.outcome_only(),
        };
        match (outcome, answer.status.as_u16()) {
            // The connection is its own client's from now on, and there is nothing for others.
            (_, ..200) | (Outcome::NothingDone, _) => Ran::NothingDone(answer),
            (Outcome::Unknown, _) => Ran::Unknown(answer),
            (Outcome::Record | Outcome::OutcomeOnly, ..400) => Ran::Kept(answer),
            (Outcome::Record | Outcome::OutcomeOnly, _) if said.is_some() => Ran::Declined(answer),
            (Outcome::Record | Outcome::OutcomeOnly, ..500) => Ran::Rejected(answer),
            (Outcome::Record | Outcome::OutcomeOnly, _) => Ran::Failed(answer),
        }
    }

    /// Returns the response for one client.
    fn response<A: FromBody<Error: Send>>(
        &self,
        seen: &Seen,
        result: Result<Reply<Answer>, Error>,
        own: Own<A>,
    ) -> Response<A> {
        let shared = |answer: &Answer| {
            if answer.body.is_none() {
                seen.route.outcome_only();
            }
            answer.response(self.dialect, self.documentation.as_deref())
        };
        let (response, origin, at) = match result {
            Ok(reply) => {
                let own = own.take().filter(|_| reply.origin() == Origin::Executed);
                let response = own.map_or_else(|| shared(reply.value()), Response::from);
                (response, reply.origin(), Some(reply.value().at))
            }
            Err(error) => match (error.cause::<Answered>(), own.take()) {
                (Some(_), Some(own)) => (own.into(), Origin::Executed, None),
                // Without its body it would say that the operation was done.
                (Some(Answered(answer)), None) if answer.body.is_some() => (shared(answer), Origin::Collapsed, None),
                _ => {
                    seen.failed(&error);
                    return self.told(seen, error.into());
                }
            },
        };
        seen.answered(origin, response.status());
        let mut response = self.marked(response, origin, at.is_some());
        if origin == Origin::Replayed {
            let lines = response.headers_mut();
            headers::put(lines, IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
            if let Some(date) = at.and_then(headers::date) {
                headers::put(lines, IDEMPOTENCY_ORIGINAL_DATE, date);
            }
        }
        response
    }

    /// Returns the response whose answer begins, and what tells it how that ended.
    fn begun<A: FromBody<Error: Send>>(&self, own: OwnAnswer<A>) -> (Response<A>, Option<Ending<A>>) {
        let (ending, is_recorded) = match &own.body {
            OwnBody::Through { body, is_recorded } => (Some(body.ending()), *is_recorded),
            OwnBody::Whole(_) | OwnBody::Part(_) => (None, true),
        };
        (self.marked(own.into(), Origin::Executed, is_recorded), ending)
    }

    /// Says what became of an execution whose answer has begun.
    fn ended(&self, seen: &Seen, status: StatusCode, result: Result<Reply<Answer>, Error>) -> Result<(), BoxError> {
        let error = match result {
            Ok(reply) if reply.origin() == Origin::Executed => {
                seen.answered(Origin::Executed, status);
                return Ok(());
            }
            // It lost its lease.
            Ok(_) => return Err("another answer than this one is recorded".into()),
            Err(error) => error,
        };
        if error.cause::<Answered>().is_some() {
            seen.answered(Origin::Executed, status);
            return Ok(());
        }
        seen.failed(&error);
        let reason = error.to_string();
        seen.told(&Problem::from(error));
        Err(reason.into())
    }

    /// Marks an answer of the handler's.
    fn marked<A>(&self, mut response: Response<A>, origin: Origin, is_recorded: bool) -> Response<A> {
        let status = response.status();
        let lines = response.headers_mut();
        self.dialect.mark(status, lines, origin, is_recorded);
        // A handler may hand on what another service said of its own answer.
        for of_another in [IDEMPOTENCY_REPLAYED, IDEMPOTENCY_ORIGINAL_DATE] {
            lines.remove(of_another);
        }
        headers::put(lines, IDEMPOTENCY_ORIGIN, HeaderValue::from_static(origin.as_str()));
        response
    }

    /// Returns the response for a problem.
    fn told<A: FromBody<Error: Send>>(&self, seen: &Seen, problem: Problem) -> Response<A> {
        seen.told(&problem);
        let response = self.dialect.told(problem, self.documentation.as_deref());
        response.map(|body| {
            let bytes = Bytes::from(body);
            Whole { bytes, trailers: None }.into_body()
        })
    }
}

/// Whether a body was cut by [`Limited`](http_body_util::Limited).
fn is_over_a_limit(error: BoxError) -> bool {
    let error: &(dyn std::error::Error + 'static) = &*error;
    std::iter::successors(Some(error), |error| error.source()).any(|error| error.is::<LengthLimitError>())
}

/// Whether a layer further out executes this very request already.
fn is_executed(parts: &Parts, key: &IdempotencyKey) -> bool {
    let outer = parts.extensions.get::<Context>();
    outer.is_some_and(|outer| outer.id().key() == key.as_str())
}

/// A service without a scope for its keys may have clients that are told apart all the same.
fn with_credentials(fingerprint: Fingerprint, headers: &HeaderMap) -> Fingerprint {
    let mut values = headers.get_all(AUTHORIZATION).iter().peekable();
    if values.peek().is_none() {
        return fingerprint;
    }
    let with = Fingerprint::builder().part("request", fingerprint.as_bytes());
    values
        .fold(with, |with, value| with.part("authorization", value))
        .build()
}

/// Whether the body does not end by itself, or is not to be waited for.
fn is_stream(parts: &response::Parts) -> bool {
    let kind = parts.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let essence = kind.and_then(|kind| kind.split(';').next()).map(str::trim);
    parts.status.is_informational() || essence.is_some_and(|it| it.eq_ignore_ascii_case("text/event-stream"))
}

impl<Inner> fmt::Debug for IdempotencyService<Inner> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyService")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
