//! What a claim is asked with, what it answers, and the one decision that every store makes.
//!
//! [`decide`] is pure: a record and a request in, an answer out. A store calls it inside its atomic step, so that no
//! two stores decide differently.

use std::time::Duration;

use crate::correlation::{self, CorrelationId};
use crate::identity::RequestIdentity;
use crate::record::{FencingToken, HolderId, Record, State};

/// What to do about a holder whose lease has expired.
///
/// A store has to know every variant, so another one would be a breaking change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takeover {
    /// Answers [`Denied::InDoubt`].
    Never,
    /// Takes the claim over from any holder, unless the request is [held](Record::held).
    Expired,
    /// Takes the claim over from this holder and from no other: the one about which a policy or an operator has
    /// decided.
    Of(FencingToken),
}

/// What a claim is wanted for.
///
/// A store that keeps steps has to know every variant, so another one would be a breaking change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To execute the request. A mutation of steps that is taken over for that is none any more.
    Execute,
    /// To settle the request as an operator has decided, and to execute nothing.
    ///
    /// If it is a mutation of steps, it stays one: its steps belong to this claim afterwards, and it is held. So what
    /// breaks off here is left for a person, with all that is known of it.
    Resolve,
}

/// A request for a claim.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClaimRequest {
    /// The identity, with its fingerprint.
    pub id: RequestIdentity,
    /// The holder that asks.
    pub holder: HolderId,
    /// How long the claim is wanted for at first.
    pub lease: Duration,
    /// What to do about a holder whose lease has expired.
    pub takeover: Takeover,
    /// How long the answer may be waited for; as long as the store thinks right if `None`.
    pub patience: Option<Duration>,
    /// What the claim is wanted for.
    pub purpose: Purpose,
    /// The id of the request that claims, to be kept in the record. It is the [current](correlation::current) one, unless
    /// set. Where there is none, a claim that is taken over keeps the id that it had.
    pub correlation_id: Option<CorrelationId>,
}

impl ClaimRequest {
    /// Asks for `id` for the length of `lease`, as a new holder, without taking over.
    #[must_use]
    pub fn new(id: &RequestIdentity, lease: Duration) -> Self {
        Self::by(HolderId::random(), id, lease)
    }

    /// Asks as this holder, without another one being drawn first.
    pub(crate) fn by(holder: HolderId, id: &RequestIdentity, lease: Duration) -> Self {
        Self {
            id: id.clone(),
            holder,
            lease,
            takeover: Takeover::Never,
            patience: None,
            purpose: Purpose::Execute,
            correlation_id: correlation::current(),
        }
    }

    /// Sets the id of the request that claims.
    #[must_use]
    pub fn correlation_id(mut self, id: Option<CorrelationId>) -> Self {
        self.correlation_id = id;
        self
    }

    /// Sets what the claim is wanted for. The default is [`Purpose::Execute`].
    #[must_use]
    pub fn purpose(mut self, purpose: Purpose) -> Self {
        self.purpose = purpose;
        self
    }

    /// Asks as this holder.
    #[must_use]
    pub fn holder(mut self, holder: HolderId) -> Self {
        self.holder = holder;
        self
    }

    /// Limits the time for which the answer is waited for. A shorter limit of the store's own stays.
    ///
    /// By then a store gives up what keeps it from answering:
    ///
    /// * locks of its own that others hold, whatever they hold them for
    ///   ([`StoreError::Busy`](crate::store::StoreError::Busy));
    /// * a connection to be lent ([`StoreError::NoConnection`](crate::store::StoreError::NoConnection));
    /// * a server that does not answer ([`StoreError::Unavailable`](crate::store::StoreError::Unavailable)).
    ///
    /// `RedisStore` has only the limit of its own, of a few seconds. This limits neither work in a transaction nor what
    /// comes after it.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// Sets what to do about a holder whose lease has expired.
    #[must_use]
    pub fn takeover(mut self, takeover: Takeover) -> Self {
        self.takeover = takeover;
        self
    }
}

/// The right to execute a request.
///
/// A claim must be [completed](crate::store::Store::complete) or [released](crate::store::Store::release). If it is
/// merely dropped, the request is in doubt once its lease has expired.
#[derive(Debug)]
#[must_use = "a claim must be completed or released"]
pub struct Claim {
    id: RequestIdentity,
    token: FencingToken,
    attempt: u32,
    took_over: Option<FencingToken>,
}

