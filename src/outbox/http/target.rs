//! The target itself: what is sent, and where to.

use std::collections::HashSet;
use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use parking_lot::Mutex;
use reqwest::{Client, Url};

use super::guard::{NotPublic, PublicOnly, is_public};
use super::sign::{Secret, signatures};
use super::verdict::{Answered, Verdict};
use crate::outbox::delivery::{Delivery, DeliveryError};
use crate::outbox::target::Target;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// How many URLs are remembered as gone.
const MOST_GONE: usize = 10_000;

/// What belongs to the connection, and not to a message.
const OF_CONNECTION: [HeaderName; 7] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::UPGRADE,
    header::TE,
    header::TRAILER,
];
/// What is sent with each message.
const OURS: [&str; 7] = [
    "content-type",
    "idempotency-key",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
    "x-correlation-id",
    "traceparent",
];

type Policy = Arc<dyn Fn(&Answered<'_>) -> Verdict + Send + Sync>;
type OnGone = Arc<dyn Fn(&str) + Send + Sync>;

/// Delivers by `POST` to an HTTP service, over reqwest.
///
/// The payload is the body. The headers are those of the message, and:
///
/// | header | value |
/// | --- | --- |
/// | `Content-Type` | that of the message |
/// | `Idempotency-Key`, `Webhook-Id` | the key of the message: the same for every attempt |
/// | `X-Correlation-Id`, `traceparent` | if the message has them |
/// | a [header of your choice](Self::topic_header) | the topic, which is not sent otherwise |
/// | `Webhook-Timestamp`, `Webhook-Signature` | if there is a [secret](Self::secret), as [Standard Webhooks](https://www.standardwebhooks.com) has them |
///
/// What an answer means is a [policy](Self::policy). A redirect is not followed. For `https`, enable one of reqwest's
/// TLS features.
///
/// ```
/// use oneflight::outbox::{HttpTarget, HttpTargetError};
///
/// # fn make() -> Result<(), HttpTargetError> {
/// let one_service = HttpTarget::new("https://mail.example/send")?;
/// let urls_of_users = HttpTarget::by_header("webhook-url")?
///     .secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?
///     .on_gone(|url| println!("disable {url}"));
/// # let _ = (one_service, urls_of_users);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct HttpTarget {
    client: Client,
    place: Place,
    secrets: Vec<Secret>,
    is_guarded: bool,
    policy: Policy,
    topic_header: Option<HeaderName>,
    on_gone: Option<OnGone>,
    gone: Arc<Mutex<HashSet<String>>>,
}

/// Where a message goes.
#[derive(Clone)]
enum Place {
    Url(Url),
    /// To the URL in this header of the message.
    Header(String),
}

/// Why a target was not made.
#[derive(Debug)]
#[non_exhaustive]
pub enum HttpTargetError {
    /// The URL is none, or not one of `http` or `https`.
    Url,
    /// The name is not that of a header, or of one that is sent for something else.
    Header,
    /// The secret is not base64 of 24 to 64 bytes.
    Secret,
    /// The client could not be made.
    Client(reqwest::Error),
}

impl fmt::Display for HttpTargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Url => "the URL of the target is not valid; write it in full, with http or https",
            Self::Header => {
                "the name is not that of a header, or is that of one with another meaning; take letters, digits and hyphens, \
                 such as `event-type`"
            }
            Self::Secret => {
                "the secret is not base64 of 24 to 64 bytes, with or without `whsec_`; take it as it was issued"
            }
            Self::Client(_) => "the client could not be made; see its source",
        })
    }
}

impl Error for HttpTargetError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Client(error) => Some(error),
            _ => None,
        }
    }
}

fn client(is_guarded: bool) -> Result<Client, HttpTargetError> {
    // No proxy: it would resolve names by itself.
    let builder = Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT)
        .no_proxy();
    let builder = match is_guarded {
        true => builder.dns_resolver(Arc::new(PublicOnly)),
        false => builder,
    };
    builder.build().map_err(HttpTargetError::Client)
}

