//! What the layer was told: its settings, as the service and the page for clients read them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::request::Parts;

use super::dialect::Dialect;
use super::execute::Execute;
use super::outcome::{Cookies, Recording};
use crate::http::fingerprints::Fingerprints;
use crate::http::key::KeySource;
use crate::http::problem::Problem;
use crate::idempotency::{Codec, Idempotency};
use crate::identity::{Fingerprint, IdempotencyKey, Scope};
use crate::store::Store;
use crate::telemetry::counts::Routes;

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
pub(super) enum Duplicates {
    /// It waits for as long as it takes.
    #[default]
    Wait,
    WaitUpTo(Duration),
}

/// When the answer goes to the client whose request is executed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Delivery {
    /// When all of it is there, and recorded.
    #[default]
    Whole,
    /// As it comes.
    Through,
}

pub(super) type Predicate = Arc<dyn Fn(&Parts) -> Requirement + Send + Sync>;
pub(super) type ScopeOf = Arc<dyn Fn(&Parts) -> Result<Scope, Problem> + Send + Sync>;
pub(super) type KeyOf = Arc<dyn Fn(&Parts, &Bytes) -> Result<Option<IdempotencyKey>, Problem> + Send + Sync>;
pub(super) type FingerprintOf = Arc<dyn Fn(&Parts, &[u8]) -> Result<Fingerprint, Problem> + Send + Sync>;
pub(super) type RouteOf = Arc<dyn Fn(&Parts) -> String + Send + Sync>;

/// What clients are told of the settings of [`Idempotency`].
#[derive(Clone, Copy)]
pub(super) struct Terms {
    pub(super) retention: Duration,
    /// How long a request waits that is in progress elsewhere.
    pub(super) wait: Duration,
    pub(super) undone: Undone,
}

/// Which executions are rolled back.
#[derive(Clone, Copy)]
pub(super) enum Undone {
    /// What is done is done elsewhere.
    Nothing,
    Failures,
}

impl Terms {
    pub(super) fn of<S, C>(idempotency: &Idempotency<S, C>, undone: Undone) -> Self
    where
        S: Store,
        C: Codec<Vec<u8>>,
    {
        Self {
            retention: idempotency.retention(),
            wait: idempotency.longest_wait(),
            undone,
        }
    }
}

/// What the service knows.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) execute: Execute,
    pub(super) terms: Terms,
    pub(super) keys: KeySource,
    pub(super) key: Option<KeyOf>,
    pub(super) fingerprints: Fingerprints,
    pub(super) fingerprint: Option<FingerprintOf>,
    pub(super) methods: Vec<Method>,
    pub(super) requirement: Requirement,
    pub(super) when: Option<Predicate>,
    pub(super) scope: Option<ScopeOf>,
    pub(super) is_unscoped: bool,
    pub(super) route: Option<RouteOf>,
    pub(super) duplicates: Duplicates,
    pub(super) recording: Recording,
    pub(super) cookies: Cookies,
    pub(super) max_request_bytes: usize,
    pub(super) request_time: Duration,
    pub(super) max_answer_bytes: usize,
    pub(super) answer_time: Duration,
    pub(super) delivery: Delivery,
    pub(super) documentation: Option<Arc<str>>,
    pub(super) dialect: Dialect,
    pub(super) routes: Arc<Routes>,
}

impl Settings {
    /// Whether a request with this method may be one to execute once. `patch` is another method than `PATCH`, and handlers take it for
    /// that.
    pub(super) fn has_method(&self, method: &Method) -> bool {
        let method = method.as_str();
        self.methods
            .iter()
            .any(|known| known.as_str().eq_ignore_ascii_case(method))
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

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyLayer")
            .field("keys", &self.keys)
            .field("has_key_function", &self.key.is_some())
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
            .field("delivery", &self.delivery)
            .field("documentation", &self.documentation)
            .field("dialect", &self.dialect)
            .finish_non_exhaustive()
    }
}
