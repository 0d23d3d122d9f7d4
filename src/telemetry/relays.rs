//! The metrics of relays, through the facade `metrics`, with all names in one place, and a table of them in `relays.md`.
//! Without the feature `metrics` there are none, and they cost nothing.
//!
//! A relay gathers what it does in plain numbers, and tells the recorder once a turn. All of it is there with 0 from its start. Gauges of several relays in one process
//! add up, and what a relay has told goes with it; the age is that of the relay which told last. A recorder that panics is
//! reported by the panic hook and disturbs no relay.
//!
#![doc = include_str!("relays.md")]

#[cfg(feature = "metrics")]
pub(crate) use self::counted::*;
#[cfg(not(feature = "metrics"))]
pub(crate) use self::silent::*;

#[cfg(feature = "metrics")]
mod counted {
    use std::mem::take;
    use std::sync::Arc;
    use std::time::Duration;

    use metrics::{Label, SharedString, counter, describe_counter, describe_gauge, gauge};

    use crate::unwind::quietly;

    const BACKLOG: &str = "oneflight_outbox_backlog";
    const OLDEST: &str = "oneflight_outbox_oldest_seconds";
    const IN_FLIGHT: &str = "oneflight_outbox_in_flight";
    const OPEN_CIRCUITS: &str = "oneflight_outbox_open_circuits";
    const PAUSED: &str = "oneflight_outbox_paused";
    const SHARDS: &str = "oneflight_outbox_shards";
    const ATTEMPTS: &str = "oneflight_outbox_attempts_total";
    const DELIVERED: &str = "oneflight_outbox_delivered_total";
    const DEAD: &str = "oneflight_outbox_dead_total";
    const EXPIRED: &str = "oneflight_outbox_expired_total";
    const LEFT_ALONE: &str = "oneflight_outbox_left_alone_total";
    const POLLS: &str = "oneflight_outbox_polls_total";
    const EMPTY_POLLS: &str = "oneflight_outbox_empty_polls_total";
    const LEASE_EXPIRIES: &str = "oneflight_outbox_lease_expiries_total";
    const SHARDS_LOST: &str = "oneflight_outbox_shards_lost_total";
    const STORE_ERRORS: &str = "oneflight_outbox_store_errors_total";

    /// Tells the recorder what the metrics are.
    pub(crate) fn describe() {
        quietly(|| {
            describe_gauge!(BACKLOG, "Messages that relays have read and that have not ended");
            describe_gauge!(OLDEST, "For how long the oldest of them has been sent, in seconds");
            describe_gauge!(IN_FLIGHT, "Messages that are being delivered");
            describe_gauge!(OPEN_CIRCUITS, "Whether a target is left alone after failures in a row");
            describe_gauge!(PAUSED, "Topics that are paused, as relays have learnt");
            describe_gauge!(SHARDS, "Shards that relays have");
            describe_counter!(ATTEMPTS, "Attempts to deliver a message that were begun");
            describe_counter!(DELIVERED, "Messages that were delivered");
            describe_counter!(DEAD, "Messages that became dead letters");
            describe_counter!(EXPIRED, "Messages that expired");
            describe_counter!(LEFT_ALONE, "Messages of topics without a target that were read");
            describe_counter!(POLLS, "How often a store was asked for messages");
            describe_counter!(EMPTY_POLLS, "How often there were none");
            describe_counter!(LEASE_EXPIRIES, "Relays whose lease was over, as others found out");
            describe_counter!(SHARDS_LOST, "Shards that were lost to another relay");
            describe_counter!(STORE_ERRORS, "Questions of relays that a store did not answer");
        });
    }

    /// What a relay has counted since it last told, and the gauges that it has told.
    pub(crate) struct RelayCounts {
        topics: Vec<Topic>,
        targets: Vec<Target>,
        group: Vec<Label>,
        left_alone: u64,
        polls: u64,
        empty_polls: u64,
        lease_expiries: u64,
        shards_lost: u64,
        store_errors: u64,
        shards: Told,
    }

    struct Topic {
        labels: Vec<Label>,
        attempts: u64,
        delivered: u64,
        dead: u64,
        expired: u64,
        backlog: Told,
        paused: Told,
        /// What was told last.
        oldest: Option<f64>,
    }

