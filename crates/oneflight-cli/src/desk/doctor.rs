//! `oneflight doctor`: what would break a promise here.
//!
//! ```text
//! how the store is set up (the store's own findings) ─┐
//! the clocks of the two machines                      ├─▶ a verdict and an advice each ─▶ 1 if something is broken
//! what waits for somebody: doubts, messages, relays ──┘
//! ```
//!
//! It only reads. What could not be looked at is unknown, and said.

use std::time::{Duration, Instant, SystemTime};

use oneflight::store::outbox::{OutboxUpkeep, TopicBacklog};
use oneflight::store::{Finding, Soundness, StoreError, Upkeep};
use serde::Serialize;

use super::life::{Lives, SHOWN_WITHIN};
use super::server::Server;
use crate::exit::{Code, Failure, Found, checked};
use crate::output::{Form, counted, duration, either, table};
use crate::store::{Address, AnyStore, told, unreachable};

/// Clocks that differ by less are not told of.
const CLOCKS_AGREE: Duration = Duration::from_secs(1);
/// Up to how many requests in doubt are counted.
const MOST_DOUBTS: usize = 1_000;

/// The finding about the clocks of the two machines.
const CLOCK: &str = "clock";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// End with 1 for a note as well, and for what could not be looked at
    #[arg(long)]
    strict: bool,
}

/// A finding, as it is printed.
#[derive(Debug, Serialize)]
struct Shown {
    name: &'static str,
    verdict: &'static str,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
    #[serde(skip)]
    soundness: Soundness,
}

impl From<Finding> for Shown {
    fn from(finding: Finding) -> Self {
        Self {
            name: finding.name,
            verdict: match finding.verdict {
                Soundness::Sound => "ok",
                Soundness::Remarkable => "note",
                Soundness::Broken => "BROKEN",
                Soundness::Unknown => "unknown",
            },
            found: finding.found,
            advice: finding.advice.filter(|_| finding.verdict != Soundness::Sound),
            soundness: finding.verdict,
        }
    }
}

pub(crate) async fn run(address: &Address, form: Form, args: Args) -> Result<(), Failure> {
    let findings = match address.open_as_it_is().await {
        Ok(store) => looked_at(address, &store).await?,
        // The server answers, and the tables are not those of this version.
        Err(failure) if failure.code() == Code::Config as u8 => {
            let told = failure.to_string();
            let (found, advice) = told.split_once("; ").unwrap_or((&told, "see oneflight migrate status"));
            vec![broken("schema", found, advice)]
        }
        Err(failure) => return Err(failure),
    };
    let shown: Vec<_> = findings.into_iter().map(Shown::from).collect();
    let printed = either(form, &shown, || text(&shown));
    let fails = |it: &Shown| match it.soundness {
        Soundness::Sound => false,
        Soundness::Broken => true,
        Soundness::Remarkable | Soundness::Unknown => args.strict,
    };
    checked(printed, Found::is(shown.iter().any(fails)))
}

fn text(shown: &[Shown]) -> String {
    table(&["", "CHECK", "FOUND", "WHAT TO DO"], shown, |it| {
        vec![
            it.verdict.to_owned(),
            it.name.to_owned(),
            it.found.clone(),
            it.advice.clone().unwrap_or_default(),
        ]
    })
}

async fn looked_at(address: &Address, store: &AnyStore) -> Result<Vec<Finding>, Failure> {
    let mut findings = match store {
        AnyStore::Sqlite(store) => of_store(store).await,
        AnyStore::Postgres(store) => of_store(store).await,
        AnyStore::Redis(store) => of_store(store).await,
    };
    without_replicas(&mut findings);
    // Some stores look at it themselves.
    if !findings.iter().any(|it| it.name == CLOCK) {
        findings.push(clock(address, store).await);
    }
    match store {
        AnyStore::Sqlite(store) => {
            findings.push(doubts(store).await);
            findings.extend(of_outbox(store).await);
        }
        AnyStore::Postgres(store) => {
            findings.push(doubts(store).await);
            findings.extend(of_outbox(store).await);
        }
        AnyStore::Redis(store) => findings.push(doubts(store).await),
    }
    Ok(findings)
}

fn finding(name: &'static str, verdict: Soundness, found: impl Into<String>, advice: Option<&str>) -> Finding {
    Finding {
        name,
        verdict,
        found: found.into(),
        advice: advice.map(str::to_owned),
    }
}

fn sound(name: &'static str, found: impl Into<String>) -> Finding {
    finding(name, Soundness::Sound, found, None)
}

fn note(name: &'static str, found: impl Into<String>, advice: &str) -> Finding {
    finding(name, Soundness::Remarkable, found, Some(advice))
}

fn broken(name: &'static str, found: impl Into<String>, advice: &str) -> Finding {
    finding(name, Soundness::Broken, found, Some(advice))
}

/// What could not be looked at, and what that takes where it is a right of this user's that is missing.
fn unknown(name: &'static str, error: &StoreError) -> Finding {
    let is_forbidden = unreachable(error.clone()).code() == Code::NoPermission as u8;
    let advice = "This user may not look at it, so that nothing is known of it: grant it SELECT on all tables of oneflight, or call doctor as \
                  the user of the service.";
    finding(
        name,
        Soundness::Unknown,
        format!("it could not be looked at: {}", told(error)),
        is_forbidden.then_some(advice),
    )
}

/// How the store is set up, as it says itself.
async fn of_store<S: Upkeep>(store: &S) -> Vec<Finding> {
    store
        .findings()
        .await
        .unwrap_or_else(|error| vec![unknown("settings", &error)])
}

