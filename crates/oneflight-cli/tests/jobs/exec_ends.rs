//! How a job can end otherwise: busy, in doubt, killed, not started, not recorded. Each is told apart by its code.

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use oneflight_sqlite::SqliteStore;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::desk::{Desk, awaited, end, kill, ran, until};
use crate::redis;

/// The first time it tells its number and stays; after that it tells the attempt.
pub const STAYS_ONCE: &str =
    r#"if [ -e "$0" ]; then echo "attempt $ONEFLIGHT_ATTEMPT"; else echo $$ >"$0"; exec sleep 1000; fi"#;

#[test]
fn what_was_killed_with_its_command_is_in_doubt_and_runs_again_if_told_so() {
    let desk = Desk::sqlite();
    let file = desk.path("pid");
    let mut dies = desk.job("--key a --lease 1s", STAYS_ONCE, &file).spawn().unwrap();
    let command: u32 = awaited(&file).trim().parse().unwrap();
    kill(dies.id(), Signal::KILL);
    dies.wait().unwrap();
    kill(command, Signal::KILL);
    let next = ran(&mut desk.job("--key a --lease 1s --wait 60s", STAYS_ONCE, &file));
    assert_eq!((next.code, &*next.out), (Some(80), ""), "{next:?}");
    assert!(next.err.contains("a [exec] is in doubt: attempt 1"), "{next:?}");
    assert!(
        next.err.contains("oneflight doubts") && next.err.contains("--in-doubt rerun"),
        "{next:?}"
    );
    let rerun = ran(&mut desk.job("--key a --lease 1s --in-doubt rerun", STAYS_ONCE, &file));
    assert_eq!((rerun.code, &*rerun.out), (Some(0), "attempt 2\n"), "{rerun:?}");
    let after = ran(&mut desk.job("--key a --lease 1s", STAYS_ONCE, &file));
    assert_eq!((after.code, &*after.out), (Some(0), "attempt 2\n"), "{after:?}");
}

#[test]
fn what_runs_elsewhere_for_longer_than_one_waits_is_busy() {
    let desk = Desk::sqlite();
    let file = desk.path("pid");
    let runs = desk.job("--key a", STAYS_ONCE, &file).spawn().unwrap();
    awaited(&file);
    let busy = ran(&mut desk.job("--key a --wait 100ms", STAYS_ONCE, &file));
    assert_eq!((busy.code, &*busy.out), (Some(75), ""), "{busy:?}");
    assert!(busy.err.contains("a [exec] runs elsewhere"), "{busy:?}");
    assert!(busy.err.contains("still did after 100ms"), "{busy:?}");
    kill(runs.id(), Signal::TERM);
    end(runs);
}

#[test]
fn a_signal_is_passed_on_and_the_command_decides_how_it_ends() {
    let desk = Desk::sqlite();
    let file = desk.path("pid");
    let script = r#"trap 'echo stopped; exit 7' TERM; echo $$ >"$0"; while :; do sleep 0.02; done"#;
    let runs = desk.job("--key a", script, &file).spawn().unwrap();
    awaited(&file);
    kill(runs.id(), Signal::TERM);
    let first = end(runs);
    assert_eq!((first.code, &*first.out), (Some(7), "stopped\n"), "{first:?}");
    let again = ran(&mut desk.job("--key a", script, &file));
    assert_eq!((again.code, &*again.out), (Some(7), "stopped\n"), "{again:?}");
}

#[test]
fn a_command_that_a_signal_kills_is_in_doubt_or_recorded_or_free() {
    for (signal, on_kill, code) in [
        (Signal::TERM, "doubt", 80),
        (Signal::INT, "record", 130),
        (Signal::HUP, "free", 0),
    ] {
        let desk = Desk::sqlite();
        let file = desk.path("pid");
        let options = format!("--key a --on-kill {on_kill}");
        let runs = desk.job(&options, STAYS_ONCE, &file).spawn().unwrap();
        awaited(&file);
        kill(runs.id(), signal);
        let first = end(runs);
        assert_eq!(first.code, Some(128 + signal.as_raw()), "{on_kill}: {first:?}");
        let next = ran(&mut desk.job(&options, STAYS_ONCE, &file));
        assert_eq!(next.code, Some(code), "{on_kill}: {next:?}");
    }
}

