//! The commands of the manual (`README.md`) do what stands below them.
//!
//! They are run one after another, in one shell session, over a store that is filled as the manual says. What is another number each time
//! (times, durations, tokens) is compared by its kind.

use std::process::Command;
use std::time::Duration;

use oneflight::correlation::{CorrelationId, scope};
use oneflight::idempotency::{Step, Unknown};
use oneflight::{Idempotency, Message};
use oneflight_sqlite::SqliteStore;

use super::support::{File, id, leave_in_doubt};

/// What the manual's shop has done so far.
async fn fill(store: &SqliteStore) {
    let idem = Idempotency::builder(store.clone()).settle(Duration::ZERO).build();
    let request = |number: &str| CorrelationId::new(format!("req-{number}")).unwrap();
    let order = idem.run_in_tx(id("a7f3").with_fingerprint("two books"), |mut tx| async move {
        let _ = tx.send(Message::new("mail.receipt", &"two books")?).await?;
        Ok(7)
    });
    let _ = scope(request("41"), order).await.unwrap();
    leave_in_doubt(store, id("c55e")).await;
    let charge = idem.try_run::<u32, _, _>(id("b81c").with_fingerprint("a lamp"), |_| async {
        Err(Unknown::because("the payment provider did not answer").into())
    });
    scope(request("42"), charge).await.unwrap_err();
    let letters = idem.with_workflow("letters");
    let letter = letters.run_steps(id("d0c5"), &7, |steps| async move {
        let shelf = steps.run("reserve", |_| async { Ok::<_, std::io::Error>("shelf 4".to_owned()) });
        shelf.await?;
        let fax = Step::new("fax").at_most_once();
        steps.run(fax, |_| async { Err::<u32, _>("the line broke off") }).await
    });
    scope(request("43"), letter).await.unwrap_err();
}

/// A command of the manual, and what stands below it.
struct Example {
    line: usize,
    command: String,
    output: String,
}

fn examples(manual: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let mut is_session = false;
    for (number, line) in (1..).zip(manual.lines()) {
        match line.strip_prefix("$ ") {
            _ if line.starts_with("```") => is_session = line == "```console",
            Some(command) if is_session => examples.push(Example {
                line: number,
                command: command.to_owned(),
                output: String::new(),
            }),
            None if is_session => {
                let output = &mut examples.last_mut().expect("a session begins with a command").output;
                output.push_str(line);
                output.push('\n');
            }
            _ => {}
        }
    }
    examples
}

/// A text in which what is another one each time stands by its kind.
fn kinds(text: &str) -> String {
    let mut words: Vec<&str> = Vec::new();
    for word in text.split_whitespace() {
        let bare = word.trim_matches(|it: char| ",.;:\"".contains(it));
        let kind = match bare {
            bare if humantime::parse_rfc3339(bare).is_ok() => "TIME",
            bare if humantime::parse_duration(bare).is_ok() => "DURATION",
            bare if bare.len() >= 32 && bare.bytes().all(|it| it.is_ascii_hexdigit()) => "DIGITS",
            bare if bare.len() <= 9 && bare.bytes().all(|it| it.is_ascii_digit()) => "NUMBER",
            _ => word,
        };
        // One unit of time or two.
        if !(kind == "DURATION" && words.last() == Some(&kind)) {
            words.push(kind);
        }
    }
    words.join(" ")
}

#[tokio::test]
async fn the_commands_of_the_manual_do_what_stands_below_them() {
    let file = File::new().await;
    fill(&file.store).await;
    let manual = include_str!("../../README.md");
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_oneflight")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let folder = file.path.parent().unwrap();
    let examples = examples(manual);
    assert!(examples.len() >= 20, "only {} examples", examples.len());
    for Example { line, command, output } in examples {
        let ended = Command::new("bash")
            .args(["-c", &format!("{{ {command}\n}} 2>&1")])
            .current_dir(folder)
            .env("PATH", &path)
            .env("ONEFLIGHT_STORE", "orders.db")
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let printed = String::from_utf8(ended.stdout).unwrap();
        let cut = output.split_once("\n…\n").map(|(begin, _)| begin.to_owned());
        match cut {
            Some(begin) => assert!(
                kinds(&printed).starts_with(&kinds(&begin)),
                "line {line}: {command}\n{printed}"
            ),
            None => assert_eq!(kinds(&printed), kinds(&output), "line {line}: {command}\n{printed}"),
        }
    }
}

/// Fills a file, to try the manual's commands by hand.
#[tokio::test]
#[ignore = "it is for people"]
async fn fill_a_file() {
    let path = std::env::var("ONEFLIGHT_DESK_FILE").expect("ONEFLIGHT_DESK_FILE names a file");
    fill(&SqliteStore::open(path).await.unwrap()).await;
}