impl Claim {
    /// Makes a claim, as a store hands it out.
    ///
    /// `attempt` counts from 1; `took_over` is the token of the holder whose lease had expired, if any.
    pub fn new(id: RequestIdentity, token: FencingToken, attempt: u32, took_over: Option<FencingToken>) -> Self {
        Self {
            id,
            token,
            attempt,
            took_over,
        }
    }

    /// Returns the same claim once more, so that its end can be tried again.
    pub(crate) fn again(&self) -> Self {
        Self {
            id: self.id.clone(),
            ..*self
        }
    }

    /// Returns the request that was claimed.
    #[must_use]
    pub fn id(&self) -> &RequestIdentity {
        &self.id
    }

    /// Returns the number that outdates all earlier holders.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.token
    }

    /// Returns the number of this attempt at the request: 1 unless an earlier holder's lease expired.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Returns the token of the holder whose expired claim was taken over, if any.
    #[must_use]
    pub fn took_over(&self) -> Option<FencingToken> {
        self.took_over
    }
}

/// What a request for a claim came to. `C` is a [`Claim`], or what was made of one.
#[derive(Debug)]
#[must_use]
pub enum ClaimOutcome<C = Claim> {
    /// The claim was granted.
    Granted(C),
    /// The claim was not granted, and nothing was changed.
    Denied(Denied),
}

/// Why a claim is not granted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Denied {
    /// The request was completed earlier: this is its record.
    Completed(Record),
    /// Another holder has the claim.
    InProgress {
        /// How long the holder's lease still runs.
        lease_remaining: Duration,
        /// The number of the holder's attempt.
        attempt: u32,
    },
    /// The identity is known with another fingerprint.
    Conflict,
    /// A holder's lease has expired, and its claim is not to be taken over: it is not known what was done.
    InDoubt {
        /// The holder's token; see [`Takeover::Of`].
        token: FencingToken,
        /// The number of the holder's attempt.
        attempt: u32,
    },
}

impl<C> ClaimOutcome<C> {
    /// Maps what was granted.
    pub fn map<D>(self, granted: impl FnOnce(C) -> D) -> ClaimOutcome<D> {
        match self {
            Self::Granted(claim) => ClaimOutcome::Granted(granted(claim)),
            Self::Denied(denied) => ClaimOutcome::Denied(denied),
        }
    }
}

/// What a store has to do about a request: one of these two, and there will be no third.
#[derive(Debug)]
#[must_use]
pub enum Decision {
    /// Draw a new token, and write the record anew, as in progress.
    Grant {
        /// The attempt to write.
        attempt: u32,
        /// The token of the expired claim that this takes over, if any.
        took_over: Option<FencingToken>,
    },
    /// Write nothing: this is the outcome.
    Unchanged(ClaimOutcome),
}

/// Decides about a request, given the record that exists now, if any.
///
/// Fingerprints compare as `Option`s: one side with and the other without is a conflict too. A holder that asks again
/// gets the claim that it has; if the lease of that claim is over, it gets a new one of the same attempt, whose lease
/// runs. A request that is [held](Record::held) is only granted to a holder that names its token.
pub fn decide(record: Option<Record>, request: &ClaimRequest) -> Decision {
    const NEW: Decision = Decision::Grant {
        attempt: 1,
        took_over: None,
    };
    let Some(record) = record else { return NEW };
    if record.is_past_retention() {
        return NEW;
    }
    if record.fingerprint != request.id.fingerprint() {
        return Decision::Unchanged(ClaimOutcome::Denied(Denied::Conflict));
    }
    let State::InProgress { lease_expires } = record.state else {
        return Decision::Unchanged(ClaimOutcome::Denied(Denied::Completed(record)));
    };
    let Record {
        token, attempt, held, ..
    } = record;
    let runs = lease_expires > record.observed;
    if record.holder == request.holder {
        if runs {
            let claim = Claim::new(request.id.clone(), token, attempt, None);
            return Decision::Unchanged(ClaimOutcome::Granted(claim));
        }
        if !held {
            return Decision::Grant {
                attempt,
                took_over: None,
            };
        }
    }
    if runs {
        return Decision::Unchanged(ClaimOutcome::Denied(Denied::InProgress {
            lease_remaining: lease_expires.since(record.observed),
            attempt,
        }));
    }
    match request.takeover {
        Takeover::Expired if !held => {}
        Takeover::Of(doubtful) if doubtful == token => {}
        Takeover::Never | Takeover::Expired | Takeover::Of(_) => {
            return Decision::Unchanged(ClaimOutcome::Denied(Denied::InDoubt { token, attempt }));
        }
    }
    Decision::Grant {
        attempt: attempt.saturating_add(1),
        took_over: Some(token),
    }
}
