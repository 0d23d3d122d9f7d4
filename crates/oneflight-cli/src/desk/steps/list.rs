//! Lists mutations of steps with which nobody goes on.

use std::num::NonZeroUsize;

use oneflight::store::{StepStore, UnfinishedQuery, UnfinishedSteps};
use serde::Serialize;

use crate::exit::Failure;
use crate::output::{self, Form, duration, millis};
use crate::store::{Address, Tables, unreachable, with_sql_store};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many are listed at most
    #[arg(long, default_value = "100", value_name = "N")]
    limit: NonZeroUsize,
}

/// A mutation with which nobody goes on, as it is printed.
#[derive(Serialize)]
struct Unfinished {
    key: String,
    scope: String,
    workflow: String,
    version: String,
    token: u64,
    tries: u32,
    held: bool,
    since_ms: u64,
}

const COLUMNS: [&str; 7] = ["KEY", "SCOPE", "WORKFLOW", "VERSION", "TRIES", "SINCE", "HELD"];

pub(super) async fn run(store: &Address, form: Form, args: Args) -> Result<(), Failure> {
    let store = store.open(Tables::Leave).await?;
    let query = UnfinishedQuery::all(args.limit.get());
    let found = with_sql_store!(&store, "steps", |store| store.unfinished_steps(query).await).map_err(unreachable)?;
    let is_full = found.len() >= args.limit.get();
    let rows: Vec<_> = found.iter().map(Unfinished::of).collect();
    output::rows(form, &COLUMNS, &rows, |row| {
        vec![
            row.key.clone(),
            row.scope.clone(),
            row.workflow.clone(),
            row.version.clone(),
            row.tries.to_string(),
            duration(std::time::Duration::from_millis(row.since_ms)),
            if row.held { "yes" } else { "no" }.to_owned(),
        ]
    })?;
    if is_full {
        output::note("There may be more; raise --limit.");
    }
    Ok(())
}

impl Unfinished {
    fn of(found: &UnfinishedSteps) -> Self {
        Self {
            key: found.id.key().to_owned(),
            scope: found.id.scope().to_owned(),
            workflow: found.name.clone(),
            version: found.version.clone(),
            token: found.token.get(),
            tries: found.tries,
            held: found.held,
            since_ms: millis(found.since),
        }
    }
}
