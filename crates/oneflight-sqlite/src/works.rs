//! The turn of a transaction of work, and with which connection it is had.
//!
//! On a connection of the store's own there is nothing to it. Beside such a one, work is done on what the user's pool lends, and
//! both the turn and the connection may have to be waited for:
//!
//! * Who has the turn must not wait for the pool: all writers would wait along, and the user may have its connections wait for one.
//! * Who has a connection must not wait for the turn of other work, which may want one more of the pool.
//! * Who gives the connection back to wait for the turn is the last one in the pool's line again, and would never have both if
//!   that line is long.
//!
//! So such transactions have a line of their own, and its head, which alone waits for either, keeps its place in it:
//!
//! ```text
//! its door ──▶ gate ──the last work has left its connection, or one lies idle──▶ turn
//!               ▲ └──else, leaves the gate──▶ pool ──▶ gate, with the connection ──in a moment──▶ turn
//!               └────────────────gives the connection back────────────────────┘
//! ```
//!
//! Once it was at the gate no other work has the turn, nor will have. What has it when it comes back with a connection are
//! transactions that need nothing of the pool, each over in a moment.

use std::time::Duration;

use sqlx::Connection;
use tokio::time::timeout;

use super::busy::Patience;
use super::file::Databases;
use super::lent::{Idle, Lent};
use super::queue::{Head, Rank};
use super::writer::{Connections, Place, Turn, Writer};
use oneflight::store::StoreError;

/// How long the turn is waited for with a connection of the user's pool in hand.
const MOMENT: Duration = Duration::from_millis(100);

/// What becomes of a turn that is to be had soon.
pub(super) enum Soon {
    Turn(Turn),
    /// It was had, but no connection in a moment, for which all that write have waited.
    TheTurnAlone,
    No,
}

impl Writer {
    /// Waits for a turn, and for a connection of the user's pool, beside which the store has one of its own. The limit, if any,
    /// is for both and for the database's lock together.
    pub(super) async fn turn_of_work(&self, limit: Option<Duration>) -> Result<Turn, StoreError> {
        let queueing = self.queueing(limit);
        let _in_line = self.handed.line_up();
        let head = timeout(queueing.remaining(), self.wait_for(self.queue.head_of_works()));
        let head = head.await.map_err(|_| queueing.exhausted())??;
        let mut enters = Box::pin(self.enter_as(&head));
        loop {
            let place = timeout(queueing.remaining(), self.wait_for(&mut enters));
            let place = place.await.map_err(|_| queueing.exhausted())??;
            self.file.still_there()?;
            let asked = match self.lend_idle().await {
                Idle::Lent(connection) => {
                    let patience = self.patience(limit, queueing.waited());
                    return Ok(self.turn_on(connection, place, patience));
                }
                Idle::Asked(asked) => Some(asked),
                Idle::No => None,
            };
            drop(place);
            let for_the_pool = Patience::new(self.deadline().min(queueing.remaining()));
            let mut connection = match asked {
                // It keeps its place in the pool's line as well.
                Some(asked) => self.lent(asked.by(&for_the_pool).await?).await,
                None => self.lend(&for_the_pool).await?,
            };
            enters = Box::pin(self.enter_as(&head));
            match timeout(MOMENT.min(queueing.remaining()), self.wait_for(&mut enters)).await {
                Ok(place) => match place.and_then(|place| self.file.still_there().map(|()| place)) {
                    Ok(place) => {
                        let patience = self.patience(limit, queueing.waited());
                        return Ok(self.turn_on(connection, place, patience));
                    }
                    Err(error) => {
                        connection.give_back();
                        return Err(error);
                    }
                },
                // It stays at the gate.
                Err(_) => connection.give_back(),
            }
            if queueing.remaining().is_zero() {
                return Err(queueing.exhausted());
            }
        }
    }

    async fn enter_as(&self, head: &Head<'_>) -> Place {
        head.enter(|| self.gathered.see_to_it()).await
    }

    /// Takes a connection of the user's pool for a turn, if the last one has left its own, or one lies idle.
    pub(super) async fn lend_idle(&self) -> Idle {
        let idle = match self.handed.take(&self.pool) {
            Some(left) => Idle::Lent(left),
            None => Lent::idle(&self.pool).await,
        };
        match idle {
            Idle::Lent(lent) => Idle::Lent(self.lent(lent).await),
            idle => idle,
        }
    }

    /// Ends the use of a connection in a turn, with which nothing is under way any more: it is left to the next work in line, or
    /// given back.
    pub(super) fn hand_on(&self, turn: &mut Turn) {
        match self.rank_of_work() {
            Rank::Work => self.handed.hand_on(&mut turn.connection, &self.pool),
            _ => turn.connection.give_back(),
        }
    }

    /// The same, if the connection is in no transaction any more, as far as `sqlx` counts. Otherwise it is closed.
    pub(super) async fn hand_on_if_idle(&self, turn: &mut Turn) {
        if turn.connection.is_in_transaction() {
            turn.connection.close().await;
        } else {
            self.hand_on(turn);
        }
    }

    /// Returns a turn of work if it is to be had soon, and a connection at once.
    pub(super) async fn turn_soon(&self, soon: Duration, limit: Option<Duration>) -> Soon {
        let patience = Patience::new(self.deadline().min(limit.unwrap_or(Duration::MAX)));
        let rank = self.rank_of_work();
        let _in_line = self.handed.line_up();
        let place = match self.queue.try_enter(rank) {
            Some(place) => place,
            None => {
                let enter = self.wait_for(self.enter(rank));
                match timeout(soon.min(patience.remaining()), enter).await {
                    Ok(Ok(place)) => place,
                    Ok(Err(_)) | Err(_) => return Soon::No,
                }
            }
        };
        if self.file.still_there().is_err() {
            return Soon::No;
        }
        let idle = match self.connections {
            Connections::Own => self.lend(&Patience::new(Duration::ZERO)).await.ok(),
            Connections::Users => match self.lend_idle().await {
                Idle::Lent(connection) => Some(connection),
                Idle::Asked(_) => return Soon::TheTurnAlone,
                Idle::No => None,
            },
        };
        idle.map_or(Soon::No, |connection| {
            Soon::Turn(self.turn_on(connection, place, patience))
        })
    }

    /// Returns a turn of work as [`turn`](Self::turn) does: on the connection that the caller has looked at its record with, if
    /// the turn is to be had at once. A caller that waits for a turn gives that back before.
    pub(super) async fn turn_after_look(
        &self,
        mut lent: Lent,
        databases: &Databases,
        limit: Option<Duration>,
    ) -> Result<Turn, StoreError> {
        let rank = self.rank_of_work();
        let place = match self.connections {
            Connections::Own => None,
            Connections::Users => self.queue.try_enter(rank),
        };
        let turn = match place {
            Some(place) => self.file.still_there().map(|()| {
                // Work has one connection. What is kept is for one that came to the line a moment ago.
                self.handed.give_back();
                let patience = self.patience(limit, Duration::ZERO);
                let mut turn = self.turn_on(lent, place, patience);
                turn.is_known = !databases.has_attached();
                turn
            }),
            None => {
                lent.give_back();
                self.turn(rank, limit).await
            }
        };
        turn.map_err(|error| self.file.named(error))
    }
}