/// Where there is no replica, none is waited for, and that is nothing to be told of.
fn without_replicas(findings: &mut [Finding]) {
    if !findings
        .iter()
        .any(|it| it.name == "replication" && it.found == "there is no replica")
    {
        return;
    }
    for finding in findings.iter_mut().filter(|it| it.name == "acknowledgement") {
        finding.verdict = Soundness::Sound;
    }
}

/// The clock of this machine beside the store's. Leases and retention go by the store's alone.
async fn clock(address: &Address, store: &AnyStore) -> Finding {
    let server = match Server::of(address, store).await {
        Ok(server) => server,
        Err(failure) => return finding(CLOCK, Soundness::Unknown, failure.to_string(), None),
    };
    let (begun, before) = (Instant::now(), SystemTime::now());
    let theirs = match server.now().await {
        Ok(Some(theirs)) => theirs,
        Ok(None) => return sound(CLOCK, "the store has that of this machine"),
        Err(error) => return unknown(CLOCK, &error),
    };
    let took = begun.elapsed();
    let ours = before + took / 2;
    let (apart, direction) = match theirs.duration_since(ours) {
        Ok(apart) => (apart, "behind"),
        Err(error) => (error.duration(), "ahead of"),
    };
    // It was read at some time while the answer was under way.
    match apart.saturating_sub(took / 2) < CLOCKS_AGREE {
        true => sound(
            CLOCK,
            format!("this machine's is within {} of the store's", duration(CLOCKS_AGREE)),
        ),
        false => note(
            CLOCK,
            format!("this machine's is {} {direction} the store's", duration(apart)),
            "Have both machines synchronised: leases and retention go by the store's clock alone, and the times in logs do not agree.",
        ),
    }
}

async fn doubts<S: Upkeep>(store: &S) -> Finding {
    const NAME: &str = "doubts";
    match store.in_doubt(MOST_DOUBTS, None).await {
        Err(error) => unknown(NAME, &error),
        Ok(doubts) => match doubts.iter().map(|doubt| doubt.since).max() {
            None => sound(NAME, "none"),
            Some(oldest) => {
                let more = if doubts.len() >= MOST_DOUBTS { "at least " } else { "" };
                let found = format!("{more}{} in doubt, the oldest for {}", doubts.len(), duration(oldest));
                note(
                    NAME,
                    found,
                    "See `oneflight doubts`, find out what happened, and settle each by `oneflight records resolve`.",
                )
            }
        },
    }
}

/// What is to be delivered, and what delivers it.
async fn of_outbox<S: OutboxUpkeep>(store: &S) -> Vec<Finding> {
    let (backlog, relays) = match (store.backlog().await, store.relays().await) {
        (Ok(backlog), Ok(relays)) => (backlog, relays),
        (Err(error), _) | (_, Err(error)) => return vec![unknown("outbox", &error)],
    };
    let alive = match Lives::watch(store, &relays, SHOWN_WITHIN).await {
        Ok(lives) => relays.len() - lives.silent(),
        Err(error) => return vec![unknown("relays", &error)],
    };
    vec![
        members(&backlog, relays.len(), alive),
        dead_letters(&backlog),
        paused(&backlog),
    ]
}

fn members(backlog: &[TopicBacklog], there: usize, alive: usize) -> Finding {
    const NAME: &str = "relays";
    let waiting: u64 = backlog.iter().filter(|it| !it.is_paused).map(|it| it.waiting).sum();
    let oldest = backlog
        .iter()
        .filter(|it| !it.is_paused && it.waiting > 0)
        .filter_map(|it| it.oldest)
        .max();
    let oldest = oldest.map_or_else(String::new, |oldest| format!(", the oldest for {}", duration(oldest)));
    let window = duration(SHOWN_WITHIN);
    match (there, alive) {
        (0, _) if waiting > 0 => broken(
            NAME,
            format!("none is there, and messages wait: {waiting}{oldest}"),
            "Start a service with a relay: nothing is delivered until then.",
        ),
        (0, _) => sound(NAME, "none, and nothing is to be delivered"),
        (there, alive) if alive < there => note(
            NAME,
            format!(
                "no sign of life for {window} of {} among {there}; a relay with a lease over 20 s shows one less often; messages wait: \
                 {waiting}{oldest}",
                there - alive
            ),
            "Look whether their processes live: others take over the messages of a dead relay once its lease is over. If none lives, nothing \
             is delivered: start a service with a relay.",
        ),
        (_, alive) => sound(NAME, format!("{alive} alive; messages wait: {waiting}{oldest}")),
    }
}

fn dead_letters(backlog: &[TopicBacklog]) -> Finding {
    const NAME: &str = "dead letters";
    let of = topics(
        backlog
            .iter()
            .filter(|it| it.dead > 0)
            .map(|it| format!("{} of {}", it.dead, it.topic)),
    );
    match of {
        None => sound(NAME, "none"),
        Some(found) => note(
            NAME,
            found,
            "See `oneflight outbox dead` for the errors; mend their cause, and have them tried again by `oneflight outbox redrive`.",
        ),
    }
}

fn paused(backlog: &[TopicBacklog]) -> Finding {
    const NAME: &str = "paused topics";
    let of = topics(
        backlog
            .iter()
            .filter(|it| it.is_paused)
            .map(|it| format!("{}, with {}", it.topic, counted(it.waiting + it.parked, "message"))),
    );
    match of {
        None => sound(NAME, "none"),
        Some(found) => note(
            NAME,
            found,
            "Have them delivered again by `oneflight outbox resume`, once there is no reason any more.",
        ),
    }
}

fn topics(found: impl Iterator<Item = String>) -> Option<String> {
    let found: Vec<_> = found.collect();
    (!found.is_empty()).then(|| found.join("; "))
}
