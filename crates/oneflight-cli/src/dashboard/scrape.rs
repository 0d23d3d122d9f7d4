//! Asks the Prometheus endpoints of services and proxies, every few seconds, each for itself: one that is away holds none up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::Uri;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::task::JoinSet;

use super::exposition::{self, Sample};
use super::rates::{Rates, Scraped};
use crate::store::told;

/// The shortest time between two questions.
const SHORTEST: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(4);
const LARGEST: usize = 8 * 1024 * 1024;
const PREFIX: &str = "oneflight_";

pub(super) struct Scraper {
    client: Client<HttpConnector, Empty<Bytes>>,
    endpoints: Vec<Endpoint>,
    every: Duration,
}

struct Endpoint {
    url: Uri,
    known: Mutex<Known>,
}

/// What is known of an endpoint.
#[derive(Default)]
struct Known {
    before: Option<Scraped>,
    last: Option<Scraped>,
    /// Why the last question has no answer.
    error: Option<String>,
    asked: Option<Instant>,
}

/// How an endpoint is.
#[derive(Serialize)]
struct Standing {
    url: String,
    /// `waiting` until it was asked, `present`, or `away`.
    state: &'static str,
    error: Option<String>,
    answered_ms_ago: Option<u64>,
    series: usize,
}

/// What the page shows.
#[derive(Serialize)]
pub(super) struct Metrics {
    endpoints: Vec<Standing>,
    rates: Rates,
}

impl Scraper {
    pub(super) fn new(urls: Vec<Uri>, every: Duration) -> Result<Self, String> {
        for url in &urls {
            // The page shows the address, and the log has it.
            if url
                .authority()
                .is_some_and(|authority| authority.as_str().contains('@'))
            {
                let what = "--metrics: an address with a name or a password in it is not taken, since the page would show it; have the \
                            endpoint answer in your own network without one";
                return Err(what.to_owned());
            }
            if url.scheme_str() != Some("http") || url.host().is_none() {
                return Err(format!(
                    "--metrics {url}: give the address of an endpoint in your own network, as in http://10.0.0.7:9090/metrics"
                ));
            }
        }
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(PATIENCE / 2));
        let endpoint = |url| Endpoint {
            url,
            known: Mutex::default(),
        };
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            endpoints: urls.into_iter().map(endpoint).collect(),
            every: every.max(SHORTEST),
        })
    }

    /// Asks them all, again and again.
    pub(super) async fn run(self: Arc<Self>) {
        if self.endpoints.is_empty() {
            return;
        }
        let mut ticks = tokio::time::interval(self.every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let mut asked = JoinSet::new();
            for place in 0..self.endpoints.len() {
                let scraper = Arc::clone(&self);
                asked.spawn(async move { scraper.ask(&scraper.endpoints[place]).await });
            }
            asked.join_all().await;
        }
    }

    async fn ask(&self, endpoint: &Endpoint) {
        let asked = tokio::time::timeout(PATIENCE, self.get(&endpoint.url)).await;
        let answer = asked.unwrap_or_else(|_| Err(format!("it did not answer within {} s", PATIENCE.as_secs())));
        let mut known = endpoint.known.lock();
        known.asked = Some(Instant::now());
        match answer {
            Ok(samples) => {
                known.before = known.last.take();
                known.last = Some(Scraped {
                    at: Instant::now(),
                    samples: samples.into(),
                });
                known.error = None;
            }
            Err(error) => known.error = Some(error),
        }
    }

    async fn get(&self, url: &Uri) -> Result<Vec<Sample>, String> {
        let answer = self.client.get(url.clone()).await.map_err(|error| told(&error))?;
        if !answer.status().is_success() {
            return Err(format!("it answered {}", answer.status()));
        }
        let body = Limited::new(answer.into_body(), LARGEST).collect().await;
        let body = body.map_err(|error| told(&*error))?.to_bytes();
        let text = std::str::from_utf8(&body).map_err(|_| "it answered something else than text".to_owned())?;
        exposition::read(text, PREFIX)
    }

    /// Returns what is known of all.
    pub(super) fn metrics(&self) -> Metrics {
        let mut rates = Rates::default();
        let standing = |endpoint: &Endpoint| {
            let known = endpoint.known.lock();
            // What it said before it went away is not what is.
            if let (Some(last), None) = (&known.last, &known.error) {
                rates.add(known.before.as_ref(), last);
            }
            let since = |scraped: &Scraped| u64::try_from(scraped.at.elapsed().as_millis()).unwrap_or(u64::MAX);
            Standing {
                url: endpoint.url.to_string(),
                state: match (&known.error, known.asked) {
                    (Some(_), _) => "away",
                    (None, Some(_)) => "present",
                    (None, None) => "waiting",
                },
                error: known.error.clone(),
                answered_ms_ago: known.last.as_ref().map(since),
                series: known.last.as_ref().map_or(0, |scraped| scraped.samples.len()),
            }
        };
        let endpoints = self.endpoints.iter().map(standing).collect();
        rates.finish();
        Metrics { endpoints, rates }
    }
}
