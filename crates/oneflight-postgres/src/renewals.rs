//! Renewals that are one statement, as [`Renewals`] has gathered them.
//!
//! ```text
//! gathered ──one statement──▶ renewed, or outdated
//!                 │  └──left alone: another transaction has the record──▶ renewed alone, as if it had come alone
//!                 ├──fails for what one row is──▶ each alone
//!                 └──fails otherwise, or is not answered──▶ none; each fails, and is asked for again by its holder
//! ```
//!
//! No record is waited for in the one statement, and what is renewed alone waits for nothing but its own. A statement that
//! failed has changed nothing, and a lease that is renewed twice is as if it was renewed once.
//!
//! A statement has to be answered in a part of its shortest lease, so that there is time for another try. So leases of
//! another length go out in another statement: a short one must not take from a long one's time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::call::Value;
use super::errors::is_of_a_row;
use super::records;
use super::statements::Statements;
use super::way::{SHORTEST_WAIT, Way};
use oneflight::store::{RenewTogether, Renewal, Renewals, StoreError};

/// The way to the server for renewals.
pub(super) struct Renewing {
    way: Way,
    statements: Arc<Statements>,
    patience: Duration,
}

impl RenewTogether for Renewing {
    async fn renew_together(&self, renewals: Vec<Renewal>) {
        let mut of_a_length = BTreeMap::<_, Vec<_>>::new();
        for renewal in renewals {
            // Each at most twice as long as another one.
            let length = self.limit(renewal.lease()).as_millis().checked_ilog2();
            of_a_length.entry(length).or_default().push(renewal);
        }
        let mut each: FuturesUnordered<_> = of_a_length.into_values().map(|some| self.renew(some)).collect();
        while each.next().await.is_some() {}
    }
}

impl Renewing {
    pub(super) fn gathered(way: Way, statements: Arc<Statements>, patience: Duration) -> Renewals<Self> {
        Renewals::over(Self {
            way,
            statements,
            patience,
        })
    }

    /// A try that is not answered leaves time for others, as long as the lease runs.
    fn limit(&self, lease: Duration) -> Duration {
        self.patience.min((lease / 3).max(SHORTEST_WAIT))
    }

    async fn renew(&self, renewals: Vec<Renewal>) {
        let mut left_alone = Vec::new();
        match renewals.len() {
            1 => left_alone = renewals,
            _ => match self.ask(&renewals).await {
                Ok(digits) => {
                    for (renewal, digit) in renewals.into_iter().zip(digits.bytes()) {
                        let token = renewal.token();
                        match digit {
                            b'2' => renewal.answer(Ok(())),
                            b'0' => renewal.answer(Err(StoreError::Outdated { token })),
                            _ => left_alone.push(renewal),
                        }
                    }
                }
                Err(error) if is_of_a_row(&error) => left_alone = renewals,
                Err(error) => {
                    for renewal in renewals {
                        renewal.answer(Err(error.clone()));
                    }
                }
            },
        }
        let mut each: FuturesUnordered<_> = left_alone.into_iter().map(|it| self.renew_alone(it)).collect();
        while each.next().await.is_some() {}
    }

    /// Renews in one statement, and returns a digit for each.
    async fn ask(&self, renewals: &[Renewal]) -> Result<String, StoreError> {
        let scopes: Vec<_> = renewals.iter().map(|it| it.id().scope()).collect();
        let keys: Vec<_> = renewals.iter().map(|it| it.id().key()).collect();
        let tokens: Vec<_> = renewals.iter().map(|it| records::number(it.token())).collect();
        let leases: Vec<_> = renewals.iter().map(|it| records::millis(it.lease())).collect();
        let values = [
            Value::Texts(&scopes),
            Value::Texts(&keys),
            Value::Numbers(&tokens),
            Value::Numbers(&leases),
        ];
        let shortest = renewals.iter().map(Renewal::lease).min().unwrap_or_default();
        let renew = &self.statements.renew_together;
        let rows = self.way.call_as_holder(self.limit(shortest), renew, &values).await?;
        let digits: Option<String> = records::column(records::only(&rows)?, 0)?;
        digits
            .filter(|digits| digits.len() == renewals.len())
            .ok_or(StoreError::Corrupt {
                what: "the server has not answered for each of the renewals",
            })
    }

    async fn renew_alone(&self, renewal: Renewal) {
        let (id, token, lease) = (renewal.id(), renewal.token(), renewal.lease());
        let values = [
            Value::Text(id.scope()),
            Value::Text(id.key()),
            Value::Number(records::number(token)),
            Value::Number(records::millis(lease)),
        ];
        let renew = &self.statements.renew;
        let rows = self.way.call_as_holder(self.limit(lease), renew, &values).await;
        let renewed = rows.and_then(|rows| records::changed(&rows, token));
        renewal.answer(renewed);
    }
}
