//! The crate's spans and events, with all names in one place; the metrics are in `counts.rs`, `relays.rs` and `steps.rs`. Without the `tracing` feature there are none, and they cost
//! nothing.
//!
//! A subscriber that panics is reported by the panic hook and disturbs no flight. Events of a flight are written while the right
//! to poll is held, which must not be lost, nor be given up while the slot is empty.
//!
//! | name | kind | when |
//! | --- | --- | --- |
//! | `oneflight.flight` | span, debug | for each flight, a child of the leader's span. It is entered whenever the work is polled, whichever task polls it. A follower's span follows from it |
//! | `oneflight.request` | span, info | for each request that passes a `CorrelationLayer`, with the field `correlation_id` |
//! | `oneflight.idempotency` | span, info | for each request with a key that an `IdempotencyLayer` looks up or executes: `request`, `route` (that axum matched), `correlation_id` if there is one, and at its end `status` and `origin` (`executed`, `collapsed`, `replayed`, or `none` for a problem) |
//! | `oneflight` | target | of every event below |
//! | "the work goes on with another caller" | debug | hand-over from a driver that left, or take-over from one that is not polled |
//! | "abandoned work goes on as a task" | debug | every caller had left |
//! | "abandoned work was dropped" | debug | the same, where the policy is to cancel |
//! | "abandoned work cannot be finished" | warn | there is no runtime to finish it on, so it is dropped |
//! | "the work panicked" | error | with its message |
//! | "the claim was lost to another holder while its work ran" | warn | `request`, `token` |
//! | "the claim is not renewed any more while its work runs" | warn | `request`, `error`: its runtime is gone, and where the work is polled now is none with timers |
//! | "took over the claim of a holder that died" | warn | `request`, `from` (the dead holder's token), `attempt` |
//! | "a claim could not be given back; it is in doubt when its lease ends" | warn | `request`, `error` |
//! | "what is past its retention was not purged; the next round tries again" | warn | `error` |
//! | "the transaction lost to another one; its work is run again" | debug | `request`, `retry` (1 for the first) |
//! | "work was done and could not be recorded" | error | `request`, `error` |
//! | "a record cannot be read, and is left out of the list of what is in doubt" | error | `token`, `error` |
//! | "a request has no reply" | debug, warn, error | `request`, `correlation_id` (if there is one), `effect`, `error`: once for each execution that ends so, and for each call that is refused. Debug if that is routine (in progress elsewhere, another payload, a limit); error if it is a fault (a violated constraint, a panic, a result that cannot be kept, a lost lease); warn otherwise |
//! | "a message is a dead letter" | error | `id`, `topic` (the pattern that its relay knows), `attempts`, `error` (of the last attempt): once it is recorded as one |
//! | "a target fails, and is left alone for a while" | warn | `to`: the target's name. Once each time that its circuit opens |
//! | "a relay was taken for dead, and joins anew" | warn | `group` |
//! | "a relay cannot reach its store, and tries again" | warn | `group`, `error` |
//! | "an outbox could not be kept in order; the next round tries again" | warn | `group`, `error` |
//! | "a handler failed" | error | `error`: a [`Failure`](crate::http::layer::Failure) of axum's where no layer is, or no key |
//! | "an IdempotencyLayer has no scope" | warn | when such a layer is put around a service, once for each layer |
//! | "a request to another service is sent again" | debug | `retry` (1 for the first), `pause`: after which time |
//! | `oneflight.step` | span, debug | for each step of a mutation that is run, around its work: `request`, `step`. A step that is answered from its record has none |
//! | "the result of a step is too large to be kept" | error | `request`, `step`, `size`, `limit` |
//! | "a completer took up a mutation that nobody went on with" | debug | `request`, `workflow`, `tries` before this one |
//! | "a mutation is held after a completer's last try" | error | `request`, `workflow`, `tries` |
//! | "mutations wait for code that knows them" | warn | `workflow`, `version`: at most once a minute, by a completer that has no handler for them |
//! | "a completer cannot ask the store, and asks again" | warn | `error` |
//! | "the server has forgotten fencing tokens that it had handed out" | error | `counter` (its key in Redis), `token` (the next one) |
//!
//! `request` is the request identity, [redacted](crate::RequestIdentity::redacted): its scope, and of its key the beginning and
//! a digest; never the payload. `error` is an error with its causes.

