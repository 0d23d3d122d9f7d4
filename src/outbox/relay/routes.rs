//! Which targets a topic goes to.
//!
//! A pattern is a topic, or the beginning of topics with an asterisk at its end. The longest pattern that fits is the
//! topic's; all targets of that pattern get the message. A topic that no pattern fits is left alone.

use std::sync::Arc;

use crate::outbox::policy::{OnDead, Retry};
use crate::outbox::target::{AnyTarget, TargetOptions};

/// A target, and how it is treated.
pub(super) struct Registered {
    pub(super) target: Arc<dyn AnyTarget>,
    pub(super) name: Arc<str>,
    pub(super) options: TargetOptions,
}

/// The targets of a pattern, by their places in the list of all.
struct Route {
    pattern: String,
    targets: Vec<usize>,
}

/// Why a target cannot be told from the others of its pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clash {
    /// It is not the first one, and has no name.
    Unnamed,
    /// Another one has its name.
    SameName,
}

/// All targets of a relay.
#[derive(Default)]
pub(super) struct Routes {
    routes: Vec<Route>,
    pub(super) targets: Vec<Registered>,
}

impl Routes {
    /// Adds a target. What a target has is kept under its name, so only the first one of a pattern may do without.
    pub(super) fn add(
        &mut self,
        pattern: &str,
        target: Arc<dyn AnyTarget>,
        options: TargetOptions,
    ) -> Result<(), Clash> {
        let at = match self.routes.iter().position(|route| route.pattern == pattern) {
            Some(at) => at,
            None => {
                self.routes.push(Route {
                    pattern: pattern.to_owned(),
                    targets: Vec::new(),
                });
                self.routes.len() - 1
            }
        };
        let others = &self.routes[at].targets;
        let name = match &options.name {
            Some(name) => Arc::clone(name),
            None if others.is_empty() => format!("{pattern}#1").into(),
            None => return Err(Clash::Unnamed),
        };
        if others.iter().any(|other| self.targets[*other].name == name) {
            return Err(Clash::SameName);
        }
        self.routes[at].targets.push(self.targets.len());
        self.targets.push(Registered { target, name, options });
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// The number of the route of a topic.
    pub(super) fn of(&self, topic: &str) -> Option<usize> {
        let fitting = self
            .routes
            .iter()
            .enumerate()
            .filter(|(_, route)| fits(&route.pattern, topic));
        fitting
            .max_by_key(|(_, route)| rank(&route.pattern))
            .map(|(number, _)| number)
    }

    /// The targets of a route.
    pub(super) fn targets_of(&self, route: usize) -> &[usize] {
        &self.routes[route].targets
    }

    /// The targets of a route that are not among these.
    pub(super) fn missing<'r>(&'r self, route: usize, done: &'r [String]) -> impl Iterator<Item = usize> + 'r {
        let targets = self.targets_of(route).iter().copied();
        targets.filter(move |target| !done.iter().any(|name| **name == *self.targets[*target].name))
    }

    /// The pattern of a route.
    pub(super) fn pattern(&self, route: usize) -> &str {
        &self.routes[route].pattern
    }

    /// The patterns, in the order of the routes.
    pub(super) fn patterns(&self) -> impl Iterator<Item = &str> {
        self.routes.iter().map(|route| &*route.pattern)
    }

    pub(super) fn number_of_routes(&self) -> usize {
        self.routes.len()
    }

    pub(super) fn retry(&self, route: usize) -> Retry {
        self.first(route).retry
    }

    pub(super) fn on_dead(&self, route: usize) -> OnDead {
        self.first(route).on_dead
    }

    fn first(&self, route: usize) -> &TargetOptions {
        &self.targets[self.routes[route].targets[0]].options
    }
}

/// Whether this is a topic, or the beginning of topics.
pub(super) fn is_pattern(pattern: &str) -> bool {
    let stem = pattern.strip_suffix('*').unwrap_or(pattern);
    !pattern.is_empty() && !stem.contains('*')
}

fn fits(pattern: &str, topic: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(stem) => topic.starts_with(stem),
        None => topic == pattern,
    }
}

/// A whole topic before a beginning, a longer beginning before a shorter one.
fn rank(pattern: &str) -> (bool, usize) {
    (!pattern.ends_with('*'), pattern.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::{Delivery, DeliveryError};

    #[test]
    fn the_longest_pattern_that_fits_has_the_topic() {
        let nothing: Arc<dyn AnyTarget> = Arc::new(|_: Delivery| async { Ok::<(), DeliveryError>(()) });
        let mut routes = Routes::default();
        for pattern in ["mail.*", "*", "mail.receipt", "mail.rec*"] {
            routes.add(pattern, Arc::clone(&nothing), TargetOptions::new()).unwrap();
        }
        let mut again = |options| routes.add("mail.*", Arc::clone(&nothing), options);
        assert_eq!(again(TargetOptions::new()), Err(Clash::Unnamed));
        assert_eq!(again(TargetOptions::new().name("mail.*#1")), Err(Clash::SameName));
        assert_eq!(again(TargetOptions::new().name("archive")), Ok(()));
        let names = |topic: &str| -> Vec<String> {
            let route = routes.of(topic).unwrap();
            let targets = routes.targets_of(route).iter();
            targets.map(|target| routes.targets[*target].name.to_string()).collect()
        };
        assert_eq!(names("mail.receipt"), ["mail.receipt#1"]);
        assert_eq!(names("mail.recall"), ["mail.rec*#1"]);
        assert_eq!(names("mail.x"), ["mail.*#1", "archive"]);
        assert_eq!(names("charge"), ["*#1"]);
        let mut few = Routes::default();
        few.add("mail.*", nothing, TargetOptions::new()).unwrap();
        assert_eq!(few.of("charge"), None);
        assert!(is_pattern("a.*") && is_pattern("*") && !is_pattern("") && !is_pattern("a*b"));
    }
}
