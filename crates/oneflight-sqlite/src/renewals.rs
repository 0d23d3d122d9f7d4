//! Renewals that are one statement of the writer, as [`Renewals`] has gathered them.
//!
//! They go before all business that waits, as a renewal does that comes alone, and wait for the one transaction that has the
//! writer. While that takes long, what is gathered meanwhile waits behind it as one statement for each window, and not as one for
//! each lease. It waits in the line that the store's thread [works through](super::together), and what has failed lines up again: the
//! task that asks never has the turn.

use std::sync::Arc;

use super::busy::is_perhaps_of_a_row;
use super::change::Change;
use super::renewed::Batch;
use super::writer::Writer;
use oneflight::store::{RenewTogether, Renewal, RenewalParts, Renewals, StoreError};

/// The one writer, for renewals.
pub(super) struct Renewing(Writer);

impl Renewing {
    pub(super) fn gathered(writer: Writer) -> Renewals<Self> {
        Renewals::over(Self(writer))
    }

    async fn alone(&self, renewal: Renewal) {
        let (id, token, lease) = (renewal.id().clone(), renewal.token(), renewal.lease());
        let renewed = async {
            match self.0.change(Change::Renew { id, token, lease }).await? {
                0 => Err(StoreError::Outdated { token }),
                _ => Ok(()),
            }
        };
        renewal.answer_with(renewed).await;
    }

    /// Returns those of a batch that has failed, so that nothing was changed, if one of them may be at fault.
    async fn together(&self, renewals: Vec<Renewal>) -> Option<Vec<Renewal>> {
        let batch = Arc::new(Batch::of(renewals));
        match self.0.change(Change::RenewAll(Arc::clone(&batch))).await {
            Ok(_) => batch.answer(),
            Err(error) if is_perhaps_of_a_row(&error) => return Some(batch.take()),
            Err(error) => batch.take().into_iter().for_each(|it| it.answer(Err(error.clone()))),
        }
        None
    }
}

impl RenewTogether for Renewing {
    async fn renew_together(&self, renewals: Vec<Renewal>) {
        let mut parts = RenewalParts::of(renewals);
        while let Some(mut part) = parts.next() {
            match part.len() {
                1 => {
                    if let Some(alone) = part.pop() {
                        self.alone(alone).await;
                    }
                }
                _ => {
                    if let Some(failed) = self.together(part).await {
                        parts.failed(failed);
                    }
                }
            }
        }
    }
}
