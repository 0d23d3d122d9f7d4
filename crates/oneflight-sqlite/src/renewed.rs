//! The statement that renews many leases at once.

use std::collections::HashSet;
use std::mem;

use parking_lot::Mutex;
use sqlx::Row;
use sqlx::sqlite::SqliteConnection;

use super::answers;
use super::records::{millis, number};
use oneflight::store::{Renewal, StoreError};

/// A claim by its token, scope and key.
type Held = (i64, String, String);

/// What one statement renews, and what it has renewed.
pub(super) struct Batch {
    asked: Mutex<Vec<Renewal>>,
    renewed: Mutex<HashSet<Held>>,
}

fn held(renewal: &Renewal) -> Held {
    let id = renewal.id();
    (number(renewal.token()), id.scope().to_owned(), id.key().to_owned())
}

impl Batch {
    pub(super) fn of(renewals: Vec<Renewal>) -> Self {
        Self {
            asked: Mutex::new(renewals),
            renewed: Mutex::default(),
        }
    }

    /// Returns what it was made of.
    pub(super) fn take(&self) -> Vec<Renewal> {
        mem::take(&mut *self.asked.lock())
    }

    /// As JSON, of each that is wanted: the claim, and the lease.
    fn asked(&self) -> String {
        let asked = self.asked.lock();
        let asked = asked.iter().filter(|renewal| renewal.is_wanted()).map(|renewal| {
            let id = renewal.id();
            serde_json::json!([number(renewal.token()), id.scope(), id.key(), millis(renewal.lease())])
        });
        serde_json::Value::from_iter(asked).to_string()
    }

    /// Renews, and returns how many rows that changed. Of two renewals of one claim, the longer one counts.
    pub(super) async fn make(&self, connection: &mut SqliteConnection) -> sqlx::Result<u64> {
        let renew = sqlx::query(
            "UPDATE main.oneflight_records
             SET lease_expires_at = max(lease_expires_at, CAST(unixepoch('subsec') * 1000 AS INTEGER) + asked.lease)
             FROM (SELECT value ->> 0 AS token, value ->> 1 AS scope, value ->> 2 AS key, max(value ->> 3) AS lease
                   FROM json_each(?) GROUP BY 1, 2, 3) AS asked
             WHERE oneflight_records.token = asked.token AND oneflight_records.scope = asked.scope
               AND oneflight_records.key = asked.key AND oneflight_records.state = 'in_progress'
             RETURNING token, scope, key",
        );
        let rows = answers::rows_changed(connection, renew.bind(self.asked())).await?;
        let renewed = rows
            .iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)));
        *self.renewed.lock() = renewed.collect::<sqlx::Result<_>>()?;
        Ok(rows.len() as u64)
    }

    /// Tells each what came of it.
    pub(super) fn answer(&self) {
        let renewed = self.renewed.lock();
        for renewal in self.take() {
            let token = renewal.token();
            let is_renewed = renewed.contains(&held(&renewal));
            renewal.answer(is_renewed.then_some(()).ok_or(StoreError::Outdated { token }));
        }
    }
}
