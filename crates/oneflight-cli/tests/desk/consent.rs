//! A change says what it will change, and is asked for once more.

use std::io::{Read, Write};

use oneflight::Resolution;

use super::support::{File, SCOPE, id, leave_in_doubt};

const RESOLVE: [&str; 6] = ["records", "resolve", "a7f3", "--scope", SCOPE, "--not-done"];

async fn in_doubt() -> File {
    let file = File::new().await;
    leave_in_doubt(&file.store, id("a7f3")).await;
    file
}

async fn is_there(file: &File) -> bool {
    file.idem().status(&id("a7f3")).await.unwrap().is_some()
}

#[tokio::test]
async fn without_a_terminal_nothing_is_changed_unless_yes_is_said() {
    let file = in_doubt().await;
    let told = file.desk.run(&RESOLVE).with(64);
    assert!(
        told.contains("You say: it was not done") && told.contains("Nothing was changed"),
        "{told}"
    );
    assert!(is_there(&file).await);
    file.desk.run(&[&RESOLVE[..], &["--yes"]].concat()).well();
    assert!(!is_there(&file).await);
}

#[tokio::test]
async fn on_a_terminal_only_a_yes_changes_anything() {
    let file = in_doubt().await;
    for answer in ["n\n", "\n", "yess\n", "\u{4}"] {
        let ended = file.desk.on_a_terminal(&RESOLVE, answer);
        assert_eq!(ended.code, 1, "{answer:?}: {ended:?}");
        assert!(
            ended.out.contains("it happens twice") && ended.out.contains("nothing was changed"),
            "{ended:?}"
        );
        assert!(is_there(&file).await, "{answer:?}");
    }
    let ended = file.desk.on_a_terminal(&RESOLVE, "y\n");
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(!is_there(&file).await);
}

#[tokio::test]
async fn what_somebody_else_has_settled_while_the_question_stood_is_left_alone() {
    let file = in_doubt().await;
    let mut asked = file.desk.terminal(&RESOLVE);
    let mut screen = asked.stdout.take().unwrap();
    let mut shown = Vec::new();
    while !String::from_utf8_lossy(&shown).contains("Go on? [y/N]") {
        let mut byte = [0];
        screen.read_exact(&mut byte).expect("it asks");
        shown.extend(byte);
    }
    let idem = file.idem();
    idem.resolve(&id("a7f3"), Resolution::completed(&7).unwrap())
        .await
        .unwrap();
    asked.stdin.as_mut().unwrap().write_all(b"y\n").unwrap();
    let mut told = String::new();
    screen.read_to_string(&mut told).unwrap();
    assert_eq!(asked.wait().unwrap().code(), Some(75), "{told}");
    assert!(told.contains("nothing was changed"), "{told}");
    assert!(is_there(&file).await);
}

#[tokio::test]
async fn every_change_waits_for_consent() {
    let file = in_doubt().await;
    let changes: &[&[&str]] = &[
        &["records", "resolve", "a7f3", "--answer", "1"],
        &["records", "hold", "a7f3"],
        &["purge"],
    ];
    for change in changes {
        let told = file.desk.run(change).with(64);
        assert!(told.contains("Nothing was changed"), "{change:?}: {told}");
    }
}
