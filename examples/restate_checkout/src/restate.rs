//! Restate's ingress, as the front calls it: an order is handed over under its key, and is asked for under its key.

use std::error::Error;

use reqwest::{Response, StatusCode};

use crate::order::{Intent, Placed};

/// What it was about is in the log. Nothing is known of the order; it may be asked for again.
pub(crate) type Away = Box<dyn Error + Send + Sync>;

/// Where orders are handed over.
#[derive(Clone, Debug)]
pub(crate) struct Restate {
    pub(crate) ingress: String,
    pub(crate) client: reqwest::Client,
}

impl Restate {
    /// Hands an order over, and waits until it is placed. Under a key that Restate knows it is the first order that is waited for.
    pub(crate) async fn place(&self, key: &str, intent: &Intent) -> Result<Placed, Away> {
        let request = self
            .client
            .post(format!("{}/Checkout/place", self.ingress))
            .json(intent);
        let answer = request.header("idempotency-key", key).send().await?;
        placed(answer).await
    }

    /// Waits for the order that was handed over under this key. Returns `None` if Restate knows none, or none any more.
    pub(crate) async fn attach(&self, key: &str) -> Result<Option<Placed>, Away> {
        let attach = format!("{}/restate/invocation/Checkout/place/{key}/attach", self.ingress);
        let answer = self.client.get(attach).send().await?;
        match answer.status() {
            StatusCode::NOT_FOUND => Ok(None),
            _ => placed(answer).await.map(Some),
        }
    }
}

async fn placed(answer: Response) -> Result<Placed, Away> {
    let status = answer.status();
    match status {
        StatusCode::OK => Ok(answer.json().await?),
        _ => Err(format!("Restate answered {status}: {}", answer.text().await?).into()),
    }
}
