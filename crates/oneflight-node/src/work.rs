//! How a closure of JavaScript becomes work, and a function of JavaScript a recovery policy.
//!
//! ```text
//! asked ──queued──▶ begun: the ticket is JavaScript's ──settle──▶ told
//!   │                  └── collected, or its thread ended ──▶ unknown
//!   └── its thread ended ──▶ never begun: nothing was done
//! ```
//!
//! The ticket holds the one end of a channel, the work future waits at the other, and for the end of the function
//! ([`callback`](crate::callback)).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use napi_derive::napi;
use oneflight::correlation::{self, CorrelationId};
use oneflight::idempotency::{Context, Doubt, NotDone, Resolution, Unfinished, Unknown};
use tokio::sync::oneshot;

use crate::callback::Callback;
use crate::text::{Answer, Text};

/// What JavaScript says.
enum Told {
    /// JSON.
    Value(String),
    /// The work was done, and its answer is not JSON. The text says what and where.
    NotJson(String),
    /// Nothing was done. The text is the error, as JSON.
    NotDone(String),
    /// It is not known what was done. The text is the error, as JSON.
    Unknown(String),
    Rerun,
    Hold,
}

/// What a closure is told of its execution, and by which it says what became of it.
#[napi]
pub struct Ticket {
    about: About,
    begun: Arc<AtomicBool>,
    told: Option<oneshot::Sender<Told>>,
}

enum About {
    Work(Context, Option<CorrelationId>),
    Doubt(Doubt),
}

#[napi]
impl Ticket {
    /// Says that what it is for begins: a thread that is being ended is still given tickets, and runs nothing.
    #[napi(catch_unwind)]
    pub fn begin(&self) {
        self.begun.store(true, SeqCst);
    }

    /// Returns the number of this attempt.
    #[napi(getter, catch_unwind)]
    pub fn attempt(&self) -> u32 {
        match &self.about {
            About::Work(context, _) => context.attempt(),
            About::Doubt(doubt) => doubt.attempt,
        }
    }

    /// Returns the scope in its canonical form.
    #[napi(getter, catch_unwind)]
    pub fn scope(&self) -> String {
        match &self.about {
            About::Work(context, _) => context.id().scope().to_owned(),
            About::Doubt(doubt) => doubt.id.scope().to_owned(),
        }
    }

    /// Returns the idempotency key.
    #[napi(getter, catch_unwind)]
    pub fn key(&self) -> String {
        match &self.about {
            About::Work(context, _) => context.id().key().to_owned(),
            About::Doubt(doubt) => doubt.id.key().to_owned(),
        }
    }

    /// Returns the key to send downstream for a step.
    #[napi(catch_unwind)]
    pub fn downstream_key(&self, step: String) -> String {
        match &self.about {
            About::Work(context, _) => context.downstream_key(step),
            About::Doubt(doubt) => doubt.downstream_key(step),
        }
    }

    /// Returns whether the claim is lost.
    #[napi(getter, catch_unwind)]
    pub fn is_lease_lost(&self) -> bool {
        match &self.about {
            About::Work(context, _) => context.is_lease_lost(),
            About::Doubt(_) => false,
        }
    }

    /// Returns the correlation id of the call whose work this is.
    #[napi(getter, catch_unwind)]
    pub fn correlation_id(&self) -> Option<String> {
        match &self.about {
            About::Work(_, correlation) => correlation.as_ref().map(ToString::to_string),
            About::Doubt(_) => None,
        }
    }

    /// Says what became of the work, or of the request in doubt. The first time counts.
    #[napi(catch_unwind)]
    pub fn settle(&mut self, how: String, text: String) {
        let told = match how.as_str() {
            "value" => Told::Value(text),
            "notJson" => Told::NotJson(text),
            "notDone" => Told::NotDone(text),
            "rerun" => Told::Rerun,
            "hold" => Told::Hold,
            _ => Told::Unknown(text),
        };
        if let Some(sender) = self.told.take() {
            // If nobody waits any more, the flight was aborted.
            let _ = sender.send(told);
        }
    }
}

/// An error that JavaScript threw, as JSON.
#[derive(Debug)]
pub(crate) struct Thrown(pub(crate) String);

impl fmt::Display for Thrown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What it says is the application's, and may have a payload in it.
        f.write_str("the closure threw an error")
    }
}

impl std::error::Error for Thrown {}

/// How a question to JavaScript ended.
enum Asked {
    Told(Told),
    /// It has begun, and will never tell.
    Lost,
    /// It has not begun, and never will.
    Gone,
}

async fn ask<const WEAK: bool>(callback: &Callback<Ticket, WEAK>, about: About) -> Asked {
    let (sender, receiver) = oneshot::channel();
    let begun = Arc::new(AtomicBool::new(false));
    let ticket = Ticket {
        about,
        begun: Arc::clone(&begun),
        told: Some(sender),
    };
    if !callback.call(ticket) {
        return Asked::Gone;
    }
    match callback.answer(receiver).await {
        Some(told) => Asked::Told(told),
        None if begun.load(SeqCst) => Asked::Lost,
        None => Asked::Gone,
    }
}

/// Runs a closure as the work of a request.
pub(crate) async fn execute(closure: Callback<Ticket, false>, context: Context) -> Result<Answer, Unfinished> {
    match ask(&closure, About::Work(context, correlation::current())).await {
        Asked::Told(Told::Value(json)) => Ok(Answer::Text(json)),
        Asked::Told(Told::NotJson(why)) => Ok(Answer::NotJson(why)),
        Asked::Told(Told::NotDone(thrown)) => Err(NotDone::because(Thrown(thrown)).into()),
        Asked::Told(Told::Unknown(thrown)) => Err(Unknown::because(Thrown(thrown)).into()),
        Asked::Told(Told::Rerun | Told::Hold) | Asked::Lost => {
            let why = "its closure will never tell: its thread ended, or the promise that it waits for is out of reach";
            Err(Unknown::because(why).into())
        }
        Asked::Gone => Err(NotDone::because("the thread of its closure ended before it had begun").into()),
    }
}

/// Asks a function what became of a request in doubt. Returns `None` if its thread has ended.
pub(crate) async fn resolve(function: &Callback<Ticket, true>, doubt: Doubt) -> Option<Resolution> {
    match ask(function, About::Doubt(doubt)).await {
        Asked::Told(Told::Value(json)) => Some(completed(json)),
        Asked::Told(Told::Rerun) => Some(Resolution::Rerun),
        Asked::Told(_) | Asked::Lost => Some(Resolution::Hold),
        Asked::Gone => None,
    }
}

/// Says that a request was done, with this result.
pub(crate) fn completed(json: String) -> Resolution {
    // Text is encoded as it is.
    Resolution::completed_with(&Text, &Answer::Text(json)).unwrap_or(Resolution::Hold)
}
