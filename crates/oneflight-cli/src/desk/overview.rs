//! `oneflight outbox list` without a question: what there is of each topic, and what delivers it.

use std::time::Duration;

use oneflight::store::outbox::{OutboxUpkeep, RelayEntry, TopicBacklog};
use serde::Serialize;

use super::life::Lives;
use crate::exit::Failure;
use crate::output::{Form, duration, json, line, millis, note, table};
use crate::store::unreachable;

#[derive(Serialize)]
struct Of {
    topic: String,
    waiting: u64,
    parked: u64,
    dead: u64,
    oldest_ms: Option<u64>,
    paused: bool,
}

#[derive(Serialize)]
struct By {
    relay: i64,
    group: String,
    beats: i64,
    shards: u16,
    /// Whether it has shown a sign of life: `null` if none was waited for.
    alive: Option<bool>,
}

#[derive(Serialize)]
struct All {
    topics: Vec<Of>,
    relays: Vec<By>,
}

/// Tells what there is of each topic, and the relays, of each of which a sign of life is waited for so long.
pub(super) async fn run<S: OutboxUpkeep>(store: &S, form: Form, watch: Duration) -> Result<(), Failure> {
    let backlog = store.backlog().await.map_err(unreachable)?;
    let relays = store.relays().await.map_err(unreachable)?;
    if form == Form::Table {
        // What is known is not held up.
        line(&format!("{}\n", topics(&backlog)))?;
        if !relays.is_empty() && !watch.is_zero() {
            note(&format!(
                "oneflight: waiting for a sign of life of each relay, for up to {}; see --watch",
                duration(watch)
            ));
        }
    }
    let lives = Lives::watch(store, &relays, watch).await.map_err(unreachable)?;
    let all = All {
        topics: backlog.iter().map(Of::new).collect(),
        relays: relays.iter().map(|relay| By::new(relay, &lives)).collect(),
    };
    match form {
        Form::Json => json(&all),
        Form::Table => line(&members(&all.relays, &lives)),
    }
}

impl Of {
    fn new(it: &TopicBacklog) -> Self {
        Self {
            topic: it.topic.to_string(),
            waiting: it.waiting,
            parked: it.parked,
            dead: it.dead,
            oldest_ms: it.oldest.map(millis),
            paused: it.is_paused,
        }
    }
}

impl By {
    fn new(it: &RelayEntry, lives: &Lives) -> Self {
        Self {
            relay: it.token.get(),
            group: it.group.to_string(),
            beats: it.beats,
            shards: it.shards,
            alive: lives.of(it.token),
        }
    }
}

fn topics(backlog: &[TopicBacklog]) -> String {
    if backlog.is_empty() {
        return "nothing is to be delivered".to_owned();
    }
    table(&["TOPIC", "WAITING", "PARKED", "DEAD", "OLDEST", ""], backlog, |it| {
        vec![
            it.topic.to_string(),
            it.waiting.to_string(),
            it.parked.to_string(),
            it.dead.to_string(),
            it.oldest.map(duration).unwrap_or_default(),
            if it.is_paused {
                "paused".to_owned()
            } else {
                String::new()
            },
        ]
    })
}

fn members(relays: &[By], lives: &Lives) -> String {
    if relays.is_empty() {
        return "no relay is there: nothing is delivered until one runs".to_owned();
    }
    let told = table(&["RELAY", "GROUP", "SHARDS", "BEATS", "LIFE"], relays, |it| {
        vec![
            it.relay.to_string(),
            it.group.clone(),
            it.shards.to_string(),
            it.beats.to_string(),
            match it.alive {
                Some(true) => "alive".to_owned(),
                Some(false) => format!("none for {}", duration(lives.watched())),
                None => "not watched".to_owned(),
            },
        ]
    });
    let silent = relays.iter().any(|it| it.alive == Some(false));
    match silent {
        true => format!(
            "{told}\n\nA relay without a sign of life is dead, unless its lease is over 20 s. Another one takes its messages once the lease is \
             over; if none is alive, nothing is delivered."
        ),
        false => told,
    }
}
