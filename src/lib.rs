//! One key, one execution: a mutation happens once, however often it is asked for.
//!
//! A double-click, a retry after a lost acknowledgement, an edge proxy that sends again, a crash half-way: each is the
//! same request twice. This crate sees to it that the second one gets the first one's result instead of doing the work
//! again.
//!
//! # In five minutes
//!
//! **While the work runs**, in one process, duplicates are collapsed onto it by a [`Group`]:
//!
//! ```
//! use oneflight::{Group, Role};
//! use std::time::Duration;
//!
//! #[tokio::main]
//! async fn main() -> Result<(), oneflight::FlightError> {
//!     let orders: Group<String, u64> = Group::new();
//!     let place_order = || async {
//!         tokio::time::sleep(Duration::from_millis(5)).await; // … the database …
//!         4711
//!     };
//!
//!     // A double-click.
//!     let (first, second) = tokio::join!(
//!         orders.run("cart-9".to_owned(), place_order),
//!         orders.run("cart-9".to_owned(), place_order),
//!     );
//!     let (first, second) = (first?, second?);
//!     assert_eq!((first.value, first.role), (4711, Role::Leader));
//!     assert_eq!((second.value, second.role), (4711, Role::Follower));
//!     assert_eq!(orders.stats().led, 1); // one execution
//!     Ok(())
//! }
//! ```
//!
#![cfg_attr(
    feature = "durable",
    doc = r##"
**Afterwards**, elsewhere or after a crash, duplicates are answered from a record in a [store](store), by
[`Idempotency`](idempotency::Idempotency). Where the store is the database that the work writes to, the record is written in
the same commit as the mutation: see the crate `oneflight-sqlite`.

```
use oneflight::{Idempotency, MemoryStore, Origin, RequestIdentity, Scope};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let idem = Idempotency::builder(MemoryStore::new()).build();

    for expected in [Origin::Executed, Origin::Replayed] {
        let scope = Scope::new("tenant-7").route("POST /orders");
        let id = RequestIdentity::new(scope, "c0ffee")?.with_fingerprint(br#"{"item":"umbrella"}"#);
        let reply = idem.run(id, |_| async { 4711 }).await?; // … the payment API …
        assert_eq!((*reply, reply.origin()), (4711, expected));
    }
    Ok(())
}
```
"##
)]
//! # What is promised
//!
//! Of a [`Group`]:
//!
//! * **Collapse.** Of all callers whose key is in flight, one runs the work; the others build no future.
//! * **Fresh.** A call that starts after any caller has returned gets a new execution, never an old result.
//! * **Hand-over, never re-execution.** The work is polled in place by a caller. If that caller is dropped or is not
//!   polled, another one goes on with the same future from where it stands.
//! * **Run to completion.** If every caller is dropped, the work is spawned and finishes; [`OnAbandon`] has the other
//!   way.
//! * **A panic is an error** for every caller, with its message, and frees the key.
//! * **A circle is an error.** Work that waits for itself, directly or through other flights, gets
//!   [`FlightError::Reentrant`]. What passes through a spawned task cannot be seen.
//! * **Bounded**, closed and drained on request. **Identity is checked** by [`Fingerprint`].
//!
#![cfg_attr(
    feature = "durable",
    doc = "Of [`Idempotency`](idempotency::Idempotency): one execution among any number of processes, replay for 24 hours \
           unless set otherwise, the record in the same commit as the mutation, and the truth about work that died with \
           its process. See there."
)]
//!
//! ## What is not
//!
//! * The idle-driver guarantee is whole within one task. Across tasks, the driver and *one* standby are woken for each
//!   step; the standby is of another task, if one is among the next eight in line. If both are alive and neither is
//!   polled, the others wait. Work with a task of its own on a multi-threaded runtime ([`Drive::Spawned`]) has no such
//!   limit.
//! * Work that is polled in place sees the task-locals and the tracing context of the task that polls it. Under the
//!   feature `tracing` it has a span of its own.
//! * Without a runtime nothing can finish abandoned work: it is dropped, counted and logged.
//!
//! # Features
//!
//! | feature | brings | depends on |
//! | --- | --- | --- |
//! | (none) | [`Group`], and the vocabulary of [`identity`] | `tokio` (`rt`), `hashbrown`, `parking_lot`, `foldhash` |
//! | `durable` | `Idempotency`, `Store`, `MemoryStore`, correlation ids | `serde_json`, `sha2`, `dashmap`, `getrandom`, `tokio` (`sync`, `time`) |
//! | `compress` | large results kept compressed, if asked for; implies `durable` | `lz4_flex` |
//! | `http` | keys from headers and bodies, problem details; implies `durable` | `http`, `sfv`, `form_urlencoded` |
//! | `axum` | a `Problem` is a response of axum; implies `http` | `axum-core` |
//! | `reqwest` | `http::OutgoingLayer` over reqwest's client; implies `http` | `reqwest` |
//! | `metrics` | counters and gauges of the HTTP layer, relays and steps | `metrics` |
//! | `serde` | `Serialize` and `Deserialize` for the types that are logged or sent | `serde` |
//! | `tracing` | a span for each flight, events where something is worth a line | `tracing` |

#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(missing_docs, missing_debug_implementations, unreachable_pub)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

#[cfg(feature = "durable")]
mod backoff;
#[cfg(feature = "durable")]
pub mod correlation;
#[allow(unsafe_code)]
mod flight;
pub mod group;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "durable")]
pub mod idempotency;
pub mod identity;
#[cfg(feature = "durable")]
pub mod outbox;
#[cfg(feature = "durable")]
mod random;
#[cfg(feature = "durable")]
pub mod record;
#[cfg(feature = "durable")]
pub mod store;
mod sync;
mod telemetry;
#[cfg(feature = "durable")]
mod timer;
mod unwind;

/// For the models only.
#[cfg(oneflight_loom)]
#[doc(hidden)]
pub mod model {
    pub use crate::sync::{
        Runtime, join_tasks, nest_at_most, run_as_worker, spawn_onto, wake_first, wake_in_rounds_of,
    };
}

/// For the random schedules only.
#[cfg(oneflight_shuttle)]
#[doc(hidden)]
pub mod schedules {
    pub use crate::sync::drop_left_tasks;
}

pub use crate::flight::{Drive, OnAbandon, Panicked};
pub use crate::group::{Error as FlightError, Group, GroupBuilder, Limit, Outcome, Role, Stats, TryError};
#[cfg(feature = "durable")]
pub use crate::idempotency::{
    Effect, Error, ErrorKind, Idempotency, Origin, Recovery, Reply, Resolution, ResultExt, Rollback, Tx,
};
pub use crate::identity::{Fingerprint, RequestIdentity, Scope};
#[cfg(feature = "durable")]
pub use crate::outbox::{Message, Outbox, Relay};
#[cfg(feature = "durable")]
pub use crate::store::{DynStore, MemoryStore};
