//! Renewals that are one statement of the writer, as [`Renewals`] has gathered them.
//!
//! They go before all business that waits, as a renewal does that comes alone, and wait for the one transaction that has the
//! writer. While that takes long, what is gathered meanwhile waits behind it as one statement for each window, and not as one for
//! each lease.

use std::sync::Arc;

use super::busy::is_violation;
use super::change::Change;
use super::renewed::Batch;
use super::writer::Writer;
use oneflight::store::{RenewTogether, Renewal, Renewals, StoreError};

/// The one writer, for renewals.
pub(super) struct Renewing(Writer);

impl Renewing {
    pub(super) fn gathered(writer: Writer) -> Renewals<Self> {
        Renewals::over(Self(writer))
    }

    async fn alone(&self, renewal: Renewal) {
        let (token, lease) = (renewal.token(), renewal.lease());
        let id = renewal.id().clone();
        let renewed = self.0.change(Change::Renew { id, token, lease }).await;
        renewal.answer(renewed.and_then(|rows| match rows {
            0 => Err(StoreError::Outdated { token }),
            _ => Ok(()),
        }));
    }
}

impl RenewTogether for Renewing {
    async fn renew_together(&self, mut renewals: Vec<Renewal>) {
        if renewals.len() > 1 {
            let batch = Arc::new(Batch::of(&renewals));
            match self.0.change(Change::RenewAll(Arc::clone(&batch))).await {
                Ok(_) => return batch.answer(renewals),
                // One of them is at fault, and nothing was changed.
                Err(error) if is_violation(&error) => {}
                Err(error) => {
                    for renewal in renewals.drain(..) {
                        renewal.answer(Err(error.clone()));
                    }
                }
            }
        }
        for renewal in renewals {
            self.alone(renewal).await;
        }
    }
}
