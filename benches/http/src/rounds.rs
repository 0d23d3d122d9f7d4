//! Interleaved rounds: in each one every entrant runs once, beginning with another one each time, so that whatever else the
//! machine does happens to all. What counts are the median and the minimum over the rounds, and their ratios.

use serde::{Deserialize, Serialize};

/// The cost of one entrant in nanoseconds an operation, over the rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The entrant.
    pub name: String,
    /// The median of the rounds.
    pub median: f64,
    /// The least of the rounds.
    pub minimum: f64,
}

/// Runs rounds of all entrants, after one that does not count. `run` returns costs of one or several kinds.
pub fn hold<E: Copy, const M: usize>(
    entrants: &[E],
    rounds: usize,
    name: impl Fn(E) -> &'static str,
    mut run: impl FnMut(E) -> [f64; M],
) -> [Vec<Figure>; M] {
    let mut samples = vec![[const { Vec::new() }; M]; entrants.len()];
    for round in 0..=rounds {
        for turn in 0..entrants.len() {
            let at = (round + turn) % entrants.len();
            let costs = run(entrants[at]);
            if round > 0 {
                for (samples, cost) in samples[at].iter_mut().zip(costs) {
                    samples.push(cost);
                }
            }
        }
    }
    std::array::from_fn(|kind| {
        let of = entrants.iter().zip(&samples);
        of.map(|(entrant, samples)| Figure::new(name(*entrant), samples[kind].clone()))
            .collect()
    })
}

impl Figure {
    /// Of one sample a round.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn new(name: &str, mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let middle = samples.len() / 2;
        let median = match samples.len() % 2 {
            1 => samples[middle],
            _ => f64::midpoint(samples[middle - 1], samples[middle]),
        };
        let (name, minimum) = (name.to_owned(), samples[0]);
        Self { name, median, minimum }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entrant_runs_once_a_round_and_begins_in_turn() {
        let mut order = String::new();
        let [figures] = hold(
            &['a', 'b'],
            2,
            |_| "x",
            |entrant| {
                order.push(entrant);
                [order.len() as f64]
            },
        );
        assert_eq!(order, "abbaab");
        let figures: Vec<_> = figures.iter().map(|figure| (figure.median, figure.minimum)).collect();
        assert_eq!(figures, [(4.5, 4.0), (4.5, 3.0)]);
    }
}