#[cfg(feature = "http")]
pub(crate) mod counts;
#[cfg(feature = "durable")]
pub(crate) mod relays;
#[cfg(feature = "durable")]
pub(crate) mod steps;

#[cfg(not(feature = "tracing"))]
pub(crate) use self::silent::*;
#[cfg(feature = "tracing")]
pub(crate) use self::traced::*;

/// How much a call without a reply is to be made of.
#[cfg(feature = "durable")]
#[derive(Clone, Copy)]
pub(crate) enum Gravity {
    Routine,
    Trouble,
    Fault,
}

#[cfg(feature = "tracing")]
mod traced {
    #[cfg(feature = "durable")]
    use super::Gravity;
    #[cfg(feature = "durable")]
    use crate::identity::RequestIdentity;
    use crate::unwind::quietly;
    #[cfg(feature = "durable")]
    use std::error::Error;
    use std::fmt::Debug;
    #[cfg(feature = "durable")]
    use std::fmt::{self, Display};
    use std::sync::OnceLock;
    use tracing::Span;

    const TARGET: &str = "oneflight";

    /// The span of one flight. Its leader makes it where no lock is held, so a moment after the flight.
    #[derive(Debug)]
    pub(crate) struct FlightSpan(OnceLock<Span>);

    impl FlightSpan {
        pub(crate) fn new() -> Self {
            Self(OnceLock::new())
        }

        /// Creates the span, as a child of this thread's current one.
        pub(crate) fn open(&self) {
            quietly(|| {
                self.0
                    .get_or_init(|| tracing::debug_span!(target: TARGET, "oneflight.flight"));
            });
        }

        /// Runs `poll` inside the span.
        pub(crate) fn enter<R>(&self, poll: impl FnOnce() -> R) -> R {
            let mut entered = None;
            if let Some(span) = self.0.get() {
                quietly(|| entered = Some(span.enter()));
            }
            let polled = poll();
            quietly(|| drop(entered));
            polled
        }

        /// Records that this thread's current span follows from the flight's.
        pub(crate) fn link_current(&self) {
            if let Some(span) = self.0.get() {
                quietly(|| {
                    Span::current().follows_from(span);
                });
            }
        }
    }

    /// The span of one HTTP request.
    #[cfg(feature = "http")]
    pub(crate) struct RequestSpan(Span);

    /// A future inside of such a span.
    #[cfg(feature = "http")]
    pub(crate) type InSpan<F> = tracing::instrument::Instrumented<F>;

    #[cfg(feature = "http")]
    impl RequestSpan {
        /// Creates the span, as a child of this thread's current one.
        pub(crate) fn new(correlation_id: &dyn Display) -> Self {
            Self(tracing::info_span!(target: TARGET, "oneflight.request", %correlation_id))
        }

        /// Runs a closure inside the span.
        pub(crate) fn enter<R>(&self, closure: impl FnOnce() -> R) -> R {
            self.0.in_scope(closure)
        }

        /// Polls and drops a future inside the span.
        pub(crate) fn around<F>(self, future: F) -> InSpan<F> {
            tracing::Instrument::instrument(future, self.0)
        }
    }

    #[cfg(feature = "http")]
    pub(crate) fn sent_again(retry: u32, pause: std::time::Duration) {
        tracing::debug!(target: TARGET, retry, ?pause, "a request to another service is sent again");
    }

    /// The span of one request with a key.
    #[cfg(feature = "http")]
    pub(crate) struct KeyedSpan(Span);

    #[cfg(feature = "http")]
    impl KeyedSpan {
        /// There is none: the request was not looked up.
        pub(crate) fn none() -> Self {
            Self(Span::none())
        }

        /// Creates the span, as a child of this thread's current one.
        pub(crate) fn new<C: Display>(
            request: &RequestIdentity,
            route: Option<&str>,
            correlation_id: impl FnOnce() -> Option<C>,
        ) -> Self {
            use tracing::field::{Empty, display};
            let mut span = Span::none();
            quietly(|| {
                let request = request.redacted();
                span = tracing::info_span!(
                    target: TARGET, "oneflight.idempotency",
                    %request, route, correlation_id = Empty, status = Empty, origin = Empty,
                );
                if !span.is_disabled()
                    && let Some(id) = correlation_id()
                {
                    span.record("correlation_id", display(id));
                }
            });
            Self(span)
        }

