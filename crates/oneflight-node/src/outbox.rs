//! What an operator decides about messages of the outbox.

use std::sync::Arc;

use napi::bindgen_prelude::{Buffer, Object};
use napi::{Env, Result};
use napi_derive::napi;
use oneflight::Effect;
use oneflight::outbox::{Cancelled, DeadLetter, MessageId, Outbox};
use oneflight_postgres::PostgresStore;
use oneflight_sqlite::SqliteStore;

use crate::failure::Failure;
use crate::handle::Handle;
use crate::pool::{Connections, Lease};
use crate::runtime::promise;
use crate::settled::{Done, done};

/// A dead letter. `index.d.ts` documents each part.
#[napi(object, object_from_js = false)]
pub struct Letter {
    /// In decimal digits: it has 64 bits.
    pub id: String,
    pub topic: String,
    pub payload: Buffer,
    pub key: String,
    pub ordering_key: Option<String>,
    pub attempts: u32,
    pub error: String,
    pub blocks: bool,
}

/// What came of listing dead letters.
#[napi(object, object_from_js = false)]
pub struct Letters {
    pub letters: Option<Vec<Letter>>,
    pub failure: Option<Failure>,
}

impl From<&DeadLetter> for Letter {
    fn from(letter: &DeadLetter) -> Self {
        Self {
            id: letter.id.to_string(),
            topic: letter.topic.to_string(),
            payload: letter.payload.to_vec().into(),
            key: letter.key.to_string(),
            ordering_key: letter.ordering_key.as_deref().map(str::to_owned),
            attempts: letter.attempts,
            error: letter.error.clone(),
            blocks: letter.blocks,
        }
    }
}

/// Lists dead letters.
#[napi(catch_unwind)]
pub fn dead_letters<'env>(env: &'env Env, handle: &Handle, limit: u32, after: Option<String>) -> Result<Object<'env>> {
    let lease = handle.lease();
    promise(env, async move {
        match listed(lease, limit, after).await {
            Ok(letters) => Letters {
                letters: Some(letters.iter().map(Letter::from).collect()),
                failure: None,
            },
            Err(failure) => Letters {
                letters: None,
                failure: Some(failure),
            },
        }
    })
}

/// Has a dead letter tried again: the count is 1 if it was one.
#[napi(catch_unwind)]
pub fn redrive<'env>(env: &'env Env, handle: &Handle, id: String) -> Result<Object<'env>> {
    let lease = handle.lease();
    promise(
        env,
        done(async move {
            let (lease, id) = (lease?, parsed(&id)?);
            let redriven = match Kept::of(&lease)? {
                Kept::Postgres(outbox) => outbox.redrive(id).await,
                Kept::Sqlite(outbox) => outbox.redrive(id).await,
            };
            let redriven = redriven.map_err(|error| Failure::store(&error, Effect::Unknown))?;
            Ok(Done::of(None, Some(u32::from(redriven))))
        }),
    )
}

/// Cancels a message: the count is 1 if it will never be delivered.
#[napi(catch_unwind)]
pub fn cancel<'env>(env: &'env Env, handle: &Handle, id: String) -> Result<Object<'env>> {
    let lease = handle.lease();
    promise(
        env,
        done(async move {
            let (lease, id) = (lease?, parsed(&id)?);
            let cancelled = match Kept::of(&lease)? {
                Kept::Postgres(outbox) => outbox.cancel(id).await,
                Kept::Sqlite(outbox) => outbox.cancel(id).await,
            };
            let cancelled = cancelled.map_err(|error| Failure::store(&error, Effect::Unknown))?;
            Ok(Done::of(None, Some(u32::from(cancelled == Cancelled::Cancelled))))
        }),
    )
}

/// The failure of a store that keeps no messages.
pub(crate) fn none() -> Failure {
    Failure::new(
        "InvalidArgument",
        Effect::Nothing,
        "this store has no outbox; open PostgreSQL or SQLite, the database in which messages are sent",
    )
}

/// Where messages are kept.
enum Kept {
    Postgres(Outbox<PostgresStore>),
    Sqlite(Outbox<SqliteStore>),
}

impl Kept {
    fn of(lease: &Lease) -> std::result::Result<Self, Failure> {
        match lease.connections() {
            Some(Connections::Postgres(store)) => Ok(Self::Postgres(Outbox::new(store.clone()))),
            Some(Connections::Sqlite(store)) => Ok(Self::Sqlite(Outbox::new(store.clone()))),
            Some(Connections::None) | None => Err(none()),
        }
    }
}

async fn listed(
    lease: std::result::Result<Arc<Lease>, Failure>,
    limit: u32,
    after: Option<String>,
) -> std::result::Result<Vec<DeadLetter>, Failure> {
    let lease = lease?;
    let after = after.as_deref().map(parsed).transpose()?;
    let listed = match Kept::of(&lease)? {
        Kept::Postgres(outbox) => outbox.dead_letters(limit as usize, after).await,
        Kept::Sqlite(outbox) => outbox.dead_letters(limit as usize, after).await,
    };
    listed.map_err(|error| Failure::store(&error, Effect::Nothing))
}

fn parsed(id: &str) -> std::result::Result<MessageId, Failure> {
    let number = id.parse().map_err(|_| {
        Failure::new(
            "InvalidArgument",
            Effect::Nothing,
            "this is no id of a message; give the `id` of a dead letter, or what `send` answered",
        )
    })?;
    Ok(MessageId::new(number))
}
