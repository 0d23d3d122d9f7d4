//! Shows all that is known of a request: its record, its steps, and the messages that it sent.

use std::collections::BTreeMap;

use oneflight::RequestIdentity;
use oneflight::correlation::CorrelationId;
use oneflight::store::outbox::{MessageEntry, MessageQuery, MessageState, OutboxUpkeep};
use oneflight::store::{RecordEntry, StoreError};
use serde::Serialize;

use crate::desk::request::{Named, correlated};
use crate::desk::steps::{StepsView, recorded};
use crate::desk::view::{Bodies, RecordView};
use crate::exit::{Code, Failure};
use crate::output::{self, Form, counted, duration, fields, millis};
use crate::store::{Address, AnyStore, Tables, unreachable};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The idempotency key, whole
    #[arg(required_unless_present = "correlation_id", conflicts_with = "correlation_id")]
    key: Option<String>,
    /// The scope in its canonical form, or a beginning of it that ends where one of its parts does. It may be left out if the key is in
    /// one scope only
    #[arg(long)]
    scope: Option<String>,
    /// In place of the key: the id of the request that claimed
    #[arg(long, value_name = "ID")]
    correlation_id: Option<CorrelationId>,
    /// Show the key under which a part of the work is known to what it calls: the name that the work gives to `downstream_key`
    #[arg(long, value_name = "NAME")]
    downstream: Vec<String>,
    /// Show the answers themselves, of the request and of its steps
    #[arg(long)]
    body: bool,
}

/// All that is known of a request.
#[derive(Serialize)]
struct Story {
    record: RecordView,
    /// The keys under which parts of the work are known to what they call, as far as they were asked for.
    downstream_keys: BTreeMap<String, String>,
    steps: Option<StepsView>,
    messages: Vec<MessageView>,
}

/// A message that the request has sent.
#[derive(Serialize)]
struct MessageView {
    id: i64,
    topic: String,
    key: String,
    ordering_key: Option<String>,
    /// `waiting`, `parked`, `dead` or `ended`.
    state: &'static str,
    attempts: u32,
    age_ms: u64,
    error: Option<String>,
}

/// How many messages of a request are shown at most.
const MESSAGES: usize = 100;

pub(super) async fn run(store: &Address, form: Form, args: Args) -> Result<(), Failure> {
    let store = store.open(Tables::Leave).await?;
    let bodies = match args.body {
        true => Bodies::Shown,
        false => Bodies::Hidden,
    };
    let entry = match (args.key, args.correlation_id) {
        (Some(key), _) => Named::new(key, args.scope).find(&store).await?,
        (None, Some(id)) => only(correlated(&store, &id, args.scope).await?, &id)?,
        (None, None) => {
            return Err(Failure::new(
                Code::Usage,
                "which request? Name its key, or its --correlation-id",
            ));
        }
    };
    let steps = recorded(&store, &entry.id).await?;
    let messages = match &entry.correlation_id {
        Some(id) => messages(&store, id).await?,
        None => Vec::new(),
    };
    let story = Story {
        record: RecordView::of(&entry, bodies),
        downstream_keys: args
            .downstream
            .into_iter()
            .map(|name| (name.clone(), entry.id.downstream_key(&name)))
            .collect(),
        steps: steps.map(|known| StepsView::of(&entry.id, &known, bodies)),
        messages,
    };
    output::either(form, &story, || text(&entry.id, &story))
}

fn only(mut found: Vec<RecordEntry>, id: &CorrelationId) -> Result<RecordEntry, Failure> {
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(Failure::new(
            Code::No,
            format!("there is no record that a request {id} has claimed"),
        )),
        _ => {
            let ids: Vec<_> = found.iter().map(|entry| format!("  {}", entry.id)).collect();
            let told = format!(
                "the request {id} has claimed several; name the key of one of\n{}",
                ids.join("\n")
            );
            Err(Failure::new(Code::Usage, told))
        }
    }
}

/// Returns the messages that were sent under a correlation id, where messages are kept.
async fn messages(store: &AnyStore, id: &CorrelationId) -> Result<Vec<MessageView>, Failure> {
    let query = MessageQuery {
        correlation_id: Some(id.clone()),
        limit: MESSAGES,
        ..MessageQuery::default()
    };
    let found = match store {
        AnyStore::Sqlite(store) => store.messages(query).await,
        AnyStore::Postgres(store) => store.messages(query).await,
        AnyStore::Redis(_) => return Ok(Vec::new()),
    };
    match found {
        Ok(found) => Ok(found.iter().map(MessageView::of).collect()),
        Err(StoreError::Unsupported { .. }) => Ok(Vec::new()),
        Err(error) => Err(unreachable(error)),
    }
}