    struct Target {
        labels: Vec<Label>,
        in_flight: Told,
        open: Told,
    }

    /// The part of a gauge that is this relay's.
    #[derive(Default)]
    struct Told(usize);

    impl Told {
        fn tell(&mut self, name: &'static str, labels: &[Label], now: usize) {
            let before = std::mem::replace(&mut self.0, now);
            if now != before {
                gauge!(name, labels.iter()).increment(now as f64 - before as f64);
            }
        }
    }

    fn count(name: &'static str, labels: &[Label], by: &mut u64) {
        if *by > 0 {
            counter!(name, labels.iter()).increment(take(by));
        }
    }

    /// Tells the recorder of metrics, with 0 unless another relay has told more.
    fn announce(counters: &[&'static str], gauges: &[&'static str], labels: &[Label]) {
        for name in counters {
            counter!(*name, labels.iter()).increment(0);
        }
        for name in gauges {
            gauge!(*name, labels.iter()).increment(0);
        }
    }

    impl RelayCounts {
        pub(crate) fn new<'n>(
            group: &Arc<str>,
            patterns: impl Iterator<Item = &'n str>,
            targets: impl Iterator<Item = &'n Arc<str>>,
        ) -> Self {
            let group = Label::new("group", SharedString::from(Arc::clone(group)));
            let with = |name: &'static str, value: &str| {
                let value = SharedString::from(Arc::<str>::from(value));
                vec![group.clone(), Label::new(name, value)]
            };
            let topics = patterns.map(|pattern| Topic {
                labels: with("topic", pattern),
                attempts: 0,
                delivered: 0,
                dead: 0,
                expired: 0,
                backlog: Told::default(),
                paused: Told::default(),
                oldest: None,
            });
            let targets = targets.map(|target| Target {
                labels: with("target", target),
                in_flight: Told::default(),
                open: Told::default(),
            });
            let counts = Self {
                topics: topics.collect(),
                targets: targets.collect(),
                group: vec![group],
                left_alone: 0,
                polls: 0,
                empty_polls: 0,
                lease_expiries: 0,
                shards_lost: 0,
                store_errors: 0,
                shards: Told::default(),
            };
            counts.announce();
            counts
        }

        /// A series that appears with 1 has not increased, as far as Prometheus can tell.
        fn announce(&self) {
            quietly(|| {
                for topic in &self.topics {
                    announce(
                        &[ATTEMPTS, DELIVERED, DEAD, EXPIRED],
                        &[BACKLOG, OLDEST, PAUSED],
                        &topic.labels,
                    );
                }
                for target in &self.targets {
                    announce(&[], &[IN_FLIGHT, OPEN_CIRCUITS], &target.labels);
                }
                let counters = [
                    LEFT_ALONE,
                    POLLS,
                    EMPTY_POLLS,
                    LEASE_EXPIRIES,
                    SHARDS_LOST,
                    STORE_ERRORS,
                ];
                announce(&counters, &[SHARDS], &self.group);
            });
        }

        pub(crate) fn attempted(&mut self, topic: usize) {
            self.topics[topic].attempts += 1;
        }

        pub(crate) fn delivered(&mut self, topic: usize) {
            self.topics[topic].delivered += 1;
        }

        pub(crate) fn died(&mut self, topic: usize) {
            self.topics[topic].dead += 1;
        }

        pub(crate) fn expired(&mut self, topic: usize) {
            self.topics[topic].expired += 1;
        }

        pub(crate) fn left_alone(&mut self) {
            self.left_alone += 1;
        }

        pub(crate) fn polled(&mut self, is_empty: bool) {
            self.polls += 1;
            self.empty_polls += u64::from(is_empty);
        }

        pub(crate) fn leases_expired(&mut self, relays: usize) {
            self.lease_expiries += relays as u64;
        }

        pub(crate) fn lost(&mut self, shards: usize) {
            self.shards_lost += shards as u64;
        }

        pub(crate) fn store_failed(&mut self) {
            self.store_errors += 1;
        }

        /// Tells the recorder of a topic: its backlog, and the age of the oldest message if that was looked for.
        pub(crate) fn tell_topic(&mut self, topic: usize, backlog: usize, oldest: Option<Duration>) {
            let topic = &mut self.topics[topic];
            quietly(|| {
                let labels = &topic.labels;
                topic.backlog.tell(BACKLOG, labels, backlog);
                if let Some(oldest) = oldest.map(|oldest| oldest.as_secs_f64())
                    && topic.oldest.replace(oldest) != Some(oldest)
                {
                    gauge!(OLDEST, labels.iter()).set(oldest);
                }
                for (name, by) in [
                    (ATTEMPTS, &mut topic.attempts),
                    (DELIVERED, &mut topic.delivered),
                    (DEAD, &mut topic.dead),
                    (EXPIRED, &mut topic.expired),
                ] {
                    count(name, labels, by);
                }
            });
        }

        /// Tells the recorder how many topics of a pattern are paused.
        pub(crate) fn tell_paused(&mut self, topic: usize, paused: usize) {
            let topic = &mut self.topics[topic];
            quietly(|| topic.paused.tell(PAUSED, &topic.labels, paused));
        }

        pub(crate) fn tell_target(&mut self, target: usize, in_flight: usize, is_open: bool) {
            let target = &mut self.targets[target];
            quietly(|| {
                target.in_flight.tell(IN_FLIGHT, &target.labels, in_flight);
                target.open.tell(OPEN_CIRCUITS, &target.labels, usize::from(is_open));
            });
        }

        pub(crate) fn tell_group(&mut self, shards: usize) {
            quietly(|| {
                let labels = &self.group;
                self.shards.tell(SHARDS, labels, shards);
                for (name, by) in [
                    (LEFT_ALONE, &mut self.left_alone),
                    (POLLS, &mut self.polls),
                    (EMPTY_POLLS, &mut self.empty_polls),
                    (LEASE_EXPIRIES, &mut self.lease_expiries),
                    (SHARDS_LOST, &mut self.shards_lost),
                    (STORE_ERRORS, &mut self.store_errors),
                ] {
                    count(name, labels, by);
                }
            });
        }
    }

    impl Drop for RelayCounts {
        fn drop(&mut self) {
            self.tell_group(0);
            for topic in 0..self.topics.len() {
                let has_age = self.topics[topic].oldest.is_some();
                self.tell_topic(topic, 0, has_age.then_some(Duration::ZERO));
                self.tell_paused(topic, 0);
            }
            for target in 0..self.targets.len() {
                self.tell_target(target, 0, false);
            }
        }
    }
}

