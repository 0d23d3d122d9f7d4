//! What a script is given for one step.
//!
//! All its texts stand one behind the other in one allocation, from which they are written into the command.

use std::fmt;
use std::iter;
use std::ops::Range;

use super::connection::Given;
use super::scripts::Script;

/// The most texts that a script needs for one step: a claim does.
const MOST: usize = 6;

/// See the module's documentation.
pub(super) struct Step {
    script: &'static Script,
    /// What is the same for all steps of a script that this store takes.
    common: &'static [u8],
    texts: Vec<u8>,
    /// Where each text ends. Keys come first.
    ends: [usize; MOST],
    keys: usize,
    count: usize,
}

/// A text that is being written.
pub(super) struct Text<'a>(&'a mut Vec<u8>);

impl Step {
    /// Makes a step without texts, and with room for so many bytes of them.
    pub(super) fn new(script: &'static Script, common: &'static [u8], room: usize) -> Self {
        Self {
            script,
            common,
            texts: Vec::with_capacity(room),
            ends: [0; MOST],
            keys: 0,
            count: 0,
        }
    }

    /// Adds a key. Keys come before arguments.
    pub(super) fn key(mut self, write: impl FnOnce(&mut Text<'_>) -> fmt::Result) -> Self {
        self.keys += 1;
        self.argument(write)
    }

    /// Adds an argument.
    pub(super) fn argument(mut self, write: impl FnOnce(&mut Text<'_>) -> fmt::Result) -> Self {
        // Writing into a vector does not fail.
        let _ = write(&mut Text(&mut self.texts));
        self.ends[self.count] = self.texts.len();
        self.count += 1;
        self
    }

    pub(super) fn script(&self) -> &'static Script {
        self.script
    }

    /// How many bytes the texts have.
    pub(super) fn size(&self) -> usize {
        self.texts.len()
    }

    fn text(&self, number: usize) -> &[u8] {
        let begins = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.texts[begins..self.ends[number]]
    }

    fn texts(&self, which: Range<usize>) -> impl Iterator<Item = &[u8]> {
        which.map(|number| self.text(number))
    }
}

impl Text<'_> {
    /// Writes bytes, of whatever kind.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> fmt::Result {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

impl fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.bytes(text.as_bytes())
    }
}

/// Steps of one script, of which there is at least one.
pub(super) struct Steps<'a>(pub(super) &'a [Step]);

impl Given for Steps<'_> {
    fn script(&self) -> &'static Script {
        self.0[0].script
    }

    fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().flat_map(|step| step.texts(0..step.keys))
    }

    fn arguments(&self) -> impl Iterator<Item = &[u8]> {
        let own = self.0.iter().flat_map(|step| step.texts(step.keys..step.count));
        iter::once(self.0[0].common).chain(own)
    }
}
