//! The layer of [`OutgoingService`], and its settings.

use std::time::Duration;

use tower_layer::Layer;

use super::policy::Limits;
use super::service::OutgoingService;

/// Makes what a client sends safe to repeat, and repeats it.
///
/// * **Correlation.** A request gets the [current](crate::correlation::current) correlation id as `X-Correlation-Id`, unless
///   it has such a header.
/// * **Key.** A POST or PATCH request without an `Idempotency-Key` gets one: a random UUID as a quoted string, as
///   [draft-ietf-httpapi-idempotency-key-header-07, section 2.1](https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-idempotency-key-header-07#section-2.1)
///   has it. One call is one intent: all its tries carry one key, and another call another one.
/// * **Retries.** A request is sent again after an error of the connection, after 429, 502, 503 and 504, and after 409 if
///   that has a `Retry-After`. It is never sent again if it has no key and its method is not idempotent by
///   [RFC 9110, section 9.2.2](https://www.rfc-editor.org/rfc/rfc9110#section-9.2.2), nor if its body can be read only once.
/// * **Pauses** are random and become longer. A `Retry-After` (seconds or a date) is waited for, and the pause on top of
///   it. If that takes longer than there is time, the response is returned.
///
/// The last response, or the last error, is returned as it is.
///
/// Use it for services that honour `Idempotency-Key`. One that ignores it may do twice what is sent twice.
///
/// Inside of work, name the key of what you send by [`Context::downstream_key`](crate::idempotency::Context::downstream_key):
/// a second attempt of the work then sends the same key, which no layer can know.
///
/// It wraps any tower client that takes `http::Request<B>`, where `B` is `Clone`, and under the feature `reqwest`
/// `reqwest::Client`. Calls need a tokio runtime with timers. A try may take as long as the client lets it: set a timeout
/// there.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::convert::Infallible;
/// use std::sync::{Arc, Mutex};
///
/// use http::{Request, Response};
/// use oneflight::http::OutgoingLayer;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// /// Stands for a service that is overloaded for a moment.
/// let keys = Arc::new(Mutex::new(Vec::new()));
/// let seen = Arc::clone(&keys);
/// let service = service_fn(move |request: Request<String>| {
///     let mut keys = seen.lock().unwrap();
///     keys.push(request.headers()["Idempotency-Key"].clone());
///     let status = if keys.len() == 1 { 503 } else { 201 };
///     std::future::ready(Ok::<_, Infallible>(Response::builder().status(status).body(()).unwrap()))
/// });
///
/// let client = ServiceBuilder::new().layer(OutgoingLayer::new()).service(service);
/// let response = client.oneshot(Request::post("/charges").body("amount=700".to_owned())?).await?;
/// assert_eq!(response.status(), 201);
/// let keys = keys.lock().unwrap();
/// assert_eq!((keys.len(), &keys[0]), (2, &keys[1]));
/// # Ok(()) }
/// ```
#[cfg_attr(
    feature = "reqwest",
    doc = r#"
With reqwest:

```no_run
# async fn example() -> Result<(), Box<dyn std::error::Error>> {
use oneflight::http::OutgoingLayer;
use tower::{Layer, ServiceExt};

let http = reqwest::Client::new();
let client = OutgoingLayer::new().layer(http.clone());
let request = http.post("http://payments.internal/charges").body("amount=700").build()?;
let response = client.oneshot(request).await?;
# let _ = response;
# Ok(()) }
```
"#
)]
#[derive(Clone, Copy, Debug)]
pub struct OutgoingLayer {
    limits: Limits,
}

impl OutgoingLayer {
    /// Makes a layer that tries a request up to 5 times within 30 seconds, with a first pause of 100 milliseconds and a
    /// longest one of 5 seconds.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            limits: Limits {
                tries: 5,
                within: Duration::from_secs(30),
                first_pause: Duration::from_millis(100),
                longest_pause: Duration::from_secs(5),
            },
        }
    }

    /// Limits the number of times that a request is sent, the first time included. It is always sent once.
    #[must_use]
    pub const fn max_tries(mut self, tries: u32) -> Self {
        self.limits.tries = tries;
        self
    }

    /// Limits the time between the call and the beginning of its last try.
    #[must_use]
    pub const fn within(mut self, within: Duration) -> Self {
        self.limits.within = within;
        self
    }

    /// Sets the first pause, which doubles with each try, and the longest one. What is waited is a random part of it, a
    /// half at least.
    #[must_use]
    pub const fn pauses(mut self, first: Duration, longest: Duration) -> Self {
        self.limits.first_pause = first;
        self.limits.longest_pause = longest;
        self
    }
}

impl Default for OutgoingLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for OutgoingLayer {
    type Service = OutgoingService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        OutgoingService::new(inner, self.limits)
    }
}