#[cfg(not(feature = "metrics"))]
mod silent {
    use std::sync::Arc;
    use std::time::Duration;

    #[inline(always)]
    pub(crate) fn describe() {}

    pub(crate) struct RelayCounts;

    impl RelayCounts {
        #[inline(always)]
        pub(crate) fn new<'n>(
            _group: &Arc<str>,
            _patterns: impl Iterator<Item = &'n str>,
            _targets: impl Iterator<Item = &'n Arc<str>>,
        ) -> Self {
            Self
        }

        #[inline(always)]
        pub(crate) fn attempted(&mut self, _topic: usize) {}

        #[inline(always)]
        pub(crate) fn delivered(&mut self, _topic: usize) {}

        #[inline(always)]
        pub(crate) fn died(&mut self, _topic: usize) {}

        #[inline(always)]
        pub(crate) fn expired(&mut self, _topic: usize) {}

        #[inline(always)]
        pub(crate) fn left_alone(&mut self) {}

        #[inline(always)]
        pub(crate) fn polled(&mut self, _is_empty: bool) {}

        #[inline(always)]
        pub(crate) fn leases_expired(&mut self, _relays: usize) {}

        #[inline(always)]
        pub(crate) fn lost(&mut self, _shards: usize) {}

        #[inline(always)]
        pub(crate) fn store_failed(&mut self) {}

        #[inline(always)]
        pub(crate) fn tell_topic(&mut self, _topic: usize, _backlog: usize, _oldest: Option<Duration>) {}

        #[inline(always)]
        pub(crate) fn tell_paused(&mut self, _topic: usize, _paused: usize) {}

        #[inline(always)]
        pub(crate) fn tell_target(&mut self, _target: usize, _in_flight: usize, _is_open: bool) {}

        #[inline(always)]
        pub(crate) fn tell_group(&mut self, _shards: usize) {}
    }
}
