//! `oneflight outbox`: what is to be delivered, why something is not, and what a person does about it.
//!
//! A message is named by its number, as `list` and `dead` have it. Payloads are shown by `dead --payload` alone.

use std::num::{NonZeroU32, NonZeroUsize};
use std::str::FromStr;
use std::time::Duration;

use clap::{ArgGroup, Subcommand, ValueEnum};
use oneflight::Outbox;
use oneflight::correlation::CorrelationId;
use oneflight::outbox::Cancelled;
use oneflight::store::outbox::{MessageEntry, MessageId, MessageQuery, MessageState, OutboxUpkeep};
use serde::Serialize;

use super::letter::{Shown, letter, missing, payload, word};
use super::{explain, overview, topic};
use crate::exit::{Code, Failure};
use crate::output::{Consent, Form, counted, duration, either, line, note, rows};
use crate::store::{Address, Tables, unreachable, with_sql_store};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show how much there is of each topic, and the relays; or the messages that are asked for
    List(List),
    /// Say why a message is not delivered, and what to do
    Explain(One),
    /// Show what will not be tried again by itself, with the last error
    Dead(Dead),
    /// Have dead letters tried again, as if for the first time
    Redrive(Redrive),
    /// Have a message never delivered, unless it is too late for that
    Cancel(Change<One>),
    /// Have nothing of a topic delivered until it is resumed
    Pause(Change<Topic>),
    /// Have a topic delivered again
    Resume(Change<Topic>),
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Messages of this topic
    #[arg(long)]
    topic: Option<String>,
    /// Messages in this state
    #[arg(long, value_enum)]
    state: Option<State>,
    /// Messages with this key, which the target knows them by
    #[arg(long)]
    key: Option<String>,
    /// Messages that are delivered in order with those of this ordering key
    #[arg(long)]
    ordering_key: Option<String>,
    /// Messages that the request with this correlation id has sent
    #[arg(long, value_name = "ID")]
    correlation_id: Option<CorrelationId>,
    /// Messages behind this one
    #[arg(long, value_name = "ID")]
    after: Option<i64>,
    /// How many messages are shown at most
    #[arg(long, default_value = "50", value_name = "N")]
    limit: NonZeroUsize,
    /// How long a sign of life of each relay is waited for, where no messages are asked for (0s: not at all)
    #[arg(long, value_name = "TIME", default_value = "7s")]
    watch: humantime::Duration,
}

