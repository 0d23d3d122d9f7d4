//! Promise 16: an attempt does nothing behind a step of which nobody knows whether it was done, and nothing after its end.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use oneflight::idempotency::{Forked, Step, StepError, Steps, Stopped, Workflow};
use oneflight::store::StepId;
use oneflight::{Error, ErrorKind, Idempotency, MemoryStore, RequestIdentity, Scope};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use super::completer::stale;

const SOON: Duration = Duration::from_millis(5);

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7").route("POST /orders"), key).unwrap()
}

fn idem() -> Idempotency<MemoryStore> {
    Idempotency::builder(MemoryStore::new()).build()
}

fn timed_out<T>() -> Result<T, io::Error> {
    Err(io::Error::from(io::ErrorKind::TimedOut))
}

fn stopped(error: &Error) -> &StepError {
    match error.kind() {
        ErrorKind::Stopped(stopped) => stopped,
        other => panic!("{other:?}"),
    }
}

/// What was done in the world outside, in order.
#[derive(Clone, Default)]
struct Done(Arc<Mutex<Vec<&'static str>>>);

impl Done {
    fn now(&self, what: &'static str) -> Result<(), io::Error> {
        self.0.lock().push(what);
        Ok(())
    }

    fn all(&self) -> Vec<&'static str> {
        self.0.lock().clone()
    }
}

/// The answer to the charge is lost the first time, and the work would release the stock then.
#[tokio::test]
async fn nothing_new_is_done_behind_a_step_that_failed() {
    let (idem, done) = (idem(), Done::default());
    let place = || {
        let done = done.clone();
        idem.run_steps(id("a"), &7, |steps| async move {
            let charged = steps.run("charge", |_| async {
                match done.all().is_empty() {
                    true => done.now("charge").and(timed_out()),
                    false => Ok(()),
                }
            });
            match charged.await {
                Ok(()) => steps.run("book", |_| async { done.now("book") }).await?,
                Err(_) => steps.run("release", |_| async { done.now("release") }).await?,
            }
            Ok(())
        })
    };
    let error = place().await.unwrap_err();
    let StepError::Behind { step, failed, .. } = stopped(&error) else {
        panic!("{error}")
    };
    assert_eq!((step.name(), failed.name()), ("release", "charge"));
    let cause: &io::Error = error.cause().unwrap();
    assert_eq!(cause.kind(), io::ErrorKind::TimedOut);
    let _ = place().await.unwrap();
    assert_eq!(done.all(), ["charge", "book"]);
}

#[tokio::test]
async fn nothing_new_is_done_behind_a_step_that_was_dropped() {
    let (idem, done) = (idem(), Done::default());
    let place = idem.run_steps(id("a"), &7, |steps| async move {
        let charge = steps.run("charge", |_| std::future::pending::<Result<(), io::Error>>());
        if timeout(SOON, charge).await.is_err() {
            steps.run("release", |_| async { done.now("release") }).await?;
        }
        Ok(())
    });
    let error = place.await.unwrap_err();
    assert!(matches!(stopped(&error), StepError::Behind { .. }), "{error}");
}

#[tokio::test]
async fn once_it_has_succeeded_the_work_goes_on_and_what_ran_beside_it_may_end() {
    let (idem, done) = (idem(), Done::default());
    let reply = idem.run_steps(id("a"), &7, |steps| async move {
        let beside = steps.run("beside", |_| async {
            tokio::task::yield_now().await;
            done.now("beside")
        });
        let charge = || {
            steps.run("charge", |_| async {
                done.now("charge")?;
                match done.all().len() {
                    1 => timed_out(),
                    _ => Ok(()),
                }
            })
        };
        let (beside, charged) = tokio::join!(beside, charge());
        beside?;
        charged.unwrap_err();
        charge().await?;
        steps.run("book", |_| async { done.now("book") }).await?;
        Ok(done.all().join(", "))
    });
    assert_eq!(*reply.await.unwrap(), "charge, beside, charge, book");
}

#[tokio::test]
async fn behind_a_failure_that_is_recorded_every_attempt_takes_the_same_way() {
    let (idem, done) = (idem(), Done::default());
    let place = |end: Result<(), &'static str>| {
        let done = done.clone();
        idem.run_steps(id("a"), &7, move |steps| async move {
            let charged = steps.run_recording_errors("charge", |_| async { done.now("charge").and(timed_out::<()>()) });
            let charged = charged.await?;
            if charged.is_err() {
                steps.run("release", |_| async { done.now("release") }).await?;
            }
            end.map_err(Stopped::because)?;
            Ok(charged)
        })
    };
    let error = place(Err("later")).await.unwrap_err();
    assert!(matches!(stopped(&error), StepError::Work { .. }), "{error}");
    assert_eq!(*place(Ok(())).await.unwrap(), Err("timed out".to_owned()));
    assert_eq!(done.all(), ["charge", "release"]);
}

