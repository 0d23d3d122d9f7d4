//! The metrics of the HTTP layer, through the facade `metrics`, with all names in one place, and a table of them in `metrics.md`.
//! Without the feature `metrics` there are none, and they cost nothing.
//!
//! A request with a key is counted once: by its origin if it has an answer, and otherwise as a conflict, as in doubt, or as
//! refused. A request that passes through is not counted. A recorder that panics is reported by the panic hook and disturbs no
//! request.
//!
//! What is counted of a route is there with 0 before it counts: a series that appears with 1 has not increased, as far as
//! Prometheus can tell. It is announced by its name (`RouteName::announce`), or by the first request with a key.
//!
#![doc = include_str!("metrics.md")]

#[cfg(feature = "metrics")]
pub(crate) use self::counted::*;
#[cfg(not(feature = "metrics"))]
pub(crate) use self::silent::*;

#[cfg(feature = "metrics")]
mod counted {
    use std::collections::HashSet;
    use std::sync::Arc;

    use metrics::{SharedString, counter, describe_counter, describe_gauge, gauge};
    use parking_lot::RwLock;

    use crate::unwind::quietly;

    const REQUESTS: &str = "oneflight_requests_total";
    const CONFLICTS: &str = "oneflight_conflicts_total";
    const IN_DOUBT: &str = "oneflight_in_doubt_total";
    const REFUSED: &str = "oneflight_refused_total";
    const OUTCOME_ONLY: &str = "oneflight_outcome_only_total";
    const STORE_ERRORS: &str = "oneflight_store_errors_total";
    const COOKIES_DROPPED: &str = "oneflight_cookies_dropped_total";
    const WAITERS: &str = "oneflight_waiters";
    const IN_FLIGHT: &str = "oneflight_in_flight";
    const BYTES_HELD: &str = "oneflight_bytes_held";

    const ORIGINS: [&str; 3] = ["executed", "collapsed", "replayed"];
    /// The kind of problem that leaves a request in doubt. The other kinds are there once they are counted.
    const DOUBTFUL: &str = "outcome_unknown";
    /// How many routes a layer remembers to have announced. Names that clients can choose have no bound.
    const ANNOUNCED: usize = 1000;

    /// Tells the recorder what the metrics are.
    pub(crate) fn describe() {
        quietly(|| {
            describe_counter!(
                REQUESTS,
                "Requests with an idempotency key that have an answer, by its origin"
            );
            describe_counter!(CONFLICTS, "Requests under a used idempotency key with another payload");
            describe_counter!(
                IN_DOUBT,
                "Requests of which it is not known what an earlier attempt did"
            );
            describe_counter!(REFUSED, "Requests answered with another problem, by its kind");
            describe_counter!(OUTCOME_ONLY, "Requests that got an outcome without its body");
            describe_counter!(STORE_ERRORS, "Requests whose store failed");
            describe_counter!(COOKIES_DROPPED, "Lines of Set-Cookie that an answer was kept without");
            describe_gauge!(WAITERS, "Requests with an idempotency key that wait for an answer");
            describe_gauge!(IN_FLIGHT, "Executions");
            describe_gauge!(BYTES_HELD, "Bytes of bodies of answers that are in memory to be shared");
        });
    }

    /// The routes that a layer has announced.
    #[derive(Default)]
    pub(crate) struct Routes(RwLock<HashSet<Arc<str>>>);

    impl Routes {
        /// Returns the route of a request, and announces it if it is seen for the first time.
        pub(crate) fn see(&self, matched: Option<&str>) -> Route {
            let name = matched.unwrap_or_default();
            let known = self.0.read();
            if let Some(known) = known.get(name) {
                return Route::new(Arc::clone(known));
            }
            if known.len() >= ANNOUNCED {
                return Route::new(Arc::from(name));
            }
            drop(known);
            let name = Arc::<str>::from(name);
            let route = Route::new(Arc::clone(&name));
            let mut known = self.0.write();
            let is_new = known.len() < ANNOUNCED && known.insert(name);
            // The recorder is not ours.
            drop(known);
            if is_new {
                route.announce();
            }
            route
        }
    }

    /// What the metrics of one request are labelled with.
    #[derive(Clone)]
    pub(crate) struct Route(SharedString);

    impl Route {
        pub(crate) fn new(name: Arc<str>) -> Self {
            Self(SharedString::from(name))
        }

        /// Tells the recorder of all that is counted of the route, with 0.
        pub(crate) fn announce(&self) {
            quietly(|| {
                let route = || self.0.clone();
                for origin in ORIGINS {
                    counter!(REQUESTS, "route" => route(), "origin" => origin).increment(0);
                }
                counter!(REFUSED, "route" => route(), "kind" => DOUBTFUL).increment(0);
                for name in [CONFLICTS, IN_DOUBT, OUTCOME_ONLY, STORE_ERRORS, COOKIES_DROPPED] {
                    counter!(name, "route" => route()).increment(0);
                }
                for name in [WAITERS, IN_FLIGHT] {
                    gauge!(name, "route" => route()).increment(0);
                }
                gauge!(BYTES_HELD).increment(0);
            });
        }

