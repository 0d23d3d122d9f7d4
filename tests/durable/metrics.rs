//! Promise 20, for steps: each is counted once by what became of it, and so is what completers do, under names that have a
//! bound.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use metrics_util::debugging::DebuggingRecorder;
use oneflight::idempotency::{Step, StepError, Steps, Stopped};
use oneflight::{Drive, ErrorKind, Idempotency, MemoryStore};
use parking_lot::Mutex;
use tokio::time::{sleep, timeout};

use crate::completer::{eventually, id, is_completed, quick};
use crate::recorder::{Broken, Seen, Told, listed, run, run_timed};

const OFTEN: Duration = Duration::from_millis(1);

/// Whose work is polled on this thread.
fn idem() -> Idempotency<MemoryStore> {
    Idempotency::builder(MemoryStore::new()).drive(Drive::InPlace).build()
}

async fn done(steps: &Steps<MemoryStore>, name: &str) -> Result<u32, Stopped> {
    steps.run(name, |_| async { Ok::<_, io::Error>(1) }).await
}

async fn fails(steps: &Steps<MemoryStore>, name: &str) -> Result<u32, Stopped> {
    steps.run(name, |_| async { Err::<u32, _>("it fails") }).await
}

#[test]
fn each_step_is_counted_once_by_what_became_of_it() {
    let recorder = DebuggingRecorder::new();
    let metrics = Seen::by(&recorder);
    run(&recorder, async {
        let orders = idem().with_workflow("place_order");
        let first = orders.run_steps(id("a"), &7, |steps| async move {
            done(&steps, "reserve").await?;
            let hangs = steps.run("charge", |_| pending::<Result<(), io::Error>>());
            assert!(timeout(Duration::from_secs(1), hangs).await.is_err());
            fails(&steps, "charge").await
        });
        first.await.unwrap_err();
        let second = orders.run_steps(id("a"), &7, |steps| async move {
            done(&steps, "reserve").await?;
            done(&steps, "charge").await?;
            // A key of a step is no label, and neither is its name.
            for line in 0..3 {
                done(&steps, &format!("line {line}")).await?;
            }
            let panics = steps.run("book", |_| async { panic!("in a step") as Result<u32, io::Error> });
            panics.await
        });
        second.await.unwrap_err();
        let plain = idem();
        let unnamed = plain.run_steps(id("b"), &7, |steps| async move { done(&steps, "reserve").await });
        let _ = unnamed.await.unwrap();
    });
    metrics.expect(&[
        (
            r#"oneflight_steps_total{workflow="place_order",origin="executed"}"#,
            5.0,
        ),
        (
            r#"oneflight_steps_total{workflow="place_order",origin="replayed"}"#,
            1.0,
        ),
        (r#"oneflight_steps_failed_total{workflow="place_order"}"#, 3.0),
        (r#"oneflight_steps_total{workflow="",origin="executed"}"#, 1.0),
    ]);
}

/// Prometheus takes a counter that appears as one that has not increased.
#[test]
fn what_is_counted_of_a_workflow_is_there_with_zero_before_it_counts() {
    let table = listed(include_str!("../../src/telemetry/steps.md"));
    let names: BTreeSet<_> = table.into_keys().collect();
    let recorder = DebuggingRecorder::new();
    let metrics = Seen::by(&recorder);
    run(&recorder, async {
        let idem = idem();
        assert!(metrics.all().is_empty());
        let orders = idem.with_workflow("place_order");
        let (announced, series) = metrics.at_zero();
        assert_eq!(announced, names);
        let held = orders.run_steps(id("a"), &7, |steps| async move {
            let once = Step::new("charge").at_most_once();
            steps.run(once, |_| async { Err::<u32, _>("timed out") }).await
        });
        held.await.unwrap_err();
        let after = metrics.all();
        assert!(after.keys().eq(series.iter()), "a series that appears: {after:#?}");
        let held = r#"oneflight_mutations_held_total{workflow="place_order",reason="step"}"#;
        assert_eq!(after[held], 1.0);
        // A process that has completers only.
        let refund = |_: u32, _: Steps<MemoryStore>| async { Ok::<_, Stopped>(1) };
        let _ = idem.completer().handler("refund", refund);
        let held = r#"oneflight_mutations_held_total{workflow="refund",reason="tries"}"#;
        assert_eq!(metrics.all().get(held), Some(&0.0));
    });
}

/// A handler may ask for its workflow at each request.
#[test]
fn a_workflow_is_announced_once_however_often_it_is_asked_for() {
    let recorder = Told::default();
    run(&recorder, async {
        let idem = idem();
        let orders = idem.with_workflow("place_order");
        let once = recorder.times();
        assert!(once > 0);
        let _ = (
            idem.with_workflow("place_order"),
            idem.clone().with_workflow("place_order"),
        );
        let _ = orders.with_workflow("place_order");
        let again = |_: u32, _: Steps<MemoryStore>| async { Ok::<_, Stopped>(1) };
        let _ = idem.completer().handler("place_order", again);
        assert_eq!(recorder.times(), once);
        let _ = orders.with_workflow("refund");
        assert_eq!(recorder.times(), 2 * once);
    });
}

#[test]
fn what_is_refused_and_not_run_has_not_failed() {
    let recorder = DebuggingRecorder::new();
    let metrics = Seen::by(&recorder);
    run(&recorder, async {
        let plain = idem();
        let run = plain.run_steps(id("a"), &7, |steps| async move {
            done(&steps, "reserve").await?;
            done(&steps, "reserve").await
        });
        let error = run.await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Stopped(StepError::Repeated { .. })));
    });
    metrics.expect(&[(r#"oneflight_steps_total{workflow="",origin="executed"}"#, 1.0)]);
}

#[test]
fn what_completers_take_up_and_hold_is_counted_and_told() {
    let recorder = DebuggingRecorder::new();
    let metrics = Seen::by(&recorder);
    run_timed(&recorder, async {
        let idem = idem();
        let orders = idem.with_workflow("place_order");
        for key in ["poisonous", "in doubt"] {
            let begun = orders.run_steps(id(key), &key.to_owned(), |_| async {
                Err::<(), _>(Stopped::because("its client never comes back"))
            });
            begun.await.unwrap_err();
        }
        let held = Arc::new(Mutex::new(Vec::new()));
        let holds = Arc::clone(&held);
        let completer = quick(&idem).pauses(OFTEN, OFTEN).max_tries(2).on_held(move |it| {
            assert!(it.held);
            holds.lock().push((it.id.key().to_owned(), it.name.clone(), it.tries));
            panic!("what is told panics");
        });
        let completer = completer.handler("place_order", |key: String, steps: Steps<MemoryStore>| async move {
            match &*key {
                "in doubt" => {
                    let once = Step::new("charge").at_most_once();
                    steps.run(once, |_| async { Err::<(), _>("timed out") }).await
                }
                _ => Err(Stopped::because("poisonous")),
            }
        });
        let completer = completer.spawn().unwrap();
        eventually("both are held", async || {
            idem.in_doubt(10, None).await.unwrap().len() == 2
        })
        .await;
        eventually("it is told", async || !held.lock().is_empty()).await;
        // It goes on after what is told has panicked.
        let next = orders.run_steps(id("poisonous 2"), &"poisonous".to_owned(), |_| async {
            Err::<(), _>(Stopped::because("its client never comes back"))
        });
        next.await.unwrap_err();
        eventually("it is told", async || held.lock().len() == 2).await;
        completer.stop().await;
        let poisonous = |key: &str| (key.to_owned(), "place_order".to_owned(), 2);
        assert_eq!(*held.lock(), [poisonous("poisonous"), poisonous("poisonous 2")]);
    });
    metrics.expect(&[
        (r#"oneflight_steps_failed_total{workflow="place_order"}"#, 1.0),
        (r#"oneflight_mutations_taken_up_total{workflow="place_order"}"#, 5.0),
        (
            r#"oneflight_mutations_held_total{workflow="place_order",reason="tries"}"#,
            2.0,
        ),
        (
            r#"oneflight_mutations_held_total{workflow="place_order",reason="step"}"#,
            1.0,
        ),
    ]);
}

#[test]
fn what_a_completer_hands_back_is_counted_and_its_step_has_not_failed() {
    let recorder = DebuggingRecorder::new();
    let metrics = Seen::by(&recorder);
    run_timed(&recorder, async {
        let idem = idem();
        let orders = idem.with_workflow("place_order");
        let begun = orders.run_steps(id("a"), &7, |_| async {
            Err::<u32, _>(Stopped::because("its client never comes back"))
        });
        begun.await.unwrap_err();
        let handler = |_: u32, steps: Steps<MemoryStore>| async move {
            let slow = steps.run("first", |_| async {
                sleep(Duration::from_millis(100)).await;
                Ok::<_, io::Error>(1)
            });
            slow.await?;
            done(&steps, "second").await
        };
        let completer = quick(&idem).handler("place_order", handler).spawn().unwrap();
        let name = r#"oneflight_mutations_taken_up_total{workflow="place_order"}"#;
        eventually("it is taken up", async || metrics.now().contains_key(name)).await;
        completer.stop().await;
        assert!(!is_completed(&idem, "a").await);
    });
    metrics.expect(&[
        (
            r#"oneflight_steps_total{workflow="place_order",origin="executed"}"#,
            1.0,
        ),
        (r#"oneflight_mutations_taken_up_total{workflow="place_order"}"#, 1.0),
        (r#"oneflight_mutations_handed_back_total{workflow="place_order"}"#, 1.0),
    ]);
}

#[test]
fn a_recorder_that_panics_disturbs_no_step() {
    run(&Broken, async {
        let idem = idem();
        for _ in 0..2 {
            let run = idem.run_steps(id("a"), &7, |steps| async move { done(&steps, "reserve").await });
            assert_eq!(*run.await.unwrap(), 1);
        }
        let run = idem.run_steps(id("b"), &7, |steps| async move { fails(&steps, "reserve").await });
        run.await.unwrap_err();
    });
}
