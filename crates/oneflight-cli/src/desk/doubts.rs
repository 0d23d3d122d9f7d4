//! What is in doubt, the oldest first: what a person is needed for.

use std::collections::HashMap;
use std::time::Duration;

use oneflight::RequestIdentity;
use oneflight::store::{InDoubt, RecordQuery, RecordState, Store, StoreError, Upkeep};
use serde::Serialize;

use super::request::PAGE;
use super::steps::{StepsView, recorded};
use super::view::Bodies;
use crate::exit::{Failure, Found, checked};
use crate::output::{self, Form, duration, millis};
use crate::store::{Address, AnyStore, Tables, unreachable, with_store};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// End with the exit code 1 if there is one, for a check
    #[arg(long)]
    fail: bool,
    /// Only those that have been in doubt for so long
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    older_than: Option<Duration>,
}

/// A request in doubt, as it is printed.
#[derive(Serialize)]
struct Doubt {
    key: String,
    scope: String,
    in_doubt_ms: u64,
    attempt: u32,
    token: u64,
    correlation_id: Option<String>,
    /// Whether it is held: no policy settles it, but only a person.
    held: bool,
    /// The steps that wait for a person: none if it is a mutation of steps that waits as a whole, `null` if it is no such mutation.
    steps: Option<Vec<String>>,
}

const COLUMNS: [&str; 6] = ["KEY", "SCOPE", "IN DOUBT FOR", "ATTEMPT", "CORRELATION ID", "WAITS FOR"];

pub(super) async fn run(store: &Address, form: Form, args: Args) -> Result<(), Failure> {
    let store = store.open(Tables::Leave).await?;
    let mut found = all(&store).await?;
    let oldest = args.older_than.unwrap_or_default();
    let nothing = match found.is_empty() {
        true => "nothing is in doubt".to_owned(),
        false => format!("nothing has been in doubt for longer than {}", duration(oldest)),
    };
    found.retain(|doubt| doubt.since >= oldest);
    found.sort_by_key(|doubt| std::cmp::Reverse(doubt.since));
    let listed = match found.is_empty() {
        true => HashMap::new(),
        false => listed(&store).await?,
    };
    let mut doubts = Vec::new();
    for doubt in found {
        let steps = recorded(&store, &doubt.id).await?;
        let beside = listed.get(&doubt.id);
        // A mutation of steps is held where its steps are.
        let held = beside.is_some_and(|it| it.held) || steps.as_ref().is_some_and(|known| known.held);
        doubts.push(Doubt {
            key: doubt.id.key().to_owned(),
            scope: doubt.id.scope().to_owned(),
            in_doubt_ms: millis(doubt.since),
            attempt: doubt.attempt,
            token: doubt.token.get(),
            correlation_id: beside.and_then(|it| it.correlation_id.clone()),
            held,
            steps: steps.map(|known| StepsView::of(&doubt.id, &known, Bodies::Hidden).open()),
        });
    }
    let printed = match (form, doubts.is_empty()) {
        (Form::Table, true) => output::line(&nothing),
        _ => output::rows(form, &COLUMNS, &doubts, cells),
    };
    checked(printed, Found::is(args.fail && !doubts.is_empty()))
}

fn cells(doubt: &Doubt) -> Vec<String> {
    vec![
        doubt.key.clone(),
        doubt.scope.clone(),
        duration(Duration::from_millis(doubt.in_doubt_ms)),
        doubt.attempt.to_string(),
        doubt.correlation_id.clone().unwrap_or_default(),
        waits_for(doubt),
    ]
}

/// What it waits for, and whether no policy settles it. What waits in its steps is always held.
fn waits_for(doubt: &Doubt) -> String {
    match &doubt.steps {
        None if doubt.held => "what happened? (held)".to_owned(),
        None => "what happened?".to_owned(),
        Some(open) if open.is_empty() => "to go on".to_owned(),
        Some(open) => format!("what happened in {}?", open.join(", ")),
    }
}

async fn all(store: &AnyStore) -> Result<Vec<InDoubt>, Failure> {
    let mut found: Vec<InDoubt> = Vec::new();
    loop {
        let after = found.last().map(|doubt| doubt.token);
        let page = with_store!(store, |store| store.in_doubt(PAGE, after).await).map_err(unreachable)?;
        if page.is_empty() {
            return Ok(found);
        }
        found.extend(page);
    }
}

/// What the list of records says of a request in doubt.
struct Listed {
    correlation_id: Option<String>,
    held: bool,
}

/// Returns what is listed of what is in doubt, where the store lists that.
async fn listed(store: &AnyStore) -> Result<HashMap<RequestIdentity, Listed>, Failure> {
    let mut listed = HashMap::new();
    let mut query = RecordQuery {
        state: Some(RecordState::InDoubt),
        ..RecordQuery::all(PAGE)
    };
    loop {
        let page = match with_store!(store, |store| store.records(query.clone()).await) {
            Ok(page) => page,
            Err(StoreError::Unsupported { .. }) => return Ok(listed),
            Err(error) => return Err(unreachable(error)),
        };
        listed.extend(page.entries.into_iter().map(|entry| {
            let correlation_id = entry.correlation_id.map(|id| id.to_string());
            let held = entry.record.held;
            (entry.id, Listed { correlation_id, held })
        }));
        match page.next {
            Some(next) => query.after = Some(next),
            None => return Ok(listed),
        }
    }
}
