//! `oneflight outbox explain`: why a message is not delivered.
//!
//! Reasons come in the order in which they hold a message up: what has to be settled first is told first.

use oneflight::store::outbox::{
    MessageEntry, MessageId, MessageQuery, MessageState, OutboxUpkeep, RelayEntry, TopicBacklog,
};
use serde::Serialize;

use super::doctor::{SHOWS_LIFE_WITHIN, alive};
use super::outbox::{Shown, letter, message, word};
use crate::exit::Failure;
use crate::output::{Form, duration, either};
use crate::store::unreachable;

/// How many messages of an ordering key are looked at.
const PAGE: usize = 200;

/// Something that holds a message up, or that has become of it.
#[derive(Debug, Serialize)]
struct Reason {
    why: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

fn because(why: impl Into<String>) -> Reason {
    Reason {
        why: why.into(),
        advice: None,
    }
}

impl Reason {
    fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

#[derive(Debug, Serialize)]
struct Explained {
    message: Shown,
    reasons: Vec<Reason>,
}

pub(super) async fn run<S: OutboxUpkeep>(store: &S, form: Form, id: MessageId) -> Result<(), Failure> {
    let entry = message(store, id).await?;
    let reasons = match entry.state {
        MessageState::Dead => vec![dead(&entry)],
        MessageState::Ended => vec![ended(&entry)],
        _ => waiting(store, &entry).await?,
    };
    let explained = Explained {
        message: entry.into(),
        reasons,
    };
    either(form, &explained, || text(&explained))
}

fn text(explained: &Explained) -> String {
    let told = explained.reasons.iter().map(|reason| match &reason.advice {
        Some(advice) => format!("{}.\n  {advice}", reason.why),
        None => format!("{}.", reason.why),
    });
    let told: Vec<_> = told.collect();
    format!("{}\n\n{}", letter(&explained.message), told.join("\n"))
}

fn dead(entry: &MessageEntry) -> Reason {
    let id = entry.id;
    let blocks = match (entry.blocks, &entry.ordering_key) {
        (true, Some(key)) => format!(", and later messages of the ordering key {key} wait for it"),
        _ => String::new(),
    };
    because(format!("It is a dead letter: it will not be tried again by itself{blocks}")).advise(format!(
        "Mend what the last error says, and have it tried again: oneflight outbox redrive {id}. Or discard it: oneflight outbox \
         cancel {id}"
    ))
}

fn ended(entry: &MessageEntry) -> Reason {
    let ago = entry
        .ended
        .map_or_else(String::new, |ago| format!(", {} ago", duration(ago)));
    because(format!(
        "It has ended{ago}: it was delivered, was cancelled, or has expired"
    ))
}

async fn waiting<S: OutboxUpkeep>(store: &S, entry: &MessageEntry) -> Result<Vec<Reason>, Failure> {
    let backlog = store.backlog().await.map_err(unreachable)?;
    let relays = store.relays().await.map_err(unreachable)?;
    let topic = backlog.iter().find(|it| it.topic == entry.topic);
    let mut reasons = Vec::new();
    reasons.extend(paused(entry, topic));
    if entry.expires_in.is_some_and(|left| left.is_zero()) {
        reasons.push(because(
            "It has expired: the relay that comes to it ends it, and does not deliver it",
        ));
    }
    reasons.extend(earlier(store, entry).await?);
    reasons.extend(not_due(entry));
    reasons.extend(taken(entry, &relays));
    if relays.is_empty() {
        reasons
            .push(because("No relay is there").advise("Start a service with a relay that has a target for the topic."));
    }
    if reasons.is_empty() {
        reasons.push(in_its_turn(store, entry, topic, &relays).await?);
    }
    Ok(reasons)
}

fn paused(entry: &MessageEntry, topic: Option<&TopicBacklog>) -> Option<Reason> {
    topic.filter(|it| it.is_paused).map(|_| {
        because(format!("The topic {} is paused", entry.topic)).advise(format!(
            "Have it delivered again: oneflight outbox resume {}",
            entry.topic
        ))
    })
}

/// The message that its ordering key waits for.
async fn earlier<S: OutboxUpkeep>(store: &S, entry: &MessageEntry) -> Result<Option<Reason>, Failure> {
    let Some(key) = &entry.ordering_key else {
        return Ok(None);
    };
    let mut query = MessageQuery {
        ordering_key: Some(key.to_string()),
        limit: PAGE,
        ..MessageQuery::default()
    };
    loop {
        let page = store.messages(query.clone()).await.map_err(unreachable)?;
        for it in &page {
            if it.id >= entry.id {
                return Ok(None);
            }
            let holds_up = match it.state {
                MessageState::Waiting => true,
                MessageState::Parked | MessageState::Dead => it.blocks,
                _ => false,
            };
            if holds_up {
                let why = format!(
                    "An earlier message of its ordering key {key} comes first: {}, of the topic {}, which is {}",
                    it.id,
                    it.topic,
                    word(it.state)
                );
                return Ok(Some(
                    because(why).advise(format!("See oneflight outbox explain {}", it.id)),
                ));
            }
        }
        let Some(last) = page.last().filter(|_| page.len() >= PAGE) else {
            return Ok(None);
        };
        query.after = Some(last.id);
    }
}

fn not_due(entry: &MessageEntry) -> Option<Reason> {
    let due = duration(entry.due_in?);
    let attempts = match entry.attempts {
        1 => "an attempt has failed".to_owned(),
        attempts => format!("{attempts} attempts have failed"),
    };
    Some(match (entry.attempts, &entry.error) {
        (0, _) => because(format!(
            "It is due in {due}: it was sent, or postponed, to be delivered no earlier"
        )),
        (_, Some(error)) => because(format!(
            "It is due in {due}, since {attempts}. The last one said: {error}"
        )),
        (_, None) => because(format!("It is due in {due}, since {attempts}")),
    })
}

fn taken(entry: &MessageEntry, relays: &[RelayEntry]) -> Option<Reason> {
    let relay = entry.taken_by?;
    let number = relay.get();
    Some(match relays.iter().any(|it| it.token == relay) {
        true => because(format!("Relay {number} is delivering it, or was a moment ago")),
        false => because(format!(
            "Relay {number} had taken it, and is not there any more: another one delivers it again"
        )),
    })
}

/// Nothing that is written in the store holds it up.
async fn in_its_turn<S: OutboxUpkeep>(
    store: &S,
    entry: &MessageEntry,
    topic: Option<&TopicBacklog>,
    relays: &[RelayEntry],
) -> Result<Reason, Failure> {
    if alive(store, relays).await.map_err(unreachable)? == 0 {
        let window = duration(SHOWS_LIFE_WITHIN);
        return Ok(because(format!(
            "None of the {} relays has shown a sign of life for {window}",
            relays.len()
        ))
        .advise("Look whether their processes live, or start one."));
    }
    let others = topic.map_or(0, |it| it.waiting.saturating_sub(1));
    Ok(because(format!("It is due, and a relay delivers it in its turn: {others} others of its topic wait")).advise(format!(
        "If that lasts, look whether a relay has a target for the topic {}, and what the relays log: a target that fails for all is \
         left alone for a while.",
        entry.topic
    )))
}
