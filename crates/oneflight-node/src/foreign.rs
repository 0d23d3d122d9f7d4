//! A request in a transaction of the user's own driver: statements go out, answers come back, and JavaScript runs both between.

use std::sync::Arc;

use napi::bindgen_prelude::{Buffer, Object};
use napi::{Env, Result};
use napi_derive::napi;
use oneflight::Effect;
use oneflight::correlation::CorrelationId;
use oneflight::idempotency::{Context, Decided, Foreign as Execution};
use oneflight::outbox::{Message, SendError, SendErrorKind, Sent, TraceParent};
use oneflight::store::{DynStore, ForeignStatement};

use crate::correlation;
use crate::failure::Failure;
use crate::options::duration;
use crate::pool::Lease;
use crate::runtime::{self, promise};
use crate::settled::{Done, Settled, done, settled};
use crate::text::{Answer, Text};

/// A statement for the user's driver. Its values are text.
#[napi(object)]
pub struct Statement {
    pub text: String,
    pub values: Vec<String>,
}

/// What comes of one step: statements to run, an answer for the caller, or a failure.
#[napi(object)]
pub struct Step {
    pub statements: Option<Vec<Statement>>,
    pub settled: Option<Settled>,
    pub failure: Option<Failure>,
}

/// A message of the outbox, as JavaScript says it. `index.d.ts` documents each part.
#[napi(object)]
pub struct Outgoing {
    pub topic: String,
    pub payload: Buffer,
    pub content_type: String,
    pub step: Option<String>,
    pub key: Option<String>,
    pub ordering_key: Option<String>,
    /// Names and values by turns.
    pub headers: Vec<String>,
    pub correlation_id: Option<String>,
    pub trace_parent: Option<String>,
    pub delay_ms: Option<f64>,
    pub expires_after_ms: Option<f64>,
}

impl Outgoing {
    fn message(self) -> std::result::Result<Message, Failure> {
        let invalid =
            |error: &dyn std::fmt::Display| Failure::new("InvalidArgument", Effect::Nothing, error.to_string());
        let mut message = Message::bytes(self.topic, self.content_type, self.payload.to_vec());
        if let Some(step) = self.step {
            message = message.step(step);
        }
        if let Some(key) = self.key {
            message = message.key(key);
        }
        if let Some(key) = self.ordering_key {
            message = message.ordering_key(key);
        }
        if let Some(id) = self.correlation_id {
            message = message.correlation_id(CorrelationId::new(id).map_err(|error| invalid(&error))?);
        }
        if let Some(parent) = self.trace_parent {
            message = message.trace_parent(TraceParent::new(parent).map_err(|error| invalid(&error))?);
        }
        if let Some(delay) = self.delay_ms {
            message = message.not_before(duration(delay));
        }
        if let Some(limit) = self.expires_after_ms {
            message = message.expires_after(duration(limit));
        }
        for header in self.headers.chunks_exact(2) {
            message = message.header(&*header[0], &*header[1]);
        }
        Ok(message)
    }
}

/// What became of a message.
#[napi(object)]
pub struct Posted {
    /// In decimal digits: it has 64 bits.
    pub id: Option<String>,
    pub is_duplicate: Option<bool>,
    pub failure: Option<Failure>,
}

/// What makes an execution in a transaction of the user's, or why there is none.
#[napi(object, object_from_js = false)]
pub struct Began {
    pub foreign: Option<Foreign>,
    pub failure: Option<Failure>,
}

/// One execution in a transaction of the user's.
#[napi]
pub struct Foreign {
    execution: Arc<Execution<DynStore, Text>>,
    context: Option<Context>,
    correlation: Option<CorrelationId>,
    /// The store stays open until this is over. It may be long before this is collected.
    lease: Option<Arc<Lease>>,
}

impl Foreign {
    pub(crate) fn new(
        execution: Execution<DynStore, Text>,
        correlation: Option<CorrelationId>,
        lease: Arc<Lease>,
    ) -> Self {
        Self {
            execution: Arc::new(execution),
            context: None,
            correlation,
            lease: Some(lease),
        }
    }

    /// Returns the execution, which nothing waits for before the work is over.
    fn own(&mut self) -> std::result::Result<&mut Execution<DynStore, Text>, Failure> {
        Arc::get_mut(&mut self.execution).ok_or_else(|| Failure::defect("a transaction is used after its end"))
    }
}

#[napi]
impl Foreign {
    /// Returns what is run first, of a call that is made inside of so many others in its transaction.
    #[napi(catch_unwind)]
    pub fn begin(&mut self, depth: u32) -> Vec<Statement> {
        if let Ok(execution) = self.own() {
            execution.nest(depth);
        }
        statements(self.execution.begin())
    }

    /// Decides by the answer: statements if the work is to be run, or what the caller is told.
    #[napi(catch_unwind)]
    pub fn decide(&mut self, answer: Option<String>) -> Result<Step> {
        // The store may have to write something of its own.
        let _runtime = runtime::handle()?.enter();
        let decided = self
            .own()
            .and_then(|execution| Ok(execution.decide::<Answer>(answer.as_deref().unwrap_or_default())?));
        Ok(match decided {
            Ok(Decided::Granted(run)) => Step::run(run),
            Ok(Decided::Replayed(reply)) => Step::settled(settled(Ok(reply))),
            Err(failure) => Step::failed(failure),
        })
    }

    /// Returns what tells the transaction from all others that are open, if that is known by now.
    #[napi(getter, catch_unwind)]
    pub fn transaction(&self) -> Option<String> {
        self.execution.transaction().map(str::to_owned)
    }

