//! The store: one record, and the steps that change it, each as a whole and on the store's own clock.
//!
//! `claim`, `renew`, `end_lease`, `complete`, `release`, `load` and `purge` are those of [`oneflight::store::Store`]. The decision
//! about a claim is [`decide`].

use std::sync::OnceLock;
use std::time::Duration;

use oneflight::identity::{RequestIdentity, Scope};
use oneflight::record::{CodecId, FencingToken, HolderId, Record, RecordedResult, State, Timestamp, Verdict};
use oneflight::store::{self, ClaimOutcome, ClaimRequest, Decision, Denied, decide};

use crate::bug::Bug;
use crate::caller::{At, Reply, Request, Rpc, SAYS, Takeover, Value, Who};
use crate::ledger::{Broken, Sight};
use crate::scenario::{Kind, LEASE, RETENTION, Store};
use crate::session::Session;
use crate::world::{Claims, World};

/// A fencing token, renumbered now and then: only the order counts.
pub type Token = u8;

/// Attempts beyond this are one: the code asks only whether it is the first.
const MOST_ATTEMPTS: u8 = 2;
/// The store's clock now, in ticks; and by how much a machine's clock is fast, for a bug.
const NOW: u64 = 100;
const FAST: u64 = LEASE as u64;

/// The record as the store has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row {
    pub token: Token,
    pub holder: Who,
    pub attempt: u8,
    pub state: RowState,
}

/// In what state it is, and how many ticks are left of that.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowState {
    InProgress { lease: u8 },
    Completed { value: Value, retention: u8 },
}

impl Row {
    /// Whether this token holds the claim.
    pub fn is_held_by(&self, token: Token) -> bool {
        self.token == token && matches!(self.state, RowState::InProgress { .. })
    }

    pub fn is_past_retention(&self) -> bool {
        matches!(self.state, RowState::Completed { retention: 0, .. })
    }

    /// Whether a holder's lease runs.
    pub fn runs(&self) -> bool {
        matches!(self.state, RowState::InProgress { lease: 1.. })
    }

    pub fn result(&self) -> Option<Value> {
        match self.state {
            RowState::Completed { value, .. } => Some(value),
            RowState::InProgress { .. } => None,
        }
    }

    /// Time passes.
    pub fn tick(&mut self) {
        match &mut self.state {
            RowState::InProgress { lease: left } | RowState::Completed { retention: left, .. } => {
                *left = left.saturating_sub(1);
            }
        }
    }

    /// As the crate knows it, read at this time of the clock that is asked.
    fn read(&self, observed: u64) -> Record {
        let at = |left: u8| Timestamp::from_millis(NOW + u64::from(left));
        let state = match self.state {
            RowState::InProgress { lease } => State::InProgress {
                lease_expires: at(lease),
            },
            RowState::Completed { retention, .. } => State::Completed {
                // What is replayed is taken from the row.
                result: RecordedResult::value(Verdict::Performed, CodecId::None, &[]),
                completed: Timestamp::from_millis(NOW),
                expires: at(retention),
            },
        };
        Record::new(
            None,
            FencingToken::new(self.token.into()),
            holder(self.holder),
            self.attempt.into(),
            state,
            Timestamp::from_millis(observed),
        )
    }
}

fn holder(who: Who) -> HolderId {
    HolderId::from_bytes([who; 16])
}

fn token(token: FencingToken) -> Token {
    u8::try_from(token.get()).expect("tokens of the model are small")
}

fn id() -> &'static RequestIdentity {
    static ID: OnceLock<RequestIdentity> = OnceLock::new();
    ID.get_or_init(|| RequestIdentity::new(Scope::new("model"), "one").expect("it is a valid identity"))
}

/// What is to be done about a wish to claim: an answer, or a grant of this attempt.
pub enum Decided {
    Answer(Reply),
    Grant { attempt: u8 },
}

