//! The native half of the npm package `oneflight`. `README.md` has what users see; `index.js` has the other half.
//!
//! # Who does what
//!
//! ```text
//! index.js                       this crate                          oneflight
//! encodes, checks, rebuilds ──▶  Handle::run ──tokio──▶ try_run ──▶  claim, lease, record
//! runs the closure        ◀──  threadsafe function ◀── work future
//! Ticket.settle ───────────▶  the work future ends ──▶ record ──▶  Settled: the promise resolves
//! ```
//!
//! * JavaScript never waits for this crate, and no thread of ours waits for JavaScript. All that takes time runs on a tokio
//!   runtime of our own ([`runtime`]), which belongs to the process: worker threads come and go.
//! * **A closure becomes a future** by a threadsafe function that is called once. It is given a [`Ticket`](work::Ticket), by
//!   which JavaScript says what became of the work; the future waits for that. A ticket that is collected, since its thread
//!   ended or nothing can settle the promise any more, says [`Unknown`](oneflight::idempotency::Unknown): the request is in doubt. A thread
//!   that ended before the closure had begun says [`NotDone`](oneflight::idempotency::NotDone).
//! * **The process lives** as long as a promise or a threadsafe function of a call is open: while something is in flight, and
//!   no longer. A function that a recovery policy asks does not count.
//! * **A transaction of the user's** ([`foreign`]) is run by JavaScript: statements go out of here as text, and answers come back. No
//!   step of it takes time here, so a driver that answers at once is not made to wait.
//! * **SQLite is here twice**, since the user's driver brings one along: ours takes locks that hold between both (`locks`).
//! * **A relay** ([`relay`]) tells one function of JavaScript of all its deliveries, and lives until it is closed or its thread ends.
//! * **Values are text** here: JSON that JavaScript has made, recorded as it is, under the name of the crate's own JSON. So a
//!   process of Rust reads it ([`text`]).
//! * **Errors are data** here ([`failure`]): a promise of ours resolves to a value or to what went wrong, and `index.js` makes
//!   the error. It is rejected only by a defect.
//! * **One pool** for each URL with its options, in the whole process ([`pool`]): worker threads and modules that are loaded
//!   anew share it.

#![deny(clippy::unwrap_used, clippy::expect_used)]
#![cfg_attr(
    test,
    allow(dead_code, reason = "only a library is registered with Node, and no test is")
)]

mod callback;
mod correlation;
mod delivery;
mod failure;
mod fingerprint;
mod foreign;
mod handle;
mod identity;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod locks;
mod options;
mod outbox;
mod pool;
mod relay;
mod runtime;
mod settled;
mod text;
mod work;
