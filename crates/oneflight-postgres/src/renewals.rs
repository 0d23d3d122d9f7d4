//! Renewals that are one statement, as [`Renewals`] has gathered them.
//!
//! ```text
//! gathered ──one statement──▶ renewed, or outdated
//!                 │  └──left alone: another transaction has the record──▶ renewed alone, as if it had come alone
//!                 ├──the server says that it cannot──▶ halved, and asked for anew, down to the row that is at fault
//!                 └──fails otherwise, or is not answered──▶ none; each fails, and is asked for again by its holder
//! ```
//!
//! No record is waited for in the one statement, and what is renewed alone waits for nothing but its own. A statement that
//! failed has changed nothing, and a lease that is renewed twice is as if it was renewed once.
//!
//! If many are locked, the likeliest reason is a statement of ours that was not answered and is not over. They are asked for
//! together once more after a pause, before each asks for a connection.
//!
//! A statement has to be answered in a part of its shortest lease, so that there is time for another try. So leases of
//! another length go out in another statement: a short one must not take from a long one's time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::call::Value;
use super::errors::{is_no_privilege, is_perhaps_of_a_row, is_unusable};
use super::records;
use super::statements::Statements;
use super::way::{SHORTEST_WAIT, Way};
use oneflight::store::{RenewTogether, Renewal, RenewalParts, Renewals, StoreError};

/// So many may be locked by others without another try together.
const FEW: usize = 16;
/// For how long nothing is tried together where the role was found to have no right to that, or to a row, or the procedure not to be there.
const DENIED_FOR: Duration = Duration::from_secs(60);

/// The way to the server for renewals.
pub(super) struct Renewing {
    way: Way,
    statements: Arc<Statements>,
    patience: Duration,
    /// When that was found.
    denied: Mutex<Option<Instant>>,
}

/// Those of many that were not renewed together.
#[derive(Default)]
struct Left {
    /// Others have these locked.
    locked: Vec<Renewal>,
    /// These were at fault, or are to go alone.
    alone: Vec<Renewal>,
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
            denied: Mutex::default(),
        })
    }

    /// A try that is not answered leaves time for others, as long as the lease runs.
    fn limit(&self, lease: Duration) -> Duration {
        self.patience.min((lease / 3).max(SHORTEST_WAIT))
    }

    async fn renew(&self, renewals: Vec<Renewal>) {
        let limit = self.limit(shortest(&renewals));
        let mut left = self.together(renewals).await;
        if left.locked.len() > FEW {
            sleep(limit / 10).await;
            let Left { locked, alone } = self.together(left.locked).await;
            left.alone.extend(alone);
            left.locked = locked;
        }
        let each = left.locked.into_iter().chain(left.alone);
        let mut each: FuturesUnordered<_> = each.map(|it| self.renew_alone(it)).collect();
        while each.next().await.is_some() {}
    }

    /// Renews what can be renewed together.
    async fn together(&self, renewals: Vec<Renewal>) -> Left {
        let (mut left, mut parts) = (Left::default(), RenewalParts::of(renewals));
        if self.is_denied() {
            parts.part();
        }
        while let Some(part) = parts.next() {
            if part.len() == 1 {
                left.alone.extend(part);
                continue;
            }
            match self.ask(&part).await {
                Ok(digits) => {
                    for (renewal, digit) in part.into_iter().zip(digits.bytes()) {
                        let token = renewal.token();
                        match digit {
                            b'2' => renewal.answer(Ok(())),
                            b'0' => renewal.answer(Err(StoreError::Outdated { token })),
                            _ => left.locked.push(renewal),
                        }
                    }
                }
                // A right to a row as well: each try closes connections.
                Err(error) if is_no_privilege(&error) || is_unusable(&error) => {
                    *self.denied.lock() = Some(Instant::now());
                    parts.failed(part);
                    parts.part();
                }
                Err(error) if is_perhaps_of_a_row(&error) => parts.failed(part),
                Err(error) => {
                    for renewal in part {
                        renewal.answer(Err(error.clone()));
                    }
                }
            }
        }
        left
    }

    fn is_denied(&self) -> bool {
        self.denied.lock().is_some_and(|denied| denied.elapsed() < DENIED_FOR)
    }

    /// Renews in one statement, and returns a digit for each.
    async fn ask(&self, renewals: &[Renewal]) -> Result<String, StoreError> {
        let renew = &self.statements.renew_together;
        let limit = self.limit(shortest(renewals));
        let rows = self.way.call_with(limit, || {
            let scopes: Vec<_> = renewals.iter().map(|it| it.id().scope()).collect();
            let keys: Vec<_> = renewals.iter().map(|it| it.id().key()).collect();
            let tokens: Vec<_> = renewals.iter().map(token_if_wanted).collect();
            let leases: Vec<_> = renewals.iter().map(|it| records::millis(it.lease())).collect();
            let values = [
                Value::Texts(&scopes),
                Value::Texts(&keys),
                Value::Numbers(&tokens),
                Value::Numbers(&leases),
            ];
            self.way.message(renew, &values)
        });
        let rows = rows.await?;
        let digits: Option<String> = records::column(records::only(&rows)?, 0)?;
        digits
            .filter(|digits| digits.len() == renewals.len())
            .ok_or(StoreError::Corrupt {
                what: "the server has not answered for each of the renewals",
            })
    }

    async fn renew_alone(&self, renewal: Renewal) {
        let (id, token, lease) = (renewal.id().clone(), renewal.token(), renewal.lease());
        let renewed = async {
            let values = [
                Value::Text(id.scope()),
                Value::Text(id.key()),
                Value::Number(records::number(token)),
                Value::Number(records::millis(lease)),
            ];
            let renew = &self.statements.renew;
            let rows = self.way.call_as_holder(self.limit(lease), renew, &values).await?;
            records::changed(&rows, token)
        };
        renewal.answer_with(renewed).await;
    }
}

fn shortest(renewals: &[Renewal]) -> Duration {
    renewals.iter().map(Renewal::lease).min().unwrap_or_default()
}

/// The token of a claim; or, in its place, that of none.
fn token_if_wanted(renewal: &Renewal) -> i64 {
    match renewal.is_wanted() {
        true => records::number(renewal.token()),
        false => -1,
    }
}
