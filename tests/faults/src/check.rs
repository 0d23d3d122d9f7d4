//! What must hold after a round, read from the database and from the world outside.
//!
//! | | |
//! | --- | --- |
//! | lost | a completed record without its effect, an answer without a record, a key that ends without either |
//! | doubled | two effects or two answers for one key, an effect of what "did nothing", more attempts than there were holders lost |
//! | stuck | a call without an answer in time, a record that is left in progress or in doubt |
//! | wrong | anything else that must not be: a takeover before the lease was over, an attempt that began twice |
//!
//! Work in a transaction has one effect. Work outside of one has as many attempts as its policy explains: with `Refuse` one, and
//! one more if the operator said so; with `Rerun` and `Ask` one for each holder that was killed, was frozen, or says itself that
//! it could not record what it did; all of them under one downstream key, and one of them recorded.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use oneflight::idempotency::Origin;
use oneflight::record::{Decoded, Record, State};
use oneflight::store::Store;

use crate::backend::Backend;
use crate::ledger::Begun;
use crate::messages::{Key, Known, Manner};
use crate::notes::is_declined;
use crate::round::{Round, Scene};
use crate::world::{self, Deed, Step};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Finding {
    Lost,
    Doubled,
    Disordered,
    Stuck,
    Wrong,
}

/// What does not hold, and how much was looked at.
#[derive(Default)]
pub struct Findings {
    pub found: Vec<(Finding, String)>,
    pub effects: usize,
    /// Attempts that an earlier holder had not told about.
    pub taken_over: usize,
}

impl Findings {
    pub fn add(&mut self, finding: Finding, text: impl Into<String>) {
        self.found.push((finding, text.into()));
    }
}

/// Checks a round whose calls have all ended.
pub async fn round<B: Backend>(round: &mut Round<'_, B>, scene: &Scene<B>) {
    let name = round.order.keys[0].round.clone();
    let mut rows: HashMap<String, Vec<String>> = HashMap::new();
    for (key, mark) in scene.backend.effects(&name).await {
        rows.entry(key).or_default().push(mark);
    }
    let mut deeds: HashMap<Key, Vec<Deed>> = HashMap::new();
    for deed in world::read(&scene.world, &name) {
        deeds.entry(deed.key.clone()).or_default().push(deed);
    }
    for key in round.order.keys.clone() {
        let rows = rows.remove(&key.text()).unwrap_or_default();
        let deeds = deeds.remove(&key).unwrap_or_default();
        let store = scene.backend.store();
        let mut loaded = store.load(&key.id()).await;
        // A connection that was lost is noticed when it is used.
        if loaded.is_err() {
            loaded = store.load(&key.id()).await;
        }
        let record = match loaded {
            Ok(record) => record,
            Err(error) => {
                let text = format!("{} cannot be read: {error}", key.text());
                round.findings.add(Finding::Stuck, text);
                continue;
            }
        };
        let recorded = recorded(round, &key, record.as_ref());
        answers(round, &key, recorded.as_deref());
        match key.manner {
            Manner::Outbox if is_declined(&key) => declined(round, &key, &rows),
            Manner::InTransaction | Manner::Outbox => in_transaction(round, &key, recorded.as_deref(), &rows),
            Manner::Steps | Manner::Unattended => in_steps(round, &key, recorded.as_deref(), &rows, &deeds),
            _ => outside(round, &key, recorded.as_deref(), &deeds),
        }
        early(round, &key, scene.lease);
    }
    for key in rows.into_keys().chain(deeds.into_keys().map(|key| key.text())) {
        round.findings.add(Finding::Wrong, format!("{key} was never asked for"));
    }
}

/// The mark in the record, which must be there and completed.
fn recorded<B: Backend>(round: &mut Round<'_, B>, key: &Key, record: Option<&Record>) -> Option<String> {
    let Some(record) = record else {
        round
            .findings
            .add(Finding::Lost, format!("{} has no record", key.text()));
        return None;
    };
    let State::Completed { result, .. } = &record.state else {
        let text = format!("{} is left in progress, at attempt {}", key.text(), record.attempt);
        round.findings.add(Finding::Stuck, text);
        return None;
    };
    let mark = match result.decode() {
        Ok(Decoded::Value { payload, .. }) => serde_json::from_slice(payload).ok(),
        _ => None,
    };
    if mark.is_none() {
        let text = format!("the record of {} cannot be understood", key.text());
        round.findings.add(Finding::Wrong, text);
    }
    mark
}

