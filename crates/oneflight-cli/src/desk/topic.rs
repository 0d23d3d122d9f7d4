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
    /// Whether the store has a message of it.
    known: bool,
}

/// What is known of a topic.
struct Known {
    /// What waits, is dead, or is paused.
    backlog: Vec<TopicBacklog>,
    /// Whether the store has a message of it. That it is paused is no sign that there is such a topic.
    has_messages: bool,
}

impl Known {
    async fn of<S: OutboxUpkeep>(store: &S, name: &str) -> Result<Self, Failure> {
        let backlog = store.backlog().await.map_err(unreachable)?;
        // Some may have ended, and be kept all the same.
        let query = MessageQuery {
            topic: Some(name.to_owned()),
            limit: 1,
            ..MessageQuery::default()
        };
        let kept = store.messages(query).await.map_err(unreachable)?;
        Ok(Self {
            backlog,
            has_messages: !kept.is_empty(),
        })
    }

    fn it(&self, name: &str) -> Option<&TopicBacklog> {
        self.backlog.iter().find(|it| &*it.topic == name)
    }

    fn is_paused(&self, name: &str) -> bool {
        self.it(name).is_some_and(|it| it.is_paused)
    }

    /// How many messages wait, in words.
    fn wait(&self, name: &str) -> String {
        match self.it(name).map_or(0, |it| it.waiting + it.parked) {
            1 => "1 message waits".to_owned(),
            count => format!("{} wait", counted(count, "message")),
        }
    }

    /// What is said of a name of which there is no message.
    fn stranger(&self, name: &str) -> String {
        let others = self.backlog.iter().filter(|it| it.waiting + it.parked + it.dead > 0);
        let others: Vec<_> = others.map(|it| quoted(&it.topic)).collect();
        let others = match others.is_empty() {
            true => "no other topic has one that waits or is dead either".to_owned(),
            false => format!("there are messages of {}", some(&others)),
        };
        format!("there is no message of the topic {name} in the store; {others}")
    }
}

/// The first of some names, and whether there are more.
fn some(names: &[String]) -> String {
    let more = match names.len() > NAMES {
        true => ", …",
        false => "",
    };
    format!(
        "{}{more}",
        names.iter().take(NAMES).cloned().collect::<Vec<_>>().join(", ")
    )
}

/// A name with an asterisk is a pattern of a target's. No message has it as its topic.
pub(super) fn check(name: &str) -> Result<(), Failure> {
    let told = match name {
        "" => "a topic has a name".to_owned(),
        name if name.contains(['*', '?']) => format!(
            "{name} is no topic, but a pattern of topics: a topic is named whole, as oneflight outbox list has it; name each by itself"
        ),
        _ => return Ok(()),
    };
    Err(Failure::new(Code::Usage, told))
}

/// Says on stderr that there is no message of a topic that was asked for, since its name may be misspelled.
pub(super) async fn told_if_unknown<S: OutboxUpkeep>(store: &S, name: Option<&str>) -> Result<(), Failure> {
    let Some(name) = name else { return Ok(()) };
    let known = Known::of(store, name).await?;
    if !known.has_messages {
        note(&format!("oneflight: {}", known.stranger(name)));
    }
    Ok(())
}

pub(super) async fn pause<S: OutboxUpkeep>(store: &S, form: Form, name: &str, consent: Consent) -> Result<(), Failure> {
    check(name)?;
    let known = Known::of(store, name).await?;
    let mut standing = Standing {
        topic: name,
        paused: true,
        changed: false,
        known: known.has_messages,
    };
    let misspelled = || {
        format!(
            "{}. If the name is misspelled, what you mean goes on being delivered",
            known.stranger(name)
        )
    };
    let there_is = match known.has_messages {
        true => format!("Of it, {} now.", known.wait(name)),
        false => format!("But {}.", misspelled()),
    };
    let is_told_of = !known.has_messages && (consent.is_given() || known.is_paused(name));
    if known.is_paused(name) {
        if is_told_of {
            note(&format!("oneflight: {}", misspelled()));
        }
        return either(form, &standing, || format!("the topic {name} was paused before"));
    }
    consent.ask(&format!(
        "Nothing of the topic {name} will be delivered until it is resumed. What is being delivered goes on. {there_is}"
    ))?;
    standing.changed = store.pause(name).await.map_err(unreachable)?;
    // Who has consented before has read no question.
    if is_told_of {
        note(&format!("oneflight: {}", misspelled()));
    }
    either(form, &standing, || match standing.changed {
        true => format!("the topic {name} is paused; each relay learns of it with its next sign of life"),
        false => format!("the topic {name} was paused before"),
    })
}

pub(super) async fn resume<S: OutboxUpkeep>(
    store: &S,
    form: Form,
    name: &str,
    consent: Consent,
) -> Result<(), Failure> {
    let known = Known::of(store, name).await?;
    let not_paused = || {
        let paused: Vec<_> = known
            .backlog
            .iter()
            .filter(|it| it.is_paused)
            .map(|it| quoted(&it.topic))
            .collect();
        let told = match paused.is_empty() {
            true => format!("the topic {name} is not paused, and no other is"),
            false => format!("the topic {name} is not paused, but {}", some(&paused)),
        };
        Failure::new(Code::No, told)
    };
    if !known.is_paused(name) {
        // What was paused so before can be resumed.
        check(name)?;
        return Err(not_paused());
    }
    consent.ask(&format!(
        "The topic {name} will be delivered again. {} for it.",
        known.wait(name)
    ))?;
    match store.resume(name).await.map_err(unreachable)? {
        true => {
            let standing = Standing {
                topic: name,
                paused: false,
                changed: true,
                known: known.has_messages,
            };
            either(form, &standing, || format!("the topic {name} is delivered again"))
        }
        false => Err(not_paused()),
    }
}
