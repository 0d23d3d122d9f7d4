//! Erases what is recorded of a scope.

use std::time::Duration;

use oneflight::store::{Erase, RecordQuery, RecordState, Upkeep};
use serde::Serialize;

use crate::desk::request::{PAGE, page};
use crate::exit::{Code, Failure};
use crate::output::{self, Consent, Form, counted};
use crate::store::{Address, AnyStore, Tables, unreachable, with_store};

/// How many are erased at a time: claims may wait for a batch.
const BATCH: usize = 500;
/// The pause between batches: others write then.
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The scope in its canonical form, or a beginning of it that ends where one of its parts does
    #[arg(long)]
    scope: String,
    /// Erase the answers alone, and keep that the work was done
    #[arg(long)]
    answers: bool,
    #[command(flatten)]
    consent: Consent,
}

/// What erasing came to.
#[derive(Serialize)]
struct ErasedView {
    scope: String,
    /// `records` or `answers`.
    what: &'static str,
    erased: u64,
}

pub(super) async fn run(store: &Address, form: Form, args: Args) -> Result<(), Failure> {
    let store = store.open(Tables::Leave).await?;
    let scope = args.scope;
    let completed = count(&store, &scope).await?;
    if completed == 0 {
        return Err(Failure::new(
            Code::No,
            format!("there are no completed records in the scope {scope}"),
        ));
    }
    let (what, name, meaning) = match args.answers {
        true => (
            Erase::Answers,
            "answers",
            "This erases their answers. That the work was done stays known: a request that comes again does not run, and is told that \
             its answer is not kept.",
        ),
        false => (
            Erase::Records,
            "records",
            "This deletes the records. A request that comes again under one of these keys is new, AND ITS WORK RUNS AGAIN. To forget the \
             answers alone, say --answers.",
        ),
    };
    args.consent.ask(&format!(
        "The scope {scope}, with those narrower than it, has {}.\n{meaning}\nWhat is in progress or \
         in doubt stays.",
        counted(completed, "completed record")
    ))?;
    let (mut erased, mut after) = (0, None);
    loop {
        let batch = with_store!(&store, |store| store.erase(&scope, what, after, BATCH).await);
        let batch = batch.map_err(|error| {
            let failure = unreachable(error);
            Failure::with_code(
                failure.code(),
                format!("{failure}; {erased} {name} had been erased by then"),
            )
        })?;
        erased += batch.erased;
        after = batch.next;
        if after.is_none() {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    let erased = ErasedView {
        scope,
        what: name,
        erased,
    };
    output::either(form, &erased, || {
        format!("erased {}", counted(erased.erased, &name[..name.len() - 1]))
    })
}

async fn count(store: &AnyStore, scope: &str) -> Result<usize, Failure> {
    let mut query = RecordQuery {
        scope: Some(scope.to_owned()),
        state: Some(RecordState::Completed),
        ..RecordQuery::all(PAGE)
    };
    let mut completed = 0;
    loop {
        let page = page(store, query.clone()).await?;
        completed += page.entries.len();
        match page.next {
            Some(next) => query.after = Some(next),
            None => return Ok(completed),
        }
    }
}
