//! What an operator changes. Each change names what was looked at, so that something else is left alone, and is logged.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use oneflight::RequestIdentity;
use oneflight::idempotency::{Error, ErrorKind, Resolution, Resolved};
use oneflight::record::FencingToken;
use oneflight::store::outbox::{Cancelled, MessageId, MessageQuery, MessageState};
use serde::{Deserialize, Serialize};

use super::guard::Operator;
use super::problem::Problem;
use super::shared::{self, Shared};
use super::source::Source;
use super::typed;
use crate::desk::{AsTyped, job};
use crate::store::told;

pub(super) type Body<T> = Result<Json<T>, JsonRejection>;
pub(super) type Changed = Result<Json<Done>, Problem>;

/// What became of a change, in a sentence.
#[derive(Serialize)]
pub(super) struct Done {
    message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resolve {
    scope: String,
    key: String,
    /// The token of the attempt that was looked at.
    token: String,
    how: How,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum How {
    /// It was not done.
    Rerun,
    /// It was done: this is the answer that the HTTP layer, or the proxy, gives.
    Answered(typed::Answer),
    /// It was done: this is what the call returns, in JSON.
    Recorded { json: String },
    /// It waits for a decision.
    Hold,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Letter {
    id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Topic {
    topic: String,
}

/// A change that is asked for: by whom, which, and of what, as the log has it.
pub(super) struct Asked {
    operator: Operator,
    change: &'static str,
    /// Without the key of a request.
    what: String,
}

impl Asked {
    pub(super) fn new(operator: Operator, change: &'static str, what: impl ToString) -> Self {
        Self {
            operator,
            change,
            what: what.to_string(),
        }
    }

    /// Makes the change, and tells the log what it came to. Who asked may go away meanwhile: it is made and logged all the same.
    pub(super) async fn make(
        self,
        shared: Arc<Shared>,
        made: impl Future<Output = Result<&'static str, Problem>> + Send + 'static,
    ) -> Changed {
        let made = shared.changes.spawn(async move {
            let made = made.await;
            let (operator, change, what) = (self.operator.0, self.change, self.what);
            match &made {
                Ok(outcome) => tracing::info!(operator, change, what, outcome, "an operator changed something"),
                Err(problem) => {
                    let (kind, outcome) = (problem.kind(), problem.message());
                    tracing::warn!(
                        operator,
                        change,
                        what,
                        kind,
                        outcome,
                        "what an operator asked for was not done"
                    );
                }
            }
            made
        });
        match made.await {
            Ok(made) => made.map(|message| {
                Json(Done {
                    message: message.to_owned(),
                })
            }),
            Err(error) => {
                tracing::error!(%error, "a change broke off");
                let message = "it broke off, and may have been made all the same; look again";
                Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "broken", message))
            }
        }
    }
}

pub(super) fn taken<T>(body: Body<T>) -> Result<T, Problem> {
    // The words of the rejection may quote what was sent, to who sent it.
    body.map(|Json(body)| body)
        .map_err(|rejection| Problem::new(rejection.status(), "invalid", rejection.body_text()))
}

pub(super) fn identity(scope: &str, key: &str) -> Result<RequestIdentity, Problem> {
    RequestIdentity::from_stored(scope, key).map_err(|error| Problem::invalid(error.to_string()))
}

pub(super) async fn resolve(
    State(shared): shared::State,
    Extension(operator): Extension<Operator>,
    body: Body<Resolve>,
) -> Changed {
    let asked = taken(body)?;
    let id = identity(&asked.scope, &asked.key)?;
    let token = token(&asked.token)?;
    let change = match &asked.how {
        How::Hold => "hold",
        How::Rerun => "free",
        How::Answered(_) => "record an answer",
        How::Recorded { .. } => "record a value",
    };
    let (by, held) = (Asked::new(operator, change, id.redacted()), Arc::clone(&shared));
    by.make(
        held,
        async move { settled(&shared.source, &id, token, asked.how).await },
    )
    .await
}

async fn settled(
    source: &Source,
    id: &RequestIdentity,
    token: FencingToken,
    how: How,
) -> Result<&'static str, Problem> {
    match source.record(id).await? {
        None => {
            return Err(Problem::changed(
                "there is no such request any more: it was freed, or rolled back",
            ));
        }
        Some(record) if record.result().is_some() => {
            return Err(Problem::changed("it was completed meanwhile, and was left as it is"));
        }
        Some(record) if record.token != token => {
            return Err(Problem::changed("another attempt has it by now; look again"));
        }
        Some(_) => {}
    }
    let resolved = match how {
        How::Hold => {
            return match source.hold(id, token).await? {
                true => Ok("It is held: no call takes it over until it is settled here."),
                false => Err(Problem::changed(
                    "it has changed meanwhile, and was left as it is; look again",
                )),
            };
        }
        How::Rerun => source.resolve(id, Resolution::Rerun).await,
        How::Answered(answer) => {
            let answer = answer.read()?;
            is_fit(source, id, None).await?;
            source.resolve_answered(id, answer).await
        }
        How::Recorded { json } => {
            let json = typed::json(&json)?;
            is_fit(source, id, Some(&json)).await?;
            let value = Resolution::completed_with(&AsTyped, &json);
            let value = value.map_err(|error| Problem::invalid(error.to_string()))?;
            source.resolve(id, value).await
        }
    };
    match resolved.map_err(failed)? {
        Resolved::Recorded => Ok("It is recorded: every call is answered with this from now on."),
        Resolved::Freed => Ok("The key is free: the next call with it runs the work."),
        Resolved::AlreadyCompleted => Err(Problem::changed("it was completed meanwhile, and was left as it is")),
        Resolved::Absent => Err(Problem::changed("there is no such request any more")),
        _ => Err(Problem::changed("it was left as it is")),
    }
}

/// Sees that a job of `exec` can end with this: with JSON, or an answer of HTTP.
async fn is_fit(source: &Source, id: &RequestIdentity, json: Option<&[u8]>) -> Result<(), Problem> {
    let Some(misfit) = job::misfit(json) else { return Ok(()) };
    let correlation_id = source.correlation_id(id).await?;
    match job::is_one(id.scope(), correlation_id.as_ref()) {
        true => Err(Problem::invalid(misfit)),
        false => Ok(()),
    }
}

pub(super) fn token(text: &str) -> Result<FencingToken, Problem> {
    let token = text.parse().map(FencingToken::new);
    token.map_err(|_| Problem::invalid("the token is a number"))
}

pub(super) fn failed(error: Error) -> Problem {
    match error.kind() {
        ErrorKind::InProgress { .. } => Problem::changed("its holder is alive: wait until its lease is over"),
        ErrorKind::InDoubt { .. } => Problem::changed("another attempt has ended in doubt meanwhile; look again"),
        _ => {
            let id = error.identity().redacted();
            tracing::warn!(%id, error = told(&error), "a change failed");
            let message = "it failed, and may have been made all the same; the dashboard's log says how. Look again";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store", message)
        }
    }
}

fn message_id(letter: &Letter) -> Result<MessageId, Problem> {
    let id = letter.id.parse().map(MessageId::new);
    id.map_err(|_| Problem::invalid("a message's id is a number"))
}

pub(super) async fn redrive(
    State(shared): shared::State,
    Extension(operator): Extension<Operator>,
    body: Body<Letter>,
) -> Changed {
    let id = message_id(&taken(body)?)?;
    let (by, held) = (Asked::new(operator, "redrive", id), Arc::clone(&shared));
    by.make(held, async move {
        match shared.source.redrive(id).await? {
            true => Ok("It is tried again, as if for the first time."),
            false => Err(Problem::changed("it is no dead letter any more")),
        }
    })
    .await
}

pub(super) async fn cancel(
    State(shared): shared::State,
    Extension(operator): Extension<Operator>,
    body: Body<Letter>,
) -> Changed {
    let id = message_id(&taken(body)?)?;
    let (by, held) = (Asked::new(operator, "cancel", id), Arc::clone(&shared));
    by.make(held, async move {
        // The page offers it for dead letters alone: one that was redriven meanwhile is on its way again.
        if !is_dead(&shared.source, id).await? {
            return Err(Problem::changed("it is no dead letter any more"));
        }
        match shared.source.cancel(id).await? {
            Cancelled::Cancelled => Ok("It is cancelled, and will not be delivered."),
            Cancelled::TooLate => Err(Problem::changed("it is too late: a relay has it, or it has ended")),
        }
    })
    .await
}

async fn is_dead(source: &Source, id: MessageId) -> Result<bool, Problem> {
    let query = MessageQuery {
        id: Some(id),
        limit: 1,
        ..MessageQuery::default()
    };
    let found = source.messages(query).await?;
    Ok(found.first().is_some_and(|message| message.state == MessageState::Dead))
}

/// A topic is a name of ours, and short.
fn topic(body: Body<Topic>) -> Result<String, Problem> {
    let Topic { topic } = taken(body)?;
    match topic.is_empty() || topic.len() > 255 || topic.contains(char::is_control) {
        true => Err(Problem::invalid("a topic has 1 to 255 bytes, and no control character")),
        false => Ok(topic),
    }
}

pub(super) async fn pause(
    State(shared): shared::State,
    Extension(operator): Extension<Operator>,
    body: Body<Topic>,
) -> Changed {
    let topic = topic(body)?;
    // What was paused so before can be resumed.
    if topic.contains(['*', '?']) {
        let told = "that is a pattern of topics, and nothing has it as its topic: pause each by its whole name";
        return Err(Problem::invalid(told));
    }
    let (by, held) = (Asked::new(operator, "pause", &topic), Arc::clone(&shared));
    by.make(held, async move {
        Ok(match shared.source.pause(&topic).await? {
            true => "It is paused. A relay learns of it with its next sign of life.",
            false => "It was paused before.",
        })
    })
    .await
}

pub(super) async fn resume(
    State(shared): shared::State,
    Extension(operator): Extension<Operator>,
    body: Body<Topic>,
) -> Changed {
    let topic = topic(body)?;
    let (by, held) = (Asked::new(operator, "resume", &topic), Arc::clone(&shared));
    by.make(held, async move {
        Ok(match shared.source.resume(&topic).await? {
            true => "It is resumed: relays deliver it again.",
            false => "It was not paused.",
        })
    })
    .await
}