        /// Polls and drops a future inside the span.
        pub(crate) fn around<F>(&self, future: F) -> InSpan<F> {
            tracing::Instrument::instrument(future, self.0.clone())
        }

        /// Records what the client is answered with.
        pub(crate) fn ends(&self, origin: &'static str, status: u16) {
            quietly(|| {
                self.0.record("status", status);
                self.0.record("origin", origin);
            });
        }
    }

    pub(crate) fn driver_changed(event: &dyn Debug) {
        quietly(|| tracing::debug!(target: TARGET, ?event, "the work goes on with another caller"));
    }

    pub(crate) fn abandoned() {
        quietly(|| tracing::debug!(target: TARGET, "abandoned work goes on as a task"));
    }

    pub(crate) fn unspawnable() {
        quietly(|| {
            tracing::warn!(
                target: TARGET,
                "abandoned work cannot be finished: there is no runtime here, and the group has no handle of one"
            );
        });
    }

    pub(crate) fn cancelled() {
        quietly(|| tracing::debug!(target: TARGET, "abandoned work was dropped"));
    }

    pub(crate) fn panicked(message_of_panic: &str) {
        quietly(|| tracing::error!(target: TARGET, message_of_panic, "the work panicked"));
    }

    /// Attaches the span that is current now to work that becomes a task of its own.
    #[cfg(feature = "durable")]
    pub(crate) fn in_current_span<W: Future>(work: W) -> impl Future<Output = W::Output> + use<W> {
        CurrentSpan::here().around(work)
    }

    /// The span that was current where this was made, for what becomes a task later.
    #[cfg(feature = "durable")]
    #[derive(Clone)]
    pub(crate) struct CurrentSpan(Span);

    #[cfg(feature = "durable")]
    impl CurrentSpan {
        pub(crate) fn here() -> Self {
            Self(Span::current())
        }

        pub(crate) fn around<W: Future>(&self, work: W) -> impl Future<Output = W::Output> + use<W> {
            tracing::Instrument::instrument(work, self.0.clone())
        }
    }

    /// It may be the last of its span, and a subscriber that panics when that closes would end a task that has more to do.
    #[cfg(feature = "durable")]
    impl Drop for CurrentSpan {
        fn drop(&mut self) {
            let span = std::mem::replace(&mut self.0, Span::none());
            quietly(|| drop(span));
        }
    }

    #[cfg(feature = "durable")]
    pub(crate) fn lease_lost(request: &RequestIdentity, token: u64) {
        let request = request.redacted();
        tracing::warn!(target: TARGET, %request, token, "the claim was lost to another holder while its work ran");
    }

    #[cfg(feature = "durable")]
    pub(crate) fn not_renewed(request: &RequestIdentity, error: &dyn Display) {
        let request = request.redacted();
        tracing::warn!(target: TARGET, %request, %error, "the claim is not renewed any more while its work runs");
    }

    #[cfg(feature = "durable")]
    pub(crate) fn took_over(request: &RequestIdentity, from: u64, attempt: u32) {
        let request = request.redacted();
        tracing::warn!(target: TARGET, %request, from, attempt, "took over the claim of a holder that died");
    }

    #[cfg(feature = "durable")]
    pub(crate) fn retried(request: &RequestIdentity, retry: u32) {
        let request = request.redacted();
        tracing::debug!(target: TARGET, %request, retry, "the transaction lost to another one; its work is run again");
    }

