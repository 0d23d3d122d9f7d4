//! The connection of the user's pool that a transaction of work leaves for the next one in line.
//!
//! ```text
//! work is over ──others are in line──▶ kept ──the next one has the turn──▶ its connection
//!      └──else──▶ the pool              └──all have left the line, the time of the series is over, the pool is closed──▶ the pool
//! ```
//!
//! The pool has one line for all, and many are in it: each transaction of work looks at its record on a connection of the pool
//! first. If each waited for the pool once more in its turn, nobody would write meanwhile.
//!
//! A connection is put here in a turn of work, and the next turn of work takes it. So all of them have one together, as they would
//! have without this, and work that wants one more of the pool waits for none that is kept here.
//!
//! Transactions that go on with one connection are a series. It ends after some of them, and after a moment, whatever becomes of the
//! next one: that may be kept and not polled, or wait for the turn of others. Others in the pool's line may wait for this very
//! connection, and the pool tries it and looks whether it is too old. Who has the connection sees to that when handing it on. What is
//! kept and not taken, a task in the runtime of who began the series gives back.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::select;
use parking_lot::Mutex;
use sqlx::pool::CloseEvent;
use sqlx::sqlite::SqlitePool;
use tokio::runtime::Handle;
use tokio::time::sleep;

use super::lent::Lent;

/// How many times in a row a connection is handed on. Then who waits for the pool has waited for some short transactions, and a pass
/// through its line is shared by as many.
pub(super) const IN_A_ROW: u32 = 16;

/// How long a series lasts, if its transactions are no short ones.
const MOMENT: Duration = Duration::from_millis(100);

/// What is handed on among the works of one store. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Handed(Arc<Mutex<State>>);

struct State {
    in_line: usize,
    kept: Option<Lent>,
    series: Option<Series>,
    /// How many there have been.
    begun: u64,
    moment: Duration,
}

impl Default for State {
    fn default() -> Self {
        Self {
            in_line: 0,
            kept: None,
            series: None,
            begun: 0,
            moment: MOMENT,
        }
    }
}

struct Series {
    number: u64,
    since: Instant,
    /// How many times more the connection may be handed on.
    left: u32,
}

impl State {
    /// Keeps a connection for the next one in line, or returns it if it is to go back to the pool.
    fn keep(&mut self, lent: Lent) -> Option<Lent> {
        if self.kept.is_some() {
            return Some(lent);
        }
        let moment = self.moment;
        let goes_on = |series: &Series| series.left > 0 && series.since.elapsed() < moment;
        let goes_on = self.series.as_ref().is_none_or(goes_on);
        if self.in_line == 0 || !goes_on {
            self.series = None;
            return Some(lent);
        }
        let begun = &mut self.begun;
        let series = self.series.get_or_insert_with(|| {
            *begun += 1;
            Series {
                number: *begun,
                since: Instant::now(),
                left: IN_A_ROW,
            }
        });
        series.left -= 1;
        self.kept = Some(lent);
        None
    }

    /// Takes out what is kept, so that it goes back to the pool.
    fn end(&mut self) -> Option<Lent> {
        let kept = self.kept.take()?;
        self.series = None;
        Some(kept)
    }
}

impl Handed {
    /// Counts a transaction of work as one in line, until what is returned is dropped.
    pub(super) fn line_up(&self) -> InLine<'_> {
        self.0.lock().in_line += 1;
        InLine(self)
    }

    /// Leaves a connection to the next one in line, or gives it back to its pool.
    pub(super) fn hand_on(&self, connection: &mut Lent, pool: &SqlitePool) {
        let (back, begun, moment) = {
            let mut state = self.0.lock();
            let before = state.begun;
            let back = state.keep(connection.take());
            (back, (state.begun > before).then_some(state.begun), state.moment)
        };
        if let Some(mut back) = back {
            back.give_back();
        }
        if let Some(number) = begun {
            let series = Watched {
                handed: self.clone(),
                number,
            };
            tokio::spawn(series.ends(moment, pool.close_event()));
        }
        // The event tells of none that was before it, and its runtime may rest.
        if pool.is_closed() {
            self.give_back();
        }
    }

    /// Takes what the last one has left.
    pub(super) fn take(&self, pool: &SqlitePool) -> Option<Lent> {
        let mut kept = self.0.lock().kept.take()?;
        if pool.is_closed() {
            kept.give_back();
            return None;
        }
        Some(kept)
    }

    /// Gives back to the pool what is kept, if anything is.
    pub(super) fn give_back(&self) {
        let kept = self.0.lock().end();
        to_the_pool(kept);
    }

    #[cfg(test)]
    pub(super) fn in_line(&self) -> usize {
        self.0.lock().in_line
    }

    #[cfg(test)]
    pub(super) fn has_any(&self) -> bool {
        self.0.lock().kept.is_some()
    }

    /// Returns whether the connection goes back to the pool next.
    #[cfg(test)]
    pub(super) fn has_ended(&self) -> bool {
        self.0.lock().series.as_ref().is_some_and(|series| series.left == 0)
    }

    #[cfg(test)]
    pub(super) fn has_series_last(&self, moment: Duration) {
        self.0.lock().moment = moment;
    }
}

/// A transaction of work that is in line.
pub(super) struct InLine<'h>(&'h Handed);

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        let kept = {
            let mut state = self.0.0.lock();
            state.in_line -= 1;
            match state.in_line {
                0 => state.end(),
                _ => None,
            }
        };
        to_the_pool(kept);
    }
}

/// A series that ends when this is dropped, as it is when its runtime ends.
struct Watched {
    handed: Handed,
    number: u64,
}

impl Watched {
    async fn ends(self, moment: Duration, closes: CloseEvent) {
        select(pin!(sleep(moment)), pin!(closes)).await;
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let kept = {
            let mut state = self.handed.0.lock();
            match state.series.as_mut().filter(|series| series.number == self.number) {
                Some(series) => {
                    // The one that has the connection now gives it back.
                    series.left = 0;
                    state.end()
                }
                None => None,
            }
        };
        to_the_pool(kept);
    }
}

/// Gives a connection back to its pool, which has a task bring it there. Without a runtime it is closed.
fn to_the_pool(kept: Option<Lent>) {
    if let (Some(mut kept), Ok(_)) = (kept, Handle::try_current()) {
        kept.give_back();
    }
}
