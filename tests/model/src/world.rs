//! The whole world at one instant, and everything that can happen next.

use std::sync::Arc;

use stateright::{Model, Property};

use crate::bug::Bug;
use crate::caller::{At, Caller, Reply, Request, Rpc, Who};
use crate::ledger::{Ledger, Sight, Sightings};
use crate::properties;
use crate::scenario::{Kind, LEASE, Scenario, Store};
use crate::server::{Row, Token};
use crate::session::Session;

/// The model of one scenario.
#[derive(Clone, Debug)]
pub struct Claims {
    /// Its bounds.
    pub scenario: Scenario,
    /// What has been seen on the way, if it is to be noted.
    pub sightings: Option<Arc<Sightings>>,
}

/// A state: the store, the callers, what is under way between them, and what an observer noted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub(crate) row: Option<Row>,
    pub(crate) last_token: Token,
    pub(crate) sessions: Vec<Session>,
    pub(crate) callers: Vec<Caller>,
    /// What was sent by a call that does not wait for it any more. It may arrive at any time, or never.
    pub(crate) late: Vec<(Who, Request)>,
    /// How many faults may happen still.
    pub(crate) crashes: u8,
    pub(crate) losses: u8,
    pub(crate) ledger: Ledger,
}

/// What a caller, its work or its policy decides for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    DoesIt,
    DoesNothing,
    Panics,
    Declines,
    Fails,
    SaysRerun,
    SaysCompleted,
    SaysHold,
    AsksAgain,
    EndsIdle,
    GivesUp,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A call begins.
    Call(Who),
    /// The store does what it was asked.
    Deliver(Who),
    /// The answer arrives.
    Receive(Who),
    /// It is the caller's turn.
    Choose(Who, Choice),
    /// A caller that waits asks again.
    Again(Who),
    /// The task that keeps the lease asks for a renewal; it is done; its answer arrives.
    Renew(Who),
    DeliverRenewal(Who),
    ReceiveRenewal(Who),
    /// The writer's lock was waited for long enough.
    LockOut(Who),
    /// A call whose work has not begun is not waited for any more.
    Leave(Who),
    /// A session does what was sent before its client was gone, or gives up its lock after its commit.
    GoOn(u8),
    /// The server finds that the client of a session is gone, and rolls back.
    EndSession(u8),
    /// `Store::purge`.
    Purge,
    /// Time passes.
    Tick,
    /// A fault: the connection breaks, before or after the store was reached; what was sent may arrive later.
    Lose(Who),
    LoseRenewal(Who),
    /// A fault that has happened: what was sent arrives.
    Arrive(u8),
    /// A fault: the process is killed.
    Crash(Who),
}

impl Action {
    /// Whether nothing has gone wrong if this happens.
    pub(crate) fn is_harmless(self) -> bool {
        !matches!(
            self,
            Self::Lose(_) | Self::LoseRenewal(_) | Self::Crash(_) | Self::LockOut(_)
        )
    }
}

impl Claims {
    /// The model of a scenario.
    #[must_use]
    pub fn new(scenario: Scenario) -> Self {
        Self {
            scenario,
            sightings: Some(Arc::default()),
        }
    }

    pub(crate) fn has(&self, bug: Bug) -> bool {
        self.scenario.bug == Some(bug)
    }

    pub(crate) fn kind(&self, who: Who) -> Kind {
        self.scenario.callers[usize::from(who)]
    }

    pub(crate) fn see(&self, sight: Sight) {
        if let Some(sightings) = &self.sightings {
            sightings.note(sight);
        }
    }
}

impl Model for Claims {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            row: None,
            last_token: 0,
            sessions: Vec::new(),
            callers: self.scenario.callers.iter().map(|_| Caller::new()).collect(),
            late: Vec::new(),
            crashes: self.scenario.crashes,
            losses: self.scenario.losses,
            ledger: Ledger::default(),
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for (who, caller) in (0..).zip(&world.callers) {
            world.actions_of(self, who, caller, actions);
        }
        for (number, session) in (0..).zip(&world.sessions) {
            if session.committed || session.trying || session.inbox.is_some() {
                actions.push(Action::GoOn(number));
            }
            if session.orphan && !session.committed {
                actions.push(Action::EndSession(number));
            }
        }
        for (number, _) in (0..).zip(&world.late) {
            actions.push(Action::Arrive(number));
        }
        actions.push(Action::Purge);
        actions.push(Action::Tick);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        next.act(self, action)?;
        next.forget();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}

impl World {
    pub(crate) fn at(&mut self, who: Who) -> &mut Caller {
        &mut self.callers[usize::from(who)]
    }

    /// Keeps what was sent by a call that does not wait for it.
    pub(crate) fn late(&mut self, who: Who, request: Request) {
        if !request.is_question() && !request.is_of_session() {
            self.late.push((who, request));
        }
    }

