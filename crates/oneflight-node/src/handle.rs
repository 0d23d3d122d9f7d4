//! An open store, as JavaScript holds it. Each method returns a promise of an object: what was asked for, or a failure.

use std::sync::Arc;

use napi::bindgen_prelude::{Function, Object};
use napi::threadsafe_function::UnknownReturnValue;
use napi::{Env, Result};
use napi_derive::napi;
use oneflight::correlation::scope;
use oneflight::idempotency::{Resolution, Resolved};
use oneflight::record::{FencingToken, State};
use oneflight::store::{Store, StoreError};
use oneflight::{Effect, Reply};
use parking_lot::Mutex;

use crate::callback::Callback;
use crate::correlation;
use crate::failure::Failure;
use crate::foreign::{Began, Foreign};
use crate::identity::Identity;
use crate::options::{Options, duration, millis};
use crate::pool::{Connections, Lease, locks_hold};
use crate::runtime::promise;
use crate::settled::{Done, done, settled};
use crate::text::Answer;
use crate::work::{Ticket, completed, execute};

/// A closure or a function of JavaScript, which is called with a ticket.
type Closure<'env> = Function<'env, Ticket, UnknownReturnValue>;

/// A share in an open store.
#[napi]
pub struct Handle {
    lease: Mutex<Option<Arc<Lease>>>,
}

/// What came of opening a store.
#[napi(object, object_from_js = false)]
pub struct Opened {
    pub handle: Option<Handle>,
    pub failure: Option<Failure>,
}

/// What is known of a request.
#[napi(object)]
pub struct Status {
    /// `absent`, `inProgress`, `inDoubt` or `completed`.
    pub state: Option<String>,
    pub attempt: Option<u32>,
    pub held: Option<bool>,
    pub lease_ms: Option<f64>,
    pub completed_at: Option<f64>,
    pub expires_at: Option<f64>,
    pub failure: Option<Failure>,
}

/// A request in doubt.
#[napi(object)]
pub struct Doubtful {
    /// In its canonical form.
    pub scope: String,
    pub key: String,
    pub attempt: u32,
    /// In decimal digits: it has 64 bits.
    pub token: String,
    pub since_ms: f64,
}

/// What came of listing requests in doubt.
#[napi(object)]
pub struct Listed {
    pub requests: Option<Vec<Doubtful>>,
    pub failure: Option<Failure>,
}

/// Opens a store, or shares the one that is open.
#[napi(catch_unwind)]
pub fn open<'env>(env: &'env Env, url: String, options: Options, asker: Option<Closure<'env>>) -> Result<Object<'env>> {
    let asker = asker.as_ref().map(Callback::new).transpose()?;
    promise(env, async move {
        match Lease::open(url, options, asker).await {
            Ok(lease) => Opened {
                handle: Some(Handle {
                    lease: Mutex::new(Some(Arc::new(lease))),
                }),
                failure: None,
            },
            Err(failure) => Opened {
                handle: None,
                failure: Some(failure),
            },
        }
    })
}

impl Handle {
    pub(crate) fn lease(&self) -> std::result::Result<Arc<Lease>, Failure> {
        let lease = self.lease.lock().clone();
        lease.ok_or_else(|| Failure::new("Closed", Effect::Nothing, "it is closed; open it again"))
    }
}

#[napi]
impl Handle {
    /// Begins to execute a request in a transaction of the user's own driver. Nothing is asked yet.
    #[napi(catch_unwind)]
    pub fn foreign(&self, identity: Identity, retention_ms: Option<f64>) -> Began {
        match foreign(self.lease(), identity, retention_ms) {
            Ok(foreign) => Began {
                foreign: Some(foreign),
                failure: None,
            },
            Err(failure) => Began {
                foreign: None,
                failure: Some(failure),
            },
        }
    }