/// A limit around the step drops it. It was begun, and must not be again.
#[tokio::test]
async fn a_step_that_may_run_once_and_was_dropped_is_in_doubt() {
    for asked_again in [true, false] {
        let (idem, done) = (idem(), Done::default());
        let run = || {
            let done = done.clone();
            idem.run_steps(id("a"), &7, move |steps| async move {
                let fax = || {
                    let faxed = steps.run(Step::new("fax").at_most_once(), |_| async {
                        done.now("fax")?;
                        std::future::pending::<Result<(), io::Error>>().await
                    });
                    timeout(SOON, faxed)
                };
                let _ = fax().await;
                if asked_again {
                    let _ = fax().await;
                }
                Ok(())
            })
        };
        let error = run().await.unwrap_err();
        assert!(matches!(stopped(&error), StepError::InDoubt { .. }), "{error}");
        let error = run().await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InDoubt { .. }), "{error}");
        assert_eq!(done.all(), ["fax"]);
    }
}

#[tokio::test]
async fn a_step_that_may_run_once_and_failed_says_why_it_is_in_doubt() {
    let idem = idem();
    let fax = idem.run_steps(id("a"), &7, |steps| async move {
        let faxed = steps.run(Step::new("fax").at_most_once(), |_| async { timed_out::<()>() });
        let stopped = faxed.await.unwrap_err();
        assert!(
            matches!(stopped.reason(), StepError::InDoubt { source: Some(_), .. }),
            "{stopped}"
        );
        Err::<(), _>(stopped)
    });
    let error = fax.await.unwrap_err();
    let cause: &io::Error = error.cause().unwrap();
    assert_eq!(cause.kind(), io::ErrorKind::TimedOut);
}

/// A task that the work left behind has a clone of the steps.
#[tokio::test]
async fn no_step_is_begun_after_the_end_of_the_attempt() {
    let ends: [fn() -> Result<(), Stopped>; 3] = [
        || Ok(()),
        || Err(Stopped::because("later")),
        || panic!("the attempt ends"),
    ];
    for end in ends {
        let (idem, done) = (idem(), Done::default());
        let (over, outlives) = (Arc::new(Notify::new()), Arc::new(Mutex::new(None)));
        let (waits, left) = (Arc::clone(&over), Arc::clone(&outlives));
        let late = done.clone();
        let _ = idem
            .run_steps(id("a"), &7, move |steps| async move {
                *left.lock() = Some(tokio::spawn(async move {
                    waits.notified().await;
                    steps.run("late", |_| async { late.now("late") }).await
                }));
                end()
            })
            .await;
        over.notify_one();
        let task = outlives.lock().take().unwrap();
        let stopped = task.await.unwrap().unwrap_err();
        assert!(matches!(stopped.reason(), StepError::Ended), "{stopped}");
        assert_eq!(done.all(), [""; 0]);
    }
}

#[tokio::test]
async fn work_that_does_not_wait_for_its_steps_has_no_result() {
    let idem = idem();
    let begun = Arc::new(AtomicUsize::new(0));
    let (says, count) = (Arc::new(Notify::new()), Arc::clone(&begun));
    let (send, end) = oneshot::channel::<()>();
    let waits = Arc::clone(&says);
    let run = idem.run_steps(id("a"), &7, move |steps: Steps<MemoryStore>| async move {
        let beside = steps.clone();
        tokio::spawn(async move {
            beside
                .run("beside", |_| async {
                    count.fetch_add(1, SeqCst);
                    says.notify_one();
                    end.await
                })
                .await
        });
        waits.notified().await;
        Ok(())
    });
    let error = run.await.unwrap_err();
    assert!(
        matches!(stopped(&error), StepError::Unawaited { step } if step.name() == "beside"),
        "{error}"
    );
    assert_eq!(begun.load(SeqCst), 1);
    drop(send);
}

