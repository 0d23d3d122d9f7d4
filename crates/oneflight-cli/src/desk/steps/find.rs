//! The steps that are recorded of a request.

use oneflight::RequestIdentity;
use oneflight::store::{StepStore, WorkflowRecord};

use super::view::StepsView;
use crate::desk::request::Named;
use crate::desk::view::Bodies;
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

/// Reads the steps once more, and sees that the mutation is as it was shown to the person who decides: the same attempt, held or not as it
/// was, and with the same steps that have not told.
pub(super) async fn unchanged(store: &AnyStore, id: &RequestIdentity, shown: &WorkflowRecord) -> Result<(), Failure> {
    let open = |known: &WorkflowRecord| StepsView::of(id, known, Bodies::Hidden).open();
    let is_same = |now: &WorkflowRecord| {
        now.token == shown.token
            && now.held == shown.held
            && now.steps.len() == shown.steps.len()
            && open(now) == open(shown)
    };
    match recorded(store, id).await? {
        Some(now) if is_same(&now) => Ok(()),
        _ => {
            let told = format!("somebody has gone on with {id} meanwhile, and nothing was changed; look at it again");
            Err(Failure::new(Code::Temporary, told))
        }
    }
}