/// Every call got what is recorded, and one of them executed it.
fn answers<B: Backend>(round: &mut Round<'_, B>, key: &Key, recorded: Option<&str>) {
    let answered = round.ledger.answered.iter().filter(|answered| answered.key == *key);
    let mut executed = 0;
    let mut found = Vec::new();
    for answered in answered {
        if Some(answered.mark.as_str()) != recorded {
            found.push((
                Finding::Doubled,
                format!(
                    "{} was answered with {}, and {recorded:?} is recorded",
                    key.text(),
                    answered.mark
                ),
            ));
        }
        if answered.origin == Origin::Executed {
            executed += 1;
            if answered.phase > 1 && !round.settled.contains(key) {
                let text = format!(
                    "{} was executed at attempt {} after it was answered",
                    key.text(),
                    answered.attempt
                );
                found.push((Finding::Lost, text));
            }
        }
    }
    if executed > 1 {
        found.push((
            Finding::Doubled,
            format!("{} was executed {executed} times", key.text()),
        ));
    }
    round.findings.found.append(&mut found);
}

/// One row, and it is the one that is recorded.
fn in_transaction<B: Backend>(round: &mut Round<'_, B>, key: &Key, recorded: Option<&str>, rows: &[String]) {
    round.findings.effects += rows.len();
    match rows {
        [] => round
            .findings
            .add(Finding::Lost, format!("{} has no effect", key.text())),
        [row] if Some(row.as_str()) == recorded => {}
        [row] => {
            let text = format!("{} has the effect of {row}, and {recorded:?} is recorded", key.text());
            round.findings.add(Finding::Lost, text);
        }
        rows => {
            let text = format!("{} has {} effects", key.text(), rows.len());
            round.findings.add(Finding::Doubled, text);
        }
    }
    let disclaimed: HashSet<&String> = round
        .ledger
        .failed
        .iter()
        .filter(|failed| failed.key == *key && failed.known == Known::Nothing)
        .flat_map(|failed| &failed.marks)
        .collect();
    if let Some(kept) = rows.iter().find(|row| disclaimed.contains(row)) {
        let text = format!("{}: {kept} was said to have done nothing, and is there", key.text());
        round.findings.add(Finding::Doubled, text);
    }
}

/// What was declined has an answer, and nothing else.
fn declined<B: Backend>(round: &mut Round<'_, B>, key: &Key, rows: &[String]) {
    if !rows.is_empty() {
        let text = format!("{} was declined, and has {} effects", key.text(), rows.len());
        round.findings.add(Finding::Doubled, text);
    }
}

/// The step in a transaction has one row, which is the one that is recorded. The others were done, each under one downstream
/// key, and once for each holder that was lost while it ran.
fn in_steps<B: Backend>(round: &mut Round<'_, B>, key: &Key, recorded: Option<&str>, rows: &[String], deeds: &[Deed]) {
    in_transaction(round, key, recorded, rows);
    let untold = round
        .ledger
        .failed
        .iter()
        .filter(|failed| failed.key == *key && failed.unrecorded)
        .count();
    let allowed = 1 + round.struck.killed + round.struck.frozen + untold;
    for name in ["reserve", "mail"] {
        let deeds: Vec<&Deed> = deeds.iter().filter(|deed| deed.name == name).collect();
        let (done, begun): (Vec<&Deed>, Vec<&Deed>) = deeds.iter().partition(|deed| deed.step == Step::Done);
        round.findings.effects += done.len();
        round.findings.taken_over += begun.len().saturating_sub(1);
        if done.is_empty() {
            let text = format!("step {name} of {} was not done", key.text());
            round.findings.add(Finding::Lost, text);
        }
        for (how, times) in [("began", begun.len()), ("was done", done.len())] {
            if times > allowed {
                let text = format!(
                    "step {name} of {} {how} {times} times, and {allowed} can be explained",
                    key.text()
                );
                round.findings.add(Finding::Doubled, text);
            }
        }
        let downstream: HashSet<&String> = deeds.iter().map(|deed| &deed.downstream).collect();
        if downstream.len() > 1 {
            let text = format!(
                "step {name} of {} is known downstream under {} keys",
                key.text(),
                downstream.len()
            );
            round.findings.add(Finding::Doubled, text);
        }
    }
}