/// What a person has found out is what the next attempt goes on with.
#[tokio::test]
async fn a_step_in_doubt_is_settled_by_a_person() {
    for was_done in [true, false] {
        let (idem, done) = (idem(), Done::default());
        let run = || {
            let done = done.clone();
            idem.run_steps(id("a"), &7, move |steps| async move {
                let faxed = steps.run(Step::new("fax").at_most_once(), |_| async {
                    done.now("fax")?;
                    match done.all().len() {
                        1 => timed_out(),
                        pages => Ok(pages),
                    }
                });
                faxed.await
            })
        };
        let fax = StepId::new("fax", "");
        assert!(!idem.step_was_done(&id("a"), &fax, &7).await.unwrap(), "there is none");
        run().await.unwrap_err();
        assert!(
            !idem
                .step_was_not_done(&id("a"), &StepId::new("mail", ""))
                .await
                .unwrap()
        );
        let settled = match was_done {
            true => idem.step_was_done(&id("a"), &fax, &7_usize).await,
            false => idem.step_was_not_done(&id("a"), &fax).await,
        };
        assert!(settled.unwrap());
        assert!(!idem.step_was_not_done(&id("a"), &fax).await.unwrap(), "it is settled");
        assert!(idem.resume_steps(&id("a")).await.unwrap());
        let expected = if was_done { (7, 1) } else { (2, 2) };
        assert_eq!((*run().await.unwrap(), done.all().len()), expected);
    }
}

/// The same input may be encoded otherwise by other code, or by the same code another time. It is no conflict, after which a
/// client would make a new key and have everything done twice.
#[tokio::test]
async fn an_input_that_is_encoded_otherwise_goes_on_with_what_was_begun() {
    let (idem, done) = (idem(), Done::default());
    let run = |idem: &Idempotency<MemoryStore>, input: &'static str, end: Result<(), &'static str>| {
        let (idem, done) = (idem.clone(), done.clone());
        async move {
            let run = idem.run_steps(id("a"), &input.to_owned(), move |steps| async move {
                steps.run("charge", |_| async { done.now("charge") }).await?;
                end.map_err(Stopped::because)?;
                steps.input::<String>()
            });
            run.await
        }
    };
    let (old, new) = (
        idem.with_workflow(Workflow::new("place_order")),
        idem.with_workflow(Workflow::new("place_order").version("2").accepts("1")),
    );
    run(&old, "tea", Err("later")).await.unwrap_err();
    run(&new, "tea, 2 fields", Err("later")).await.unwrap_err();
    // By now it is of the version of the code that asks.
    let reply = run(&new, "tea, 2 fields", Ok(())).await.unwrap();
    assert_eq!(*reply, "tea");
    assert_eq!(done.all(), ["charge"]);
}

/// The charge is done, and its answer does not fit: no attempt gets past that by itself.
#[tokio::test]
async fn a_step_whose_answer_is_lost_is_held_until_a_person_tells_it() {
    let (idem, done) = (
        idem().with_workflow(Workflow::default().max_bytes(100)),
        Done::default(),
    );
    let run = || {
        let done = done.clone();
        idem.run_steps(id("a"), &7, move |steps| async move {
            let charge = steps.run("charge", |_| async {
                done.now("charge")?;
                Ok::<_, io::Error>("x".repeat(200))
            });
            charge.await
        })
    };
    let charge = StepId::new("charge", "");
    let error = run().await.unwrap_err();
    assert!(
        matches!(stopped(&error), StepError::TooLarge { size: 202, .. }),
        "{error}"
    );
    let error = run().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InDoubt { .. }), "{error}");
    assert_eq!(idem.in_doubt(10, None).await.unwrap().len(), 1);
    // Let go on without an answer, it comes to the same.
    assert!(idem.resume_steps(&id("a")).await.unwrap());
    let error = run().await.unwrap_err();
    assert!(
        matches!(stopped(&error), StepError::TooLarge { size: 202, .. }),
        "{error}"
    );
    assert!(!idem.step_was_not_done(&id("a"), &charge).await.unwrap(), "it was done");
    assert!(idem.step_was_done(&id("a"), &charge, &"ch_1".to_owned()).await.unwrap());
    assert!(
        !idem.step_was_done(&id("a"), &charge, &"ch_2".to_owned()).await.unwrap(),
        "it is told"
    );
    assert!(idem.resume_steps(&id("a")).await.unwrap());
    assert_eq!(*run().await.unwrap(), "ch_1");
    assert_eq!(done.all(), ["charge"]);
}

