//! How an attempt at a mutation of steps is begun: by a call, or by a completer.

use std::sync::Arc;

use tokio::sync::watch;

use crate::idempotency::workflow::Workflow;
use crate::record::{FencingToken, RecordedResult};
use crate::store::{StartedBy, WorkflowStart};

/// How an attempt is begun.
pub(in crate::idempotency) struct Start {
    pub(super) workflow: Arc<Workflow>,
    pub(super) asked: WorkflowStart,
    /// The one holder from which the claim may be taken over, if it is for a completer.
    pub(super) only: Option<FencingToken>,
    pub(super) stop: Option<watch::Receiver<bool>>,
}

/// How a completer begins an attempt at what it has found: from that holder only.
pub(in crate::idempotency) fn start(
    workflow: &Arc<Workflow>,
    only: FencingToken,
    stop: watch::Receiver<bool>,
) -> Start {
    Start {
        workflow: Arc::clone(workflow),
        // What it goes on with has an input, and this is not used.
        asked: asked(workflow, RecordedResult::not_encodable(), StartedBy::Completer),
        only: Some(only),
        stop: Some(stop),
    }
}

pub(super) fn asked(workflow: &Workflow, input: RecordedResult, by: StartedBy) -> WorkflowStart {
    WorkflowStart {
        name: workflow.name.clone(),
        version: workflow.version.clone(),
        accepts: workflow.accepts.clone(),
        input,
        steps: Vec::new(),
        by,
    }
}
