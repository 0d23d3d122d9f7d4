//! What came of a call or of an operation, as JavaScript is told.

use napi_derive::napi;
use oneflight::{Effect, Reply};

use crate::failure::Failure;
use crate::text::Answer;

/// What came of a call.
#[napi(object)]
pub struct Settled {
    /// JSON.
    pub value: Option<String>,
    pub origin: Option<String>,
    pub attempt: Option<u32>,
    /// Whether the work refused for good: a service of Rust can keep such an answer.
    pub declined: Option<bool>,
    pub failure: Option<Failure>,
}

/// What came of an operation that has a word or a number for its answer.
#[napi(object)]
pub struct Done {
    pub word: Option<String>,
    pub count: Option<u32>,
    pub failure: Option<Failure>,
}

pub(crate) fn settled(reply: std::result::Result<Reply<Answer>, Failure>) -> Settled {
    let failed = |failure| Settled {
        value: None,
        origin: None,
        attempt: None,
        declined: None,
        failure: Some(failure),
    };
    match reply {
        Err(failure) => failed(failure),
        Ok(reply) => match reply.value() {
            Answer::Text(json) => Settled {
                value: Some(json.clone()),
                origin: Some(reply.origin().as_str().to_owned()),
                attempt: Some(reply.attempt()),
                declined: Some(reply.is_declined()),
                failure: None,
            },
            // Its encoding fails before.
            Answer::NotJson(why) => failed(Failure::new("ValueNotJson", Effect::Done, why.as_str())),
        },
    }
}

impl Done {
    pub(crate) fn of(word: Option<String>, count: Option<u32>) -> Self {
        Self {
            word,
            count,
            failure: None,
        }
    }
}

pub(crate) async fn done(operation: impl Future<Output = std::result::Result<Done, Failure>>) -> Done {
    operation.await.unwrap_or_else(|failure| Done {
        word: None,
        count: None,
        failure: Some(failure),
    })
}
