//! Lists records, page after page.

use std::num::NonZeroUsize;

use clap::ValueEnum;
use oneflight::correlation::CorrelationId;
use oneflight::store::{RecordCursor, RecordQuery, RecordState};
use serde::Serialize;

use crate::desk::request::{PAGE, page};
use crate::desk::view::{Bodies, RecordView};
use crate::exit::Failure;
use crate::output::{self, Form, counted};
use crate::store::{Address, Tables};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only those of this scope: in its canonical form, or a beginning of it that ends where one of its parts does
    #[arg(long)]
    scope: Option<String>,
    /// Only those in this state
    #[arg(long)]
    state: Option<WantedState>,
    /// Only those that a request with this correlation id has claimed
    #[arg(long, value_name = "ID")]
    correlation_id: Option<CorrelationId>,
    /// How many are listed at most
    #[arg(long, default_value = "100", value_name = "N")]
    limit: NonZeroUsize,
    /// Go on where a list has ended: the cursor that it was followed by
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum WantedState {
    InProgress,
    InDoubt,
    Completed,
}

/// A list, as it is printed in JSON.
#[derive(Serialize)]
struct Listed {
    records: Vec<RecordView>,
    /// What to go on with, if there may be more.
    next: Option<String>,
    /// How many records could not be read, and are left out.
    unreadable: u64,
}

const COLUMNS: [&str; 6] = ["KEY", "SCOPE", "STATE", "ATTEMPT", "ANSWER", "CORRELATION ID"];

pub(super) async fn run(store: &Address, form: Form, args: Args) -> Result<(), Failure> {
    let limit = args.limit.get();
    let store = store.open(Tables::Leave).await?;
    let mut query = RecordQuery {
        scope: args.scope,
        state: args.state.map(|state| match state {
            WantedState::InProgress => RecordState::InProgress,
            WantedState::InDoubt => RecordState::InDoubt,
            WantedState::Completed => RecordState::Completed,
        }),
        correlation_id: args.correlation_id,
        after: args.after.map(RecordCursor::new),
        ..RecordQuery::all(0)
    };
    let mut listed = Listed {
        records: Vec::new(),
        next: None,
        unreadable: 0,
    };
    loop {
        query.limit = (limit - listed.records.len()).min(PAGE);
        let page = page(&store, query.clone()).await?;
        listed
            .records
            .extend(page.entries.iter().map(|entry| RecordView::of(entry, Bodies::Hidden)));
        listed.unreadable += page.unreadable;
        query.after = page.next;
        listed.next = query.after.as_ref().map(|cursor| cursor.as_str().to_owned());
        if query.after.is_none() || listed.records.len() >= limit {
            break;
        }
    }
    match form {
        Form::Json => output::json(&listed)?,
        Form::Table => output::rows(form, &COLUMNS, &listed.records, cells)?,
    }
    if let (Form::Table, Some(next)) = (form, &listed.next) {
        output::note(&format!(
            "There may be more. Go on by --after '{next}', or raise --limit."
        ));
    }
    if listed.unreadable > 0 {
        output::note(&format!(
            "Left out: {} that this version cannot read.",
            counted(listed.unreadable, "record")
        ));
    }
    Ok(())
}

fn cells(view: &RecordView) -> Vec<String> {
    vec![
        view.key.clone(),
        view.scope.clone(),
        view.told(),
        view.attempt.to_string(),
        view.result.as_ref().map(|result| result.told()).unwrap_or_default(),
        view.correlation_id.clone().unwrap_or_default(),
    ]
}