#[derive(Debug, clap::Args)]
pub(crate) struct One {
    /// The number of the message
    #[arg(allow_negative_numbers = true)]
    id: i64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Topic {
    /// The topic, whole: no pattern of topics
    topic: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Change<T: clap::Args> {
    #[command(flatten)]
    of: T,
    #[command(flatten)]
    consent: Consent,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Dead {
    /// Those of this topic
    #[arg(long)]
    topic: Option<String>,
    /// Those behind this one
    #[arg(long, value_name = "ID")]
    after: Option<i64>,
    /// How many are shown at most
    #[arg(long, default_value = "50", value_name = "N")]
    limit: NonZeroUsize,
    /// Show the payloads as well
    #[arg(long)]
    payload: bool,
}

#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("which").required(true))]
pub(crate) struct Redrive {
    /// The number of one
    #[arg(group = "which")]
    id: Option<i64>,
    /// Those of this topic
    #[arg(long, group = "which")]
    topic: Option<String>,
    /// All of them
    #[arg(long, group = "which")]
    all: bool,
    /// How many a second are tried again at most: `50/s`
    #[arg(long, default_value = "50/s")]
    rate: Rate,
    #[command(flatten)]
    consent: Consent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum State {
    /// To be delivered
    Waiting,
    /// Put aside until it is due
    Parked,
    /// Not tried again unless it is redriven
    Dead,
    /// Delivered, cancelled or expired, and still kept
    Ended,
}

impl From<State> for MessageState {
    fn from(state: State) -> Self {
        match state {
            State::Waiting => Self::Waiting,
            State::Parked => Self::Parked,
            State::Dead => Self::Dead,
            State::Ended => Self::Ended,
        }
    }
}

/// How many a second.
#[derive(Clone, Copy, Debug)]
struct Rate(NonZeroU32);

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix("/s").unwrap_or(text);
        number
            .trim()
            .parse()
            .map(Self)
            .map_err(|_| format!("{text:?} is no rate: say how many a second, as in `50/s`"))
    }
}

pub(crate) async fn run(store: &Address, form: Form, command: Command) -> Result<(), Failure> {
    let store = store.open(Tables::Leave).await?;
    with_sql_store!(store, "outbox", |store| over(&store, form, command).await)
}

async fn over<S: OutboxUpkeep + Clone>(store: &S, form: Form, command: Command) -> Result<(), Failure> {
    match command {
        Command::List(args) => list(store, form, args).await,
        Command::Explain(One { id }) => explain::run(store, form, MessageId::new(id)).await,
        Command::Dead(args) => dead(store, form, args).await,
        Command::Redrive(args) => redrive(store, form, args).await,
        Command::Cancel(Change { of, consent }) => cancel(store, form, MessageId::new(of.id), consent).await,
        Command::Pause(Change { of, consent }) => topic::pause(store, form, &of.topic, consent).await,
        Command::Resume(Change { of, consent }) => topic::resume(store, form, &of.topic, consent).await,
    }
}

async fn list<S: OutboxUpkeep>(store: &S, form: Form, args: List) -> Result<(), Failure> {
    args.topic.as_deref().map_or(Ok(()), topic::check)?;
    topic::told_if_unknown(store, args.topic.as_deref()).await?;
    let query = MessageQuery {
        id: None,
        topic: args.topic,
        key: args.key,
        ordering_key: args.ordering_key,
        correlation_id: args.correlation_id,
        state: args.state.map(MessageState::from),
        after: args.after.map(MessageId::new),
        limit: args.limit.get(),
    };
    let asks_for_all = MessageQuery {
        limit: 0,
        ..query.clone()
    } == MessageQuery::default();
    if asks_for_all {
        return overview::run(store, form, *args.watch).await;
    }
    let messages = store.messages(query).await.map_err(unreachable)?;
    if let Some(last) = messages.last().filter(|_| messages.len() >= args.limit.get()) {
        note(&format!("there may be more: see --after {}", last.id));
    }
    let messages: Vec<_> = messages.into_iter().map(Shown::from).collect();
    let columns = [
        "ID",
        "TOPIC",
        "STATE",
        "KEY",
        "ORDERING KEY",
        "ATTEMPTS",
        "AGE",
        "DUE IN",
        "LAST ERROR",
    ];
    rows(form, &columns, &messages, |it| {
        vec![
            it.id.to_string(),
            it.topic.clone(),
            it.state.to_owned(),
            it.key.clone(),
            it.ordering_key.clone().unwrap_or_default(),
            it.attempts.to_string(),
            duration(it.times.age),
            it.times.due_in.map(duration).unwrap_or_default(),
            one_line(it.error.as_deref()),
        ]
    })
}

fn one_line(error: Option<&str>) -> String {
    const MOST: usize = 100;
    let text = error.unwrap_or_default().replace('\n', " ");
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

async fn dead<S: OutboxUpkeep>(store: &S, form: Form, args: Dead) -> Result<(), Failure> {
    args.topic.as_deref().map_or(Ok(()), topic::check)?;
    topic::told_if_unknown(store, args.topic.as_deref()).await?;
    let query = MessageQuery {
        topic: args.topic,
        state: Some(MessageState::Dead),
        after: args.after.map(MessageId::new),
        limit: args.limit.get(),
        ..MessageQuery::default()
    };
    let found = store.messages(query).await.map_err(unreachable)?;
    if let Some(last) = found.last().filter(|_| found.len() >= args.limit.get()) {
        note(&format!("there may be more: see --after {}", last.id));
    }
    let mut letters = Vec::with_capacity(found.len());
    for entry in found {
        let id = entry.id;
        let mut shown = Shown::from(entry);
        if args.payload {
            shown.payload = payload(store, id).await?;
        }
        letters.push(shown);
    }
    match form {
        Form::Json => crate::output::json(&letters),
        Form::Table if letters.is_empty() => line("nothing"),
        Form::Table => {
            let told: Vec<_> = letters.iter().map(letter).collect();
            line(&told.join("\n\n"))
        }
    }
}

/// Returns a message, or says that there is none.
async fn message<S: OutboxUpkeep>(store: &S, id: MessageId) -> Result<MessageEntry, Failure> {
    let query = MessageQuery {
        id: Some(id),
        limit: 1,
        ..MessageQuery::default()
    };
    let found = store.messages(query).await.map_err(unreachable)?;
    found.into_iter().next().ok_or_else(|| missing(id))
}

async fn redrive<S: OutboxUpkeep + Clone>(store: &S, form: Form, args: Redrive) -> Result<(), Failure> {
    let outbox = Outbox::new(store.clone());
    if let Some(id) = args.id.map(MessageId::new) {
        let entry = message(store, id).await?;
        if entry.state != MessageState::Dead {
            let what = format!("message {id} is no dead letter, but {}", word(entry.state));
            return Err(Failure::new(Code::No, what));
        }
        args.consent.ask(&format!(
            "Message {id} of the topic {} will be tried again, as if for the first time. The last of its {} said: {}",
            entry.topic,
            counted(entry.attempts, "attempt"),
            one_line(entry.error.as_deref().or(Some("nothing"))),
        ))?;
        return match outbox.redrive(id).await.map_err(unreachable)? {
            true => redriven(form, 1),
            false => Err(Failure::new(
                Code::No,
                format!("message {id} is no dead letter any more"),
            )),
        };
    }
    args.topic.as_deref().map_or(Ok(()), topic::check)?;
    let redriving = outbox.redrive_all(args.topic.as_deref()).await.map_err(unreachable)?;
    let mut redriving = redriving.every(Duration::from_secs(1) / args.rate.0.get());
    let count = redriving.left() as u64;
    let which = args
        .topic
        .as_ref()
        .map_or_else(String::new, |topic| format!(" of the topic {topic}"));
    if count == 0 {
        topic::told_if_unknown(store, args.topic.as_deref()).await?;
        return Err(Failure::new(Code::No, format!("there is no dead letter{which}")));
    }
    args.consent.ask(&format!(
        "{}{which} will be tried again, as if for the first time, {} a second at most.",
        counted(count, "dead letter"),
        args.rate.0
    ))?;
    let mut done = 0;
    loop {
        match redriving.next().await {
            Ok(Some(_)) => done += 1,
            Ok(None) => return redriven(form, done),
            Err(error) => {
                let (failure, left) = (unreachable(error), redriving.left());
                let told = format!(
                    "{failure}; {} will be tried again, and {} stay as they were",
                    counted(done, "dead letter"),
                    counted(left as u64, "other")
                );
                return Err(Failure::with_code(failure.code(), told));
            }
        }
    }
}

fn redriven(form: Form, count: u64) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Redriven {
        redriven: u64,
    }
    let all = Redriven { redriven: count };
    either(form, &all, || {
        format!("{} will be tried again", counted(count, "message"))
    })
}

/// A message that will not be delivered, as it is printed.
#[derive(Serialize)]
struct Undelivered {
    id: i64,
    cancelled: bool,
}

async fn cancel<S: OutboxUpkeep + Clone>(
    store: &S,
    form: Form,
    id: MessageId,
    consent: Consent,
) -> Result<(), Failure> {
    let entry = message(store, id).await?;
    let late = "it is being delivered, or it has ended; nothing was changed";
    if entry.state == MessageState::Ended {
        return Err(Failure::new(
            Code::No,
            format!("message {id} is not to be cancelled any more: {late}"),
        ));
    }
    let done = match &*entry.done {
        [] => String::new(),
        done => format!(" These targets have it already: {}.", done.join(", ")),
    };
    consent.ask(&format!(
        "Message {id} of the topic {}, key {}, will never be delivered. It is {} now.{done}",
        entry.topic,
        entry.key,
        word(entry.state),
    ))?;
    match Outbox::new(store.clone()).cancel(id).await.map_err(unreachable)? {
        Cancelled::Cancelled => {
            let cancelled = Undelivered {
                id: id.get(),
                cancelled: true,
            };
            either(form, &cancelled, || format!("message {id} is cancelled"))
        }
        Cancelled::TooLate => Err(Failure::new(Code::No, format!("too late for message {id}: {late}"))),
    }
}
