//! Has a request wait for a person.

use oneflight::store::Upkeep;
use serde::Serialize;

use crate::desk::request::{Named, unchanged};
use crate::desk::view::{Bodies, RecordView};
use crate::exit::{Code, Failure};
use crate::output::{self, Consent, Form};
use crate::store::{Address, Tables, unreachable, with_store};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    request: Named,
    #[command(flatten)]
    consent: Consent,
}

/// What became of it.
#[derive(Serialize)]
struct Held {
    key: String,
    scope: String,
    held: bool,
}

pub(super) async fn run(store: &Address, form: Form, args: Args) -> Result<(), Failure> {
    let store = store.open(Tables::Leave).await?;
    let entry = args.request.find(&store).await?;
    let id = &entry.id;
    let view = RecordView::of(&entry, Bodies::Hidden);
    if entry.record.result().is_some() {
        let told = format!("{id} is completed: there is nothing to wait for");
        return Err(Failure::new(Code::No, told));
    }
    args.consent.ask(&format!(
        "{id}: {}.\nThis holds it: once its lease is over, no call takes it over, whatever the service's policy is, until a person \
         settles it (oneflight records resolve). A holder that is alive goes on, and may complete it.",
        view.told()
    ))?;
    unchanged(&store, &entry).await?;
    let held = with_store!(&store, |store| store.hold(id, entry.record.token).await).map_err(unreachable)?;
    if !held {
        let told = format!("somebody has gone on with {id} meanwhile, and it is not held; look at it again");
        return Err(Failure::new(Code::Temporary, told));
    }
    let held = Held {
        key: id.key().to_owned(),
        scope: id.scope().to_owned(),
        held,
    };
    output::either(form, &held, || format!("{id} is held"))
}
