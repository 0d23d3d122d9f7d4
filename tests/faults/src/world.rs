//! The world outside of the store: a file for each round, to which work appends what it does. It survives its writers,
//! and knows nothing of leases, so it tells what was really done.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::messages::Key;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Deed {
    pub key: Key,
    pub attempt: u32,
    pub mark: String,
    /// Which step of the request, if it has any.
    pub name: String,
    /// Under which key it is known downstream.
    pub downstream: String,
    pub step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    Begun,
    Done,
}

fn file(world: &Path, round: &str) -> PathBuf {
    world.join(round)
}

/// One write to the end of the file. A process that dies leaves it whole or not there.
pub fn write(world: &Path, deed: &Deed) {
    let mut line = serde_json::to_vec(deed).expect("a deed can be written");
    line.push(b'\n');
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(file(world, &deed.key.round))
        .expect("the world is there");
    file.write_all(&line).expect("the world has room");
}

pub fn read(world: &Path, round: &str) -> Vec<Deed> {
    let text = match fs::read_to_string(file(world, round)) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
        Err(error) => panic!("the world cannot be read: {error}"),
    };
    // A reader sees a part of a line while it is being written: that is not there yet.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let deeds = whole
        .lines()
        .map(|line| serde_json::from_str(line).expect("a whole line"));
    deeds.collect()
}

/// The execution of a request that was done, if any was.
pub fn done(world: &Path, round: &str, key: &str) -> Option<String> {
    let mut deeds = read(world, round).into_iter();
    let deed = deeds.find(|deed| deed.step == Step::Done && deed.key.text() == key)?;
    Some(deed.mark)
}
