//! Mutations of steps are listed, shown, settled, resumed, held and forked.

use std::io::{Read, Write};

use oneflight::idempotency::{Origin, Step};
use oneflight::store::Store;
use oneflight::{Idempotency, RequestIdentity};
use oneflight_sqlite::SqliteStore;
use serde_json::json;

use super::support::{File, SCOPE, id};

type Sent = Result<oneflight::Reply<u32>, oneflight::Error>;

/// Reserves, and sends a fax by a line that breaks off.
async fn send(idem: &Idempotency<SqliteStore>, id: RequestIdentity) -> Sent {
    let letters = idem.with_workflow("letters");
    letters
        .run_steps(id, &7, |steps| async move {
            steps
                .run("reserve", |_| async { Ok::<_, std::io::Error>("shelf 4".to_owned()) })
                .await?;
            let fax = Step::new("fax").at_most_once();
            steps.run(fax, |_| async { Err::<u32, _>("the line broke off") }).await
        })
        .await
}

async fn held() -> File {
    let file = File::new().await;
    send(&file.idem(), id("a7f3")).await.unwrap_err();
    file
}

#[tokio::test]
async fn a_step_that_has_not_told_is_found_settled_and_the_mutation_goes_on() {
    let file = held().await;
    let desk = &file.desk;
    let listed = desk.json(&["steps", "list"]);
    assert_eq!(
        (&listed[0]["key"], &listed[0]["workflow"], &listed[0]["held"]),
        (&json!("a7f3"), &json!("letters"), &json!(true))
    );
    assert!(desk.run(&["steps", "list"]).well().contains("letters"));
    assert_eq!(desk.json(&["doubts"])[0]["steps"], json!(["fax"]));
    assert!(desk.run(&["doubts"]).well().contains("what happened in fax?"));
    let shown = desk.json(&["steps", "show", "a7f3", "--scope", SCOPE]);
    let states: Vec<_> = shown["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (&it["name"], &it["state"]))
        .collect();
    assert_eq!(
        states,
        [(&json!("reserve"), &json!("done")), (&json!("fax"), &json!("in-doubt"))]
    );
    let text = desk.run(&["steps", "show", "a7f3"]).well();
    assert!(
        text.contains("fax") && text.contains("in-doubt") && !text.contains("shelf 4"),
        "{text}"
    );
    assert!(
        desk.run(&["steps", "show", "a7f3", "--body"])
            .well()
            .contains("shelf 4")
    );
    let story = desk.run(&["records", "show", "a7f3"]).well();
    assert!(
        story.contains("reserve") && story.contains("oneflight steps settle"),
        "{story}"
    );

    let told = desk.run(&["steps", "resume", "a7f3"]).with(64);
    assert!(told.contains("fax has not told"), "{told}");
    let told = desk
        .run(&["steps", "settle", "a7f3", "reserve", "--not-done", "--yes"])
        .with(1);
    assert!(told.contains("fax does"), "{told}");
    let settled = desk.json(&["steps", "settle", "a7f3", "fax", "--answer", "3", "--yes"]);
    assert_eq!(settled["settled"], "recorded");
    let resumed = desk.json(&["steps", "resume", "a7f3", "--yes"]);
    assert_eq!(resumed, json!({"key": "a7f3", "scope": SCOPE, "held": false}));
    let reply = send(&file.idem(), id("a7f3")).await.unwrap();
    assert_eq!((*reply, reply.origin()), (3, Origin::Executed));
}

#[tokio::test]
async fn a_step_that_was_not_done_is_forgotten() {
    let file = held().await;
    let told = file
        .desk
        .run(&["steps", "settle", "a7f3", "fax", "--not-done", "--yes"])
        .well();
    assert!(told.contains("steps resume"), "{told}");
    let shown = file.desk.json(&["steps", "show", "a7f3"]);
    assert_eq!(shown["steps"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_mutation_is_forked_at_the_step_that_went_wrong() {
    let file = held().await;
    let fork = ["steps", "fork", "a7f3", "--to", "a7f3-again", "--at", "fax"];
    let told = file.desk.run(&fork).with(64);
    assert!(told.contains("with 1 of its steps: those before fax"), "{told}");
    let told = file
        .desk
        .run(&["steps", "fork", "a7f3", "--to", "b", "--at", "nothing", "--yes"])
        .with(1);
    assert!(told.contains("reserve, fax"), "{told}");
    let begun = file.desk.json(&[&fork[..], &["--yes"]].concat());
    assert_eq!(begun, json!({"key": "a7f3-again", "scope": SCOPE, "steps": 1}));
    // It waits for a call, and can be held.
    let held = file.desk.json(&["steps", "hold", "a7f3-again", "--yes"]);
    assert_eq!(held["held"], true);
    file.desk.run(&[&fork[..], &["--yes"]].concat()).with(75);
}

#[tokio::test]
async fn what_has_no_steps_says_so() {
    let file = File::new().await;
    let _ = file.idem().run(id("done"), |_| async { 7 }).await.unwrap();
    for command in ["show", "resume", "hold"] {
        let told = file.desk.run(&["steps", command, "done"]).with(1);
        assert!(told.contains("no recorded steps"), "{command}: {told}");
    }
    assert!(file.store.load(&id("done")).await.unwrap().is_some());
}

#[tokio::test]
async fn what_somebody_else_has_changed_while_the_question_stood_is_left_alone() {
    let settle: &[&str] = &["steps", "settle", "a7f3", "fax", "--answer", "3"];
    let fork: &[&str] = &["steps", "fork", "a7f3", "--to", "b", "--at", "fax"];
    for change in [settle, &["steps", "resume", "a7f3"], &["steps", "hold", "a7f3"], fork] {
        let file = held().await;
        let mut asked = file.desk.terminal(change);
        let mut screen = asked.stdout.take().unwrap();
        let mut shown = Vec::new();
        while !String::from_utf8_lossy(&shown).contains("Go on? [y/N]") {
            let mut byte = [0];
            screen.read_exact(&mut byte).expect("it asks");
            shown.extend(byte);
        }
        // The same step of another attempt.
        let not_done = ["steps", "settle", "a7f3", "fax", "--not-done", "--yes"];
        file.desk.run(&not_done).well();
        file.desk.run(&["steps", "resume", "a7f3", "--yes"]).well();
        send(&file.idem(), id("a7f3")).await.unwrap_err();
        asked.stdin.as_mut().unwrap().write_all(b"y\n").unwrap();
        let mut told = String::new();
        screen.read_to_string(&mut told).unwrap();
        assert_eq!(asked.wait().unwrap().code(), Some(75), "{change:?}: {told}");
        assert!(told.contains("nothing was changed"), "{change:?}: {told}");
    }
}
