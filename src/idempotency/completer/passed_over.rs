//! What a completer was not granted: it passes over that for a while.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::jittered;
use crate::identity::RequestIdentity;
use crate::record::FencingToken;
use crate::store::UnfinishedSteps;
use crate::timer;

/// How many mutations are remembered.
const MOST: usize = 1_000;

/// What was listed and not granted. It stays first in the list, so it is passed over for a while, longer each time, for as
/// long as the same token stands there.
pub(super) struct PassedOver {
    first_pause: Duration,
    longest_pause: Duration,
    by_id: HashMap<RequestIdentity, Rest>,
}

struct Rest {
    token: FencingToken,
    times: u32,
    until: Instant,
}

impl PassedOver {
    pub(super) fn new(first_pause: Duration, longest_pause: Duration) -> Self {
        Self {
            first_pause,
            longest_pause: longest_pause.max(first_pause),
            by_id: HashMap::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn rests(&self, found: &UnfinishedSteps) -> bool {
        let rest = self.by_id.get(&found.id);
        rest.is_some_and(|rest| rest.token == found.token && rest.until > Instant::now())
    }

    pub(super) fn insert(&mut self, id: RequestIdentity, token: FencingToken) {
        if self.by_id.len() >= MOST {
            let now = Instant::now();
            self.by_id.retain(|_, rest| rest.until > now);
        }
        if self.by_id.len() >= MOST {
            return;
        }
        let before = self.by_id.get(&id).filter(|rest| rest.token == token);
        let times = before.map_or(0, |rest| rest.times.saturating_add(1));
        let pause = self
            .first_pause
            .saturating_mul(1 << times.min(20))
            .min(self.longest_pause);
        let until = timer::after(jittered(pause));
        self.by_id.insert(id, Rest { token, times, until });
    }

    /// Forgets what is not among all that is listed.
    pub(super) fn keep(&mut self, listed: &[UnfinishedSteps]) {
        let listed: HashSet<_> = listed.iter().map(|listed| &listed.id).collect();
        self.by_id.retain(|id, _| listed.contains(id));
    }

    pub(super) fn remove(&mut self, id: &RequestIdentity) {
        self.by_id.remove(id);
    }
}
