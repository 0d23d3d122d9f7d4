//! Records are listed, shown, held and erased.

use std::time::Duration;

use http::Response;
use oneflight::{Idempotency, RequestIdentity, Scope};
use serde_json::{Value, json};

use super::support::{File, SCOPE, id, leave_in_doubt};

async fn three_states() -> File {
    let file = File::new().await;
    let idem = file.idem();
    let _ = idem
        .run(id("done"), |_| async { json!({"card": "4711"}) })
        .await
        .unwrap();
    leave_in_doubt(&file.store, id("doubtful")).await;
    let holder = idem.clone();
    let (begun, begins) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let work = |_| async {
            begun.send(()).unwrap();
            std::future::pending::<()>().await
        };
        holder.run(id("running"), work).await
    });
    begins.await.unwrap();
    file
}

fn keys(listed: &Value) -> Vec<&str> {
    listed["records"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["key"].as_str().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_listed_by_state_scope_and_page() {
    let file = three_states().await;
    let desk = &file.desk;
    assert_eq!(keys(&desk.json(&["records", "list"])), ["done", "doubtful", "running"]);
    for (state, key) in [
        ("completed", "done"),
        ("in-doubt", "doubtful"),
        ("in-progress", "running"),
    ] {
        let listed = desk.json(&["records", "list", "--state", state]);
        assert_eq!(keys(&listed), [key]);
        assert_eq!(listed["records"][0]["state"], state);
    }
    assert_eq!(keys(&desk.json(&["records", "list", "--scope", "tenant-7"])).len(), 3);
    assert!(keys(&desk.json(&["records", "list", "--scope", "tenant"])).is_empty());

    // A list says that there is more, and how to go on.
    let mut seen = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let mut args = vec!["records", "list", "--limit", "1"];
        if let Some(after) = &after {
            args.extend(["--after", after]);
        }
        let listed = desk.json(&args);
        seen.extend(keys(&listed).into_iter().map(str::to_owned));
        match listed["next"].as_str() {
            Some(next) => after = Some(next.to_owned()),
            None => break,
        }
    }
    assert_eq!(seen, ["done", "doubtful", "running"]);
    let ended = desk.run(&["records", "list", "--limit", "2"]);
    assert!(ended.told.contains("--after"), "{ended:?}");
    let table = ended.well();
    assert!(
        table.starts_with("KEY") && table.contains("doubtful") && !table.contains("4711"),
        "{table}"
    );
}

#[tokio::test]
async fn a_list_of_nothing_is_typed_wrongly() {
    let file = File::new().await;
    for list in [
        ["records", "list"],
        ["steps", "list"],
        ["outbox", "list"],
        ["outbox", "dead"],
    ] {
        let told = file.desk.run(&[&list[..], &["--limit", "0"]].concat()).with(64);
        assert!(told.contains("--limit"), "{told}");
    }
}

#[tokio::test]
async fn a_record_s_answer_is_shown_only_if_asked_for() {
    let file = File::new().await;
    let _ = file
        .idem()
        .run(id("done"), |_| async { json!({"card": "4711"}) })
        .await
        .unwrap();
    for form in [&[][..], &["--json"]] {
        let show = [&["records", "show", "done"], form].concat();
        let story = file.desk.run(&show).well();
        assert!(story.contains("performed") && !story.contains("4711"), "{story}");
        let story = file.desk.run(&[&show[..], &["--body"]].concat()).well();
        assert!(story.contains("4711"), "{story}");
    }
    let record = &file.desk.json(&["records", "show", "done", "--body"])["record"];
    assert_eq!(record["result"]["value"], json!({"card": "4711"}));
    assert_eq!(record["result"]["codec"], "json");
    assert_eq!(record["result"]["bytes"], r#"{"card":"4711"}"#.len());
}

#[tokio::test]
async fn the_key_by_which_the_work_is_known_downstream_is_told() {
    let file = File::new().await;
    let work = |context: oneflight::idempotency::Context| async move { context.downstream_key("charge") };
    let key = file.idem().run(id("a7f3"), work).await.unwrap();
    let story = file.desk.json(&["records", "show", "a7f3", "--downstream", "charge"]);
    assert_eq!(story["downstream_keys"], json!({"charge": *key}));
    let text = file
        .desk
        .run(&["records", "show", "a7f3", "--downstream", "charge"])
        .well();
    assert!(text.contains(&*key), "{text}");
}

#[tokio::test]
async fn of_an_answer_of_http_status_and_headers_are_shown() {
    let file = File::new().await;
    leave_in_doubt(&file.store, id("a7f3")).await;
    let answer = Response::builder()
        .status(201)
        .header("location", "/orders/7")
        .body("secret")
        .unwrap();
    file.idem().resolve_answered(&id("a7f3"), answer).await.unwrap();
    let record = &file.desk.json(&["records", "show", "a7f3"])["record"];
    let http = &record["result"]["http"];
    assert_eq!((&http["status"], &http["body_bytes"]), (&json!(201), &json!(6)));
    assert_eq!(http["headers"], json!([["location", "/orders/7"]]));
    let text = file.desk.run(&["records", "show", "a7f3"]).well();
    assert!(
        text.contains("HTTP 201") && text.contains("location: /orders/7") && !text.contains("secret"),
        "{text}"
    );
    let text = file.desk.run(&["records", "show", "a7f3", "--body"]).well();
    assert!(text.contains("secret"), "{text}");
}

#[tokio::test]
async fn a_key_that_is_in_several_scopes_has_them_listed() {
    let file = File::new().await;
    let other = RequestIdentity::new(Scope::new("tenant-8"), "a7f3").unwrap();
    for id in [id("a7f3"), other] {
        let _ = file.idem().run(id, |_| async { 7 }).await.unwrap();
    }
    let told = file.desk.run(&["records", "show", "a7f3"]).with(64);
    assert!(told.contains(SCOPE) && told.contains("tenant-8"), "{told}");
    let record = &file.desk.json(&["records", "show", "a7f3", "--scope", "tenant-8"])["record"];
    assert_eq!(record["scope"], "tenant-8");
    // A beginning is enough where it tells.
    let record = &file.desk.json(&["records", "show", "a7f3", "--scope", "tenant-7"])["record"];
    assert_eq!(record["scope"], SCOPE);
}

#[tokio::test]
async fn what_is_not_there_is_said_to_be_elsewhere_if_it_is() {
    let file = File::new().await;
    let _ = file.idem().run(id("a7f3"), |_| async { 7 }).await.unwrap();
    let told = file.desk.run(&["records", "show", "nokey"]).with(1);
    assert!(told.contains("there is no record of the key nokey"), "{told}");
    let told = file
        .desk
        .run(&["records", "show", "a7f3", "--scope", "tenant-9"])
        .with(1);
    assert!(
        told.contains("no record of the key a7f3 in the scope tenant-9") && told.contains(SCOPE),
        "{told}"
    );
    file.desk.run(&["records", "show", "two\nlines"]).with(65);
    file.desk
        .run(&["records", "show", "--correlation-id", "nobody"])
        .with(1);
}

#[tokio::test]
async fn what_is_erased_is_counted_and_means_what_was_said() {
    let file = File::new().await;
    let idem = file.idem();
    for key in ["one", "two"] {
        let _ = idem.run(id(key), |_| async { "secret".to_owned() }).await.unwrap();
    }
    leave_in_doubt(&file.store, id("doubtful")).await;
    let erase = ["records", "erase", "--scope", "tenant-7", "--answers"];
    let told = file.desk.run(&erase).with(64);
    assert!(
        told.contains("2 completed records") && told.contains("That the work was done stays known"),
        "{told}"
    );
    let erased = file.desk.json(&[&erase[..], &["--yes"]].concat());
    assert_eq!(erased, json!({"scope": "tenant-7", "what": "answers", "erased": 2}));
    let show = file.desk.run(&["records", "show", "one", "--body"]).well();
    assert!(
        show.contains("its answer was erased") && !show.contains("secret"),
        "{show}"
    );

    let told = file.desk.run(&["records", "erase", "--scope", "tenant-7"]).with(64);
    assert!(told.contains("ITS WORK RUNS AGAIN"), "{told}");
    let told = file
        .desk
        .run(&["records", "erase", "--scope", "tenant-7", "--yes"])
        .well();
    assert!(told.contains("erased 2 records"), "{told}");
    assert_eq!(*idem.run(id("one"), |_| async { 9 }).await.unwrap(), 9);
    assert_eq!(keys(&file.desk.json(&["records", "list"])), ["doubtful", "one"]);
    file.desk
        .run(&["records", "erase", "--scope", "tenant-9", "--yes"])
        .with(1);
}

#[tokio::test]
async fn what_was_settled_wrongly_is_taken_back_by_its_key() {
    let file = File::new().await;
    let idem = file.idem();
    let other = RequestIdentity::new(Scope::new("tenant-7").route("POST /orders").user("u1"), "a7f3").unwrap();
    let _ = idem.run(other.clone(), |_| async { 1 }).await.unwrap();
    leave_in_doubt(&file.store, id("a7f3")).await;
    let erase = ["records", "erase", "a7f3", "--scope", SCOPE];
    let told = file.desk.run(&[&erase[..], &["--yes"]].concat()).with(1);
    assert!(told.contains("in doubt") && told.contains("records resolve"), "{told}");
    file.desk
        .run(&[
            "records", "resolve", "a7f3", "--scope", SCOPE, "--answer", "7", "--plain", "--yes",
        ])
        .well();

    // Its answer was wrong: that it was done stays.
    let told = file.desk.run(&[&erase[..], &["--answers"]].concat()).with(64);
    assert!(
        told.contains("A person has settled it so") && told.contains("stays known"),
        "{told}"
    );
    file.desk.run(&[&erase[..], &["--answers", "--yes"]].concat()).well();
    let error = idem.run(id("a7f3"), |_| async { 8 }).await.unwrap_err();
    assert!(error.to_string().contains("it was erased since"), "{error}");

    // It was not done.
    let told = file.desk.run(&erase).with(64);
    assert!(told.contains("ITS WORK RUNS AGAIN"), "{told}");
    let erased = file.desk.json(&[&erase[..], &["--yes"]].concat());
    assert_eq!(
        erased,
        json!({"scope": SCOPE, "key": "a7f3", "what": "records", "erased": 1})
    );
    assert_eq!(*idem.run(id("a7f3"), |_| async { 9 }).await.unwrap(), 9);
    let told = file.desk.run(&erase).with(64);
    assert!(told.contains("Its work has told so itself"), "{told}");
    // Another one's with the same key, in a narrower scope, was not meant.
    assert_eq!(*idem.run(other, |_| async { 2 }).await.unwrap(), 1);
    file.desk.run(&["records", "erase", "a7f3", "--yes"]).with(64);
    file.desk.run(&["records", "erase", "--yes"]).with(64);
    file.desk.run(&["records", "erase", "nokey", "--yes"]).with(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_waits_for_a_person_whatever_the_policy() {
    let file = File::new().await;
    leave_in_doubt(&file.store, id("a7f3")).await;
    let doubts = file.desk.run(&["doubts"]).well();
    assert!(!doubts.contains("held"), "{doubts}");
    let held = file.desk.json(&["records", "hold", "a7f3", "--yes"]);
    assert_eq!(held, json!({"key": "a7f3", "scope": SCOPE, "held": true}));
    assert_eq!(file.desk.json(&["records", "show", "a7f3"])["record"]["held"], true);
    let doubts = file.desk.run(&["doubts"]).well();
    assert!(doubts.contains("what happened? (held)"), "{doubts}");
    let eager = Idempotency::builder(file.store.clone())
        .recovery(oneflight::idempotency::Recovery::Rerun)
        .build();
    let error = eager.run(id("a7f3"), |_| async { 7 }).await.unwrap_err();
    assert!(
        matches!(error.kind(), oneflight::idempotency::ErrorKind::InDoubt { .. }),
        "{error}"
    );
    file.desk
        .run(&["records", "resolve", "a7f3", "--not-done", "--yes"])
        .well();
    assert_eq!(*eager.run(id("a7f3"), |_| async { 7 }).await.unwrap(), 7);
    let told = file.desk.run(&["records", "hold", "a7f3", "--yes"]).with(1);
    assert!(told.contains("completed"), "{told}");
}

#[tokio::test]
async fn what_is_past_its_retention_is_purged_and_counted() {
    let file = File::new().await;
    let idem = Idempotency::builder(file.store.clone())
        .retention(Duration::ZERO)
        .build();
    for key in 0..5 {
        let _ = idem.run(id(&format!("key-{key}")), |_| async { 7 }).await.unwrap();
    }
    let purged = file.desk.json(&["purge", "--batch", "2", "--yes"]);
    assert_eq!(purged, json!({"purged": 2, "more": true}));
    let told = file.desk.run(&["purge", "--batch", "2", "--all", "--yes"]).well();
    assert!(told.contains("deleted 3 records"), "{told}");
}
