//! Two ways of doing the same, taken in turns, so that what else the machine does falls on both. Every client is a task, as the
//! requests of a service are.

use std::fmt;
use std::future::Future;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::Failure;

/// How often, and by how many at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rounds {
    pub(crate) rounds: u64,
    /// Calls of each way in each round.
    pub(crate) calls: u64,
    pub(crate) clients: u64,
}

/// The time of one call, in the middle of all rounds.
#[derive(Debug)]
pub(crate) struct Compared {
    pub(crate) clients: u64,
    pub(crate) ours: Duration,
    pub(crate) theirs: Duration,
    /// Ours over theirs, in the middle of all rounds.
    pub(crate) ratio: f64,
}

impl Rounds {
    /// Each way is called with numbers that are never used twice.
    pub(crate) async fn compare<O, T>(
        self,
        ours: impl Fn(u64) -> O + Clone + Send + 'static,
        theirs: impl Fn(u64) -> T + Clone + Send + 'static,
    ) -> Result<Compared, Failure>
    where
        O: Future<Output = Result<(), Failure>> + Send,
        T: Future<Output = Result<(), Failure>> + Send,
    {
        let mut all = Vec::new();
        // The first round warms up, and is not counted.
        for round in 0..=self.rounds {
            let from = round * self.calls;
            // Which goes first changes: the second finds the disk as the first has left it.
            let times = if round % 2 == 0 {
                let ours = self.time(from, &ours).await?;
                (ours, self.time(from, &theirs).await?)
            } else {
                let theirs = self.time(from, &theirs).await?;
                (self.time(from, &ours).await?, theirs)
            };
            all.push(times);
        }
        let counted = &all[1..];
        let per_call = |time: Duration| time / u32::try_from(self.calls).unwrap_or(u32::MAX);
        Ok(Compared {
            clients: self.clients,
            ours: per_call(median(counted.iter().map(|(ours, _)| *ours).collect())),
            theirs: per_call(median(counted.iter().map(|(_, theirs)| *theirs).collect())),
            ratio: median_ratio(counted),
        })
    }

    async fn time<W>(self, from: u64, call: &(impl Fn(u64) -> W + Clone + Send + 'static)) -> Result<Duration, Failure>
    where
        W: Future<Output = Result<(), Failure>> + Send,
    {
        let begun = Instant::now();
        let mut tasks = JoinSet::new();
        for client in 0..self.clients {
            let call = call.clone();
            tasks.spawn(async move {
                let mut number = client;
                while number < self.calls {
                    call(from + number).await?;
                    number += self.clients;
                }
                Ok::<_, Failure>(())
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        Ok(begun.elapsed())
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn median_ratio(times: &[(Duration, Duration)]) -> f64 {
    let ratio = |(ours, theirs): &(Duration, Duration)| ours.as_secs_f64() / theirs.as_secs_f64();
    let mut ratios: Vec<_> = times.iter().map(ratio).collect();
    ratios.sort_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}

/// A number of clients, as tables name it.
pub(crate) fn named(clients: u64) -> String {
    match clients {
        1 => "1 client".to_owned(),
        several => format!("{several} clients"),
    }
}

impl Compared {
    /// The times without the number of clients.
    pub(crate) fn times(&self) -> String {
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        format!("{:.0} µs against {:.0} µs", micros(self.ours), micros(self.theirs))
    }
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", named(self.clients), self.times())
    }
}
