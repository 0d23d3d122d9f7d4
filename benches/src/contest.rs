//! Interleaved rounds: in each one every peer runs once, beginning with another one each time, so that whatever the
//! machine does meanwhile happens to all. What counts are the median and the minimum over the rounds, and their ratios.

use crate::key::Key;
use crate::peers::{BareWork, Peer, Side, Visitor, visit_all, visit_floors};
use serde::{Deserialize, Serialize};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What one entrant does in one round: `M` costs, the less the better. It panics if the round fails a check of its own.
pub type Run<const M: usize> = Box<dyn FnMut() -> [f64; M]>;

/// A case in which every peer is measured in the same way.
pub trait Trial<const M: usize = 1, K: Key = String> {
    /// What this peer does in a round, or why it cannot.
    ///
    /// # Errors
    ///
    /// The reason that is printed in its place.
    fn enter<P: Peer<K>>(&self) -> Result<Run<M>, String>;

    /// Why its figures are shown, but not compared with ours, if it does something else than what is measured.
    fn objection<P: Peer<K>>(&self) -> Option<String> {
        None
    }
}

/// The peers that are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entrants {
    /// All peers that collapse calls.
    All,
    /// The work alone as well, to show what the machine does.
    AllAndWork,
    /// The floors as well.
    AllAndFloors,
}

/// What every peer came to in one case.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Standings {
    /// The figures, in the order of the peers.
    pub figures: Vec<Figure>,
    /// The peers that could not be measured, and why.
    pub left_out: Vec<(String, String)>,
}

/// What one entrant came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The entrant.
    pub name: String,
    /// To which side the figure belongs.
    pub side: Side,
    /// The median of the rounds.
    pub median: f64,
    /// The minimum of the rounds.
    pub minimum: f64,
    /// How many rounds there were.
    pub rounds: usize,
    /// Why it is not compared with ours, if it is not.
    pub objection: Option<String>,
}

struct Entrant<const M: usize> {
    name: &'static str,
    side: Side,
    objection: Option<String>,
    run: Run<M>,
    samples: [Vec<f64>; M],
    /// Rounds that failed a check, and what the first of them failed.
    failed: (usize, String),
}

struct Entering<'t, T, const M: usize> {
    trial: &'t T,
    entrants: Vec<Entrant<M>>,
    left_out: Vec<(String, String)>,
}

impl<T: Trial<M>, const M: usize> Visitor<String> for Entering<'_, T, M> {
    fn visit<P: Peer<String>>(&mut self) {
        match self.trial.enter::<P>() {
            Ok(run) => self.entrants.push(Entrant {
                name: P::NAME,
                side: P::SIDE,
                objection: self.trial.objection::<P>(),
                run,
                samples: [const { Vec::new() }; M],
                failed: (0, String::new()),
            }),
            Err(reason) => self.left_out.push((P::NAME.to_owned(), reason)),
        }
    }
}

/// An entrant with so many failed rounds takes no further part, and is shown, but not compared. One alone may be the machine's
/// doing.
const MOST_FAILED: usize = 2;

/// Runs that many rounds of a trial, after one that does not count. A round that fails a check does not count either.
pub fn hold<T: Trial<M>, const M: usize>(trial: &T, who: Entrants, rounds: usize) -> [Standings; M] {
    let mut entering = Entering {
        trial,
        entrants: Vec::new(),
        left_out: Vec::new(),
    };
    visit_all(&mut entering);
    match who {
        Entrants::All => {}
        Entrants::AllAndWork => entering.visit::<BareWork>(),
        Entrants::AllAndFloors => visit_floors(&mut entering),
    }
    let Entering {
        mut entrants,
        mut left_out,
        ..
    } = entering;
    let count = entrants.len();
    for round in 0..=rounds {
        for turn in 0..count {
            entrants[(round + turn) % count].take_turn(round > 0);
        }
    }
    // A peer that has no figure at all is left out.
    let (mut entrants, failed): (Vec<_>, Vec<_>) = entrants.into_iter().partition(Entrant::has_figure);
    left_out.extend(
        failed
            .iter()
            .map(|entrant| (entrant.name.to_owned(), entrant.failure(rounds))),
    );
    std::array::from_fn(|measure| Standings {
        figures: entrants
            .iter_mut()
            .map(|entrant| entrant.figure(measure, rounds))
            .collect(),
        left_out: left_out.clone(),
    })
}

impl<const M: usize> Entrant<M> {
    fn take_turn(&mut self, counts: bool) {
        // What a failed round has left behind would be in the way of those that follow.
        if self.failed.0 >= MOST_FAILED {
            return;
        }
        match catch_unwind(AssertUnwindSafe(&mut self.run)) {
            Ok(costs) if counts => {
                for (samples, cost) in self.samples.iter_mut().zip(costs) {
                    samples.push(cost);
                }
            }
            Ok(_) => {}
            Err(panic) => {
                let message = panic.downcast_ref::<String>().map(String::as_str);
                let message = message.or_else(|| panic.downcast_ref::<&str>().copied());
                if self.failed.0 == 0 {
                    message.unwrap_or("a panic").clone_into(&mut self.failed.1);
                }
                self.failed.0 += 1;
            }
        }
    }

    fn has_figure(&self) -> bool {
        self.samples.iter().all(|samples| !samples.is_empty())
    }

    fn failure(&self, rounds: usize) -> String {
        let (failed, check) = &self.failed;
        format!("{failed} of {} rounds failed a check: {check}", rounds + 1)
    }

    fn figure(&mut self, measure: usize, rounds: usize) -> Figure {
        let failure = (self.failed.0 >= MOST_FAILED).then(|| self.failure(rounds));
        let objections: Vec<String> = self.objection.clone().into_iter().chain(failure).collect();
        Figure {
            objection: (!objections.is_empty()).then(|| objections.join("; ")),
            ..Figure::new(self.name, self.side, std::mem::take(&mut self.samples[measure]))
        }
    }
}

impl Figure {
    /// Of one sample a round.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn new(name: &str, side: Side, samples: Vec<f64>) -> Self {
        Self {
            name: name.to_owned(),
            side,
            minimum: samples.iter().copied().fold(f64::INFINITY, f64::min),
            rounds: samples.len(),
            median: median(samples),
            objection: None,
        }
    }
}

/// The median of at least one sample.
///
/// # Panics
///
/// If there is none.
pub fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    let middle = samples.len() / 2;
    if samples.len() % 2 == 1 {
        samples[middle]
    } else {
        f64::midpoint(samples[middle - 1], samples[middle])
    }
}

impl Standings {
    /// Our own figure, unless we were left out.
    pub fn ours(&self) -> Option<&Figure> {
        self.best_of(Side::Ours)
    }

    /// The best of one side, of those that can be compared.
    pub fn best_of(&self, side: Side) -> Option<&Figure> {
        let is_compared = |figure: &&Figure| figure.side == side && figure.objection.is_none();
        let side = self.figures.iter().filter(is_compared);
        side.min_by(|one, other| one.median.total_cmp(&other.median))
    }

    /// The figure with this name.
    pub fn named(&self, name: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.name == name)
    }
}