    fn actions_of(&self, claims: &Claims, who: Who, caller: &Caller, actions: &mut Vec<Action>) {
        if caller.is_over() {
            return;
        }
        match &caller.rpc {
            Rpc::Sent(_) => actions.push(Action::Deliver(who)),
            Rpc::Got(_) => actions.push(Action::Receive(who)),
            Rpc::None => {}
        }
        if caller.rpc == Rpc::None {
            let choices: &[Choice] = match caller.at {
                At::NotCalled => {
                    actions.push(Action::Call(who));
                    // Until then it is as if there were no such process.
                    return;
                }
                At::Waiting => {
                    actions.push(Action::Again(who));
                    &[]
                }
                At::Working if claims.scenario.work_fails => &[Choice::DoesIt, Choice::DoesNothing, Choice::Panics],
                At::Working => &[Choice::DoesIt],
                At::WorkingInTx { .. } if claims.scenario.work_fails => {
                    &[Choice::DoesIt, Choice::Declines, Choice::Fails]
                }
                At::WorkingInTx { .. } => &[Choice::DoesIt],
                At::Recovering(_) => &[Choice::SaysRerun, Choice::SaysCompleted, Choice::SaysHold],
                At::Settling(_) if claims.scenario.store == Store::OneWriter => &[Choice::AsksAgain, Choice::GivesUp],
                At::Settling(_) => &[Choice::AsksAgain, Choice::EndsIdle, Choice::GivesUp],
                _ => &[],
            };
            actions.extend(choices.iter().map(|choice| Action::Choose(who, *choice)));
        }
        match caller.renewal {
            Rpc::Sent(_) => actions.push(Action::DeliverRenewal(who)),
            Rpc::Got(_) => actions.push(Action::ReceiveRenewal(who)),
            Rpc::None if self.may_renew(who) => actions.push(Action::Renew(who)),
            Rpc::None => {}
        }
        if self.waits_for_writer(claims, who) {
            actions.push(Action::LockOut(who));
        }
        if claims.scenario.leaves && self.may_be_left(who) {
            actions.push(Action::Leave(who));
        }
        if self.losses > 0 {
            if caller.rpc != Rpc::None && caller.rpc != Rpc::Got(Reply::Unavailable) {
                actions.push(Action::Lose(who));
            }
            if caller.renewal != Rpc::None && caller.renewal != Rpc::Got(Reply::Unavailable) {
                actions.push(Action::LoseRenewal(who));
            }
        }
        if self.crashes > 0 {
            actions.push(Action::Crash(who));
        }
    }

    /// Lets it happen. `None`: it cannot, as things stand.
    fn act(&mut self, claims: &Claims, action: Action) -> Option<()> {
        match action {
            Action::Call(who) => self.call(claims, who),
            Action::Deliver(who) => {
                let Rpc::Sent(request) = self.at(who).rpc.clone() else {
                    return None;
                };
                match self.serve(claims, who, &request) {
                    Some(reply) => self.at(who).rpc = Rpc::Got(reply),
                    // It has begun, and is answered later.
                    None if self.is_at_it(who) => {}
                    None => return None,
                }
            }
            Action::Receive(who) => {
                let Rpc::Got(reply) = std::mem::take(&mut self.at(who).rpc) else {
                    return None;
                };
                self.receive(claims, who, reply);
            }
            Action::Choose(who, choice) => self.choose(claims, who, choice),
            Action::Again(who) => self.again(claims, who),
            Action::Renew(who) => self.renew_lease(who),
            Action::DeliverRenewal(who) => {
                let Rpc::Sent(request) = self.at(who).renewal.clone() else {
                    return None;
                };
                let reply = self.serve(claims, who, &request)?;
                self.at(who).renewal = Rpc::Got(reply);
            }
            Action::ReceiveRenewal(who) => self.renewed(claims, who),
            Action::LockOut(who) => self.at(who).rpc = Rpc::Got(Reply::Busy),
            Action::Leave(who) => self.leave(claims, who),
            Action::GoOn(session) => return self.go_on(claims, session.into()).then_some(()),
            Action::EndSession(session) => self.end(session.into(), false),
            Action::Purge => return self.purge(claims).then_some(()),
            Action::Tick => return self.tick(claims).then_some(()),
            Action::Lose(who) => self.lose(who),
            Action::LoseRenewal(who) => {
                self.losses -= 1;
                if let Rpc::Sent(request) = std::mem::replace(&mut self.at(who).renewal, Rpc::Got(Reply::Unavailable)) {
                    self.late(who, request);
                }
            }
            Action::Arrive(number) => {
                let (who, request) = self.late[usize::from(number)].clone();
                self.serve(claims, who, &request)?;
                self.late.remove(number.into());
            }
            Action::Crash(who) => {
                self.crashes -= 1;
                self.disconnect(who);
                let caller = self.at(who);
                caller.at = At::Dead;
                for under_way in [std::mem::take(&mut caller.rpc), std::mem::take(&mut caller.renewal)] {
                    if let Rpc::Sent(request) = under_way {
                        self.late(who, request);
                    }
                }
            }
        }
        Some(())
    }

