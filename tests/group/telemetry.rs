//! Promise 20, for a group: the work has a span of its own, whichever task polls it, inside the span of the request
//! that began it; what is worth a line has one.

#[path = "../common/lines.rs"]
mod lines;

use crate::common::{Gate, Task};
use lines::Lines;
use oneflight::{Group, OnAbandon};
use tracing::subscriber::with_default;

#[test]
fn work_is_traced_under_the_request_that_began_it_whoever_polls_it() {
    let lines = Lines::default();
    with_default(lines.subscriber(), || {
        let (group, gate) = (Group::<u8, u8>::new(), Gate::new());
        let mut leader = Task::new(group.run(1, {
            let gate = gate.clone();
            move || async move {
                tracing::info!("begun");
                gate.pass().await;
                tracing::info!("finished");
                1
            }
        }));
        tracing::info_span!("request", correlation_id = "c-1").in_scope(|| leader.pending());
        let mut follower = Task::new(group.run(1, || async { 0 }));
        let other = tracing::info_span!("request", correlation_id = "c-2");
        other.in_scope(|| follower.pending());
        leader.drop();
        gate.open(1);
        other.in_scope(|| follower.ready().unwrap());
    });
    for word in ["begun", "finished"] {
        let line = lines.the(word);
        assert!(line.contains("c-1") && line.contains("oneflight.flight"), "{line}");
    }
    assert!(lines.the("another caller").contains("HandedOver"));
}

#[test]
fn what_is_worth_a_line_has_one() {
    let lines = Lines::default();
    with_default(lines.subscriber(), || {
        let group: Group<u8, u8> = Group::new();
        for policy in [OnAbandon::Finish, OnAbandon::Cancel] {
            let mut call = Task::new(group.run(1, std::future::pending::<u8>).on_abandon(policy));
            call.pending();
            call.drop();
        }
        assert!(
            Task::new(group.run(1, || async { panic!("out of paper") }))
                .ready()
                .is_err()
        );
    });
    assert!(lines.the("no runtime").contains("WARN"));
    assert_eq!(lines.with("was dropped").len(), 2);
    let panicked = lines.the("the work panicked");
    assert!(
        panicked.contains("ERROR") && panicked.contains("out of paper"),
        "{panicked}"
    );
}

/// A subscriber of traces that panics: wherever it is told of something, or only as a span is left, when the work in it
/// may be done.
struct Broken {
    everywhere: bool,
}

impl tracing::Subscriber for Broken {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {
        assert!(!self.everywhere, "broken in follows_from");
    }

    fn event(&self, _: &tracing::Event<'_>) {
        assert!(!self.everywhere, "broken in event");
    }

    fn enter(&self, _: &tracing::span::Id) {
        assert!(!self.everywhere, "broken in enter");
    }

    fn exit(&self, _: &tracing::span::Id) {
        panic!("broken in exit");
    }
}

fn shares_a_flight_and_survives_a_panic() {
    let (group, gate) = (Group::<u8, u8>::new(), Gate::new());
    let call = || {
        let gate = gate.clone();
        Task::new(group.run(1, move || async move {
            gate.pass().await;
            1
        }))
    };
    let (mut leader, mut follower) = (call(), call());
    leader.pending();
    follower.pending();
    leader.drop();
    gate.open(1);
    assert_eq!(follower.ready().unwrap().value, 1);
    assert!(
        Task::new(group.run(1, || async { panic!("out of paper") }))
            .ready()
            .is_err()
    );
    assert_eq!(group.in_flight(), 0);
}

#[test]
fn a_subscriber_that_panics_disturbs_no_flight() {
    for everywhere in [true, false] {
        with_default(Broken { everywhere }, shares_a_flight_and_survives_a_panic);
    }
}