    /// Takes the answer to the statements of a grant.
    #[napi(catch_unwind)]
    pub fn claimed(&mut self, answer: Option<String>) -> Option<Failure> {
        let claimed = self
            .own()
            .and_then(|execution| Ok(execution.claimed(answer.as_deref())?));
        match claimed {
            Ok(context) => {
                self.context = Some(context);
                None
            }
            Err(failure) => Some(failure),
        }
    }

    /// Returns what sends a message with the commit.
    #[napi(catch_unwind)]
    pub fn send(&mut self, message: Outgoing) -> Result<Step> {
        // The store may begin to tell other processes of messages.
        let _runtime = runtime::handle()?.enter();
        let correlation = self.correlation.clone();
        let sent = message.message().and_then(|message| {
            let execution = self.own()?;
            correlation::within(correlation.as_ref(), || execution.send(message)).map_err(|error| unsent(&error))
        });
        Ok(sent.map_or_else(Step::failed, Step::run))
    }

    /// Takes the answer to these statements.
    #[napi(catch_unwind)]
    pub fn sent(&self, answer: Option<String>) -> Posted {
        let (id, is_duplicate) = match self.execution.sent(answer.as_deref()) {
            Ok(Sent::New(id)) => (id, false),
            Ok(Sent::Duplicate(id)) => (id, true),
            Err(error) => {
                return Posted {
                    id: None,
                    is_duplicate: None,
                    failure: Some(unsent(&error)),
                };
            }
        };
        Posted {
            id: Some(id.to_string()),
            is_duplicate: Some(is_duplicate),
            failure: None,
        }
    }

    /// Returns what records the value of the work, which is JSON.
    #[napi(catch_unwind)]
    pub fn record(&self, json: String) -> Step {
        match self.execution.record(&Answer::Text(json)) {
            Ok(run) => Step::run(run),
            Err(error) => Step::failed(error.into()),
        }
    }

    /// Takes the answer to these statements. Returns what is run last.
    #[napi(catch_unwind)]
    pub fn recorded(&self, answer: Option<String>) -> Step {
        match self.execution.recorded(answer.as_deref()) {
            Ok(run) => Step::run(run),
            Err(error) => Step::failed(error.into()),
        }
    }

    /// Returns what undoes all since the grant, unless the transaction is over.
    #[napi(catch_unwind)]
    pub fn undo(&self) -> Vec<Statement> {
        statements(self.execution.undo())
    }

    /// The failure of work that has ended the transaction.
    #[napi(catch_unwind)]
    pub fn ended(&self) -> Failure {
        self.execution.ended().into()
    }

    /// Asks whether the work has ended the transaction, once it could not be undone: the count is 1 if so.
    #[napi(catch_unwind)]
    pub fn is_ended<'env>(&self, env: &'env Env, failed: bool) -> Result<Object<'env>> {
        let (execution, lease) = (Arc::clone(&self.execution), self.lease.clone());
        promise(
            env,
            done(async move {
                let count = u32::from(execution.is_ended(failed).await);
                drop(lease);
                Ok(Done::of(None, Some(count)))
            }),
        )
    }

    /// Leaves the request in doubt.
    #[napi(catch_unwind)]
    pub fn hold<'env>(&self, env: &'env Env) -> Result<Object<'env>> {
        let (execution, lease) = (Arc::clone(&self.execution), self.lease.clone());
        promise(
            env,
            done(async move {
                execution.hold().await;
                drop(lease);
                Ok(Done::of(None, None))
            }),
        )
    }

    /// Says that nothing more is run. What is asked of the store still keeps it open.
    #[napi(catch_unwind)]
    pub fn over(&mut self) {
        self.lease = None;
    }

    /// Returns the number of this attempt.
    #[napi(getter, catch_unwind)]
    pub fn attempt(&self) -> u32 {
        self.context.as_ref().map_or(1, Context::attempt)
    }

    /// Returns the scope in its canonical form.
    #[napi(getter, catch_unwind)]
    pub fn scope(&self) -> Option<String> {
        self.context.as_ref().map(|context| context.id().scope().to_owned())
    }

    /// Returns the idempotency key.
    #[napi(getter, catch_unwind)]
    pub fn key(&self) -> Option<String> {
        self.context.as_ref().map(|context| context.id().key().to_owned())
    }

    /// Returns the correlation id of the call.
    #[napi(getter, catch_unwind)]
    pub fn correlation_id(&self) -> Option<String> {
        self.correlation.as_ref().map(ToString::to_string)
    }

    /// Returns whether the claim is lost: a transaction has none to lose.
    #[napi(getter, catch_unwind)]
    pub fn is_lease_lost(&self) -> bool {
        false
    }

    /// Returns the key to send downstream for a step.
    #[napi(catch_unwind)]
    pub fn downstream_key(&self, step: String) -> Option<String> {
        self.context.as_ref().map(|context| context.downstream_key(step))
    }
}

impl Step {
    fn run(run: Vec<ForeignStatement>) -> Self {
        Self {
            statements: Some(statements(run)),
            settled: None,
            failure: None,
        }
    }

    fn settled(settled: Settled) -> Self {
        Self {
            statements: None,
            settled: Some(settled),
            failure: None,
        }
    }

    fn failed(failure: Failure) -> Self {
        Self {
            statements: None,
            settled: None,
            failure: Some(failure),
        }
    }
}

fn unsent(error: &SendError) -> Failure {
    let code = match error.kind() {
        SendErrorKind::Store(_) => "StoreFailed",
        _ => "InvalidArgument",
    };
    Failure::new(code, Effect::Nothing, error.to_string())
}

fn statements(run: Vec<ForeignStatement>) -> Vec<Statement> {
    let statement = |ForeignStatement { text, values }| Statement { text, values };
    run.into_iter().map(statement).collect()
}
