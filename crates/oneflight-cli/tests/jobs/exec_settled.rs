//! A job that a person settles: with what it can end with, and how it is taken back if it was something else.

use std::fs;
use std::path::Path;

use rustix::process::Signal;

use crate::desk::{Desk, Ran, awaited, end, kill, ran};
use crate::exec_ends::STAYS_ONCE;

#[test]
fn a_job_is_settled_only_with_what_it_can_end_with() {
    let desk = Desk::sqlite();
    let file = desk.path("pid");
    let kill_it = |options: &str| {
        let runs = desk.job(options, STAYS_ONCE, &file).spawn().unwrap();
        awaited(&file);
        kill(runs.id(), Signal::TERM);
        assert_eq!(end(runs).code, Some(143));
        fs::remove_file(&file).unwrap();
    };
    // By its scope, and by its run.
    for scope in ["exec", "backup"] {
        let options = format!("--key a --scope {scope}");
        kill_it(&options);
        let resolve = |answer: &[&str]| {
            let scope = format!("--scope={scope}");
            desk.run([&["records", "resolve", "a", &scope, "--yes"], answer].concat())
        };
        for answer in ["0", "null", r#"{"exit":"x"}"#, r#"{"exit":300}"#] {
            let ran = resolve(&["--answer", answer]);
            assert_eq!(ran.code, Some(65), "{ran:?}");
            assert!(ran.err.contains(r#"--answer '{"exit": 0}'"#), "{ran:?}");
        }
        let ran = resolve(&["--status", "200"]);
        assert_eq!(ran.code, Some(65), "{ran:?}");
        assert_eq!(resolve(&["--answer", r#"{"exit": 4}"#]).code, Some(0));
        let replayed = ran_again(&desk, &options, &file);
        assert_eq!(replayed.code, Some(4), "{replayed:?}");
    }
}

fn ran_again(desk: &Desk, options: &str, file: &Path) -> Ran {
    ran(&mut desk.job(options, STAYS_ONCE, file))
}

#[test]
fn what_a_job_was_settled_with_by_others_and_cannot_end_with_is_taken_back_by_what_is_told() {
    let desk = Desk::sqlite();
    let file = desk.path("pid");
    // Nothing tells that it is a job.
    let options = "--key a --scope backup";
    for answer in [&["--status", "200"][..], &["--answer", "0"]] {
        let mut job = desk.job(options, STAYS_ONCE, &file);
        let runs = job.env("ONEFLIGHT_CORRELATION_ID", "nightly").spawn().unwrap();
        awaited(&file);
        kill(runs.id(), Signal::TERM);
        end(runs);
        fs::remove_file(&file).unwrap();
        desk.ok([&["records", "resolve", "a", "--yes"], answer].concat());
        let unread = ran_again(&desk, options, &file);
        assert_eq!(unread.code, Some(65), "{unread:?}");
        assert!(
            unread
                .err
                .contains("oneflight records erase --scope=backup --answers a")
                && !unread.err.contains("another --key")
                && !unread.err.contains("decode_foreign"),
            "{unread:?}"
        );
        desk.ok(["records", "erase", "--scope=backup", "--answers", "a", "--yes"]);
        let erased = ran_again(&desk, options, &file);
        assert_eq!(erased.code, Some(82), "{erased:?}");
        desk.ok(["records", "erase", "--scope=backup", "a", "--yes"]);
    }
}
