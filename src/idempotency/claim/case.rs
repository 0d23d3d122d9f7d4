//! What all states of a claim share.

use std::sync::Arc;

use tokio::runtime::Handle;

use crate::idempotency::error::{Error, ErrorKind};
use crate::idempotency::shared::Shared;
use crate::identity::RequestIdentity;
use crate::timer;

/// A request, the store that is asked about it, and the runtime on which its flight began. Cloning is cheap.
pub(in crate::idempotency) struct Case<S> {
    pub(super) shared: Arc<Shared<S>>,
    pub(super) id: RequestIdentity,
    pub(super) runtime: Handle,
}

impl<S> Case<S> {
    /// The case of a request, on the runtime that polls this.
    pub(in crate::idempotency) fn open(shared: &Arc<Shared<S>>, id: &RequestIdentity) -> Result<Self, Error> {
        let runtime = timer::runtime().map_err(|source| ErrorKind::Flight(source).of(id))?;
        Ok(Self {
            shared: Arc::clone(shared),
            id: id.clone(),
            runtime,
        })
    }
}

impl<S> Clone for Case<S> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            id: self.id.clone(),
            runtime: self.runtime.clone(),
        }
    }
}
