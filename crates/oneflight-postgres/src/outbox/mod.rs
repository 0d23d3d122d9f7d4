//! The outbox: messages and receipts that are appended, in partitions that rotate.
//!
//! ```text
//! messages ┌──────┬──────┬──────┬──────┬──────┬──────┐     written: the one that `rotation` names
//!          │ 0    │ 1  ◀─│─ …   │      │      │ 5    │     emptied: one in which every message has ended, as a whole
//!          └──────┴──────┴──────┴──────┴──────┴──────┘
//! receipts ┌──────┬──────┬──────┬──────┐                   emptied: one that is about no message that is left
//!          └──────┴──────┴──────┴──────┘
//! parked   what is not to be delivered soon, and dead letters: rows of an ordinary table
//! ```
//!
//! # How nothing is skipped
//!
//! A sequence is not commit order: what a transaction wrote under position 7 may be committed after what another one
//! wrote under 9. So a relay's [cursor](cursor::Place) is no position but a *snapshot* of the server: which transactions
//! had ended then. New is what was written by a transaction that had not ended in that snapshot and has now. One
//! transaction that takes long is one number in a list, holds up nothing, and has nothing scanned twice. This is the
//! way in which [PgQ](https://github.com/pgq/pgq) makes its batches.
//!
//! Within such a window, rows are paged by position. Where to begin is a position that was read by a transaction of ours
//! before it had a number of its own. When that transaction is over, every snapshot knows its number, and all smaller ones:
//! those of all that had drawn a position by then. So what a later snapshot does not know has a larger position. (It is not
//! enough to read the last position before the snapshot: a transaction may have drawn one and have a number that the
//! snapshot does not know, since a snapshot knows numbers up to the last one that *ended*.) The index on positions leads
//! to those rows without a detour; those of the transactions in the list are found by their numbers.
//!
//! # Connections
//!
//! What a relay or an operator asks goes over a small pool of the outbox's own, with the options of the user's. So a
//! pool that is used up stops no relay, and no session there was left in a transaction by somebody else.

mod asking;
mod cursor;
mod foreign;
mod hints;
mod house;
mod rows;
mod store;
mod upkeep;