    fn lose(&mut self, who: Who) {
        self.losses -= 1;
        let of_transaction = !matches!(self.at(who).at, At::Settling(_) | At::LockedOut);
        if of_transaction {
            self.disconnect(who);
        }
        if let Rpc::Sent(request) = std::mem::replace(&mut self.at(who).rpc, Rpc::Got(Reply::Unavailable)) {
            self.late(who, request);
        }
    }

    fn receive(&mut self, claims: &Claims, who: Who, reply: Reply) {
        match self.at(who).at {
            At::Asking { tries, completing } => self.asked(claims, who, tries, completing, reply),
            At::RenewingFirst { tries } => self.renewed_first(claims, who, tries, reply),
            At::LockedOut => self.looked_while_locked_out(claims, who, reply),
            At::Recording { value, patience } => self.recorded(claims, who, value, patience, reply),
            At::Releasing { tries: u8::MAX, .. } => self.resolved(claims, who, reply),
            At::Releasing { tries, then } => self.released(claims, who, tries, then, reply),
            At::LettingGo { tries, then } => self.was_let_go(claims, who, tries, then, reply),
            At::Disowning { holder, tries, then } => {
                self.looked_to_disown(claims, who, (holder, tries), then, reply);
            }
            At::Beginning { dead } => self.began(claims, who, dead, reply),
            At::Looking => self.looked(claims, who, reply),
            At::RecordingInTx(value) => self.recorded_in_tx(claims, who, value, reply),
            At::Committing(value) => self.committed(claims, who, value, reply),
            At::Settling(value) => self.settling(claims, who, value, reply),
            At::LookingUp => self.looked_up(claims, who, reply),
            At::Resolving => self.resolving(claims, who, reply),
            At::NotCalled
            | At::Waiting
            | At::Recovering(_)
            | At::Working
            | At::Stopping { .. }
            | At::WorkingInTx { .. }
            | At::Answered(_)
            | At::Dead => {}
        }
    }

    fn choose(&mut self, claims: &Claims, who: Who, choice: Choice) {
        match self.at(who).at {
            At::Working => self.worked(claims, who, choice),
            At::WorkingInTx { attempt, seen } => self.worked_in_tx(claims, who, attempt, seen, choice),
            At::Recovering(token) => self.recover(claims, who, token, choice),
            At::Settling(value) => self.settle_on(claims, who, value, choice),
            _ => {}
        }
    }

    /// Whether a statement of this caller's has begun and is not over.
    fn is_at_it(&mut self, who: Who) -> bool {
        let session = self.session(who).map(|session| &self.sessions[session]);
        session.is_some_and(|session| session.committed || session.trying)
    }

    /// Time passes, for all at the same pace. Says whether that is seen anywhere.
    fn tick(&mut self, claims: &Claims) -> bool {
        let before = self.clone();
        let one_writer = claims.scenario.store == Store::OneWriter;
        for caller in &mut self.callers {
            // A tick is as long as a retention.
            caller.outlived |= one_writer && caller.is_committing();
            caller.since = (caller.since + 1).min(LEASE);
            caller.asked = (caller.asked + 1).min(LEASE);
            if let At::Recording { patience, .. } = &mut caller.at {
                *patience = patience.saturating_sub(1);
            }
        }
        let snapshots = self.sessions.iter_mut().filter_map(|it| it.snapshot.as_mut()?.as_mut());
        for row in self.row.iter_mut().chain(snapshots) {
            row.tick();
        }
        self.forget();
        *self != before
    }

    /// Makes one of what is the same but for its names: tokens are renumbered in their order, and what is not looked at
    /// any more is forgotten.
    fn forget(&mut self) {
        for caller in &mut self.callers {
            caller.forget();
        }
        // A call that is gone and has no lock, has nothing.
        self.sessions
            .retain(|it| it.locked || it.trying || !it.begun || !it.orphan);
        let mut used = 0_u64;
        self.tokens(&mut |token| used |= 1 << *token);
        let rank = |token: Token| -> Token {
            let smaller = used & ((1 << token) - 1);
            u8::try_from(smaller.count_ones()).unwrap_or(u8::MAX) + 1
        };
        self.tokens(&mut |token| *token = rank(*token));
        let drawn = used & ((1 << (self.last_token + 1)) - 1);
        self.last_token = u8::try_from(drawn.count_ones()).unwrap_or(u8::MAX);
        let mut outdated = 0;
        for token in 0..64 {
            if used & (1 << token) != 0 && token < 16 && self.ledger.is_outdated(token) {
                outdated |= 1 << rank(token);
            }
        }
        self.ledger.outdated = outdated;
        self.late.sort_unstable();
        self.sessions.sort_unstable();
    }

    fn tokens(&mut self, see: &mut impl FnMut(&mut Token)) {
        if let Some(row) = &mut self.row {
            see(&mut row.token);
        }
        for session in &mut self.sessions {
            session.tokens(see);
        }
        for caller in &mut self.callers {
            caller.tokens(see);
        }
        for (_, request) in &mut self.late {
            request.tokens(see);
        }
    }
}