/// Lets the crate decide.
pub fn decide_about(claims: &Claims, row: Option<&Row>, who: Who, takeover: Takeover) -> Decided {
    // One machine's clock is fast; nothing asks it, but for the bug.
    let fast = claims.has(Bug::ClientClock) && who == 0;
    let observed = if fast { NOW + FAST } else { NOW };
    let takeover = match takeover {
        Takeover::Never => store::Takeover::Never,
        Takeover::Expired => store::Takeover::Expired,
        Takeover::Of(token) => store::Takeover::Of(FencingToken::new(token.into())),
    };
    let request = ClaimRequest::new(id(), Duration::from_millis(LEASE.into()))
        .holder(holder(who))
        .takeover(takeover);
    match decide(row.map(|row| row.read(observed)), &request) {
        Decision::Grant { attempt, .. } => Decided::Grant {
            attempt: u8::try_from(attempt).unwrap_or(u8::MAX).min(MOST_ATTEMPTS),
        },
        Decision::Unchanged(answer) => Decided::Answer(match answer {
            ClaimOutcome::Granted(claim) => Reply::Granted {
                token: token(claim.token()),
                attempt: u8::try_from(claim.attempt()).unwrap_or(u8::MAX),
            },
            ClaimOutcome::Denied(Denied::Completed(_)) => {
                Reply::Completed(row.and_then(Row::result).expect("a completed record has a result"))
            }
            ClaimOutcome::Denied(Denied::InDoubt { .. }) if claims.has(Bug::DeafToExpiry) => Reply::InProgress,
            ClaimOutcome::Denied(Denied::InDoubt { token: doubtful, .. }) => Reply::InDoubt(token(doubtful)),
            // All callers have the same fingerprint.
            _ => Reply::InProgress,
        }),
    }
}

impl World {
    /// Does what is asked, as one step. `None`: it has to wait for another session.
    pub fn serve(&mut self, claims: &Claims, who: Who, request: &Request) -> Option<Reply> {
        match *request {
            Request::Claim {
                holder,
                lease,
                takeover,
            } => self.claim(claims, holder, lease, takeover),
            Request::Renew { token, lease } => self.held(claims, token, claims.has(Bug::RenewWithoutToken), |row| {
                if let RowState::InProgress { lease: left } = &mut row.state {
                    *left = lease.max(*left);
                }
            }),
            Request::EndLease { token, left } => self.held(claims, token, false, |row| {
                row.state = RowState::InProgress { lease: left };
            }),
            Request::Complete { token, value } => self.complete(claims, token, value),
            Request::Release { token, operator } => self.release(claims, token, operator),
            Request::Load => Some(Reply::Loaded(self.load())),
            Request::Read => Some(Reply::Loaded(self.row.clone())),
            Request::Begin
            | Request::Look { .. }
            | Request::Record { .. }
            | Request::Commit
            | Request::Status
            | Request::EndIfIdle => self.transact(claims, who, request),
        }
    }

    /// The only session that may write, if the store has one writer at a time.
    fn writer(&self, claims: &Claims) -> Option<&Session> {
        let one = claims.scenario.store == Store::OneWriter;
        self.sessions.iter().find(|session| one && session.begun)
    }

    fn claim(&mut self, claims: &Claims, who: Who, lease: u8, takeover: Takeover) -> Option<Reply> {
        let attempt = match decide_about(claims, self.row.as_ref(), who, takeover) {
            Decided::Answer(answer) => {
                if let Reply::Granted { .. } = answer {
                    claims.see(Sight::AskedAgain);
                }
                return Some(answer);
            }
            Decided::Grant { attempt } => attempt,
        };
        if self.writer(claims).is_some() {
            return None;
        }
        // The lock is tried for the length of the statement.
        if self.sessions.iter().any(|session| session.locked) {
            claims.see(Sight::LockRefused);
            return Some(Reply::InProgress);
        }
        self.grant_is_right(claims, who);
        let keeps = claims.has(Bug::TakeoverKeepsToken);
        let kept = self.row.as_ref().filter(|row| keeps && row.result().is_none());
        let token = kept.map(|row| row.token);
        let token = token.unwrap_or_else(|| self.draw(claims));
        self.replace(claims);
        self.row = Some(Row {
            token,
            holder: who,
            attempt,
            state: RowState::InProgress { lease },
        });
        let caller = self.at(who % SAYS);
        match caller.at {
            At::Asking { .. } | At::Resolving => caller.of_this_life = true,
            _ => claims.see(Sight::LateClaim),
        }
        Some(Reply::Granted { token, attempt })
    }