impl MessageView {
    fn of(message: &MessageEntry) -> Self {
        Self {
            id: message.id.get(),
            topic: message.topic.to_string(),
            key: message.key.to_string(),
            ordering_key: message.ordering_key.as_ref().map(ToString::to_string),
            state: match message.state {
                MessageState::Waiting => "waiting",
                MessageState::Parked => "parked",
                MessageState::Dead => "dead",
                MessageState::Ended => "ended",
                _ => "unknown",
            },
            attempts: message.attempts,
            age_ms: millis(message.age),
            error: message.error.clone(),
        }
    }
}

fn text(id: &RequestIdentity, story: &Story) -> String {
    let record = &story.record;
    let http = record.result.as_ref().and_then(|result| result.http.as_ref());
    let is_erased = record.result.as_ref().is_some_and(|result| result.kind == "erased");
    let mut text = fields(&[
        ("key", Some(record.key.clone())),
        ("scope", Some(record.scope.clone())),
        ("state", Some(record.told())),
        ("attempt", Some(record.attempt.to_string())),
        ("token", Some(record.token.to_string())),
        ("holder", Some(record.holder.clone())),
        (
            "fingerprint",
            Some(record.fingerprint.clone().unwrap_or_else(|| "none".to_owned())),
        ),
        ("correlation id", record.correlation_id.clone()),
        ("claimed", record.claimed.clone()),
        ("in doubt since", record.in_doubt_since.clone()),
        ("completed", record.completed.clone()),
        ("kept until", record.expires.clone()),
        ("answer", record.result.as_ref().map(|result| result.told())),
        ("answered", http.map(|http| http.answered.clone())),
        (
            "body",
            http.filter(|_| !is_erased).map(|http| match http.body_bytes {
                Some(bytes) => counted(bytes, "byte"),
                None => "not kept: it was too large, streamed or secret".to_owned(),
            }),
        ),
    ]);
    for (name, key) in &story.downstream_keys {
        text.push_str(&output::visible(&format!("\n{name} is known downstream by {key}")));
    }
    for (name, value) in http.into_iter().flat_map(|http| &http.headers) {
        text.push_str(&output::visible(&format!("\n  {name}: {value}")));
    }
    let shown = record.result.as_ref().and_then(|result| result.shown());
    if let Some(shown) = shown {
        text.push_str("\n\n");
        text.push_str(&output::visible(shown));
    }
    if let Some(steps) = &story.steps {
        text.push_str(&format!("\n\n{}", steps.text()));
    }
    if !story.messages.is_empty() {
        let columns = ["MESSAGE", "TOPIC", "STATE", "ATTEMPTS", "AGE", "ERROR"];
        text.push_str("\n\n");
        text.push_str(&output::table(&columns, &story.messages, |message| {
            vec![
                message.id.to_string(),
                message.topic.clone(),
                message.state.to_owned(),
                message.attempts.to_string(),
                duration(std::time::Duration::from_millis(message.age_ms)),
                message.error.clone().unwrap_or_default(),
            ]
        }));
    }
    if record.state == "in-doubt" {
        text.push_str(&advice(id, story));
    }
    text
}

/// What to do about a request that is in doubt.
fn advice(id: &RequestIdentity, story: &Story) -> String {
    let waits = story.steps.as_ref().map(|steps| !steps.open().is_empty());
    let what = match waits {
        Some(true) => {
            "A step has not told whether it was done. Find out, then say so by `oneflight steps settle`, and let the \
                       mutation go on by `oneflight steps resume`."
        }
        Some(false) if story.record.held => {
            "It is held, and its finished steps are recorded. Let it go on by `oneflight steps resume`, or give it up by `oneflight \
             records resolve`."
        }
        Some(false) => "Nobody has to decide: the next call, or a completer, goes on behind its last step.",
        None => {
            "Nobody knows whether it was done. Find out at what its work calls (a call that was cut off may still land), then say so \
                 by `oneflight records resolve`: --answer or --status if it was done, --not-done if it was not."
        }
    };
    format!("\n\n{} is in doubt. {what}", id)
}
