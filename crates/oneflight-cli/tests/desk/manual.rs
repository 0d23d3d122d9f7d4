//! Help, completions and the manual need no store.

use std::net::TcpListener;
use std::process::{Command, Stdio};

use super::support::{Desk, Ended, oneflight};

fn run(args: &[&str]) -> Ended {
    Ended::of(oneflight().args(args).output().unwrap())
}

#[test]
fn help_and_the_version_are_printed_and_what_is_mistyped_ends_with_64() {
    assert!(run(&["--help"]).well().contains("records"));
    assert!(run(&["records", "resolve", "--help"]).well().contains("--not-done"));
    assert_eq!(
        run(&["--version"]).well(),
        format!("oneflight {}\n", env!("CARGO_PKG_VERSION"))
    );
    run(&[]).with(64);
    run(&["records"]).with(64);
    assert!(run(&["recrods"]).with(64).contains("records"));
    let told = run(&["doubts"]).with(64);
    assert!(told.contains("ONEFLIGHT_STORE"), "{told}");
}

#[test]
fn a_password_is_not_in_the_help() {
    let told = Ended::of(
        oneflight()
            .args(["doubts", "--help"])
            .env("ONEFLIGHT_STORE", "postgres://me:hunter2@localhost/")
            .output()
            .unwrap(),
    );
    assert!(!told.well().contains("hunter2"));
}

#[test]
fn completions_are_scripts_that_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&["completions", shell]).well();
        assert!(script.contains("doubts") && script.contains("resolve"), "{shell}");
    }
    let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(
        bash.stdin.as_mut().unwrap(),
        run(&["completions", "bash"]).out.as_bytes(),
    )
    .unwrap();
    assert!(bash.wait().unwrap().success());
}

#[test]
fn the_manual_has_a_page_for_each_command() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("man1");
    run(&["man", "--out", out.to_str().unwrap()]).well();
    for page in [
        "oneflight",
        "oneflight-records-resolve",
        "oneflight-doubts",
        "oneflight-steps-fork",
    ] {
        let text = std::fs::read_to_string(out.join(format!("{page}.1"))).unwrap();
        assert!(text.contains(".TH"), "{page}");
    }
    let pages = run(&["man"]).well();
    for command in ["oneflight", "oneflight-records-resolve", "oneflight-doubts"] {
        assert!(pages.contains(&format!(".TH {command} ")), "{command}");
    }
}

#[test]
fn a_reader_that_went_away_ends_the_command_in_silence() {
    let mut program = oneflight()
        .arg("man")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(program.stdout.take());
    let ended = Ended::of(program.wait_with_output().unwrap());
    assert_eq!((ended.code, &*ended.told), (0, ""));
    // What cannot be written for another reason is told.
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let told = Ended::of(oneflight().arg("man").stdout(full).output().unwrap()).with(74);
    assert!(told.contains("cannot be written"), "{told}");
}

#[test]
fn a_store_that_cannot_be_reached_is_told_within_seconds() {
    // Nobody listens there: the port was free a moment ago.
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let closed = port(&TcpListener::bind("127.0.0.1:0").unwrap());
    // Somebody listens, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let asked: Vec<_> = [(closed, "refused"), (port(&silent), "not answered")]
        .into_iter()
        .flat_map(|(port, why)| {
            let postgres = format!("postgres://me:hunter2@127.0.0.1:{port}/shop");
            [(postgres, why), (format!("redis://:hunter2@127.0.0.1:{port}/"), why)]
        })
        .map(|(address, why)| std::thread::spawn(move || (Desk { address }.run(&["doubts"]).with(69), why)))
        .collect();
    for asked in asked {
        let (told, why) = asked.join().unwrap();
        assert!(told.contains(why) && !told.contains("hunter2"), "{told}");
    }
}

#[test]
fn an_address_that_is_none_is_told_without_its_password() {
    for (address, code) in [
        ("mysql://me:hunter2@localhost/", 64),
        ("postgres://me:hunter2@localhost:port/", 69),
        ("redis://me:hunter2@localhost:port/", 69),
        ("/nowhere/at/all.db", 66),
        ("", 64),
    ] {
        let desk = Desk {
            address: address.to_owned(),
        };
        let told = desk.run(&["doubts"]).with(code);
        assert!(!told.contains("hunter2"), "{told}");
    }
}
