//! What happens in a second, from two scrapes of each endpoint. The names are those of `src/telemetry/metrics.md`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::exposition::Sample;

/// How many routes are shown: those with the most requests.
const ROUTES: usize = 20;

const REQUESTS: &str = "oneflight_requests_total";
const CONFLICTS: &str = "oneflight_conflicts_total";
const IN_DOUBT: &str = "oneflight_in_doubt_total";
const REFUSED: &str = "oneflight_refused_total";
const STORE_ERRORS: &str = "oneflight_store_errors_total";
const WAITERS: &str = "oneflight_waiters";
const IN_FLIGHT: &str = "oneflight_in_flight";

/// What an endpoint said.
#[derive(Clone)]
pub(super) struct Scraped {
    pub(super) at: Instant,
    pub(super) samples: Arc<[Sample]>,
}

#[derive(Default, Serialize)]
pub(super) struct Rates {
    /// Whether there are two scrapes of some endpoint. There are no rates otherwise.
    known: bool,
    all: Figures,
    routes: Vec<OfRoute>,
    #[serde(skip)]
    by_route: BTreeMap<String, Figures>,
    more_routes: usize,
}

/// Rates are a second's; gauges are what they are.
#[derive(Clone, Copy, Default, Serialize)]
struct Figures {
    executed: f64,
    collapsed: f64,
    replayed: f64,
    conflicts: f64,
    in_doubt: f64,
    /// Requests that were answered with another problem.
    other_problems: f64,
    store_errors: f64,
    in_flight: f64,
    waiters: f64,
}

#[derive(Serialize)]
struct OfRoute {
    route: String,
    #[serde(flatten)]
    figures: Figures,
}

impl Figures {
    fn field(&mut self, sample: &Sample) -> Option<(&mut f64, bool)> {
        Some(match (&*sample.name, sample.label("origin")) {
            (REQUESTS, "executed") => (&mut self.executed, true),
            (REQUESTS, "collapsed") => (&mut self.collapsed, true),
            (REQUESTS, "replayed") => (&mut self.replayed, true),
            (CONFLICTS, _) => (&mut self.conflicts, true),
            (IN_DOUBT, _) => (&mut self.in_doubt, true),
            (REFUSED, _) => (&mut self.other_problems, true),
            (STORE_ERRORS, _) => (&mut self.store_errors, true),
            (IN_FLIGHT, _) => (&mut self.in_flight, false),
            (WAITERS, _) => (&mut self.waiters, false),
            _ => return None,
        })
    }

    fn requests(&self) -> f64 {
        self.executed + self.collapsed + self.replayed
    }
}

impl Rates {
    /// Adds what an endpoint said last, and how much that is more than what it said before.
    pub(super) fn add(&mut self, before: Option<&Scraped>, last: &Scraped) {
        let seconds = before.map(|before| last.at.saturating_duration_since(before.at).as_secs_f64());
        self.known |= seconds.is_some();
        let series = |scraped: &Scraped| -> HashMap<(String, Vec<(String, String)>), f64> {
            let samples = scraped.samples.iter();
            samples
                .map(|sample| ((sample.name.clone(), sample.labels.clone()), sample.value))
                .collect()
        };
        let earlier = before.map(series).unwrap_or_default();
        for sample in last.samples.iter() {
            let earlier = earlier.get(&(sample.name.clone(), sample.labels.clone())).copied();
            let route = self.by_route.entry(sample.label("route").to_owned()).or_default();
            for figures in [&mut self.all, route] {
                let Some((field, is_counter)) = figures.field(sample) else {
                    continue;
                };
                let more = match (is_counter, seconds) {
                    (false, _) => sample.value,
                    (true, Some(seconds)) if seconds > 0.0 => rise(earlier.unwrap_or(0.0), sample.value) / seconds,
                    (true, _) => 0.0,
                };
                if more.is_finite() {
                    *field += more;
                }
            }
        }
    }

    /// Picks the routes that are shown.
    pub(super) fn finish(&mut self) {
        let mut routes: Vec<_> = std::mem::take(&mut self.by_route)
            .into_iter()
            .map(|(route, figures)| OfRoute { route, figures })
            .filter(|of| of.figures.requests() + of.figures.in_flight + of.figures.waiters + of.figures.conflicts > 0.0)
            .collect();
        routes.sort_by(|one, other| other.figures.requests().total_cmp(&one.figures.requests()));
        self.more_routes = routes.len().saturating_sub(ROUTES);
        routes.truncate(ROUTES);
        self.routes = routes;
    }
}

/// How much a counter has risen. One that fell belongs to a process that began anew.
fn rise(before: f64, now: f64) -> f64 {
    match now >= before {
        true => now - before,
        false => now,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::exposition;
    use super::*;

    fn scraped(at: Instant, text: &str) -> Scraped {
        let samples = exposition::read(text, "oneflight_").unwrap_or_default().into();
        Scraped { at, samples }
    }

    #[test]
    fn a_rate_is_what_two_scrapes_differ_by_and_a_process_that_began_anew_counts_from_zero() {
        let start = Instant::now();
        let line = |origin: &str, count: u32| {
            format!("oneflight_requests_total{{route=\"/orders\",origin=\"{origin}\"}} {count}\n")
        };
        let before = scraped(start, &(line("executed", 10) + &line("replayed", 100)));
        let text = line("executed", 30)
            + &line("replayed", 8)
            + &line("collapsed", 4)
            + "oneflight_waiters{route=\"/orders\"} 3\n";
        let last = scraped(start + Duration::from_secs(4), &text);
        let mut rates = Rates::default();
        rates.add(Some(&before), &last);
        rates.finish();
        assert!(rates.known);
        let all = rates.all;
        assert_eq!(
            (all.executed, all.replayed, all.collapsed, all.waiters),
            (5.0, 2.0, 1.0, 3.0)
        );
        assert_eq!(rates.routes.len(), 1);

        let mut first = Rates::default();
        first.add(None, &last);
        assert_eq!((first.known, first.all.executed, first.all.waiters), (false, 0.0, 3.0));
    }
}
