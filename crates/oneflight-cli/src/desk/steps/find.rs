//! The steps that are recorded of a request.

use oneflight::RequestIdentity;
use oneflight::store::{StepStore, WorkflowRecord};

use crate::desk::request::Named;
use crate::exit::{Code, Failure};
use crate::store::{AnyStore, unreachable};

/// Returns the steps that are recorded of a request: none where the store keeps none.
pub(in crate::desk) async fn recorded(
    store: &AnyStore,
    id: &RequestIdentity,
) -> Result<Option<WorkflowRecord>, Failure> {
    let loaded = match store {
        AnyStore::Sqlite(store) => store.load_steps(id).await,
        AnyStore::Postgres(store) => store.load_steps(id).await,
        AnyStore::Redis(_) => Ok(None),
    };
    loaded.map_err(unreachable)
}

/// Finds a mutation of steps.
pub(super) async fn find(store: &AnyStore, request: &Named) -> Result<(RequestIdentity, WorkflowRecord), Failure> {
    let entry = request.find(store).await?;
    match recorded(store, &entry.id).await? {
        Some(known) => Ok((entry.id, known)),
        None => {
            let told = format!(
                "{} has no recorded steps: it was not begun by run_steps; see oneflight records show",
                entry.id
            );
            Err(Failure::new(Code::No, told))
        }
    }
}
