//! Messages by the targets that have yet to get them.
//!
//! Messages of a topic with several targets are of one class at first. What one target has and another one has not is of
//! another class, and waits for nothing that those of the first wait for.

use std::collections::HashMap;
use std::sync::Arc;

/// All classes so far, numbered.
#[derive(Debug, Default)]
pub(super) struct Classes {
    numbers: HashMap<(usize, Arc<[usize]>), usize>,
    all: Vec<(usize, Arc<[usize]>)>,
}

impl Classes {
    /// The number of the class of messages of a route that these targets have yet to get.
    pub(super) fn of(&mut self, route: usize, missing: impl Iterator<Item = usize>) -> usize {
        let class = (route, missing.collect());
        if let Some(number) = self.numbers.get(&class) {
            return *number;
        }
        let number = self.all.len();
        self.all.push(class.clone());
        self.numbers.insert(class, number);
        number
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// The route of a class.
    pub(super) fn route(&self, class: usize) -> usize {
        self.all[class].0
    }

    /// The targets that have yet to get the messages of a class.
    pub(super) fn targets(&self, class: usize) -> Arc<[usize]> {
        Arc::clone(&self.all[class].1)
    }
}
