//! Promise 18, for a group: the work has a span of its own, whoever polls it, inside the span of the request that began it;
//! what is worth a line has one.

mod common;

use common::{Gate, Task};
use oneflight::{Group, OnAbandon};
use std::io::Write;
use std::sync::{Arc, Mutex};
use tracing::subscriber::with_default;

/// Where the lines go.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn collect(&self, body: impl FnOnce()) -> Vec<String> {
        let lines = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_ansi(false)
            .with_writer(move || lines.clone())
            .finish();
        with_default(subscriber, body);
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

fn the_line<'a>(lines: &'a [String], word: &str) -> &'a str {
    let found: Vec<_> = lines.iter().filter(|line| line.contains(word)).collect();
    assert_eq!(found.len(), 1, "{word:?} in {lines:#?}");
    found[0]
}

#[test]
fn work_is_traced_under_the_request_that_began_it_whoever_polls_it() {
    let lines = Lines::default().collect(|| {
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
        let line = the_line(&lines, word);
        assert!(line.contains("c-1") && line.contains("oneflight.flight"), "{line}");
    }
    assert!(the_line(&lines, "another caller").contains("HandedOver"), "{lines:#?}");
}

#[test]
fn what_is_worth_a_line_has_one() {
    let lines = Lines::default().collect(|| {
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
    assert!(the_line(&lines, "no runtime").contains("WARN"));
    assert_eq!(lines.iter().filter(|line| line.contains("was dropped")).count(), 2);
    let panicked = the_line(&lines, "the work panicked");
    assert!(
        panicked.contains("ERROR") && panicked.contains("out of paper"),
        "{panicked}"
    );
}
