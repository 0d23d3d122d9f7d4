//! Whether a request is probably a new one, so that its transaction is begun without a look at its record before.
//!
//! The look is an errand to a connection's thread, as the beginning of a transaction is, and takes no lock. It is worth it for a
//! request that has a record. So it is left out after several in a row that had none, and only if the turn to write is to be
//! had soon. What begins the transaction sees to it that there is no record: first without the lock, so that an answer waits for
//! no writer of another process, and once more under it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::begun::Begun;
use super::works::Soon;
use super::writer::{Turn, Writer};
use oneflight::store::{ClaimRequest, StoreError};

/// How many requests in a row had no record before the next one is taken for such.
const IN_A_ROW: u32 = 8;

/// How long the turn is waited for by what may be an answer. A few transactions go by in this time.
const SOON: Duration = Duration::from_millis(5);

/// How many wait for the turn at a time. In a longer line it would not be had soon.
const MOST: u32 = 8;

/// What the last requests were.
#[derive(Default)]
pub(super) struct Guess {
    new_in_a_row: AtomicU32,
    waiting: AtomicU32,
}

/// One that waits for the turn.
struct Waits<'g>(&'g Guess);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Guess {
    fn is_new(&self) -> bool {
        self.new_in_a_row.load(Ordering::Relaxed) >= IN_A_ROW
    }

    fn waits(&self) -> Option<Waits<'_>> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let waits = Waits(self);
        (before < MOST).then_some(waits)
    }

    /// Notes whether a request had no record. One that is lost to another thread's note does no harm.
    pub(super) fn saw(&self, is_new: bool) {
        let seen = self.new_in_a_row.load(Ordering::Relaxed);
        match is_new {
            true if seen >= IN_A_ROW => {}
            true => self.new_in_a_row.store(seen + 1, Ordering::Relaxed),
            false => self.new_in_a_row.store(0, Ordering::Relaxed),
        }
    }

    /// Begins the transaction of a request that is probably a new one. Returns `None`, in which nothing was begun, if it is not,
    /// or if it has to be waited for.
    pub(super) async fn begin(&self, works: &Writer, request: &ClaimRequest) -> Result<Option<Turn>, StoreError> {
        if !works.begins_at_once() || !self.is_new() {
            return Ok(None);
        }
        let soon = match self.waits() {
            Some(_waits) => works.turn_soon(SOON, request.patience).await,
            None => Soon::No,
        };
        let mut turn = match soon {
            Soon::Turn(turn) => turn,
            Soon::TheTurnAlone => {
                // The look waits for the pool without a turn.
                self.saw(false);
                return Ok(None);
            }
            Soon::No => return Ok(None),
        };
        let begun = works.begin_new(&mut turn, request, false).await?;
        self.saw(begun == Begun::Yes);
        match begun {
            Begun::Yes => Ok(Some(turn)),
            Begun::No => {
                works.hand_on(&mut turn);
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_had_a_record_ends_the_row() {
        let guess = Guess::default();
        for _ in 0..2 {
            for _ in 0..IN_A_ROW {
                assert!(!guess.is_new());
                guess.saw(true);
            }
            assert!(guess.is_new());
            guess.saw(true);
            guess.saw(false);
        }
    }

    #[test]
    fn a_few_wait_at_a_time() {
        let guess = Guess::default();
        for _ in 0..2 {
            let waiting: Vec<_> = (0..MOST * 2).map(|_| guess.waits()).collect();
            assert_eq!(waiting.iter().flatten().count(), MOST as usize);
        }
    }
}