/// What is recorded was done, and nothing was done without a reason.
fn outside<B: Backend>(round: &mut Round<'_, B>, key: &Key, recorded: Option<&str>, deeds: &[Deed]) {
    let (done, begun): (Vec<&Deed>, Vec<&Deed>) = deeds.iter().partition(|deed| deed.step == Step::Done);
    round.findings.effects += done.len();
    if !done.iter().any(|deed| Some(deed.mark.as_str()) == recorded) {
        let text = format!("{}: {recorded:?} is recorded, and was not done", key.text());
        round.findings.add(Finding::Lost, text);
    }
    let mut attempts: BTreeMap<u32, usize> = BTreeMap::new();
    for deed in &begun {
        *attempts.entry(deed.attempt).or_default() += 1;
    }
    // One that an operator made new begins to count anew.
    let lives = 1 + usize::from(round.settled.contains(key));
    for (attempt, times) in &attempts {
        if *times > lives {
            let text = format!("{}: attempt {attempt} began {times} times", key.text());
            round.findings.add(Finding::Doubled, text);
        }
    }
    let untold = round
        .ledger
        .failed
        .iter()
        .filter(|failed| failed.key == *key && failed.unrecorded && !failed.marks.is_empty())
        .count();
    let allowed = match key.manner {
        Manner::Refuse => lives,
        _ => 1 + round.struck.killed + round.struck.frozen + untold,
    };
    if begun.len() > allowed {
        let text = format!(
            "{} began {} times, and {allowed} can be explained",
            key.text(),
            begun.len()
        );
        round.findings.add(Finding::Doubled, text);
    }
    round.findings.taken_over += begun.len().saturating_sub(1);
    // A recovery looks whether it was done; only a holder that is alive can do it behind its back.
    let alive = match key.manner {
        Manner::Ask => 1 + round.struck.frozen + untold,
        _ => allowed,
    };
    if done.len() > alive {
        let text = format!(
            "{} was done {} times, and {alive} can be explained",
            key.text(),
            done.len()
        );
        round.findings.add(Finding::Doubled, text);
    }
    let downstream: HashSet<&String> = deeds.iter().map(|deed| &deed.downstream).collect();
    if downstream.len() > 1 {
        let text = format!("{} is known downstream under {} keys", key.text(), downstream.len());
        round.findings.add(Finding::Doubled, text);
    }
}

/// No attempt begins before the lease of the one before can be over. (Half of it: what is seen is not when it was claimed,
/// but when the work had begun.)
fn early<B: Backend>(round: &mut Round<'_, B>, key: &Key, lease: Duration) {
    // An attempt in steps that stops leaves nothing to wait for.
    if matches!(key.manner, Manner::InTransaction | Manner::Outbox | Manner::Refuse) || key.manner.has_steps() {
        return;
    }
    let mut begun: Vec<&Begun> = round.ledger.begun.iter().filter(|begun| begun.key == *key).collect();
    begun.sort_by_key(|begun| begun.at);
    let early: Vec<String> = begun
        .windows(2)
        .filter(|pair| pair[1].at - pair[0].at < lease / 2)
        .map(|pair| {
            let (key, after, attempt) = (key.text(), pair[1].at - pair[0].at, pair[1].attempt);
            format!("{key} was taken over by attempt {attempt} after {after:?}, with a lease of {lease:?}")
        })
        .collect();
    for text in early {
        round.findings.add(Finding::Wrong, text);
    }
}
