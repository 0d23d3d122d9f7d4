//! Starts a mutation anew under another key.

use oneflight::idempotency::Forked;
use serde::Serialize;

use super::find::{find, unchanged};
use crate::desk::failure::failed;
use crate::desk::request::{Named, idempotency, identity};
use crate::exit::{Code, Failure};
use crate::output::{self, Consent, Form, counted};
use crate::store::{Address, Tables, with_sql_store};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    request: Named,
    /// The key of the new mutation
    #[arg(long, value_name = "KEY")]
    to: String,
    /// The scope of the new mutation: that of the old one unless said
    #[arg(long, value_name = "SCOPE")]
    to_scope: Option<String>,
    /// The step that went wrong: it and all after it are run again
    #[arg(long, value_name = "STEP")]
    at: String,
    #[command(flatten)]
    consent: Consent,
}

/// What was begun.
#[derive(Serialize)]
struct Begun {
    key: String,
    scope: String,
    steps: usize,
}

pub(super) async fn run(store: &Address, form: Form, args: Args) -> Result<(), Failure> {
    let store = store.open(Tables::Leave).await?;
    let (from, known) = find(&store, &args.request).await?;
    let to = identity(args.to_scope.as_deref().unwrap_or(from.scope()), &args.to)?;
    let names: Vec<_> = known.steps.iter().map(|step| step.id.name()).collect();
    let Some(before) = names.iter().position(|name| *name == args.at) else {
        let told = format!("{from} has no recorded step {}; it has {}", args.at, names.join(", "));
        return Err(Failure::new(Code::No, told));
    };
    args.consent.ask(&format!(
        "This begins {to} with the input of {from}, and with {before} of its steps: those before {at}. {at} and all after it are run again, under new \
         downstream keys: what they did the first time is not undone, and takes effect once more.\n{from} stays as it is.",
        at = args.at
    ))?;
    unchanged(&store, &from, &known).await?;
    let to = match from.fingerprint() {
        Some(fingerprint) => to.with_known_fingerprint(fingerprint),
        None => to,
    };
    let forked = with_sql_store!(&store, "steps", |store| idempotency!(store)
        .fork_steps(&from, &to, &args.at)
        .await);
    let steps = match forked.map_err(failed)? {
        Forked::Begun { steps } => steps,
        Forked::Unfinished => {
            let told = format!(
                "{from} is not at its end: somebody goes on with it, or may; hold it first: oneflight steps hold"
            );
            return Err(Failure::new(Code::No, told));
        }
        _ => {
            return Err(Failure::new(
                Code::No,
                format!("{from} is gone, or has no step {} any more", args.at),
            ));
        }
    };
    let begun = Begun {
        key: to.key().to_owned(),
        scope: to.scope().to_owned(),
        steps,
    };
    output::either(form, &begun, || {
        format!(
            "{to} is begun, with {}: it goes on with a call of this key, or by a completer of the service",
            counted(steps, "step")
        )
    })
}
