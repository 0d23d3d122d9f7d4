//! Gives back the room of records that are past their retention.

use std::num::NonZeroUsize;
use std::time::Duration;

use oneflight::store::Store;
use serde::Serialize;

use crate::exit::Failure;
use crate::output::{self, Consent, Form, counted};
use crate::store::{Address, Tables, unreachable, with_store};

/// Claims may wait for a batch, and get their turn after it.
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many are deleted at a time
    #[arg(long, default_value = "500", value_name = "N")]
    batch: NonZeroUsize,
    /// Go on, a batch at a time, until there are no more
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    consent: Consent,
}

/// What purging came to.
#[derive(Serialize)]
struct Purged {
    /// How many records were deleted.
    purged: usize,
    /// Whether there may be more.
    more: bool,
}

pub(crate) async fn run(store: &Address, form: Form, args: Args) -> Result<(), Failure> {
    let store = store.open(Tables::Leave).await?;
    let how_many = match args.all {
        true => "all records that are past their retention".to_owned(),
        false => format!("up to {} past their retention", counted(args.batch.get(), "record")),
    };
    args.consent.ask(&format!(
        "This deletes {how_many}. They count as absent already: no call gets another answer because of it."
    ))?;
    let batch = args.batch.get();
    let mut purged = Purged { purged: 0, more: false };
    loop {
        let deleted = with_store!(&store, |store| store.purge(batch).await).map_err(unreachable)?;
        purged.purged += deleted;
        purged.more = deleted == batch;
        if !(args.all && purged.more) {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    output::either(form, &purged, || {
        let more = match purged.more {
            true => "; there may be more (--all)",
            false => "",
        };
        format!("deleted {}{more}", counted(purged.purged, "record"))
    })
}
