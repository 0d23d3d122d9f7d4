//! A doubt made by `kill -9` is found, understood and settled from the shell.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use oneflight::correlation::{CorrelationId, scope};
use oneflight::idempotency::Origin;
use oneflight::{Idempotency, Message};
use oneflight_sqlite::SqliteStore;
use serde_json::{Value, json};

use super::support::{File, SCOPE, id, until};

const CHILD: &str = "ONEFLIGHT_DESK_TEST_FILE";

/// A service that dies in the middle of its work.
#[tokio::test]
#[ignore = "a process of another test"]
async fn service() {
    let Ok(file) = std::env::var(CHILD) else { return };
    let store = SqliteStore::open(file).await.unwrap();
    let idem = Idempotency::builder(store).lease(Duration::from_millis(200)).build();
    let work = |_| async {
        println!("charging");
        std::future::pending::<u32>().await
    };
    let call = idem.run(id("a7f3").with_fingerprint("two books"), work);
    let _ = scope(CorrelationId::new("req-42").unwrap(), call).await;
}

fn killed(file: &File) {
    let mut service = Command::new(std::env::current_exe().unwrap())
        .args(["doubt::service", "--exact", "--ignored", "--nocapture"])
        .env(CHILD, &file.path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(service.stdout.take().unwrap()).lines();
    assert!(
        lines.map_while(Result::ok).any(|line| line.contains("charging")),
        "it did not begin"
    );
    service.kill().unwrap();
    service.wait().unwrap();
}

#[tokio::test]
async fn a_doubt_made_by_kill_9_is_found_understood_and_settled_and_the_next_call_gets_the_answer() {
    let file = File::new().await;
    file.desk.run(&["doubts", "--fail"]).well();
    killed(&file);

    // Found.
    until(async || file.desk.run(&["doubts", "--fail"]).code == 1).await;
    let doubts = file.desk.json(&["doubts"]);
    assert_eq!(doubts[0]["key"], "a7f3");
    assert_eq!(doubts[0]["scope"], SCOPE);
    assert_eq!(doubts[0]["attempt"], 1);
    assert_eq!(doubts[0]["correlation_id"], "req-42");
    assert_eq!(doubts[0]["steps"], Value::Null);
    let none = file.desk.run(&["doubts", "--fail", "--older-than", "1h"]).well();
    assert_eq!(none, "nothing has been in doubt for longer than 1h\n");
    let table = file.desk.run(&["doubts"]).well();
    assert!(table.contains("a7f3") && table.contains("what happened?"), "{table}");

    // Understood.
    let story = file.desk.run(&["records", "show", "a7f3"]).well();
    assert!(
        story.contains("in doubt for") && story.contains("oneflight records resolve"),
        "{story}"
    );
    let story = file.desk.json(&["records", "show", "--correlation-id", "req-42"]);
    assert_eq!(story["record"]["state"], "in-doubt");
    assert_eq!(
        story["record"]["fingerprint"],
        id("a7f3")
            .with_fingerprint("two books")
            .fingerprint()
            .unwrap()
            .to_string()
    );

    // Settled, to the digit.
    let answer = r#"{"order":7,"a":1.10,"total":12345678901234567890123}"#;
    let resolve = [
        "records", "resolve", "a7f3", "--scope", SCOPE, "--answer", answer, "--plain", "--yes", "--json",
    ];
    let resolved: Value = serde_json::from_str(&file.desk.run(&resolve).well()).unwrap();
    assert_eq!(resolved, json!({"key": "a7f3", "scope": SCOPE, "resolved": "recorded"}));
    file.desk.run(&["doubts", "--fail"]).well();
    assert!(
        file.desk
            .run(&["records", "show", "a7f3", "--body"])
            .well()
            .contains(answer)
    );

    // And answered.
    let never = |_| async { panic!("it ran again") };
    let idem = file.idem();
    let reply = idem
        .run::<Value, _, _>(id("a7f3").with_fingerprint("two books"), never)
        .await
        .unwrap();
    assert_eq!((reply.origin(), &reply["order"]), (Origin::Replayed, &json!(7)));
}

#[tokio::test]
async fn what_is_settled_as_not_done_runs_with_the_next_call() {
    let file = File::new().await;
    killed(&file);
    until(async || file.desk.run(&["doubts", "--fail"]).code == 1).await;
    let told = file
        .desk
        .run(&["records", "resolve", "a7f3", "--not-done", "--yes"])
        .well();
    assert!(told.contains("is free"), "{told}");
    let reply = file.idem().run(id("a7f3"), |_| async { 7 }).await.unwrap();
    assert_eq!((reply.origin(), *reply), (Origin::Executed, 7));
}

#[tokio::test]
async fn a_story_has_the_messages_of_its_request() {
    let file = File::new().await;
    let idem = file.idem();
    let call = idem.run_in_tx(id("a7f3"), |mut tx| async move {
        let _ = tx.send(Message::new("mail.receipt", &"two books")?).await?;
        Ok(7)
    });
    let _ = scope(CorrelationId::new("req-42").unwrap(), call).await.unwrap();
    let story = file.desk.json(&["records", "show", "a7f3"]);
    assert_eq!(story["messages"][0]["topic"], "mail.receipt");
    assert_eq!(story["messages"][0]["state"], "waiting");
    let text = file.desk.run(&["records", "show", "a7f3"]).well();
    assert!(text.contains("mail.receipt") && text.contains("req-42"), "{text}");
}
