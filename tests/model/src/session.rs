//! Transactions that hold a claim: their sessions at the server, and the statements of `oneflight-postgres/src/transaction.rs`.
//! SQLite's are the same, but that a session which has begun shuts out all writers.
//!
//! ```text
//! begin: the lock is tried ─▶ look ─▶ the work ─▶ record ─▶ commit: seen by all ─▶ the lock is given up
//!                               └──────────┴─────────┴──── rolled back, also when its client is gone
//! ```

use crate::bug::Bug;
use crate::caller::{At, Reply, Request, Rpc, Takeover, Value, Who};
use crate::ledger::{Broken, Sight};
use crate::scenario::{RETENTION, Store};
use crate::server::{Decided, Row, RowState, Token, decide_about};
use crate::world::{Claims, World};

/// A transaction at the server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Session {
    /// Whose it is, or was.
    pub owner: Who,
    /// Nothing is at the other end any more.
    pub orphan: bool,
    /// What its client had sent before the connection broke.
    pub inbox: Option<Request>,
    /// `BEGIN` has arrived.
    pub begun: bool,
    /// Its first statement has begun, from which its snapshot is, and is about to try the lock.
    pub trying: bool,
    /// It has the advisory lock.
    pub locked: bool,
    /// *look* has granted.
    pub granted: bool,
    /// What it may see until it looks, as it was when it began.
    pub snapshot: Option<Option<Row>>,
    /// Whether the record was changed since.
    pub stale: bool,
    /// The work's own rows.
    pub effect: bool,
    /// What *record* wrote.
    pub wrote: Option<Row>,
    /// It is committed, and its lock is about to be given up.
    pub committed: bool,
}

impl Session {
    fn of(owner: Who) -> Self {
        Self {
            owner,
            orphan: false,
            inbox: None,
            begun: false,
            trying: false,
            locked: false,
            granted: false,
            snapshot: None,
            stale: false,
            effect: false,
            wrote: None,
            committed: false,
        }
    }

    /// Whether its owner asks what became of it.
    fn is_lost(&self) -> bool {
        self.orphan && (self.committed || self.wrote.is_some())
    }

    pub fn tokens(&mut self, see: &mut impl FnMut(&mut Token)) {
        if let Some(inbox) = &mut self.inbox {
            inbox.tokens(see);
        }
        let snapshot = self.snapshot.as_mut().and_then(Option::as_mut);
        for row in self.wrote.iter_mut().chain(snapshot) {
            see(&mut row.token);
        }
    }
}

impl World {
    /// The session that a caller is connected to.
    pub fn session(&mut self, who: Who) -> Option<usize> {
        self.sessions.iter().position(|it| it.owner == who && !it.orphan)
    }

    /// The caller's connection is gone; the server does not know yet.
    pub fn disconnect(&mut self, who: Who) {
        let caller = &mut self.callers[usize::from(who)];
        let sent = match &caller.rpc {
            Rpc::Sent(request) if request.is_of_session() => Some(request.clone()),
            _ => None,
        };
        let session = match self.session(who) {
            Some(session) => session,
            None if sent == Some(Request::Begin) => {
                self.sessions.push(Session::of(who));
                self.sessions.len() - 1
            }
            None => return,
        };
        let it = &mut self.sessions[session];
        it.orphan = true;
        // What it is at already goes on.
        it.inbox = sent.filter(|_| !it.committed && !it.trying);
    }