    /// Executes a request once.
    #[napi(catch_unwind)]
    pub fn run<'env>(
        &self,
        env: &'env Env,
        identity: Identity,
        retention_ms: Option<f64>,
        closure: Closure<'env>,
    ) -> Result<Object<'env>> {
        let lease = self.lease();
        let closure = Callback::new(&closure)?;
        promise(env, async move {
            settled(run(lease, identity, retention_ms, closure).await)
        })
    }

    /// Returns what is known of a request.
    #[napi(catch_unwind)]
    pub fn status<'env>(&self, env: &'env Env, identity: Identity) -> Result<Object<'env>> {
        let lease = self.lease();
        promise(env, async move {
            status(lease, identity).await.unwrap_or_else(|failure| Status {
                failure: Some(failure),
                ..Status::absent()
            })
        })
    }

    /// Lists requests in doubt.
    #[napi(catch_unwind)]
    pub fn in_doubt<'env>(&self, env: &'env Env, limit: u32, after: Option<String>) -> Result<Object<'env>> {
        let lease = self.lease();
        promise(env, async move {
            match in_doubt(lease, limit, after).await {
                Ok(requests) => Listed {
                    requests: Some(requests),
                    failure: None,
                },
                Err(failure) => Listed {
                    requests: None,
                    failure: Some(failure),
                },
            }
        })
    }

    /// Settles a request in doubt: `rerun`, `hold`, or `completed` with JSON.
    #[napi(catch_unwind)]
    pub fn resolve<'env>(
        &self,
        env: &'env Env,
        identity: Identity,
        how: String,
        json: Option<String>,
    ) -> Result<Object<'env>> {
        let lease = self.lease();
        let resolution = match (how.as_str(), json) {
            ("completed", Some(json)) => completed(json),
            ("rerun", _) => Resolution::Rerun,
            _ => Resolution::Hold,
        };
        promise(
            env,
            done(async move {
                let id = identity.validated()?;
                let resolved = lease?.idempotency()?.resolve(&id, resolution).await?;
                Ok(Done::of(Some(named(resolved).to_owned()), None))
            }),
        )
    }

    /// Deletes records that are past their retention.
    #[napi(catch_unwind)]
    pub fn purge<'env>(&self, env: &'env Env, limit: u32) -> Result<Object<'env>> {
        let lease = self.lease();
        promise(
            env,
            done(async move {
                let purged = lease?.idempotency()?.store().purge(limit as usize).await;
                let purged = purged.map_err(|error| Failure::store(&error, Effect::Unknown))?;
                Ok(Done::of(None, Some(u32::try_from(purged).unwrap_or(u32::MAX))))
            }),
        )
    }

    /// Gives the share back. `index.js` has waited for the calls of this handle.
    #[napi(catch_unwind)]
    pub fn close<'env>(&self, env: &'env Env) -> Result<Object<'env>> {
        let lease = self.lease.lock().take();
        promise(env, async move {
            // What is under way, or was left open, has a copy, which closes when it goes.
            if let Some(lease) = lease.and_then(Arc::into_inner) {
                lease.close().await;
            }
            Done::of(None, None)
        })
    }
}

fn foreign(
    lease: std::result::Result<Arc<Lease>, Failure>,
    identity: Identity,
    retention_ms: Option<f64>,
) -> std::result::Result<Foreign, Failure> {
    let correlation = correlation::validated(identity.correlation_id.as_deref())?;
    let id = identity.validated()?;
    let lease = lease?;
    let mut idempotency = lease.idempotency()?.clone();
    if let Some(retention) = retention_ms {
        idempotency = idempotency.with_retention(duration(retention));
    }
    if matches!(lease.connections(), Some(Connections::Sqlite(_))) && !locks_hold() {
        return Err(Failure::new(
            "InvalidArgument",
            Effect::Nothing,
            "on this system the SQLite of your driver and ours do not exclude each other in one process; use PostgreSQL, or a Linux \
             of 64 bits that has locks of open files (F_OFD_SETLK)",
        ));
    }
    let begin = || match lease.connections() {
        Some(Connections::Postgres(store)) => Some(idempotency.in_foreign(id, |request| store.foreign(request))),
        Some(Connections::Sqlite(store)) => Some(idempotency.in_foreign(id, |request| store.foreign(request))),
        Some(Connections::None) | None => None,
    };
    let Some(execution) = correlation::within(correlation.as_ref(), begin) else {
        return Err(Failure::new(
            "InvalidArgument",
            Effect::Nothing,
            "this store has no transactions that others can begin; open PostgreSQL or SQLite, the database that the \
             transaction is in",
        ));
    };
    Ok(Foreign::new(execution, correlation, lease))
}

