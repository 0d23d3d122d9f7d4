//! Calls of several kinds, which take turns.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::calls::Call;
use crate::exit::{Code, Failure};
use crate::store::unreachable;

/// How many turns each kind has.
const ROUNDS: u32 = 5;
/// How many calls of each client are made first, and not measured.
const WARMING: u64 = 3;

/// How much of each kind there is to be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Length {
    /// So many calls.
    Calls(u64),
    /// As many as there is time for.
    Time(Duration),
}

/// How long the calls of a kind took.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// In order once all is measured.
    times: Vec<Duration>,
    elapsed: Duration,
}

impl Measured {
    pub(super) fn count(&self) -> usize {
        self.times.len()
    }

    /// Returns what this part of the calls stayed below.
    pub(super) fn quantile(&self, part: f64) -> Duration {
        let last = self.times.len().saturating_sub(1);
        let at = (last as f64 * part).round() as usize;
        self.times.get(at.min(last)).copied().unwrap_or_default()
    }

    pub(super) fn per_second(&self) -> f64 {
        self.times.len() as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// Measures all kinds with so many clients at a time.
pub(super) async fn measure(clients: usize, length: Length, calls: &[Call]) -> Result<Vec<Measured>, Failure> {
    let mut all: Vec<_> = calls.iter().map(|_| Measured::default()).collect();
    for call in calls {
        round(clients, Length::Calls(WARMING * clients as u64), call).await?;
    }
    let part = match length {
        Length::Calls(number) => Length::Calls(number.div_ceil(u64::from(ROUNDS))),
        Length::Time(time) => Length::Time(time / ROUNDS),
    };
    for turn in 0..ROUNDS as usize {
        // Each kind comes first once, and behind each other one.
        for at in 0..calls.len() {
            let at = (at + turn) % calls.len();
            let measured = round(clients, part, &calls[at]).await?;
            all[at].times.extend(measured.times);
            all[at].elapsed += measured.elapsed;
        }
    }
    all.iter_mut().for_each(|it| it.times.sort_unstable());
    Ok(all)
}

async fn round(clients: usize, length: Length, call: &Call) -> Result<Measured, Failure> {
    let left = Arc::new(AtomicU64::new(match length {
        Length::Calls(number) => number,
        Length::Time(_) => u64::MAX,
    }));
    let begun = Instant::now();
    let until = match length {
        Length::Calls(_) => None,
        Length::Time(time) => Some(begun + time),
    };
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        tasks.spawn(client(call.clone(), Arc::clone(&left), until));
    }
    let mut times = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        let ended = ended.map_err(|error| Failure::new(Code::Software, format!("a client broke off: {error}")))?;
        times.extend(ended?);
    }
    let elapsed = begun.elapsed();
    Ok(Measured { times, elapsed })
}

fn client(
    call: Call,
    left: Arc<AtomicU64>,
    until: Option<Instant>,
) -> impl Future<Output = Result<Vec<Duration>, Failure>> + Send {
    let takes = move || {
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .is_ok()
    };
    async move {
        let mut times = Vec::new();
        while until.is_none_or(|until| Instant::now() < until) && takes() {
            let begun = Instant::now();
            call.once().await.map_err(unreachable)?;
            times.push(begun.elapsed());
        }
        Ok(times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_what_that_part_of_the_calls_stayed_below() {
        let measured = Measured {
            times: (1..=101).map(Duration::from_millis).collect(),
            elapsed: Duration::from_secs(2),
        };
        assert_eq!(measured.quantile(0.5), Duration::from_millis(51));
        assert_eq!(measured.quantile(0.99), Duration::from_millis(100));
        assert_eq!(measured.per_second(), 50.5);
        assert_eq!(Measured::default().quantile(0.99), Duration::ZERO);
    }
}