    #[cfg(feature = "durable")]
    pub(crate) fn unanswered(gravity: Gravity, request: &RequestIdentity, effect: &dyn Debug, error: &dyn Error) {
        let request = request.redacted();
        const TOLD: &str = "a request has no reply";
        let error = Causes(error);
        // The spans that have it may be below the level of the log.
        let correlation_id = crate::correlation::current();
        let correlation_id = correlation_id.as_ref().map(tracing::field::display);
        // The error may be the user's, and its message is made here.
        quietly(|| match gravity {
            Gravity::Routine => tracing::debug!(target: TARGET, %request, correlation_id, ?effect, %error, "{TOLD}"),
            Gravity::Trouble => tracing::warn!(target: TARGET, %request, correlation_id, ?effect, %error, "{TOLD}"),
            Gravity::Fault => tracing::error!(target: TARGET, %request, correlation_id, ?effect, %error, "{TOLD}"),
        });
    }

    /// An error with its causes, but for what an error has told of its cause itself.
    #[cfg(feature = "durable")]
    struct Causes<'a>(&'a dyn Error);

    #[cfg(feature = "durable")]
    impl Display for Causes<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let mut told = self.0.to_string();
            f.write_str(&told)?;
            let mut next = self.0.source();
            while let Some(cause) = next {
                let text = cause.to_string();
                if !told.contains(&text) {
                    write!(f, ": {text}")?;
                }
                told = text;
                next = cause.source();
            }
            Ok(())
        }
    }

    #[cfg(feature = "durable")]
    pub(crate) fn unrecorded(request: &RequestIdentity, error: &dyn Error) {
        let request = request.redacted();
        let error = Causes(error);
        tracing::error!(target: TARGET, %request, %error, "work was done and could not be recorded");
    }

    #[cfg(feature = "durable")]
    pub(crate) fn not_released(request: &RequestIdentity, error: &dyn Error) {
        let request = request.redacted();
        let error = Causes(error);
        tracing::warn!(
            target: TARGET,
            %request,
            %error,
            "a claim could not be given back; it is in doubt when its lease ends"
        );
    }

    /// Runs the work of a step inside its span.
    #[cfg(feature = "durable")]
    pub(crate) fn in_step_span<W: Future>(
        request: &RequestIdentity,
        step: &dyn Display,
        work: W,
    ) -> impl Future<Output = W::Output> + use<W> {
        let request = request.redacted();
        tracing::Instrument::instrument(
            work,
            tracing::debug_span!(target: TARGET, "oneflight.step", %request, %step),
        )
    }

    #[cfg(feature = "durable")]
    pub(crate) fn step_too_large(request: &RequestIdentity, step: &dyn Display, size: u64, limit: usize) {
        let request = request.redacted();
        tracing::error!(target: TARGET, %request, %step, size, limit, "the result of a step is too large to be kept");
    }

    #[cfg(feature = "durable")]
    pub(crate) fn taken_up(request: &RequestIdentity, workflow: &str, tries: u32) {
        let request = request.redacted();
        tracing::debug!(target: TARGET, %request, workflow, tries, "a completer took up a mutation that nobody went on with");
    }

    #[cfg(feature = "durable")]
    pub(crate) fn held(request: &RequestIdentity, workflow: &str, tries: u32) {
        let request = request.redacted();
        tracing::error!(target: TARGET, %request, workflow, tries, "a mutation is held after a completer's last try");
    }

    #[cfg(feature = "durable")]
    pub(crate) fn unknown_workflow(workflow: &str, version: &str) {
        tracing::warn!(target: TARGET, workflow, version, "mutations wait for code that knows them");
    }

    #[cfg(feature = "durable")]
    pub(crate) fn not_listed(error: &dyn Error) {
        let error = Causes(error);
        tracing::warn!(target: TARGET, %error, "a completer cannot ask the store, and asks again");
    }

    #[cfg(feature = "durable")]
    pub(crate) fn not_purged(error: &dyn Error) {
        let error = Causes(error);
        tracing::warn!(
            target: TARGET,
            %error,
            "what is past its retention was not purged; the next round tries again"
        );
    }

    #[cfg(feature = "durable")]
    pub(crate) fn message_died(id: i64, topic: &str, attempts: u32, error: &str) {
        quietly(|| tracing::error!(target: TARGET, id, topic, attempts, error, "a message is a dead letter"));
    }

    #[cfg(feature = "durable")]
    pub(crate) fn circuit_open(target: &str) {
        quietly(|| tracing::warn!(target: TARGET, to = target, "a target fails, and is left alone for a while"));
    }

    #[cfg(feature = "durable")]
    pub(crate) fn relay_outdated(group: &str) {
        quietly(|| tracing::warn!(target: TARGET, group, "a relay was taken for dead, and joins anew"));
    }

    #[cfg(feature = "durable")]
    pub(crate) fn relay_in_trouble(group: &str, error: &dyn Error) {
        let error = Causes(error);
        quietly(|| tracing::warn!(target: TARGET, group, %error, "a relay cannot reach its store, and tries again"));
    }

    #[cfg(feature = "durable")]
    pub(crate) fn outbox_not_kept(group: &str, error: &dyn Error) {
        let error = Causes(error);
        quietly(
            || tracing::warn!(target: TARGET, group, %error, "an outbox could not be kept in order; the next round tries again"),
        );
    }

    #[cfg(feature = "axum")]
    pub(crate) fn handler_failed(error: &dyn Error) {
        let error = Causes(error);
        quietly(|| tracing::error!(target: TARGET, %error, "a handler failed"));
    }

    #[cfg(feature = "axum")]
    pub(crate) fn misplaced(reason: &str) {
        quietly(
            || tracing::error!(target: TARGET, reason, "a handler takes a `Tx` or a `Context` that it cannot be given; the request fails"),
        );
    }

    #[cfg(feature = "http")]
    pub(crate) fn unscoped() {
        tracing::warn!(
            target: TARGET,
            "an IdempotencyLayer has no scope: the clients of its routes share their keys; set `scope`, or say `unscoped`"
        );
    }

    #[cfg(feature = "durable")]
    pub(crate) fn unreadable(token: u64, error: &dyn Display) {
        tracing::error!(
            target: TARGET,
            token,
            %error,
            "a record cannot be read, and is left out of the list of what is in doubt"
        );
    }

    #[cfg(feature = "durable")]
    pub(crate) fn set_back(counter: &dyn Display, token: u64) {
        tracing::error!(
            target: TARGET,
            %counter,
            token,
            "the server has forgotten fencing tokens that it had handed out"
        );
    }
}