    /// Does one statement of a transaction, or answers a question about it.
    pub fn transact(&mut self, claims: &Claims, who: Who, request: &Request) -> Option<Reply> {
        if let Request::Begin = request {
            if self.session(who).is_some() {
                // It has begun already.
                return None;
            }
            self.sessions.push(Session::of(who));
            let session = self.sessions.len() - 1;
            if self.begin(claims, session) {
                if self.sessions[session].trying {
                    return None;
                }
                let refused = claims.has(Bug::LookBeforeLock) && !self.sessions[session].locked;
                return Some(if refused { Reply::InProgress } else { Reply::Began });
            }
            self.sessions.pop();
            return None;
        }
        let lost = self.sessions.iter().position(|it| it.owner == who && it.is_lost());
        match (request, lost) {
            (Request::Status, _) => return self.status(claims, who, lost),
            (Request::EndIfIdle, Some(lost)) if !self.sessions[lost].committed => {
                claims.see(Sight::EndedIdle);
                self.end(lost, false);
                return Some(Reply::Done);
            }
            (Request::EndIfIdle, _) => return Some(Reply::Done),
            _ => {}
        }
        match (self.session(who), request) {
            (Some(session), _) => self.execute(claims, session, request),
            (None, Request::Look { takeover }) => Some(self.look_early(claims, who, *takeover)),
            (None, _) => Some(Reply::Unavailable),
        }
    }

    /// A statement of a session, whether its answer is waited for or not.
    fn execute(&mut self, claims: &Claims, session: usize, request: &Request) -> Option<Reply> {
        match *request {
            Request::Begin => self.begin(claims, session).then_some(Reply::Began),
            Request::Look { takeover } => Some(self.look(claims, session, takeover)),
            Request::Record { value, attempt, seen } => Some(self.record(claims, session, value, attempt, seen)),
            Request::Commit => {
                if !self.sessions[session].committed {
                    self.commit(claims, session);
                }
                // It is answered once the lock is given up.
                None
            }
            _ => None,
        }
    }

    /// Begins and tries the lock; says whether that could be done now.
    fn begin(&mut self, claims: &Claims, session: usize) -> bool {
        let held = self.sessions.iter().any(|it| it.locked);
        if claims.scenario.store == Store::OneWriter && held {
            return false;
        }
        let snapshot = (claims.scenario.store == Store::Snapshots).then(|| self.row.clone());
        let it = &mut self.sessions[session];
        it.begun = true;
        it.stale = false;
        // One that stands still is as old as the statement, which comes to the lock later.
        it.trying = snapshot.is_some();
        it.snapshot = snapshot;
        if !it.trying {
            self.try_lock(claims, session);
        }
        true
    }

    fn try_lock(&mut self, claims: &Claims, session: usize) {
        let held = self.sessions.iter().any(|it| it.locked);
        if held {
            claims.see(Sight::LockRefused);
        }
        self.sessions[session].trying = false;
        self.sessions[session].locked = !held;
    }

    /// Reads the record and decides.
    fn look(&mut self, claims: &Claims, session: usize, takeover: Takeover) -> Reply {
        let it = &mut self.sessions[session];
        let who = it.owner;
        let row = it.snapshot.take().unwrap_or_else(|| self.row.clone());
        match decide_about(claims, row.as_ref(), who, takeover) {
            // A claim of this very holder outside counts as another's for this transaction.
            Decided::Answer(Reply::Granted { .. }) => Reply::InProgress,
            Decided::Answer(answer) => answer,
            Decided::Grant { .. } if !self.sessions[session].locked => Reply::InProgress,
            Decided::Grant { attempt } => {
                if !self.sessions[session].stale {
                    self.grant_is_right(claims, who);
                }
                self.sessions[session].granted = true;
                Reply::Looked {
                    attempt,
                    seen: row.map(|row| row.token),
                }
            }
        }
    }

    /// Reads the record and decides before there is a transaction: only with a bug.
    fn look_early(&self, claims: &Claims, who: Who, takeover: Takeover) -> Reply {
        match decide_about(claims, self.row.as_ref(), who, takeover) {
            Decided::Answer(answer) => answer,
            Decided::Grant { attempt } => Reply::Looked {
                attempt,
                seen: self.row.as_ref().map(|row| row.token),
            },
        }
    }