#[test]
fn what_is_interrupted_while_it_waits_leaves_nothing() {
    let desk = Desk::sqlite();
    let file = desk.path("pid");
    let runs = desk.job("--key a", STAYS_ONCE, &file).spawn().unwrap();
    awaited(&file);
    let waits = desk.job("--key a --wait 1h", STAYS_ONCE, &file).spawn().unwrap();
    // It catches signals from its beginning on.
    let status = format!("/proc/{}/status", waits.id());
    until("it catches signals", || {
        let status = fs::read_to_string(&status).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
        (caught & (1 << (Signal::TERM.as_raw() - 1)) != 0).then_some(())
    });
    kill(waits.id(), Signal::TERM);
    let waited = end(waits);
    assert_eq!((waited.code, &*waited.out), (Some(143), ""), "{waited:?}");
    assert!(waited.err.contains("before the command began"), "{waited:?}");
    kill(runs.id(), Signal::KILL);
    let _ = end(runs);
    kill(awaited(&file).trim().parse().unwrap(), Signal::KILL);
}

#[test]
fn a_failure_is_recorded_or_frees_the_key() {
    let desk = Desk::sqlite();
    let script = r#"echo ran >>"$0"; exit 5"#;
    for (on_failure, times) in [("record", 1), ("free", 2)] {
        let file = desk.path(on_failure);
        let options = format!("--key {on_failure} --on-failure {on_failure}");
        for _ in 0..2 {
            let ran = ran(&mut desk.job(&options, script, &file));
            assert_eq!(ran.code, Some(5), "{on_failure}: {ran:?}");
        }
        assert_eq!(
            fs::read_to_string(&file).unwrap().lines().count(),
            times,
            "{on_failure}"
        );
    }
}

#[test]
fn a_command_that_cannot_be_started_leaves_the_key_free() {
    let desk = Desk::sqlite();
    fs::write(desk.path("plain"), "no program").unwrap();
    for (program, code) in [("/nowhere/at/all", 127), ("./plain", 126)] {
        let ran = desk.run(["exec", "--key", "a", "--", program]);
        assert_eq!(ran.code, Some(code), "{ran:?}");
        assert!(
            ran.err.contains(program) && ran.err.contains("the key is free again"),
            "{ran:?}"
        );
    }
    assert_eq!(desk.run(["exec", "--key", "a", "--", "echo", "hi"]).out, "hi\n");
}

#[test]
fn a_machine_that_slept_learns_that_another_has_taken_its_key() {
    // What is stopped in the middle of a transaction would keep a file locked.
    let desk = Desk::redis(redis::server());
    let file = desk.path("pid");
    let script =
        r#"if [ -e "$0" ]; then echo second; else echo $$ >"$0"; until [ -e "$0.go" ]; do sleep 0.02; done; fi"#;
    let slept = desk.job("--key a --lease 1s", script, &file).spawn().unwrap();
    awaited(&file);
    kill(slept.id(), Signal::STOP);
    let second = ran(&mut desk.job("--key a --wait 60s --in-doubt rerun", script, &file));
    assert_eq!((second.code, &*second.out), (Some(0), "second\n"), "{second:?}");
    fs::write(desk.path("pid.go"), "").unwrap();
    kill(slept.id(), Signal::CONT);
    let slept = end(slept);
    assert_eq!(slept.code, Some(81), "{slept:?}");
    assert!(
        slept
            .err
            .contains("the command ended with status 0, and that is not recorded"),
        "{slept:?}"
    );
    let third = ran(&mut desk.job("--key a", script, &file));
    assert_eq!((third.code, &*third.out), (Some(0), "second\n"), "{third:?}");
}