#[cfg(not(feature = "tracing"))]
mod silent {
    #[cfg(feature = "durable")]
    use super::Gravity;
    #[cfg(feature = "durable")]
    use crate::identity::RequestIdentity;
    #[cfg(feature = "durable")]
    use std::error::Error;
    use std::fmt::Debug;
    #[cfg(feature = "durable")]
    use std::fmt::Display;

    #[derive(Debug)]
    pub(crate) struct FlightSpan;

    impl FlightSpan {
        #[inline(always)]
        pub(crate) fn new() -> Self {
            Self
        }

        #[inline(always)]
        pub(crate) fn open(&self) {}

        #[inline(always)]
        pub(crate) fn enter<R>(&self, poll: impl FnOnce() -> R) -> R {
            poll()
        }

        #[inline(always)]
        pub(crate) fn link_current(&self) {}
    }

    #[cfg(feature = "http")]
    pub(crate) struct RequestSpan;

    #[cfg(feature = "http")]
    pub(crate) type InSpan<F> = F;

    #[cfg(feature = "http")]
    impl RequestSpan {
        pub(crate) fn new(_correlation_id: &dyn Display) -> Self {
            Self
        }

        pub(crate) fn enter<R>(&self, closure: impl FnOnce() -> R) -> R {
            closure()
        }

        pub(crate) fn around<F>(self, future: F) -> InSpan<F> {
            future
        }
    }

    #[cfg(feature = "durable")]
    pub(crate) fn message_died(_id: i64, _topic: &str, _attempts: u32, _error: &str) {}

    #[cfg(feature = "durable")]
    pub(crate) fn circuit_open(_target: &str) {}

    #[cfg(feature = "durable")]
    pub(crate) fn relay_outdated(_group: &str) {}

    #[cfg(feature = "durable")]
    pub(crate) fn relay_in_trouble(_group: &str, _error: &dyn Error) {}

    #[cfg(feature = "durable")]
    pub(crate) fn outbox_not_kept(_group: &str, _error: &dyn Error) {}

    #[cfg(feature = "http")]
    pub(crate) fn sent_again(_retry: u32, _pause: std::time::Duration) {}

