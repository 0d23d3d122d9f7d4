//! `oneflight outbox pause` and `resume`: whether a topic is delivered.
//!
//! A topic is paused by its whole name. That may be done before there is a message of it, so a name that nothing is known of is no
//! error. It is told, since it may be misspelled, and then nothing is paused.

use oneflight::store::outbox::{MessageQuery, OutboxUpkeep, TopicBacklog};
use serde::Serialize;

use crate::exit::{Code, Failure};
use crate::output::{Consent, Form, counted, either, note};
use crate::store::unreachable;
use crate::terminal::quoted;

/// How many names are told in place of one that nothing is known of.
const NAMES: usize = 10;

/// A topic as it stands after the change, as it is printed.
#[derive(Serialize)]
struct Standing<'t> {
    topic: &'t str,
    paused: bool,
    /// Whether it was otherwise before.
    changed: bool,
    /// Whether the store has a message of it, or it was paused before.
    known: bool,
}

/// What is known of a topic.
enum Known {
    /// It is waited for, dead or paused.
    Now(TopicBacklog),
    /// All its messages have ended.
    Ended,
    /// The store has no message of it, but of these.
    Never(Vec<String>),
}

impl Known {
    async fn of<S: OutboxUpkeep>(store: &S, name: &str) -> Result<Self, Failure> {
        let backlog = store.backlog().await.map_err(unreachable)?;
        if let Some(it) = backlog.iter().find(|it| &*it.topic == name) {
            return Ok(Self::Now(it.clone()));
        }
        let query = MessageQuery {
            topic: Some(name.to_owned()),
            limit: 1,
            ..MessageQuery::default()
        };
        let kept = store.messages(query).await.map_err(unreachable)?;
        Ok(match kept.is_empty() {
            false => Self::Ended,
            true => Self::Never(backlog.iter().map(|it| it.topic.to_string()).collect()),
        })
    }

    fn is_paused(&self) -> bool {
        matches!(self, Self::Now(it) if it.is_paused)
    }

    /// How many messages wait, in words.
    fn there_are(&self) -> String {
        match self {
            Self::Now(it) => counted(it.waiting + it.parked, "message"),
            Self::Ended | Self::Never(_) => counted(0_u64, "message"),
        }
    }
}

/// A name with an asterisk is a pattern of a target's. No message has it as its topic.
fn check(name: &str) -> Result<(), Failure> {
    let told = match name {
        "" => "a topic has a name".to_owned(),
        name if name.contains(['*', '?']) => format!(
            "{name} is no topic, but a pattern of topics, and nothing was changed: a topic is named whole, as oneflight outbox list has \
             it; pause each by its own name"
        ),
        _ => return Ok(()),
    };
    Err(Failure::new(Code::Usage, told))
}

pub(super) async fn pause<S: OutboxUpkeep>(store: &S, form: Form, name: &str, consent: Consent) -> Result<(), Failure> {
    check(name)?;
    let known = Known::of(store, name).await?;
    let mut standing = Standing {
        topic: name,
        paused: true,
        changed: false,
        known: !matches!(known, Known::Never(_)),
    };
    if known.is_paused() {
        return either(form, &standing, || format!("the topic {name} was paused before"));
    }
    let there_is = match &known {
        Known::Now(_) | Known::Ended => format!("Of it, {} now.", wait(&known)),
        Known::Never(others) => stranger(name, others),
    };
    consent.ask(&format!(
        "Nothing of the topic {name} will be delivered until it is resumed. What is being delivered goes on. {there_is}"
    ))?;
    standing.changed = store.pause(name).await.map_err(unreachable)?;
    // Who has consented before has read no question.
    if let (Known::Never(others), true) = (&known, consent.is_given()) {
        note(&format!("oneflight: {}", stranger(name, others)));
    }
    either(form, &standing, || match standing.changed {
        true => format!("the topic {name} is paused; each relay learns of it with its next sign of life"),
        false => format!("the topic {name} was paused before"),
    })
}

fn wait(known: &Known) -> String {
    let there_are = known.there_are();
    match there_are.starts_with("1 ") {
        true => format!("{there_are} waits"),
        false => format!("{there_are} wait"),
    }
}

/// What is said of a name that nothing is known of.
fn stranger(name: &str, others: &[String]) -> String {
    let named: Vec<_> = others.iter().take(NAMES).map(|it| quoted(it)).collect();
    let more = match others.len() > NAMES {
        true => ", …",
        false => "",
    };
    let others = match named.is_empty() {
        true => "There is no message of any other topic either".to_owned(),
        false => format!("There are messages of {}{more}", named.join(", ")),
    };
    format!(
        "There is no message of the topic {name} in the store: if the name is misspelled, what you mean goes on being delivered. \
         {others}."
    )
}

pub(super) async fn resume<S: OutboxUpkeep>(
    store: &S,
    form: Form,
    name: &str,
    consent: Consent,
) -> Result<(), Failure> {
    let known = Known::of(store, name).await?;
    let not_paused = || Failure::new(Code::No, format!("the topic {name} is not paused"));
    if !known.is_paused() {
        return Err(not_paused());
    }
    consent.ask(&format!(
        "The topic {name} will be delivered again. {} for it.",
        wait(&known)
    ))?;
    match store.resume(name).await.map_err(unreachable)? {
        true => {
            let standing = Standing {
                topic: name,
                paused: false,
                changed: true,
                known: true,
            };
            either(form, &standing, || format!("the topic {name} is delivered again"))
        }
        false => Err(not_paused()),
    }
}
