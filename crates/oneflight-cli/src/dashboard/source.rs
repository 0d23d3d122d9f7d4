//! What the page asks of a store, whichever it is. A store without an outbox or without steps says so.

use std::time::Duration;

use oneflight::correlation::CorrelationId;
use oneflight::idempotency::{Error, Resolution, Resolved};
use oneflight::record::{FencingToken, Record};
use oneflight::store::outbox::{
    Cancelled, MessageEntry, MessageId, MessageQuery, OutboxUpkeep, RelayEntry, TopicBacklog,
};
use oneflight::store::{
    OutboxStore, RecordPage, RecordQuery, StepId, StepStore, Store, StoreError, UnfinishedQuery, UnfinishedSteps,
    Upkeep, WorkflowRecord,
};
use oneflight::{Idempotency, RequestIdentity};

use crate::desk::AsTyped;
use crate::store::{AnyStore, with_store};

const NO_OUTBOX: StoreError = StoreError::Unsupported {
    advice: "Redis keeps no outbox: messages are kept in the database whose transactions send them",
};
const NO_STEPS: StoreError = StoreError::Unsupported {
    advice: "Redis keeps no steps",
};

/// Runs an expression with a store that has an outbox and keeps steps.
macro_rules! with_database {
    ($source:expr, $without:expr, |$store:ident| $body:expr) => {
        match &$source.store {
            AnyStore::Sqlite($store) => $body,
            AnyStore::Postgres($store) => $body,
            AnyStore::Redis(_) => Err($without),
        }
    };
}

pub(super) struct Source {
    store: AnyStore,
    /// How long an answer is kept that is recorded here.
    retention: Duration,
}

impl Source {
    pub(super) fn new(store: AnyStore, retention: Duration) -> Self {
        Self { store, retention }
    }

    pub(super) fn retention(&self) -> Duration {
        self.retention
    }

    /// Returns what kind of store it is.
    pub(super) fn name(&self) -> &'static str {
        match &self.store {
            AnyStore::Sqlite(_) => "SQLite",
            AnyStore::Postgres(_) => "PostgreSQL",
            AnyStore::Redis(_) => "Redis",
        }
    }

    pub(super) async fn records(&self, query: RecordQuery) -> Result<RecordPage, StoreError> {
        with_store!(&self.store, |store| store.records(query).await)
    }

    pub(super) async fn record(&self, id: &RequestIdentity) -> Result<Option<Record>, StoreError> {
        with_store!(&self.store, |store| store.load(id).await)
    }

    /// Returns the id of the request that has claimed last, if the store lists it.
    pub(super) async fn correlation_id(&self, id: &RequestIdentity) -> Result<Option<CorrelationId>, StoreError> {
        let query = RecordQuery {
            scope: Some(id.scope().to_owned()),
            key: Some(id.key().to_owned()),
            ..RecordQuery::all(1)
        };
        let found = match self.records(query).await {
            Err(StoreError::Unsupported { .. }) => return Ok(None),
            found => found?.entries.into_iter().find(|entry| entry.id == *id),
        };
        Ok(found.and_then(|entry| entry.correlation_id))
    }

    pub(super) async fn steps(&self, id: &RequestIdentity) -> Result<Option<WorkflowRecord>, StoreError> {
        with_database!(self, NO_STEPS, |store| store.load_steps(id).await)
    }

    pub(super) async fn unfinished(&self, limit: usize) -> Result<Vec<UnfinishedSteps>, StoreError> {
        with_database!(self, NO_STEPS, |store| {
            store.unfinished_steps(UnfinishedQuery::all(limit)).await
        })
    }

    pub(super) async fn messages(&self, query: MessageQuery) -> Result<Vec<MessageEntry>, StoreError> {
        with_database!(self, NO_OUTBOX, |store| store.messages(query).await)
    }

    pub(super) async fn backlog(&self) -> Result<Vec<TopicBacklog>, StoreError> {
        with_database!(self, NO_OUTBOX, |store| store.backlog().await)
    }

    pub(super) async fn relays(&self) -> Result<Vec<RelayEntry>, StoreError> {
        with_database!(self, NO_OUTBOX, |store| store.relays().await)
    }

    pub(super) async fn pause(&self, topic: &str) -> Result<bool, StoreError> {
        with_database!(self, NO_OUTBOX, |store| store.pause(topic).await)
    }

    pub(super) async fn resume(&self, topic: &str) -> Result<bool, StoreError> {
        with_database!(self, NO_OUTBOX, |store| store.resume(topic).await)
    }

    pub(super) async fn redrive(&self, id: MessageId) -> Result<bool, StoreError> {
        with_database!(self, NO_OUTBOX, |store| store.redrive(id).await)
    }

    pub(super) async fn cancel(&self, id: MessageId) -> Result<Cancelled, StoreError> {
        with_database!(self, NO_OUTBOX, |store| store.cancel(id).await)
    }

    pub(super) async fn hold(&self, id: &RequestIdentity, token: FencingToken) -> Result<bool, StoreError> {
        with_store!(&self.store, |store| store.hold(id, token).await)
    }

    pub(super) async fn resolve(&self, id: &RequestIdentity, resolution: Resolution) -> Result<Resolved, Error> {
        with_store!(&self.store, |store| {
            let idem = Idempotency::builder(store.clone()).retention(self.retention).build();
            idem.resolve(id, resolution).await
        })
    }

    /// Records an answer of an `IdempotencyLayer`.
    pub(super) async fn resolve_answered(
        &self,
        id: &RequestIdentity,
        answer: http::Response<String>,
    ) -> Result<Resolved, Error> {
        with_store!(&self.store, |store| {
            let idem = Idempotency::builder(store.clone()).retention(self.retention).build();
            idem.resolve_answered(id, answer).await
        })
    }

    /// Records what became of a step: its answer, or that it was not done. Returns whether it has not told so far, of a mutation
    /// that is held.
    pub(super) async fn settle_step(
        &self,
        id: &RequestIdentity,
        step: &StepId,
        answer: Option<&Vec<u8>>,
    ) -> Result<Result<bool, Error>, StoreError> {
        with_database!(self, NO_STEPS, |store| {
            let idem = Idempotency::builder(store.clone()).build();
            Ok(match answer {
                Some(json) => idem.with_codec(AsTyped).step_was_done(id, step, json).await,
                None => idem.step_was_not_done(id, step).await,
            })
        })
    }

    /// Lets a mutation of steps go on. Returns whether there was one that is not completed.
    pub(super) async fn resume_steps(&self, id: &RequestIdentity) -> Result<Result<bool, Error>, StoreError> {
        with_database!(self, NO_STEPS, |store| {
            let idem = Idempotency::builder(store.clone()).build();
            Ok(idem.resume_steps(id).await)
        })
    }
}
