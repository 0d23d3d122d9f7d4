//! What must hold of the messages of a round, read from the outbox and from what their receiver saw.
//!
//! | | |
//! | --- | --- |
//! | lost | a message of a committed transaction that had no effect, or is a dead letter though it was not refused for good |
//! | doubled | two effects of one message at one path; an effect of a transaction that was rolled back |
//! | disordered | an effect before that of an earlier message of its ordering key |
//! | stuck | a message that has not ended in time |
//! | wrong | a key that came with two payloads, an effect of another round |

use std::collections::HashMap;

use crate::backend::{Backend, Settled};
use crate::check::{Finding, Findings};
use crate::messages::Key;
use crate::notes::{Note, is_declined};
use crate::round::{Round, Scene};

/// How often an operator tries again what has failed.
const TRIES: usize = 5;

/// Checks the messages of a round whose calls have all ended.
pub async fn round<B: Backend>(round: &mut Round<'_, B>, scene: &Scene<B>) {
    let name = round.order.keys[0].round.clone();
    let committed: HashMap<String, String> = scene.backend.effects(&name).await.into_iter().collect();
    for text in std::mem::take(&mut round.seen.wrong) {
        round.findings.add(Finding::Wrong, text);
    }
    let left = match scene.backend.left_over(&name).await {
        Ok(left) => left,
        Err(why) => {
            let text = format!("what is left of the outbox cannot be read: {why}");
            return round.findings.add(Finding::Stuck, text);
        }
    };
    let mut dead = Vec::new();
    for it in left {
        match it.is_dead {
            true => dead.push(it.note),
            false => round
                .findings
                .add(Finding::Stuck, format!("{} has not ended", told(&it.note))),
        }
    }
    for note in &dead {
        if !note.dies() {
            let text = format!("{} is a dead letter, and was not refused for good", told(note));
            round.findings.add(Finding::Lost, text);
        }
    }
    round.dead = dead.len();
    once(round, &committed, &dead);
    in_order(round);
    // Not to be looked at in every round that follows.
    for note in &dead {
        let mut discarded = scene.backend.settle_dead(note, Settled::Discarded).await;
        // That a connection was lost is noticed when it is used, and there are some of them.
        for _ in 0..TRIES {
            if discarded.is_err() {
                discarded = scene.backend.settle_dead(note, Settled::Discarded).await;
            }
        }
        if !matches!(discarded, Ok(true)) {
            let text = format!("{} cannot be discarded: {discarded:?}", told(note));
            round.findings.add(Finding::Wrong, text);
        }
    }
}

/// Each message of a committed transaction had its effects once, and nothing else had any.
fn once<B: Backend>(round: &mut Round<'_, B>, committed: &HashMap<String, String>, dead: &[Note]) {
    let mut times: HashMap<(&Key, usize, &str), usize> = HashMap::new();
    let mut findings = Findings::default();
    for effect in &round.seen.effects {
        let note = &effect.note;
        *times.entry((&note.key, note.part, &effect.path)).or_default() += 1;
        match committed.get(&note.key.text()) {
            _ if !round.order.keys.contains(&note.key) => {
                findings.add(Finding::Wrong, format!("{} came in another round", told(note)));
            }
            Some(mark) if *mark == note.mark => {}
            _ => {
                let text = format!("{} came from {}, which was not committed", told(note), note.mark);
                findings.add(Finding::Doubled, text);
            }
        }
    }
    for key in round.order.keys.iter().filter(|key| !is_declined(key)) {
        for note in Note::of(key, "") {
            if note.dies() {
                if !dead.iter().any(|it| (&it.key, it.part) == (key, note.part)) {
                    findings.add(Finding::Lost, format!("{} is no dead letter", told(&note)));
                }
                continue;
            }
            for path in note.topic.paths() {
                match times.get(&(key, note.part, *path)).copied().unwrap_or(0) {
                    0 => findings.add(Finding::Lost, format!("{} had no effect at {path}", told(&note))),
                    1 => {}
                    times => {
                        let text = format!("{} had {times} effects at {path}", told(&note));
                        findings.add(Finding::Doubled, text);
                    }
                }
            }
        }
    }
    round.findings.effects += round.seen.effects.len();
    round.findings.found.append(&mut findings.found);
}

/// The effects of an ordering key are in the order of its commits. Those of one message at several paths are in any order.
fn in_order<B: Backend>(round: &mut Round<'_, B>) {
    let mut latest: HashMap<&str, &Note> = HashMap::new();
    let mut found = Vec::new();
    for effect in &round.seen.effects {
        let note = &effect.note;
        let Some(lane) = note.lane.as_deref() else { continue };
        match latest.get(lane) {
            Some(before) if before.number > note.number => {
                found.push(format!(
                    "{} came after {}, number {}",
                    told(note),
                    told(before),
                    before.number
                ));
            }
            _ => {
                latest.insert(lane, note);
            }
        }
    }
    for text in found {
        round.findings.add(Finding::Disordered, text);
    }
}

fn told(note: &Note) -> String {
    let lane = note.lane.as_deref().unwrap_or("no ordering key");
    format!(
        "message {} of {} ({}, {lane})",
        note.part,
        note.key.text(),
        note.topic.word()
    )
}
