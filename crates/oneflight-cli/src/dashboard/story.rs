//! A record's whole story: what is known of the request, its steps and its messages, in the order in which it happened.

use std::time::Instant;

use oneflight::correlation::CorrelationId;
use oneflight::identity::IdempotencyKey;
use oneflight::store::outbox::{MessageEntry, MessageQuery};
use oneflight::store::{RecordEntry, RecordQuery, StoreError};
use serde::{Deserialize, Serialize};

use super::problem::Problem;
use super::rows::{MessageRow, RecordRow, ResultRow, WorkflowRow, millis};
use super::source::Source;

/// How many records are told of at once.
const RECORDS: usize = 10;
/// How many messages are told of at once.
const MESSAGES: usize = 50;
/// How many pages of a store that looks for a record by walking through all are read at once.
const PAGES: usize = 40;

/// Whose story.
#[derive(Deserialize)]
pub(super) struct Asked {
    key: Option<String>,
    correlation_id: Option<String>,
    /// Of several records with one key, that of this scope.
    scope: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Stories {
    stories: Vec<Story>,
    /// Messages that belong to none of these records.
    messages: Vec<MessageRow>,
    /// Whether there is more than is told.
    more: bool,
    /// Why no message is told of, if that cannot be.
    without_messages: Option<&'static str>,
}

#[derive(Serialize)]
struct Story {
    record: RecordRow,
    workflow: Option<WorkflowRow>,
    messages: Vec<MessageRow>,
    events: Vec<Event>,
}

/// Something that happened, or will.
#[derive(Serialize)]
struct Event {
    /// `claim`, `lease`, `step`, `message`, `end` or `doubt`.
    what: &'static str,
    /// When, by the store's clock, if that is known.
    at_ms: Option<u64>,
    title: String,
    detail: String,
}

/// Tells what is known under a key or a correlation id.
pub(super) async fn tell(source: &Source, asked: Asked) -> Result<Stories, Problem> {
    let mut query = RecordQuery::all(RECORDS + 1);
    let mut about = MessageQuery {
        limit: MESSAGES + 1,
        ..MessageQuery::default()
    };
    match (asked.key.as_deref(), asked.correlation_id.as_deref()) {
        (Some(key), None) => {
            let key = IdempotencyKey::new(key.trim()).map_err(|error| Problem::invalid(error.to_string()))?;
            query.key = Some(key.as_str().to_owned());
            query.scope = asked.scope.filter(|scope| !scope.is_empty());
            about.key = Some(key.into());
        }
        (None, Some(id)) => {
            let id = CorrelationId::new(id.trim()).map_err(|error| Problem::invalid(error.to_string()))?;
            query.correlation_id = Some(id.clone());
            about.correlation_id = Some(id);
        }
        _ => return Err(Problem::invalid("ask by a key or by a correlation id")),
    }
    let (mut entries, mut more) = records(source, query).await?;
    let read = Instant::now();
    more |= entries.len() > RECORDS;
    entries.truncate(RECORDS);

    let (mut free, without_messages) = match source.messages(about.clone()).await {
        Ok(messages) => (messages, None),
        Err(StoreError::Unsupported { advice }) => (Vec::new(), Some(advice)),
        Err(error) => return Err(error.into()),
    };
    more |= free.len() > MESSAGES;
    free.truncate(MESSAGES);
    let mut stories = Vec::with_capacity(entries.len());
    for entry in entries {
        let messages = match &entry.correlation_id {
            // Asked for by another id than that of the record's request: they are its story all the same.
            Some(id) if about.correlation_id.is_none() && without_messages.is_none() => {
                let query = MessageQuery {
                    correlation_id: Some(id.clone()),
                    limit: MESSAGES + 1,
                    ..MessageQuery::default()
                };
                let mut found = source.messages(query).await?;
                more |= found.len() > MESSAGES;
                found.truncate(MESSAGES);
                free.retain(|other| found.iter().all(|message| message.id != other.id));
                found
            }
            Some(id) => {
                let (own, others) = free
                    .into_iter()
                    .partition(|message| message.correlation_id.as_ref() == Some(id));
                free = others;
                own
            }
            None => Vec::new(),
        };
        let later = millis(read.elapsed());
        stories.push(story(source, &entry, &messages, later).await?);
    }
    Ok(Stories {
        stories,
        messages: free.iter().map(MessageRow::new).collect(),
        more,
        without_messages,
    })
}

/// Looks for records. A store may answer with a short page, or an empty one, before it has been through.
async fn records(source: &Source, mut query: RecordQuery) -> Result<(Vec<RecordEntry>, bool), StoreError> {
    let mut found: Vec<RecordEntry> = Vec::new();
    for _ in 0..PAGES {
        let page = source.records(query.clone()).await?;
        for entry in page.entries {
            if found.iter().all(|other| other.id != entry.id) {
                found.push(entry);
            }
        }
        match page.next {
            Some(next) if found.len() <= RECORDS => query.after = Some(next),
            next => return Ok((found, next.is_some())),
        }
    }
    Ok((found, true))
}

/// Tells of a record and its messages, which were read so many milliseconds after it.
async fn story(
    source: &Source,
    entry: &RecordEntry,
    messages: &[MessageEntry],
    later: u64,
) -> Result<Story, StoreError> {
    let workflow = match source.steps(&entry.id).await {
        Ok(workflow) => workflow.as_ref().map(|workflow| WorkflowRow::new(&entry.id, workflow)),
        Err(StoreError::Unsupported { .. }) => None,
        Err(error) => return Err(error),
    };
    let record = RecordRow::new(entry);
    let messages: Vec<_> = messages.iter().map(MessageRow::new).collect();
    let events = events(&record, entry.record.attempt, workflow.as_ref(), &messages, later);
    Ok(Story {
        record,
        workflow,
        messages,
        events,
    })
}

fn events(
    record: &RecordRow,
    attempt: u32,
    workflow: Option<&WorkflowRow>,
    messages: &[MessageRow],
    later: u64,
) -> Vec<Event> {
    // What has no time of its own stands behind what it follows.
    let mut placed: Vec<(u64, Event)> = Vec::new();
    let now = record.observed_ms.saturating_add(later);
    let mut add = |place: u64, what, at_ms, title: String, detail: String| {
        placed.push((
            place,
            Event {
                what,
                at_ms,
                title,
                detail,
            },
        ));
    };
    let begun = record.claimed_ms.unwrap_or(0);
    let earlier = match attempt {
        ..=1 => String::new(),
        2 => "Of an earlier attempt no answer is recorded.".to_owned(),
        more => format!("Of {} earlier attempts no answer is recorded.", more - 1),
    };
    add(
        begun,
        "claim",
        record.claimed_ms,
        match record.settled {
            true => format!("Settled by a person: attempt {attempt}"),
            false => format!("Claimed: attempt {attempt}"),
        },
        earlier,
    );
    if let Some(workflow) = workflow {
        for step in &workflow.steps {
            let (title, detail) = match step.told() {
                Some(result) => (format!("Step {} done", step.title), recorded(result)),
                None => (
                    format!("Step {} begun", step.title),
                    "It runs once at most, and no answer of it is recorded.".to_owned(),
                ),
            };
            add(begun, "step", None, title, detail);
        }
    }
    for message in messages {
        let named = format!("{} (message {})", message.topic, message.id);
        // It was sent by the request, so after the claim, whatever the two clocks make of it.
        let sent = now.saturating_sub(message.age_ms).max(begun);
        add(
            sent,
            "message",
            Some(sent),
            format!("Sent {named}"),
            size(message.payload_bytes as u64),
        );
        let tried = match message.attempts {
            0 => String::new(),
            1 => "1 attempt".to_owned(),
            many => format!("{many} attempts"),
        };
        let error = message
            .error
            .as_deref()
            .map(|error| format!("The last one said: {error}"))
            .unwrap_or_default();
        let told = [tried, error]
            .into_iter()
            .filter(|text| !text.is_empty())
            .collect::<Vec<_>>()
            .join(". ");
        match message.state {
            "ended" => {
                let at = message.ended_ms.map(|ago| now.saturating_sub(ago));
                add(at.unwrap_or(now), "message", at, format!("Ended {named}"), told);
            }
            "dead" => add(now, "doubt", None, format!("Dead letter: {named}"), told),
            "parked" => {
                let due = message.due_in_ms.map(|left| now.saturating_add(left));
                add(due.unwrap_or(now), "message", due, format!("Due: {named}"), told);
            }
            _ => add(now, "message", None, format!("Waits for delivery: {named}"), told),
        }
    }
    match record.state {
        "in_doubt" => {
            let at = record.since_ms.map(|since| record.observed_ms.saturating_sub(since));
            // Whether the holder died, or was not told by what it had called, is not recorded.
            let detail = match workflow {
                Some(_) => "It waits for a person. The steps that are done are not done again.",
                None => "No answer is recorded, and the lease is over: it is not known what was done.",
            };
            add(at.unwrap_or(now), "doubt", at, "In doubt".to_owned(), detail.to_owned());
        }
        "completed" => {
            let result = record.result.as_ref();
            let detail = result.map(recorded).unwrap_or_default();
            let at = record.completed_ms;
            add(
                at.unwrap_or(now),
                "end",
                at,
                match result.map(|result| result.outcome) {
                    Some("performed" | "declined") if record.settled => {
                        "Completed: the answer that a person has told is kept, and replayed"
                    }
                    Some("performed" | "declined") => "Completed: the answer is kept, and replayed",
                    _ => "Completed: that it was done is kept, without its answer",
                }
                .to_owned(),
                detail,
            );
            let (at, detail) = (record.expires_ms, "The key is new again then.".to_owned());
            add(at.unwrap_or(u64::MAX), "lease", at, "Retention ends".to_owned(), detail);
        }
        _ => {
            let (at, title, detail) = match record.since_ms {
                Some(since) => (
                    record.observed_ms.saturating_sub(since),
                    "The lease is over",
                    "It goes on by itself, with the next call or a completer. The steps that are done are not done again.",
                ),
                None => (now, "In progress", "Its holder's lease runs."),
            };
            add(at, "lease", Some(at), title.to_owned(), detail.to_owned());
        }
    }
    placed.sort_by_key(|(place, _)| *place);
    placed.into_iter().map(|(_, event)| event).collect()
}

fn recorded(result: &ResultRow) -> String {
    match result.outcome {
        "erased" => "its answer was erased".to_owned(),
        outcome => format!("{}, {}", outcome.replace('_', " "), size(result.bytes)),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        1 => "1 byte".to_owned(),
        bytes => format!("{bytes} bytes"),
    }
}