    /// Writes the record, completed at once, if it is as it was seen.
    fn record(&mut self, claims: &Claims, session: usize, value: Value, attempt: u8, seen: Option<Token>) -> Reply {
        let one_writer = claims.scenario.store == Store::OneWriter;
        if let Some(row) = &self.row {
            if claims.scenario.store == Store::Snapshots && self.sessions[session].stale {
                claims.see(Sight::Conflict);
                return Reply::Conflict;
            }
            let may_be_written =
                row.is_past_retention() || (seen == Some(row.token) && row.result().is_none() && !row.runs());
            // No other session can have written, so SQLite need not ask.
            if !may_be_written && !one_writer && !claims.has(Bug::BlindRecord) {
                claims.see(Sight::CameBack);
                return Reply::CameBack;
            }
            if row.runs() {
                self.ledger.break_(Broken::TwoHolders);
            }
        }
        // What SQLite draws is drawn again after a rollback.
        let last = self.last_token;
        let token = self.draw(claims);
        if one_writer {
            self.last_token = last;
        }
        let it = &mut self.sessions[session];
        let row = Row {
            token,
            holder: it.owner,
            attempt,
            state: RowState::Completed {
                value,
                retention: RETENTION,
            },
        };
        if claims.has(Bug::RecordOutsideTransaction) {
            self.row = Some(row.clone());
        }
        self.sessions[session].wrote = Some(row);
        Reply::Done
    }

    /// Rows and record are seen by all from now on.
    fn commit(&mut self, claims: &Claims, session: usize) {
        let it = &mut self.sessions[session];
        it.committed = true;
        let Some(row) = it.wrote.take() else { return };
        let (effect, value) = (it.effect, row.result().expect("it is completed"));
        if self.row.as_ref().is_some_and(|row| row.result().is_none()) {
            claims.see(Sight::TransactionTookOver);
        }
        if let Value::Declined(_) = value {
            claims.see(Sight::Declined);
        }
        self.replace(claims);
        self.last_token = self.last_token.max(row.token);
        self.ledger.complete(value);
        self.ledger.effects += u8::from(effect);
        self.row = Some(row);
    }

    /// Whether the transaction that a caller lost is over.
    fn status(&self, claims: &Claims, who: Who, lost: Option<usize>) -> Option<Reply> {
        match lost {
            Some(_) if claims.has(Bug::BareLook) => Some(Reply::Over { committed: false }),
            // SQLite is asked under the writer's lock.
            Some(_) if claims.scenario.store == Store::OneWriter => None,
            Some(_) => Some(Reply::Undecided),
            None if claims.scenario.store == Store::OneWriter => Some(Reply::Loaded(self.row.clone())),
            None => Some(Reply::Over {
                committed: self.callers[usize::from(who)].fate,
            }),
        }
    }

    /// What a session does without being asked: it tries its lock, or gives it up after its commit, or comes to the
    /// statement that its client sent before it was gone.
    pub fn go_on(&mut self, claims: &Claims, session: usize) -> bool {
        if self.sessions[session].committed {
            self.end(session, true);
            return true;
        }
        if self.sessions[session].trying {
            self.try_lock(claims, session);
            let Session { owner, orphan, .. } = self.sessions[session];
            if !orphan {
                self.at(owner).rpc = Rpc::Got(Reply::Began);
            }
            return true;
        }
        let Some(request) = self.sessions[session].inbox.clone() else {
            return false;
        };
        let before = self.sessions[session].committed;
        let done = self.execute(claims, session, &request).is_some() || self.sessions[session].committed != before;
        if done {
            self.sessions[session].inbox = None;
        }
        done
    }

    /// The session is over: its lock is free, and its owner may learn how it ended.
    pub fn end(&mut self, session: usize, committed: bool) {
        let it = self.sessions.remove(session);
        let owner = self.at(it.owner);
        if owner.is_over() {
            return;
        }
        owner.fate |= committed;
        if !it.orphan && matches!(owner.at, At::Committing(_)) {
            owner.rpc = Rpc::Got(Reply::Done);
        }
    }

    /// A caller ends its own transaction, which is rolled back whenever the server gets to know.
    pub fn roll_back(&mut self, who: Who) {
        if let Some(session) = self.session(who) {
            self.sessions[session].orphan = true;
        }
    }

    pub fn set_effect(&mut self, who: Who, effect: bool) {
        if let Some(session) = self.session(who) {
            self.sessions[session].effect = effect;
        }
    }
}
