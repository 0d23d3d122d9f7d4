//! Says what became of a step that has not told.

use oneflight::store::{StepId, WorkflowRecord};
use serde::Serialize;

use super::find::{find, unchanged};
use super::view::StepsView;
use crate::desk::failure::failed;
use crate::desk::request::{Named, idempotency};
use crate::desk::typed::{Answer, AsTyped};
use crate::desk::view::Bodies;
use crate::exit::{Code, Failure};
use crate::output::{self, Consent, Form, counted};
use crate::store::{Address, Tables, with_sql_store};

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("happened").required(true).args(["answer", "answer_file", "not_done"]))]
pub(crate) struct Args {
    #[command(flatten)]
    request: Named,
    /// The name of the step
    step: String,
    /// The key of the step, where its name is used more than once
    #[arg(long, default_value = "", value_name = "KEY")]
    step_key: String,
    #[command(flatten)]
    answer: Answer,
    /// It was not done: the next attempt runs it
    #[arg(long)]
    not_done: bool,
    #[command(flatten)]
    consent: Consent,
}

/// What became of it.
#[derive(Serialize)]
struct Settled {
    key: String,
    scope: String,
    step: String,
    step_key: String,
    /// `recorded` or `forgotten`.
    settled: &'static str,
}

pub(super) async fn run(store: &Address, form: Form, args: Args) -> Result<(), Failure> {
    let answer = args.answer.json()?;
    let store = store.open(Tables::Leave).await?;
    let (id, known) = find(&store, &args.request).await?;
    let step = StepId::new(args.step, args.step_key);
    check(&id, &known, &step)?;
    let meaning = match &answer {
        Some(json) => format!(
            "You say: the step {step} of {id} was done, and its answer is {} of JSON. The next attempt gets that answer, and does not \
             run the step.",
            counted(json.len(), "byte")
        ),
        None => format!(
            "You say: the step {step} of {id} was not done. The next attempt runs it. If it was done after all, or what was cut off may \
             still land, it happens twice."
        ),
    };
    args.consent.ask(&format!(
        "{meaning}\nThe mutation stays held until oneflight steps resume."
    ))?;
    unchanged(&store, &id, &known).await?;
    let settled = with_sql_store!(&store, "steps", |store| {
        let idem = idempotency!(store);
        match &answer {
            Some(json) => idem.with_codec(AsTyped).step_was_done(&id, &step, json).await,
            None => idem.step_was_not_done(&id, &step).await,
        }
    });
    if !settled.map_err(failed)? {
        let told = format!(
            "the step {step} of {id} was not changed: it has told, or the mutation is not held; look at it again"
        );
        return Err(Failure::new(Code::No, told));
    }
    let settled = Settled {
        key: id.key().to_owned(),
        scope: id.scope().to_owned(),
        step: step.name().to_owned(),
        step_key: step.key().to_owned(),
        settled: match answer {
            Some(_) => "recorded",
            None => "forgotten",
        },
    };
    output::either(form, &settled, || {
        format!(
            "the step {step} is {}; now let {id} go on: oneflight steps resume",
            settled.settled
        )
    })
}

/// Sees that there is such a step, and that it waits for a person.
fn check(id: &oneflight::RequestIdentity, known: &WorkflowRecord, step: &StepId) -> Result<(), Failure> {
    let view = StepsView::of(id, known, Bodies::Hidden);
    let open = view.open();
    let told = match (open.contains(&step.to_string()), known.held) {
        (true, true) => return Ok(()),
        (true, false) => {
            format!("{id} is not held, so that its holder may be about to tell; hold it first: oneflight steps hold")
        }
        (false, _) if open.is_empty() => format!("no step of {id} waits for a person: all that are recorded are done"),
        (false, _) => format!("no step {step} of {id} waits for a person; {} does", open.join(", ")),
    };
    Err(Failure::new(Code::No, told))
}
