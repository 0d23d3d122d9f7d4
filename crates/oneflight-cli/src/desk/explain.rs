//! `oneflight outbox explain`: why a message is not delivered, and by which command that changes.

use oneflight::Outbox;
use oneflight::outbox::{Explanation, MessageId, Reason};
use oneflight::store::outbox::OutboxUpkeep;
use serde::Serialize;

use super::letter::{Shown, letter, missing};
use crate::exit::Failure;
use crate::output::{Form, either, visible};
use crate::store::unreachable;
use crate::terminal::named;

#[derive(Debug, Serialize)]
struct Explained {
    message: Shown,
    reasons: Vec<Told>,
}

/// A reason, as it is printed.
#[derive(Debug, Serialize)]
struct Told {
    why: String,
    /// What to type, or one of several such commands.
    commands: Vec<String>,
}

pub(super) async fn run<S: OutboxUpkeep + Clone>(store: &S, form: Form, id: MessageId) -> Result<(), Failure> {
    let explained = Outbox::new(store.clone()).explain(id).await.map_err(unreachable)?;
    let Explanation { message, reasons, .. } = explained.ok_or_else(|| missing(id))?;
    let explained = Explained {
        message: message.into(),
        reasons: reasons.iter().map(|reason| told(id, reason)).collect(),
    };
    either(form, &explained, || text(&explained))
}

fn told(id: MessageId, reason: &Reason) -> Told {
    let commands = match reason {
        Reason::Dead { .. } => vec![
            format!("oneflight outbox redrive {id}"),
            format!("oneflight outbox cancel {id}"),
        ],
        Reason::Paused { topic } => vec![format!("oneflight outbox resume {}", named(topic))],
        Reason::Behind { id, .. } => vec![format!("oneflight outbox explain {id}")],
        Reason::NotDue { .. } => vec![format!("oneflight outbox cancel {id}")],
        _ => Vec::new(),
    };
    Told {
        why: reason.to_string(),
        commands,
    }
}

fn text(explained: &Explained) -> String {
    let mut text = format!("{}\n", letter(&explained.message));
    for Told { why, commands } in &explained.reasons {
        text.push_str(&format!("\n- {}", visible(why)));
        for command in commands {
            text.push_str(&format!("\n    {}", visible(command)));
        }
    }
    text
}
