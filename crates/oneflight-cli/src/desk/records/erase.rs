//! Erases what is recorded of a scope, or of one request.

use std::time::Duration;

use oneflight::record::RecordedResult;
use oneflight::store::{Erase, RecordEntry, RecordQuery, RecordState, Upkeep};
use serde::Serialize;

use crate::desk::request::{Named, PAGE, page};
use crate::desk::steps::recorded;
use crate::desk::view::{Bodies, RecordView};
use crate::exit::{Code, Failure};
use crate::output::{self, Consent, Form, counted};
use crate::store::{Address, AnyStore, Tables, unreachable, with_store};

/// How many are erased at a time: claims may wait for a batch.
const BATCH: usize = 500;
/// The pause between batches: others write then.
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The idempotency key of one request, whole. Without it, all requests of the scope are meant
    #[arg(required_unless_present = "scope")]
    key: Option<String>,
    /// The scope in its canonical form, or a beginning of it that ends where one of its parts does. It may be left out if there is a key
    /// that is in one scope only
    #[arg(long)]
    scope: Option<String>,
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
    /// The key, if one request was meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// `records` or `answers`.
    what: &'static str,
    erased: u64,
}

pub(super) async fn run(store: &Address, form: Form, args: Args) -> Result<(), Failure> {
    let store = store.open(Tables::Leave).await?;
    let scope = match (args.key, args.scope) {
        (Some(key), scope) => return one(&store, form, &Named::new(key, scope), args.answers, args.consent).await,
        (None, Some(scope)) => scope,
        (None, None) => {
            return Err(Failure::new(
                Code::Usage,
                "of which request? Name its key, or a --scope",
            ));
        }
    };
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
        key: None,
        what: name,
        erased,
    };
    output::either(form, &erased, || {
        format!("erased {}", counted(erased.erased, &name[..name.len() - 1]))
    })
}

/// Erases the record of one request, or its answer.
async fn one(store: &AnyStore, form: Form, request: &Named, answers: bool, consent: Consent) -> Result<(), Failure> {
    let entry = request.find(store).await?;
    let id = &entry.id;
    let view = RecordView::of(&entry, Bodies::Hidden);
    let Some(result) = &view.result else {
        let told = format!(
            "{id} is {}, so that there is nothing to erase; settle it by oneflight records resolve",
            view.told()
        );
        return Err(Failure::new(Code::No, told));
    };
    if answers && !has_answer(store, &entry).await? {
        let told = format!("there is nothing to erase of {id}: {}", result.told());
        return Err(Failure::new(Code::No, told));
    }
    let whose = match view.settled {
        true => "A person has settled it so",
        false => "Its work has told so itself, as far as is recorded",
    };
    let (what, name, meaning) = match answers {
        true => (
            Erase::Answers,
            "answers",
            "This erases its answer. That the work was done stays known: a request that comes again does not run, and is told that its \
             answer is not kept.",
        ),
        false => (
            Erase::Records,
            "records",
            "This deletes the record. A request that comes again under this key is new, AND ITS WORK RUNS AGAIN: what it did before is not \
             undone. To forget the answer alone, say --answers.",
        ),
    };
    consent.ask(&format!("{id}: {}. {whose}.\n{meaning}", result.told()))?;
    let erased = with_store!(store, |store| store.erase_one(id, entry.record.token, what).await);
    if !erased.map_err(unreachable)? {
        let told = format!("somebody has changed {id} meanwhile, and nothing was erased; look at it again");
        return Err(Failure::new(Code::Temporary, told));
    }
    let erased = ErasedView {
        scope: id.scope().to_owned(),
        key: Some(id.key().to_owned()),
        what: name,
        erased: 1,
    };
    output::either(form, &erased, || match what {
        Erase::Records => format!("{id} is free: the next call with its key runs the work"),
        Erase::Answers => format!("the answer of {id} is erased: that it was done stays known"),
    })
}

/// Whether there is an answer to erase: its own, or one of its steps.
async fn has_answer(store: &AnyStore, entry: &RecordEntry) -> Result<bool, Failure> {
    let has_value = |result: &RecordedResult| result.erased().is_some();
    if entry.record.result().is_some_and(has_value) {
        return Ok(true);
    }
    let steps = recorded(store, &entry.id).await?;
    Ok(steps.is_some_and(|known| {
        let mut results = known.steps.iter().filter_map(|step| step.result.as_ref());
        has_value(&known.input) || results.any(has_value)
    }))
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