    #[cfg(feature = "http")]
    pub(crate) struct KeyedSpan;

    #[cfg(feature = "http")]
    impl KeyedSpan {
        #[inline(always)]
        pub(crate) fn none() -> Self {
            Self
        }

        #[inline(always)]
        pub(crate) fn new<C: Display>(
            _request: &RequestIdentity,
            _route: Option<&str>,
            _correlation_id: impl FnOnce() -> Option<C>,
        ) -> Self {
            Self
        }

        #[inline(always)]
        pub(crate) fn around<F>(&self, future: F) -> InSpan<F> {
            future
        }

        #[inline(always)]
        pub(crate) fn ends(&self, _origin: &'static str, _status: u16) {}
    }

    #[inline(always)]
    pub(crate) fn driver_changed(_event: &dyn Debug) {}

    #[inline(always)]
    pub(crate) fn abandoned() {}

    #[inline(always)]
    pub(crate) fn unspawnable() {}

    #[inline(always)]
    pub(crate) fn cancelled() {}

    #[inline(always)]
    pub(crate) fn panicked(_message: &str) {}

    #[cfg(feature = "durable")]
    pub(crate) fn in_current_span<W: Future>(work: W) -> W {
        work
    }

    #[cfg(feature = "durable")]
    #[derive(Clone)]
    pub(crate) struct CurrentSpan;

    #[cfg(feature = "durable")]
    impl CurrentSpan {
        #[inline(always)]
        pub(crate) fn here() -> Self {
            Self
        }

        #[inline(always)]
        pub(crate) fn around<W: Future>(&self, work: W) -> W {
            work
        }
    }

    #[cfg(feature = "durable")]
    pub(crate) fn lease_lost(_request: &RequestIdentity, _token: u64) {}

    #[cfg(feature = "durable")]
    pub(crate) fn not_renewed(_request: &RequestIdentity, _error: &dyn Display) {}

    #[cfg(feature = "durable")]
    pub(crate) fn took_over(_request: &RequestIdentity, _from: u64, _attempt: u32) {}

    #[cfg(feature = "durable")]
    pub(crate) fn retried(_request: &RequestIdentity, _retry: u32) {}

    #[cfg(feature = "durable")]
    pub(crate) fn unanswered(_gravity: Gravity, _request: &RequestIdentity, _effect: &dyn Debug, _error: &dyn Error) {}

    #[cfg(feature = "durable")]
    pub(crate) fn unrecorded(_request: &RequestIdentity, _error: &dyn Error) {}

    #[cfg(feature = "durable")]
    pub(crate) fn not_released(_request: &RequestIdentity, _error: &dyn Error) {}

    #[cfg(feature = "durable")]
    pub(crate) fn in_step_span<W: Future>(_request: &RequestIdentity, _step: &dyn std::fmt::Display, work: W) -> W {
        work
    }

    #[cfg(feature = "durable")]
    pub(crate) fn step_too_large(_request: &RequestIdentity, _step: &dyn std::fmt::Display, _size: u64, _limit: usize) {
    }

    #[cfg(feature = "durable")]
    pub(crate) fn taken_up(_request: &RequestIdentity, _workflow: &str, _tries: u32) {}

    #[cfg(feature = "durable")]
    pub(crate) fn held(_request: &RequestIdentity, _workflow: &str, _tries: u32) {}

    #[cfg(feature = "durable")]
    pub(crate) fn unknown_workflow(_workflow: &str, _version: &str) {}

    #[cfg(feature = "durable")]
    pub(crate) fn not_listed(_error: &dyn Error) {}

    #[cfg(feature = "durable")]
    pub(crate) fn not_purged(_error: &dyn Error) {}

    #[cfg(feature = "axum")]
    pub(crate) fn handler_failed(_error: &dyn Error) {}

    #[cfg(feature = "axum")]
    pub(crate) fn misplaced(_reason: &str) {}

    #[cfg(feature = "http")]
    pub(crate) fn unscoped() {}

    #[cfg(feature = "durable")]
    pub(crate) fn unreadable(_token: u64, _error: &dyn Display) {}

    #[cfg(feature = "durable")]
    pub(crate) fn set_back(_counter: &dyn Display, _token: u64) {}
}
