//! Topics are named whole, and a name of which there is no message is told of.

use std::sync::Arc;

use oneflight::Message;
use serde_json::json;

use crate::outbox::{at, send, sqlite};

#[tokio::test(flavor = "multi_thread")]
async fn a_pattern_is_no_topic_and_a_name_of_which_nothing_is_known_is_told() {
    let (desk, store) = sqlite().await;
    let desk = Arc::new(desk);
    send(&store, vec![Message::text("mail.receipt", "a")]).await;
    at(&desk, |desk| {
        for pattern in ["mail.*", "*", ""] {
            let paused = desk.run(["outbox", "pause", pattern, "--yes"]);
            assert_eq!(paused.code, Some(64), "{paused:?}");
        }
        for command in ["list", "dead", "redrive"] {
            let asked = desk.run(["outbox", command, "--topic", "mail.*"]);
            assert_eq!(asked.code, Some(64), "{asked:?}");
            assert!(asked.err.contains("a pattern of topics"), "{asked:?}");
        }
        let resumed = desk.run(["outbox", "resume", "mail.*", "--yes"]);
        assert_eq!(resumed.code, Some(64), "{resumed:?}");
        for command in [&["list"][..], &["dead"], &["redrive", "--yes"]] {
            let asked = desk.run([&["outbox"], command, &["--topic", "mail.receit"]].concat());
            assert!(
                asked.err.contains("no message of the topic mail.receit")
                    && asked.err.contains("messages of mail.receipt"),
                "{asked:?}"
            );
            let known = desk.run([&["outbox"], command, &["--topic", "mail.receipt"]].concat());
            assert!(!known.err.contains("no message of"), "{known:?}");
        }
        let paused = desk.run(["outbox", "pause", "mail.*", "--yes"]);
        assert!(paused.err.contains("whole"), "{paused:?}");
        assert!(!desk.ok(["outbox", "list"]).out.contains("paused"));

        // It may be paused before there is a message of it, and may be misspelled.
        let paused = desk.ok(["outbox", "pause", "mail.receit", "--yes", "--json"]);
        let standing: serde_json::Value = serde_json::from_str(&paused.out).unwrap();
        assert_eq!(
            standing,
            json!({"topic": "mail.receit", "paused": true, "changed": true, "known": false})
        );
        assert!(
            paused.err.contains("no message of the topic mail.receit") && paused.err.contains("mail.receipt"),
            "{paused:?}"
        );
        // That it is paused makes it no topic.
        let again = desk.ok(["outbox", "pause", "mail.receit", "--yes", "--json"]);
        assert!(
            again.out.contains("\"known\": false") && again.err.contains("misspelled"),
            "{again:?}"
        );
        let paused = desk.ok(["outbox", "pause", "mail.receipt", "--yes", "--json"]);
        assert!(
            paused.err.is_empty() && paused.out.contains("\"known\": true"),
            "{paused:?}"
        );
    })
    .await;
}