/// A deploy takes the step away that nobody knows of whether it was done.
#[tokio::test]
async fn a_step_in_doubt_that_the_code_does_not_ask_for_any_more_is_held() {
    for workflow in [Workflow::default(), Workflow::default().retired("fax")] {
        let idem = idem().with_workflow(workflow);
        let fax = |idem: Idempotency<MemoryStore>| async move {
            let faxed = idem.run_steps(id("a"), &7, |steps| async move {
                let fax = Step::new("fax").at_most_once();
                steps.run(fax, |_| async { timed_out::<()>() }).await
            });
            faxed.await
        };
        fax(idem.clone()).await.unwrap_err();
        assert!(idem.resume_steps(&id("a")).await.unwrap());
        let run = || idem.run_steps(id("a"), &7, |_| async { Ok(()) });
        let error = run().await.unwrap_err();
        assert!(matches!(stopped(&error), StepError::InDoubt { .. }), "{error}");
        let error = run().await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InDoubt { .. }), "{error}");
        let fax = StepId::new("fax", "");
        assert!(idem.step_was_not_done(&id("a"), &fax).await.unwrap());
        assert!(idem.resume_steps(&id("a")).await.unwrap());
        let _ = run().await.unwrap();
        assert!(!idem.resume_steps(&id("a")).await.unwrap(), "it is completed");
    }
}

/// An operator's process dies between the two operations that it takes.
#[tokio::test]
async fn what_breaks_off_while_it_is_resolved_is_left_for_a_person() {
    let idem = Idempotency::builder(stale()).build();
    let run = |end: Result<(), &'static str>| {
        idem.run_steps(id("a"), &7, move |steps| async move {
            let first = steps.run("first", |_| async { Ok::<_, io::Error>(7) }).await?;
            end.map_err(Stopped::because)?;
            Ok(first)
        })
    };
    run(Err("later")).await.unwrap_err();
    idem.store().is_cut.store(true, SeqCst);
    let cut = idem.resolve(&id("a"), oneflight::Resolution::Rerun).await;
    assert!(matches!(cut.unwrap_err().kind(), ErrorKind::Store(_)));
    idem.store().is_cut.store(false, SeqCst);
    assert!(idem.unfinished_steps(10).await.unwrap()[0].held);
    let known = idem.recorded_steps(&id("a")).await.unwrap().unwrap();
    assert_eq!((known.held, known.steps.len()), (true, 1));
    assert!(idem.resume_steps(&id("a")).await.unwrap());
    let reply = run(Ok(())).await.unwrap();
    assert_eq!((*reply, reply.attempt()), (7, 3));
}

#[tokio::test]
async fn a_fork_of_what_may_go_on_is_refused() {
    let idem = idem();
    let run = |key: &str, end: Result<(), &'static str>| {
        idem.run_steps(id(key), &7, move |steps| async move {
            steps.run("first", |_| async { Ok::<_, io::Error>(()) }).await?;
            steps.run("second", |_| async { Ok::<_, io::Error>(()) }).await?;
            end.map_err(Stopped::because)
        })
    };
    run("a", Err("later")).await.unwrap_err();
    let fork = || async { idem.fork_steps(&id("a"), &id("fork"), "second").await.unwrap() };
    assert_eq!(fork().await, Forked::Unfinished);
    assert!(idem.status(&id("fork")).await.unwrap().is_none());
    for _ in 0..2 {
        assert!(idem.hold_steps(&id("a")).await.unwrap());
    }
    let error = run("a", Ok(())).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InDoubt { .. }), "{error}");
    assert_eq!(fork().await, Forked::Begun { steps: 1 });
    assert!(!idem.hold_steps(&id("other")).await.unwrap());
}

/// Input, names and versions stand in the store as well.
#[tokio::test]
async fn the_input_counts_and_names_are_bounded() {
    let idem = idem();
    let bounded = idem.with_workflow(Workflow::default().max_bytes(100));
    let run = bounded.run_steps(id("input"), &"x".repeat(60), |steps| async move {
        steps.run("a", |_| async { Ok::<_, io::Error>("y".repeat(60)) }).await
    });
    let error = run.await.unwrap_err();
    assert!(
        matches!(stopped(&error), StepError::TooLarge { size: 62, .. }),
        "{error}"
    );
    let names = [
        Workflow::new("x".repeat(201)),
        Workflow::new("a\nb"),
        Workflow::new("a").version("x".repeat(201)),
    ];
    for workflow in names {
        let idem = idem.with_workflow(workflow);
        let error = idem.run_steps(id("name"), &7, |_| async { Ok(()) }).await.unwrap_err();
        assert!(matches!(stopped(&error), StepError::InvalidName), "{error}");
        assert!(idem.status(&id("name")).await.unwrap().is_none());
    }
}