        pub(crate) fn answered(&self, origin: &'static str) {
            quietly(|| counter!(REQUESTS, "route" => self.0.clone(), "origin" => origin).increment(1));
        }

        pub(crate) fn conflicted(&self) {
            self.count(CONFLICTS, 1);
        }

        pub(crate) fn in_doubt(&self) {
            self.count(IN_DOUBT, 1);
        }

        pub(crate) fn refused(&self, kind: &str) {
            let kind = kind.to_ascii_lowercase();
            quietly(|| counter!(REFUSED, "route" => self.0.clone(), "kind" => kind).increment(1));
        }

        pub(crate) fn outcome_only(&self) {
            self.count(OUTCOME_ONLY, 1);
        }

        pub(crate) fn store_failed(&self) {
            self.count(STORE_ERRORS, 1);
        }

        pub(crate) fn dropped_cookies(&self, lines: usize) {
            if lines > 0 {
                self.count(COOKIES_DROPPED, lines as u64);
            }
        }

        /// Counts a request as one that waits, until the value is dropped.
        pub(crate) fn waits(&self) -> Gauged {
            Gauged::new(1.0, || gauge!(WAITERS, "route" => self.0.clone()))
        }

        /// Counts an execution, until the value is dropped.
        pub(crate) fn executes(&self) -> Gauged {
            Gauged::new(1.0, || gauge!(IN_FLIGHT, "route" => self.0.clone()))
        }

        fn count(&self, name: &'static str, by: u64) {
            quietly(|| counter!(name, "route" => self.0.clone()).increment(by));
        }
    }

    /// Bytes that are held for as long as one of its clones is there.
    #[derive(Clone, Default)]
    pub(crate) struct Held(#[allow(dead_code, reason = "it is there to be dropped")] Option<Arc<Gauged>>);

    impl Held {
        pub(crate) fn new(bytes: usize) -> Self {
            Self(match bytes {
                0 => None,
                _ => Some(Arc::new(Gauged::new(bytes as f64, || gauge!(BYTES_HELD)))),
            })
        }
    }

    /// A part of a gauge, which is taken back when this is dropped. The recorder is the one that it was added at.
    pub(crate) struct Gauged {
        gauge: Option<metrics::Gauge>,
        by: f64,
    }

    impl Gauged {
        fn new(by: f64, of: impl FnOnce() -> metrics::Gauge) -> Self {
            let mut gauge = None;
            quietly(|| {
                let found = of();
                found.increment(by);
                gauge = Some(found);
            });
            Self { gauge, by }
        }
    }

    impl Drop for Gauged {
        fn drop(&mut self) {
            if let Some(gauge) = self.gauge.take() {
                quietly(|| gauge.decrement(self.by));
            }
        }
    }
}

#[cfg(not(feature = "metrics"))]
mod silent {
    #[inline(always)]
    pub(crate) fn describe() {}

    #[derive(Default)]
    pub(crate) struct Routes;

    impl Routes {
        #[inline(always)]
        pub(crate) fn see(&self, _matched: Option<&str>) -> Route {
            Route
        }
    }

    #[derive(Clone)]
    pub(crate) struct Route;

    impl Route {
        #[inline(always)]
        pub(crate) fn new(_name: std::sync::Arc<str>) -> Self {
            Self
        }

        #[inline(always)]
        pub(crate) fn announce(&self) {}

        #[inline(always)]
        pub(crate) fn answered(&self, _origin: &'static str) {}

        #[inline(always)]
        pub(crate) fn conflicted(&self) {}

        #[inline(always)]
        pub(crate) fn in_doubt(&self) {}

        #[inline(always)]
        pub(crate) fn refused(&self, _kind: &str) {}

        #[inline(always)]
        pub(crate) fn outcome_only(&self) {}

        #[inline(always)]
        pub(crate) fn store_failed(&self) {}

        #[inline(always)]
        pub(crate) fn dropped_cookies(&self, _lines: usize) {}

        #[inline(always)]
        pub(crate) fn waits(&self) -> Gauged {
            Gauged
        }

        #[inline(always)]
        pub(crate) fn executes(&self) -> Gauged {
            Gauged
        }
    }

    #[derive(Clone, Default)]
    pub(crate) struct Held;

    impl Held {
        #[inline(always)]
        pub(crate) fn new(_bytes: usize) -> Self {
            Self
        }
    }

    pub(crate) struct Gauged;
}
