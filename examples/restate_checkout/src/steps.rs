//! The order in steps of the library's: how orders were carried out before, and how those that were begun like that are finished.

use oneflight::idempotency::{Completer, Error, Steps, Stopped};
use oneflight::{FlightError, Idempotency, RequestIdentity};
use oneflight_sqlite::SqliteStore;

use crate::order::{Intent, Outside, Placed, book};

/// The name under which a completer knows the orders.
const WORKFLOW: &str = "place_order";

/// What carries orders out in this process.
#[derive(Clone)]
pub(crate) struct InSteps {
    idem: Idempotency<SqliteStore>,
    outside: Outside,
}

impl InSteps {
    pub(crate) fn new(idem: &Idempotency<SqliteStore>, outside: Outside) -> Self {
        let idem = idem.with_workflow(WORKFLOW);
        Self { idem, outside }
    }

    /// Starts what goes on with the orders that nobody asks for any more.
    pub(crate) fn complete(&self) -> Result<Completer, FlightError> {
        let outside = self.outside.clone();
        let handler = move |intent, steps| in_steps(outside.clone(), intent, steps);
        self.idem.completer().handler(WORKFLOW, handler).spawn()
    }

    /// Whether this order was begun in steps.
    pub(crate) async fn has_begun(&self, id: &RequestIdentity) -> Result<bool, Error> {
        Ok(self.idem.recorded_steps(id).await?.is_some())
    }

    pub(crate) async fn place(&self, id: RequestIdentity, intent: &Intent) -> Result<Placed, Error> {
        let (outside, own) = (self.outside.clone(), intent.clone());
        let placed = self.idem.run_steps(id, intent, |steps| in_steps(outside, own, steps));
        Ok(placed.await?.into_inner())
    }
}

async fn in_steps(outside: Outside, intent: Intent, steps: Steps<SqliteStore>) -> Result<Placed, Stopped> {
    let Intent { order, keys } = intent.clone();
    let reserve = |_| outside.ask("reserve", keys.reserve, order.clone());
    steps.run("reserve", reserve).await?;
    let charge = |_| outside.ask("charge", keys.charge, order.clone());
    steps.run("charge", charge).await?;
    let booked = steps.run_in_tx("book", |mut tx| async move { Ok(book(&mut tx, intent).await?) });
    let placed = booked.await?;
    let mail = |_| outside.ask("mail", keys.mail, order.clone());
    steps.run("mail", mail).await?;
    Ok(Placed { order: placed })
}
