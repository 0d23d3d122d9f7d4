//! The order as a service of Restate's: each step that is finished is in its journal, and is not done again.

use restate_sdk::prelude::*;
use sqlx::SqlitePool;

use crate::order::{Intent, Outside, Placed, book};

/// What carries orders out.
pub(crate) struct Checkout {
    pub(crate) pool: SqlitePool,
    pub(crate) outside: Outside,
}

// After its retention a key is new to Restate. It has to know one for longer than the front may still ask for it: for longer than a
// record of the front is kept (a day), and than a doubt may last.
#[restate_sdk::service(
    idempotency_retention = "7 days",
    invocation_retry_policy(initial_interval = "100ms", factor = 2.0, max_interval = "2s")
)]
impl Checkout {
    #[handler]
    async fn place(&self, ctx: Context<'_>, Json(intent): Json<Intent>) -> HandlerResult<Json<Placed>> {
        let Intent { order, keys } = intent.clone();
        let reserve = || async { Ok(self.outside.ask("reserve", keys.reserve, order.clone()).await?) };
        ctx.run(reserve).name("reserve").await?;
        let charge = || async { Ok(self.outside.ask("charge", keys.charge, order.clone()).await?) };
        ctx.run(charge).name("charge").await?;
        let row = || async { Ok(book(&mut *self.pool.acquire().await?, intent).await?) };
        let placed = ctx.run(row).name("book").await?;
        let mail = || async { Ok(self.outside.ask("mail", keys.mail, order.clone()).await?) };
        ctx.run(mail).name("mail").await?;
        Ok(Json(Placed { order: placed }))
    }
}