#[test]
fn a_store_that_is_gone_when_the_command_ends_is_told_meanwhile_and_given_up_in_time() {
    let server = redis::Server::start(&[]);
    let desk = Desk::redis(&server);
    let file = desk.path("pid");
    let script = r#"echo $$ >"$0"; until [ -e "$0.go" ]; do sleep 0.02; done; exit 7"#;
    let runs = desk.job("--key a --record-within 3s", script, &file).spawn().unwrap();
    awaited(&file);
    server.kill();
    fs::write(desk.path("pid.go"), "").unwrap();
    let since = Instant::now();
    let ended = end(runs);
    assert_eq!(ended.code, Some(81), "{ended:?}");
    // Its lease would be over after 60 s.
    assert!(since.elapsed() < Duration::from_secs(40), "{:?}", since.elapsed());
    assert!(
        ended
            .err
            .contains("has ended with status 7, and the store does not answer")
            && ended.err.contains("Do not end this process"),
        "{ended:?}"
    );
    assert!(
        ended.err.contains("the command ended with status 7") && ended.err.contains("--not-done"),
        "{ended:?}"
    );
}

#[test]
fn what_was_erased_of_a_run_is_told_and_it_does_not_run_again() {
    let desk = Desk::sqlite();
    let run = || desk.run(["exec", "--key", "a", "--", "sh", "-c", "echo ran; exit 3"]);
    assert_eq!(run().code, Some(3));
    desk.ok(["records", "erase", "a", "--answers", "--yes"]);
    let erased = run();
    assert_eq!((erased.code, &*erased.out), (Some(82), ""), "{erased:?}");
    assert!(
        erased.err.contains("were erased since") || erased.err.contains("was erased since"),
        "{erased:?}"
    );
    assert!(
        erased.err.contains("oneflight records erase --scope=exec a"),
        "{erased:?}"
    );
    desk.ok(["records", "erase", "--scope=exec", "a", "--yes"]);
    let again = run();
    assert_eq!((again.code, &*again.out), (Some(3), "ran\n"), "{again:?}");
}

#[test]
fn a_process_that_the_command_leaves_behind_does_not_hold_it_up() {
    let desk = Desk::sqlite();
    let file = desk.path("pid");
    let script = r#"sleep 1000 & echo $! >"$0"; echo done"#;
    let ran = ran(&mut desk.job("--key a", script, &file));
    kill(awaited(&file).trim().parse().unwrap(), Signal::KILL);
    assert_eq!((ran.code, &*ran.out), (Some(0), "done\n"), "{ran:?}");
    assert!(ran.err.contains("left behind"), "{ran:?}");
}

/// Whether the process has ended, and nobody has looked at how.
fn has_ended(process: &str) -> Option<()> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let (_, state) = stat.rsplit_once(") ").unwrap();
    state.starts_with('Z').then_some(())
}

#[test]
fn the_last_words_of_a_command_are_kept_although_signals_came_as_it_ended() {
    let desk = Desk::sqlite();
    let file = desk.path("pid");
    let script = r#"trap 'head -c 60000 /dev/zero | tr "\0" x; echo; echo last words; exit 7' TERM
        trap '' HUP USR1 USR2; echo $$ >"$0"; while :; do sleep 0.02; done"#;
    let runs = desk.job("--key a", script, &file).process_group(0).spawn().unwrap();
    let command = awaited(&file);
    // All that happens meanwhile it learns at once.
    kill(runs.id(), Signal::STOP);
    let group = Pid::from_raw(i32::try_from(runs.id()).unwrap()).unwrap();
    for signal in [Signal::HUP, Signal::USR1, Signal::USR2, Signal::TERM] {
        kill_process_group(group, signal).unwrap();
    }
    until("the command has ended", || has_ended(command.trim()));
    kill(runs.id(), Signal::CONT);
    let first = end(runs);
    assert_eq!((first.code, first.out.len()), (Some(7), 60_012), "{first:?}");
    let again = ran(&mut desk.job("--key a", script, &file));
    assert!(
        again.code == Some(7) && again.out.ends_with("last words\n"),
        "{again:?}"
    );
}

