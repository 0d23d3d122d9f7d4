//! Restate's ingress, as the front calls it: an order is handed over under its key, and asked for under its key.

use std::error::Error;

use reqwest::{Response, StatusCode};

use crate::order::{Intent, Placed};

/// Why there is no order.
#[derive(Debug)]
pub(crate) enum NotPlaced {
    /// It is not known what became of it. Under the same key it may be asked for again.
    Unknown(Box<dyn Error + Send + Sync>),
    /// Restate has carried it out to its end, which was this failure. There is no other under this key.
    Failed(StatusCode, String),
}

/// Where orders are handed over.
#[derive(Clone, Debug)]
pub(crate) struct Restate {
    pub(crate) ingress: String,
    pub(crate) client: reqwest::Client,
}

impl Restate {
    /// Hands an order over, and waits until it is placed. Under a key that Restate knows, it waits for what was handed over first.
    pub(crate) async fn place(&self, key: &str, intent: &Intent) -> Result<Placed, NotPlaced> {
        let request = self
            .client
            .post(format!("{}/restate/call/Checkout/place", self.ingress))
            .json(intent);
        placed(request.header("idempotency-key", key).send().await?).await
    }

    /// Waits for the order that was handed over under this key. Returns `None` if Restate knows none, or none any more.
    pub(crate) async fn attach(&self, key: &str) -> Result<Option<Placed>, NotPlaced> {
        let attach = format!("{}/restate/invocation/Checkout/place/{key}/attach", self.ingress);
        match placed(self.client.get(attach).send().await?).await {
            // No step of an order fails like this.
            Err(NotPlaced::Failed(StatusCode::NOT_FOUND, _)) => Ok(None),
            known => known.map(Some),
        }
    }
}

async fn placed(answer: Response) -> Result<Placed, NotPlaced> {
    let status = answer.status();
    if status == StatusCode::OK {
        return Ok(answer.json().await?);
    }
    // What Restate says of itself, such as that it knows no such service yet, is no answer to the order.
    let is_final = answer.headers().get("x-restate-error-source");
    let is_final = is_final.is_some_and(|source| source == "invocation");
    let said = answer.text().await?;
    Err(match is_final {
        true => NotPlaced::Failed(status, said),
        false => NotPlaced::Unknown(format!("Restate answered {status}: {said}").into()),
    })
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for NotPlaced {
    fn from(error: E) -> Self {
        Self::Unknown(error.into())
    }
}
