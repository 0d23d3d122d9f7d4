//! A receiver of webhooks: the provider sends each event until it is acknowledged, sometimes twice at once. The event's id
//! is the key, so each is booked once.

use std::error::Error;
use std::time::Duration;

use oneflight::{Idempotency, Origin, RequestIdentity, ResultExt, Scope};
use oneflight_sqlite::SqliteStore;

/// Returns the status for the provider: with any but 200 it sends the event again.
async fn receive(idem: &Idempotency<SqliteStore>, event: &str, amount: &str) -> Result<(u16, Origin), Box<dyn Error>> {
    let id = RequestIdentity::new(Scope::new("provider").route("webhook"), event)?.with_fingerprint(amount);
    let amount = amount.to_owned();
    let reply = idem
        .run_in_tx(id, |mut tx| async move {
            // What cannot be read will never be: declined, so that the provider gets the same answer each time.
            let cents: i64 = amount.parse().or_decline(422)?;
            sqlx::query("INSERT INTO bookings (cents) VALUES (?)")
                .bind(cents)
                .execute(&mut *tx)
                .await?;
            Ok(200)
        })
        .await?;
    Ok((*reply, reply.origin()))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let store = SqliteStore::open(folder.path().join("bookings.db")).await?;
    sqlx::query("CREATE TABLE bookings (cents INTEGER NOT NULL)")
        .execute(store.pool())
        .await?;
    // The provider gives up after a week: records are kept for longer than that.
    let week = Duration::from_secs(7 * 24 * 60 * 60);
    let idem = Idempotency::builder(store.clone()).retention(2 * week).build();

    let (first, twin) = tokio::join!(receive(&idem, "evt_1", "700"), receive(&idem, "evt_1", "700"));
    println!("{:?}, {:?}", first?, twin?);
    println!("{:?}, again", receive(&idem, "evt_1", "700").await?);
    assert_eq!(receive(&idem, "evt_2", "many").await?.0, 422);

    let bookings: i64 = sqlx::query_scalar("SELECT count(*) FROM bookings")
        .fetch_one(store.pool())
        .await?;
    assert_eq!(bookings, 1);
    Ok(())
}
