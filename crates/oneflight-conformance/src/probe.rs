//! A store under test, with the wishes of the checks put into words.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::failure::{Failure, name};
use oneflight::identity::{Fingerprint, RequestIdentity, Scope};
use oneflight::record::{CodecId, FencingToken, HolderId, Record, RecordedResult, Verdict};
use oneflight::store::{Claim, ClaimOutcome, ClaimRequest, Denied, Store, StoreError, Takeover};

/// Long enough that no check outlasts it.
pub(super) const LONG: Duration = Duration::from_secs(600);
/// Short enough to wait for. What must be done within the first one and was not, since the machine is slow, is tried with the next.
pub(super) const SHORT: [Duration; 3] = [
    Duration::from_millis(400),
    Duration::from_millis(3_200),
    Duration::from_millis(25_600),
];

pub(super) struct Probe<'a, S, P> {
    check: &'static str,
    pub(super) store: Arc<S>,
    pass: &'a P,
    short: Duration,
    since: Mutex<Since>,
}

/// What has been since a check asked for a short time.
#[derive(Default)]
struct Since {
    asked: Option<Instant>,
    passed: Duration,
}

/// Runs a check on an empty store of its own; and anew with a longer time, if it failed and had too little of it.
macro_rules! run_check {
    ($make:ident, $pass:ident, $name:ident, $check:expr) => {
        for short in crate::probe::SHORT {
            // In a box: all of them together are more than a thread's stack has.
            let store = ::std::sync::Arc::new(Box::pin($make()).await);
            let probe = crate::probe::Probe::new(stringify!($name), store, &$pass, short);
            match Box::pin($check(&probe)).await {
                Err(_) if probe.was_too_slow() => {}
                checked => {
                    checked?;
                    break;
                }
            }
        }
    };
}
pub(super) use run_check;

impl<'a, S: Store, P: AsyncFn(Duration)> Probe<'a, S, P> {
    pub(super) fn new(check: &'static str, store: Arc<S>, pass: &'a P, short: Duration) -> Self {
        Self {
            check,
            store,
            pass,
            short,
            since: Mutex::default(),
        }
    }

    pub(super) async fn pass(&self, duration: Duration) {
        let begun = Instant::now();
        (self.pass)(duration).await;
        self.since.lock().passed += begun.elapsed();
    }

    /// A time that the check waits for, and within which it has something to do.
    pub(super) fn short(&self) -> Duration {
        self.since.lock().asked = Some(Instant::now());
        self.since.lock().passed = Duration::ZERO;
        self.short
    }

    /// Longer than the short time.
    pub(super) fn later(&self) -> Duration {
        self.short + Duration::from_millis(50)
    }

    /// Whether more than the short time was over since the check asked for it, apart from what was to pass; and there is a longer one.
    /// Of what has failed then, nobody knows whether it was the store.
    pub(super) fn was_too_slow(&self) -> bool {
        let since = self.since.lock();
        let worked = since.asked.map(|asked| asked.elapsed().saturating_sub(since.passed));
        worked.is_some_and(|worked| worked >= self.short) && SHORT.last() != Some(&self.short)
    }

    pub(super) fn failure<T>(&self, what: impl Into<String>) -> Result<T, Failure> {
        Err(Failure {
            check: self.check,
            what: what.into(),
            source: None,
        })
    }

    pub(super) fn require(&self, holds: bool, what: &str) -> Result<(), Failure> {
        if holds { Ok(()) } else { self.failure(what) }
    }

    /// Returns the answer of the store, or the failure to give one.
    pub(super) fn ok<T>(&self, answer: Result<T, StoreError>) -> Result<T, Failure> {
        answer.map_err(|source| Failure {
            check: self.check,
            what: "an operation that must succeed was an error".to_owned(),
            source: Some(source),
        })
    }

    pub(super) fn id(&self, key: &str) -> Result<RequestIdentity, Failure> {
        RequestIdentity::new(Scope::new("conformance"), key)
            .or_else(|_| self.failure("the suite made an invalid identity"))
    }

    pub(super) fn id_of(&self, key: &str, digest: u8) -> Result<RequestIdentity, Failure> {
        let fingerprint = Fingerprint::from_digest([digest; 32]);
        Ok(self.id(key)?.with_known_fingerprint(fingerprint))
    }

    pub(super) async fn ask(
        &self,
        id: &RequestIdentity,
        lease: Duration,
        takeover: Takeover,
    ) -> Result<ClaimOutcome, Failure> {
        let request = ClaimRequest::new(id, lease).takeover(takeover);
        self.ok(self.store.claim(request).await)
    }

    pub(super) async fn ask_as(&self, id: &RequestIdentity, holder: HolderId) -> Result<ClaimOutcome, Failure> {
        let request = ClaimRequest::new(id, LONG).holder(holder);
        self.ok(self.store.claim(request).await)
    }

    pub(super) fn granted(&self, outcome: ClaimOutcome) -> Result<Claim, Failure> {
        match outcome {
            ClaimOutcome::Granted(claim) => Ok(claim),
            other => self.failure(format!("expected a grant, got {}", name(&other))),
        }
    }

    pub(super) async fn claim(&self, id: &RequestIdentity, lease: Duration) -> Result<Claim, Failure> {
        let outcome = self.ask(id, lease, Takeover::Never).await?;
        self.granted(outcome)
    }

    pub(super) async fn completed(&self, id: &RequestIdentity) -> Result<Record, Failure> {
        match self.ask(id, LONG, Takeover::Never).await? {
            ClaimOutcome::Denied(Denied::Completed(record)) => Ok(record),
            other => self.failure(format!("expected a replay, got {}", name(&other))),
        }
    }

    pub(super) async fn complete(
        &self,
        claim: Claim,
        result: &RecordedResult,
        retention: Duration,
    ) -> Result<(), Failure> {
        self.ok(self.store.complete(claim, result.clone(), retention).await)
    }

    /// Requires that the store answers an outdated holder with an error that names its token.
    pub(super) fn outdated(
        &self,
        answer: Result<(), StoreError>,
        token: FencingToken,
        what: &str,
    ) -> Result<(), Failure> {
        match answer {
            Err(StoreError::Outdated { token: refused }) if refused == token => Ok(()),
            Err(StoreError::Outdated { .. }) => self.failure(format!("{what}: refused with another holder's token")),
            Err(_) => self.failure(format!("{what}: an error other than `Outdated`")),
            Ok(()) => self.failure(format!("{what}: accepted")),
        }
    }
}

/// A result that no text encoding would survive.
pub(super) fn result(seed: u8) -> RecordedResult {
    let payload: Vec<u8> = (0..=u8::MAX).map(|byte| byte.wrapping_add(seed)).collect();
    RecordedResult::value(Verdict::Performed, CodecId::Json, &payload)
}
