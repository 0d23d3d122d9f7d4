//! A job runs once for each key, and every other call repeats what it printed and how it ended.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use oneflight_postgres::PostgresStore;

use crate::desk::{Desk, awaited, end, ran};
use crate::{postgres, redis};

/// Says that it runs, and waits until it may end.
const WAITS: &str = r#"echo ran >>"$0"; echo out; echo err >&2; until [ -e "$0.go" ]; do sleep 0.02; done; exit 3"#;

fn lines(text: &str) -> usize {
    text.lines().count()
}

fn one_of_many_runs(desk: &Desk) {
    let file = desk.path("ran");
    let started: Vec<_> = (0..20)
        .map(|_| desk.job("--key 2026-11-29 --wait 60s", WAITS, &file).spawn().unwrap())
        .collect();
    awaited(&file);
    fs::write(desk.path("ran.go"), "").unwrap();
    let ended: Vec<_> = started.into_iter().map(end).collect();
    assert_eq!(lines(&fs::read_to_string(&file).unwrap()), 1);
    for ran in &ended {
        assert_eq!((ran.code, &*ran.out), (Some(3), "out\n"), "{ran:?}");
        assert!(ran.err.contains("err\n"), "{ran:?}");
    }
    let replayed = ended
        .iter()
        .filter(|ran| ran.err.contains("oneflight: replayed 2026-11-29"));
    assert_eq!(replayed.count(), 19);
}

#[test]
fn of_twenty_at_once_one_runs_and_all_tell_the_same() {
    one_of_many_runs(&Desk::sqlite());
}

#[tokio::test]
async fn over_postgres_of_twenty_at_once_one_runs() {
    let desk = Desk::postgres(postgres::server()).await;
    // Its tables are not the affair of a job.
    let without = ran(&mut desk.job("--key a", "true", &desk.path("a")));
    assert_eq!(without.code, Some(78), "{without:?}");
    let options = PostgresStore::options().schema(desk.schema());
    options.open(&desk.store).await.unwrap();
    one_of_many_runs(&desk);
}

#[test]
fn over_redis_of_twenty_at_once_one_runs() {
    one_of_many_runs(&Desk::redis(redis::server()));
}

#[test]
fn a_replay_is_silent_if_asked_to_be() {
    let desk = Desk::sqlite();
    let file = desk.path("file");
    let first = ran(&mut desk.job("--key a --quiet", "echo out; echo err >&2", &file));
    let again = ran(&mut desk.job("--key a --quiet", "echo out; echo err >&2", &file));
    assert_eq!((&*first.out, &*first.err), ("out\n", "err\n"));
    assert_eq!((again.code, &*again.out, &*again.err), (Some(0), "out\n", "err\n"));
}

#[test]
fn another_command_under_the_key_is_a_conflict_unless_the_fingerprint_says_it_is_the_same() {
    let desk = Desk::sqlite();
    let file = desk.path("file");
    assert_eq!(ran(&mut desk.job("--key a", "echo one", &file)).code, Some(0));
    let other = ran(&mut desk.job("--key a", "echo two", &file));
    assert_eq!((other.code, &*other.out), (Some(65), ""), "{other:?}");
    assert!(other.err.contains("another command line"), "{other:?}");
    // Another scope is another job.
    assert_eq!(ran(&mut desk.job("--key a --scope b", "echo two", &file)).out, "two\n");
    let named = ["--key c --fingerprint nightly"; 2];
    let said = ["echo one", "echo two"].into_iter().zip(named);
    let said: Vec<_> = said
        .map(|(script, options)| ran(&mut desk.job(options, script, &file)).out)
        .collect();
    assert_eq!(said, ["one\n", "one\n"]);
}

#[test]
fn output_that_is_no_text_is_replayed_byte_for_byte() {
    let desk = Desk::sqlite();
    let mut bytes: Vec<u8> = (0..100_000).map(|_| fastrand::u8(..)).collect();
    bytes.extend(b"text\0with\x01controls\xff\xfe\n\xe2\x82");
    fs::write(desk.path("bytes"), &bytes).unwrap();
    for time in ["first", "again"] {
        let ran = ran(&mut desk.job("--key a --quiet", r#"cat "$0"; cat "$0" >&2"#, &desk.path("bytes")));
        assert!(ran.bytes == bytes, "{time}: {} bytes, {:?}", ran.bytes.len(), ran.code);
        assert_eq!(ran.err, String::from_utf8_lossy(&bytes), "{time}");
    }
}

#[test]
fn all_of_a_large_output_goes_through_and_the_record_says_that_it_is_cut() {
    let desk = Desk::sqlite();
    let script = "head -c 3000000 /dev/zero | tr '\\0' x";
    let file = desk.path("file");
    let first = ran(&mut desk.job("--key a --max-output 64KiB", script, &file));
    assert_eq!((first.code, first.out.len()), (Some(0), 3_000_000), "{}", first.err);
    let again = ran(&mut desk.job("--key a --max-output 64KiB", script, &file));
    assert_eq!((again.code, again.out.len()), (Some(0), 65_536), "{}", again.err);
    for ran in [first, again] {
        assert!(
            ran.err.contains("2865 KiB more of the output are not recorded"),
            "{}",
            ran.err
        );
    }
    // Without the option there is room for a mebibyte.
    let script = "head -c 1048577 /dev/zero | tr '\\0' x";
    let _ = ran(&mut desk.job("--key b", script, &file));
    assert_eq!(ran(&mut desk.job("--key b", script, &file)).out.len(), 1_048_576);
}

#[test]
fn the_one_that_runs_has_the_standard_input_and_knows_its_key() {
    let desk = Desk::sqlite();
    let script =
        r#"cat; echo "$ONEFLIGHT_KEY $ONEFLIGHT_ATTEMPT"; echo "$ONEFLIGHT_DOWNSTREAM_KEY $ONEFLIGHT_CORRELATION_ID""#;
    let mut child = desk
        .job("--key a", script, &desk.path("a"))
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"typed\n").unwrap();
    let first = end(child);
    let lines: Vec<_> = first.out.lines().collect();
    assert_eq!(lines[..2], ["typed", "a 1"], "{first:?}");
    let (downstream, correlation) = lines[2].split_once(' ').unwrap();
    assert_eq!(downstream.len(), 64, "{first:?}");
    assert!(correlation.starts_with("exec-"), "{first:?}");
    let mut given = desk.job("--key b", r#"echo "$ONEFLIGHT_CORRELATION_ID""#, &desk.path("b"));
    assert_eq!(
        ran(given.env("ONEFLIGHT_CORRELATION_ID", "edge-5f2c")).out,
        "edge-5f2c\n"
    );
}

#[test]
fn a_replay_keeps_the_order_of_both_streams_and_the_dashboards_token_is_not_the_commands() {
    let desk = Desk::sqlite();
    let both = desk.path("both");
    // The two are read apart, so there is some time between them.
    let script =
        r#"printf one; sleep 0.3; printf two >&2; sleep 0.3; printf three; echo "$ONEFLIGHT_DASHBOARD_TOKEN" >"$0""#;
    let mut job = desk.job("--key a --quiet", script, &desk.path("token"));
    job.env("ONEFLIGHT_DASHBOARD_TOKEN", "a secret");
    ran(&mut job);
    assert_eq!(awaited(&desk.path("token")), "\n");
    let file = fs::File::create(&both).unwrap();
    job.stdout(file.try_clone().unwrap()).stderr(file);
    assert_eq!(ran(&mut job).code, Some(0));
    assert_eq!(fs::read_to_string(&both).unwrap(), "onetwothree");
}
