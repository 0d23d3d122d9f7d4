//! Lets a mutation of steps go on, or has it wait for a person.

use serde::Serialize;

use super::find::{find, unchanged};
use super::view::StepsView;
use crate::desk::failure::failed;
use crate::desk::request::{Named, idempotency};
use crate::desk::view::Bodies;
use crate::exit::{Code, Failure};
use crate::output::{self, Consent, Form, counted};
use crate::store::{Address, Tables, with_sql_store};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    request: Named,
    #[command(flatten)]
    consent: Consent,
}

/// What became of it.
#[derive(Serialize)]
struct Changed {
    key: String,
    scope: String,
    held: bool,
}

pub(super) async fn resume(store: &Address, form: Form, args: Args) -> Result<(), Failure> {
    let store = store.open(Tables::Leave).await?;
    let (id, known) = find(&store, &args.request).await?;
    let open = StepsView::of(&id, &known, Bodies::Hidden).open();
    let mut meaning = format!(
        "{id} has {}. It goes on behind them: with the next call, or by a completer of the service, which counts its tries \
         anew.",
        counted(known.steps.len(), "recorded step")
    );
    if !known.held {
        meaning.push_str("\nIt is not held: it goes on by itself, and this changes nothing.");
    }
    if !open.is_empty() {
        meaning.push_str(&format!(
            "\nIt will be held again there: {} has not told whether it was done. Say so first: oneflight steps settle.",
            open.join(", ")
        ));
    }
    args.consent.ask(&meaning)?;
    unchanged(&store, &id, &known).await?;
    let resumed = with_sql_store!(&store, "steps", |store| idempotency!(store).resume_steps(&id).await);
    if !resumed.map_err(failed)? {
        return Err(Failure::new(
            Code::No,
            format!("{id} is completed, or gone: nothing was changed"),
        ));
    }
    let changed = Changed {
        key: id.key().to_owned(),
        scope: id.scope().to_owned(),
        held: false,
    };
    output::either(form, &changed, || format!("{id} goes on"))
}

pub(super) async fn hold(store: &Address, form: Form, args: Args) -> Result<(), Failure> {
    let store = store.open(Tables::Leave).await?;
    let (id, known) = find(&store, &args.request).await?;
    args.consent.ask(&format!(
        "{id} has {}. This holds it: neither calls nor completers go on with it until a person says so (oneflight steps \
         resume, or oneflight records resolve).",
        counted(known.steps.len(), "recorded step")
    ))?;
    unchanged(&store, &id, &known).await?;
    let held = with_sql_store!(&store, "steps", |store| idempotency!(store).hold_steps(&id).await);
    if !held.map_err(failed)? {
        let told = format!("{id} is not held: it is completed, or its holder's lease runs; look at it again");
        return Err(Failure::new(Code::Temporary, told));
    }
    let changed = Changed {
        key: id.key().to_owned(),
        scope: id.scope().to_owned(),
        held: true,
    };
    output::either(form, &changed, || format!("{id} is held"))
}