async fn run(
    lease: std::result::Result<Arc<Lease>, Failure>,
    identity: Identity,
    retention_ms: Option<f64>,
    closure: Callback<Ticket, false>,
) -> std::result::Result<Reply<Answer>, Failure> {
    let correlation = correlation::validated(identity.correlation_id.as_deref())?;
    let id = identity.validated()?;
    let lease = lease?;
    let mut idempotency = lease.idempotency()?.clone();
    if let Some(retention) = retention_ms {
        idempotency = idempotency.with_retention(duration(retention));
    }
    let run = idempotency.try_run(id, move |context| execute(closure, context));
    let reply = match correlation {
        Some(id) => scope(id, run).await,
        None => run.await,
    };
    Ok(reply?)
}

impl Status {
    fn absent() -> Self {
        Self {
            state: Some("absent".to_owned()),
            attempt: None,
            held: None,
            lease_ms: None,
            completed_at: None,
            expires_at: None,
            failure: None,
        }
    }
}

async fn status(
    lease: std::result::Result<Arc<Lease>, Failure>,
    identity: Identity,
) -> std::result::Result<Status, Failure> {
    let id = identity.validated()?;
    let Some(record) = lease?.idempotency()?.status(&id).await? else {
        return Ok(Status::absent());
    };
    let left = record.lease_remaining();
    let status = Status {
        attempt: Some(record.attempt),
        held: Some(record.held),
        ..Status::absent()
    };
    Ok(match record.state {
        State::Completed { completed, expires, .. } => Status {
            state: Some("completed".to_owned()),
            completed_at: Some(completed.as_millis() as f64),
            expires_at: Some(expires.as_millis() as f64),
            ..status
        },
        _ => Status {
            state: Some(match left {
                Some(left) if !left.is_zero() => "inProgress".to_owned(),
                _ => "inDoubt".to_owned(),
            }),
            lease_ms: left.map(millis),
            ..status
        },
    })
}

async fn in_doubt(
    lease: std::result::Result<Arc<Lease>, Failure>,
    limit: u32,
    after: Option<String>,
) -> std::result::Result<Vec<Doubtful>, Failure> {
    let after = match after {
        None => None,
        Some(token) => {
            let token: u64 = token.parse().map_err(|_| {
                Failure::new(
                    "InvalidArgument",
                    Effect::Nothing,
                    "`after` is no token; give the `token` of a request that was listed",
                )
            })?;
            Some(FencingToken::new(token))
        }
    };
    let lease = lease?;
    let failed = |error: StoreError| Failure::store(&error, Effect::Nothing);
    let listed = lease
        .idempotency()?
        .in_doubt(limit as usize, after)
        .await
        .map_err(failed)?;
    Ok(listed
        .into_iter()
        .map(|doubtful| Doubtful {
            scope: doubtful.id.scope().to_owned(),
            key: doubtful.id.key().to_owned(),
            attempt: doubtful.attempt,
            token: doubtful.token.to_string(),
            since_ms: millis(doubtful.since),
        })
        .collect())
}

fn named(resolved: Resolved) -> &'static str {
    match resolved {
        Resolved::Recorded => "recorded",
        Resolved::Freed => "freed",
        Resolved::Held => "held",
        Resolved::Absent => "absent",
        Resolved::AlreadyCompleted => "alreadyCompleted",
        _ => "unknown",
    }
}
