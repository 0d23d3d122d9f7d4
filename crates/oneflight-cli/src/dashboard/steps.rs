//! What an operator says of the steps of a mutation: what became of one that has not told, and that the mutation is to go on.

use axum::extract::{Extension, State};
use oneflight::RequestIdentity;
use oneflight::record::FencingToken;
use oneflight::store::{StepId, WorkflowRecord};
use serde::Deserialize;

use super::change::{Asked, Body, Changed, failed, identity, taken, token};
use super::guard::Operator;
use super::problem::Problem;
use super::rows::StepState;
use super::shared;
use super::source::Source;
use super::typed;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resume {
    scope: String,
    key: String,
    /// The token of the attempt that was looked at.
    token: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settle {
    scope: String,
    key: String,
    /// The token of the attempt that was looked at.
    token: String,
    step: String,
    /// Of several steps of one name.
    #[serde(default)]
    step_key: String,
    how: How,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum How {
    /// The next attempt runs it.
    NotDone,
    /// This is its answer, in JSON.
    Done { json: String },
}

pub(super) async fn resume(
    State(shared): shared::State,
    Extension(operator): Extension<Operator>,
    body: Body<Resume>,
) -> Changed {
    let asked = taken(body)?;
    let id = identity(&asked.scope, &asked.key)?;
    let token = token(&asked.token)?;
    let (by, held) = (Asked::new(operator, "resume steps", id.redacted()), shared.clone());
    by.make(held, async move {
        known(&shared.source, &id, token).await?;
        match shared.source.resume_steps(&id).await?.map_err(failed)? {
            true => Ok("It goes on behind its last recorded step, with the next call or the next try of a completer."),
            false => Err(Problem::changed("there is no such mutation that is not completed")),
        }
    })
    .await
}

pub(super) async fn settle(
    State(shared): shared::State,
    Extension(operator): Extension<Operator>,
    body: Body<Settle>,
) -> Changed {
    let asked = taken(body)?;
    let id = identity(&asked.scope, &asked.key)?;
    let token = token(&asked.token)?;
    let (change, answer) = match &asked.how {
        How::NotDone => ("free a step", None),
        How::Done { json } => ("record a step", Some(typed::json(json)?)),
    };
    let step = StepId::new(asked.step, asked.step_key);
    // The key of a step may be a customer's, as that of a request.
    let what = format!("{} of {}", step.name(), id.redacted());
    let (by, held) = (Asked::new(operator, change, what), shared.clone());
    by.make(held, async move {
        let known = known(&shared.source, &id, token).await?;
        is_open(&known, &step, answer.is_some())?;
        match shared
            .source
            .settle_step(&id, &step, answer.as_ref())
            .await?
            .map_err(failed)?
        {
            true if answer.is_some() => {
                Ok("It is recorded, and is not done again. The mutation stays held until it is resumed.")
            }
            true => Ok("The next attempt runs it. The mutation stays held until it is resumed."),
            false => Err(Problem::changed(
                "it has changed meanwhile, and was left as it is; look again",
            )),
        }
    })
    .await
}

/// Returns the mutation, if it is the attempt that was looked at.
async fn known(source: &Source, id: &RequestIdentity, token: FencingToken) -> Result<WorkflowRecord, Problem> {
    let known = source.steps(id).await?;
    known
        .filter(|known| known.token == token)
        .ok_or_else(|| Problem::changed("another attempt has it by now, or none; look again"))
}

/// Sees that a step waits for a person.
fn is_open(known: &WorkflowRecord, step: &StepId, is_done: bool) -> Result<(), Problem> {
    let there = known.steps.iter().find(|there| there.id == *step);
    let message = match there.map(StepState::of) {
        _ if !known.held => {
            "it is not held, so that its holder may be about to tell; hold it first: oneflight steps hold"
        }
        None => "there is no such step that was begun",
        Some(StepState::Done) => "the step has told by now, and was left as it is",
        Some(StepState::AnswerLost) if !is_done => "the step was done, and its answer is not kept: record one",
        Some(_) => return Ok(()),
    };
    Err(Problem::changed(message))
}