    /// Notes whether a claim is being granted while another's runs.
    pub fn grant_is_right(&mut self, claims: &Claims, who: Who) {
        let other = |row: &Row| row.runs() && row.holder != who;
        if self.row.as_ref().is_some_and(other) || self.sessions.iter().any(|it| it.granted && it.owner != who % SAYS) {
            self.ledger.break_(Broken::TwoHolders);
        }
        if let Some(row) = &self.row
            && row.result().is_none()
            && row.holder != who
            && claims.kind(who % SAYS) != Kind::ResolveCompleted
        {
            claims.see(Sight::TookOver);
        }
    }

    /// The next token.
    pub fn draw(&mut self, claims: &Claims) -> Token {
        let token = match &self.row {
            row if claims.has(Bug::TokenFromRecord) => row.as_ref().map_or(0, |row| row.token) + 1,
            _ => self.last_token + 1,
        };
        if token <= self.last_token {
            self.ledger.break_(Broken::TokenShrank);
        }
        self.last_token = self.last_token.max(token);
        token
    }

    /// What stands there is about to be written over or deleted.
    pub fn replace(&mut self, claims: &Claims) {
        if let Some(row) = self.row.take() {
            self.ledger.outdate(row.token);
            if row.is_past_retention() {
                claims.see(Sight::NewLife);
                self.ledger.begin_anew();
                for caller in &mut self.callers {
                    caller.of_this_life = false;
                }
            }
        }
        self.changed();
    }

    /// The row is another one from now on, for sessions that had a snapshot.
    fn changed(&mut self) {
        for session in &mut self.sessions {
            session.stale = true;
        }
    }

    /// Changes the record if this token holds its claim.
    fn held(&mut self, claims: &Claims, token: Token, anybody: bool, change: impl FnOnce(&mut Row)) -> Option<Reply> {
        if self.writer(claims).is_some() {
            return None;
        }
        let Some(row) = &mut self.row else {
            return Some(Reply::Outdated);
        };
        if row.token != token && !anybody || row.result().is_some() {
            return Some(Reply::Outdated);
        }
        if self.sessions.iter().any(|session| session.wrote.is_some()) {
            // A transaction has written over the row. Whether it commits has to be waited for.
            claims.see(Sight::WaitedForRow);
            return None;
        }
        change(row);
        if self.ledger.is_outdated(token) {
            self.ledger.break_(Broken::Unfenced);
        }
        self.changed();
        Some(Reply::Done)
    }

    fn complete(&mut self, claims: &Claims, token: Token, value: Value) -> Option<Reply> {
        let already = |row: &Row| row.token == token && row.result().is_some();
        if self.row.as_ref().is_some_and(already) {
            return Some(Reply::Done);
        }
        let reply = self.held(claims, token, claims.has(Bug::CompleteWithoutToken), |row| {
            row.state = RowState::Completed {
                value,
                retention: RETENTION,
            };
        });
        match reply {
            Some(Reply::Done) => self.ledger.complete(value),
            Some(Reply::Outdated) => claims.see(Sight::Fenced),
            _ => {}
        }
        reply
    }

    fn release(&mut self, claims: &Claims, token: Token, operator: bool) -> Option<Reply> {
        let reply = self.held(claims, token, false, |_| {});
        if let Some(Reply::Done) = reply {
            self.replace(claims);
            if operator {
                self.ledger.allowance += 1;
            }
        }
        reply
    }

    pub fn load(&self) -> Option<Row> {
        self.row.clone().filter(|row| !row.is_past_retention())
    }

    /// Deletes what is past its retention.
    pub fn purge(&mut self, claims: &Claims) -> bool {
        let over = |row: &Row| match row.state {
            RowState::Completed { retention, .. } => retention == 0,
            RowState::InProgress { lease } => lease == 0 && claims.has(Bug::PurgeInProgress),
        };
        // What others are at is left to them.
        let locked = self.sessions.iter().any(|session| session.wrote.is_some());
        if locked || self.writer(claims).is_some() || !self.row.as_ref().is_some_and(over) {
            return false;
        }
        claims.see(Sight::Purged);
        self.replace(claims);
        true
    }

    /// Whether the question waits for the writer's lock.
    pub fn waits_for_writer(&self, claims: &Claims, who: Who) -> bool {
        let Rpc::Sent(request) = &self.callers[usize::from(who)].rpc else {
            return false;
        };
        self.writer(claims).is_some() && matches!(request, Request::Claim { .. } | Request::Begin)
    }
}