fn parse(url: &str) -> Option<Url> {
    let url = Url::parse(url).ok()?;
    (matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(url)
}

impl HttpTarget {
    /// Delivers all messages to one URL of your own, which may be in the own network.
    ///
    /// # Errors
    ///
    /// [`HttpTargetError`] if the URL is not valid, or the client could not be made.
    pub fn new(url: &str) -> Result<Self, HttpTargetError> {
        let url = parse(url).ok_or(HttpTargetError::Url)?;
        Self::at(Place::Url(url), false)
    }

    /// Delivers each message to the URL that it has in this header, which is not passed on. Since such URLs come from
    /// users, addresses that are not public are rejected.
    ///
    /// # Errors
    ///
    /// [`HttpTargetError`] if the name is not that of a header, or the client could not be made.
    pub fn by_header(name: impl Into<String>) -> Result<Self, HttpTargetError> {
        let name = name.into();
        name.parse::<HeaderName>().map_err(|_| HttpTargetError::Header)?;
        Self::at(Place::Header(name), true)
    }

    fn at(place: Place, is_guarded: bool) -> Result<Self, HttpTargetError> {
        Ok(Self {
            client: client(is_guarded)?,
            place,
            secrets: Vec::new(),
            is_guarded,
            policy: Arc::new(|answered: &Answered<'_>| answered.verdict()),
            topic_header: None,
            on_gone: None,
            gone: Arc::default(),
        })
    }

    /// Signs with this secret. With two of them, while one replaces the other, there are two signatures.
    ///
    /// # Errors
    ///
    /// [`HttpTargetError::Secret`] if it is not base64 of 24 to 64 bytes, with or without `whsec_`.
    pub fn secret(mut self, secret: &str) -> Result<Self, HttpTargetError> {
        self.secrets.push(Secret::new(secret).ok_or(HttpTargetError::Secret)?);
        Ok(self)
    }

    /// Sends the topic of each message in this header, for a receiver that gets several.
    ///
    /// # Errors
    ///
    /// [`HttpTargetError::Header`] if the name is not that of a header, or of one that is sent for something else.
    pub fn topic_header(mut self, name: &str) -> Result<Self, HttpTargetError> {
        let name: HeaderName = name.parse().map_err(|_| HttpTargetError::Header)?;
        if OF_CONNECTION.contains(&name) || OURS.contains(&name.as_str()) {
            return Err(HttpTargetError::Header);
        }
        self.topic_header = Some(name);
        Ok(self)
    }

    /// Lets URLs of messages lead to addresses that are not public.
    ///
    /// # Errors
    ///
    /// [`HttpTargetError`] if the client could not be made.
    pub fn allow_own_network(mut self) -> Result<Self, HttpTargetError> {
        (self.client, self.is_guarded) = (client(false)?, false);
        Ok(self)
    }

    /// Uses a client of your own, for certificates or a proxy of yours. Redirects, limits and addresses are then what
    /// that client makes of them; only URLs with an address in place of a name are still looked at.
    #[must_use]
    pub fn client(mut self, client: Client) -> Self {
        self.client = client;
        self
    }

    /// Sets what an answer means. The default is [`Answered::verdict`].
    #[must_use]
    pub fn policy(mut self, policy: impl Fn(&Answered<'_>) -> Verdict + Send + Sync + 'static) -> Self {
        self.policy = Arc::new(policy);
        self
    }

    /// Is told of a URL that has answered that it is gone (410): disable it where you keep it. This target sends
    /// nothing to it any more, until the process ends.
    #[must_use]
    pub fn on_gone(mut self, told: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.on_gone = Some(Arc::new(told));
        self
    }

    fn url(&self, delivery: &Delivery) -> Result<Url, DeliveryError> {
        let url = match &self.place {
            Place::Url(url) => url.clone(),
            Place::Header(wanted) => {
                let mut named = delivery
                    .headers()
                    .iter()
                    .filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
                let found = named.next().and_then(|(_, value)| parse(value));
                found.ok_or_else(|| {
                    DeliveryError::rejected(format!("the message has no valid URL in its header {wanted}"))
                })?
            }
        };
        let address: Option<IpAddr> = url
            .host_str()
            .and_then(|host| host.trim_matches(['[', ']']).parse().ok());
        if self.is_guarded && address.is_some_and(|address| !is_public(address)) {
            return Err(DeliveryError::rejected(NotPublic));
        }
        if self.gone.lock().contains(url.as_str()) {
            return Err(DeliveryError::rejected(
                "the service has answered before that it is gone",
            ));
        }
        Ok(url)
    }

    /// Those of the message, and ours in the place of what it has under the same names.
    fn headers(&self, delivery: &Delivery) -> Result<HeaderMap, DeliveryError> {
        let mut headers = HeaderMap::new();
        let read = |name: &str, value: &str| {
            let valid = (
                HeaderName::from_bytes(name.as_bytes()),
                HeaderValue::from_bytes(value.as_bytes()),
            );
            let (Ok(name), Ok(value)) = valid else {
                return Err(DeliveryError::rejected(format!(
                    "the message has a header that HTTP does not allow: {name}"
                )));
            };
            if OF_CONNECTION.contains(&name) {
                return Err(DeliveryError::rejected(format!(
                    "the message has a header of the connection's: {name}"
                )));
            }
            Ok((name, value))
        };
        for (name, value) in delivery.headers() {
            if !matches!(&self.place, Place::Header(place) if name.eq_ignore_ascii_case(place)) {
                let (name, value) = read(name, value)?;
                headers.append(name, value);
            }
        }
        let mut add = |name: &str, value: &str| {
            let (name, value) = read(name, value)?;
            headers.insert(name, value);
            Ok::<_, DeliveryError>(())
        };
        if let Some(name) = &self.topic_header {
            add(name.as_str(), delivery.topic())?;
        }
        add("content-type", delivery.content_type())?;
        add("idempotency-key", delivery.key())?;
        add("webhook-id", delivery.key())?;
        if let Some(id) = delivery.correlation_id() {
            add("x-correlation-id", id.as_str())?;
        }
        if let Some(parent) = delivery.trace_parent() {
            add("traceparent", parent.as_str())?;
        }
        if !self.secrets.is_empty() {
            let seconds = SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs();
            add("webhook-timestamp", &seconds.to_string())?;
            add(
                "webhook-signature",
                &signatures(&self.secrets, delivery.key(), seconds, delivery.payload()),
            )?;
        }
        Ok(headers)
    }
}

impl Target for HttpTarget {
    async fn deliver(&self, delivery: Delivery) -> Result<(), DeliveryError> {
        let url = self.url(&delivery)?;
        let request = self.client.post(url.clone()).headers(self.headers(&delivery)?);
        let response = match request.body(delivery.payload().to_vec()).send().await {
            Ok(response) => response,
            Err(error) if is_not_public(&error) => {
                return Err(DeliveryError::rejected(NotPublic));
            }
            // Without its URL, which may have a secret in it.
            Err(error) => return Err(DeliveryError::retry(error.without_url())),
        };
        let answered = Answered {
            status: response.status(),
            headers: response.headers(),
        };
        let told = format!("the service answered {}", answered.status);
        match (self.policy)(&answered) {
            Verdict::Delivered => Ok(()),
            Verdict::Retry(None) => Err(DeliveryError::retry(told)),
            Verdict::Retry(Some(pause)) => Err(DeliveryError::retry(told).after(pause)),
            Verdict::Reject => Err(DeliveryError::rejected(told)),
            Verdict::Gone => {
                let is_new = {
                    let mut gone = self.gone.lock();
                    gone.len() < MOST_GONE && gone.insert(url.to_string())
                };
                if let (true, Some(on_gone)) = (is_new, &self.on_gone) {
                    on_gone(url.as_str());
                }
                Err(DeliveryError::rejected(told))
            }
        }
    }
}

/// Whether the guard has refused an address. The client keeps the guard's error for itself, and shows only what it says.
fn is_not_public(error: &(dyn Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |&error: &&(dyn Error + 'static)| error.source());
    let told = NotPublic.to_string();
    causes.any(|cause| cause.is::<NotPublic>() || cause.to_string().contains(&told))
}

impl fmt::Debug for HttpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpTarget")
            .field("is_guarded", &self.is_guarded)
            .finish_non_exhaustive()
    }
}