#[test]
fn a_signal_after_the_end_cuts_off_what_is_still_open_and_that_is_said() {
    let desk = Desk::sqlite();
    let file = desk.path("pid");
    let script = r#"(while :; do echo more; sleep 0.02; done) & echo $! >"$0.behind"; echo $$ >"$0""#;
    let runs = desk.job("--key a", script, &file).spawn().unwrap();
    let command = awaited(&file);
    until("its end was looked at", || {
        (!fs::exists(format!("/proc/{}", command.trim())).unwrap()).then_some(())
    });
    kill(runs.id(), Signal::TERM);
    let first = end(runs);
    kill(awaited(&desk.path("pid.behind")).trim().parse().unwrap(), Signal::KILL);
    assert_eq!(first.code, Some(0), "{first:?}");
    assert!(first.err.contains("neither shown nor recorded"), "{first:?}");
    let again = ran(&mut desk.job("--key a", script, &file));
    assert!(again.err.contains("a signal cut the output off"), "{again:?}");
}

#[test]
fn output_that_cannot_be_written_is_told_and_a_replay_of_it_is_no_success() {
    let desk = Desk::sqlite();
    let full = || Stdio::from(fs::File::options().write(true).open("/dev/full").unwrap());
    for (key, script, replayed) in [("a", "echo out", 74), ("b", "echo out; exit 3", 3)] {
        let options = format!("--key {key}");
        let mut job = desk.job(&options, script, &desk.path("file"));
        let first = ran(job.stdout(full()));
        let own = if replayed == 74 { 0 } else { replayed };
        assert_eq!(first.code, Some(own), "{first:?}");
        assert!(first.err.contains("cannot be written"), "{first:?}");
        let again = ran(job.stdout(full()));
        assert_eq!(again.code, Some(replayed), "{again:?}");
        assert!(again.err.contains("cannot be written"), "{again:?}");
        assert_eq!(ran(job.stdout(Stdio::piped())).out, "out\n");
    }
}

#[tokio::test]
async fn a_key_that_could_not_be_given_back_is_not_called_free() {
    let desk = Desk::sqlite();
    let store = SqliteStore::open(&desk.store).await.unwrap();
    let stays = "CREATE TRIGGER stays BEFORE DELETE ON oneflight_records BEGIN SELECT RAISE(ABORT, 'it stays'); END";
    sqlx::query(stays).execute(store.pool()).await.unwrap();
    let ran = ran(&mut desk.job("--key a --on-failure free", "exit 5", &desk.path("file")));
    assert_eq!(ran.code, Some(5), "{ran:?}");
    assert!(!ran.err.contains("is free again"), "{ran:?}");
    assert!(
        ran.err.contains("could not be given back") && ran.err.contains("--not-done"),
        "{ran:?}"
    );
}

#[test]
fn what_a_terminal_sends_for_a_key_reaches_the_command_once() {
    let desk = Desk::sqlite();
    let file = desk.path("pid");
    // The standard input is no terminal. A second signal would come while the first one is answered.
    let script = r#"trap 'echo int >>"$0.ints"; sleep 0.5; echo int-is-over' INT
        echo $$ >"$0"; while [ ! -e "$0.ints" ]; do sleep 0.02; done"#;
    let command = format!(
        "env --default-signal '{}' exec --key a -- sh -c '{}' '{}' </dev/null",
        env!("CARGO_BIN_EXE_oneflight"),
        script.replace('\'', r"'\''"),
        file.display()
    );
    let mut terminal = std::process::Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .env("ONEFLIGHT_STORE", &desk.store)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("there is `script` of util-linux");
    awaited(&file);
    terminal.stdin.as_mut().unwrap().write_all(b"\x03").unwrap();
    let ended = end(terminal);
    let ints = awaited(&desk.path("pid.ints"));
    assert_eq!(ints, "int\n", "{ended:?}");
}

#[test]
fn what_is_typed_wrongly_is_told_and_runs_nothing() {
    let desk = Desk::sqlite();
    for wrong in [
        &["exec", "--", "echo", "hi"][..],
        &["exec", "--key", "a"],
        &["exec", "--key", "", "--", "echo", "hi"],
        &["exec", "--key", "a", "--wait", "soon", "--", "echo", "hi"],
        &["exec", "--key", "a", "--max-output", "much", "--", "echo", "hi"],
    ] {
        let ran = desk.run(wrong);
        assert_eq!((ran.code, &*ran.out), (Some(64), ""), "{wrong:?}: {ran:?}");
        assert!(!ran.err.is_empty(), "{wrong:?}");
    }
    assert!(!desk.path("jobs.db").exists());
}
