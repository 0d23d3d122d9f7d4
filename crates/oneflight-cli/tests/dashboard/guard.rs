//! Nobody looks or changes who may not: other sites' pages, names that resolve here, guessers, and who has no token.

use serde_json::json;

use crate::fill::{self, id};
use crate::support::{Dashboard, TOKEN, command, until};

const READS: [&str; 6] = [
    "/api/metrics",
    "/api/records",
    "/api/outbox",
    "/api/dead",
    "/api/steps",
    "/api/story?key=a7f3",
];
const CHANGES: [&str; 7] = [
    "/api/change/resolve",
    "/api/change/redrive",
    "/api/change/cancel",
    "/api/change/pause",
    "/api/change/resume",
    "/api/change/settle-step",
    "/api/change/resume-steps",
];

#[tokio::test]
async fn every_answer_says_that_it_is_neither_framed_nor_kept_nor_guessed_at() {
    let filled = fill::empty().await;
    let dashboard = Dashboard::changing(filled.path());
    for path in ["/", "/api/session", "/api/records", "/nothing", "/api/change/pause"] {
        let answer = dashboard.get(path).send();
        for (name, value) in [
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path}: {answer:?}");
        }
        let policy = answer.header("content-security-policy").unwrap();
        for part in [
            "default-src 'none'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
            "form-action 'none'",
            "script-src 'sha256-",
        ] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
}

#[tokio::test]
async fn a_name_of_another_site_that_resolves_here_is_turned_away() {
    let filled = fill::empty().await;
    let dashboard = Dashboard::start(filled.path(), &["--public-host", "ops.example.com"], Some(TOKEN));
    let session = dashboard.log_in();
    let port = dashboard.address.port();
    for host in [
        "evil.example",
        &format!("evil.example:{port}"),
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "192.0.2.1",
        "",
    ] {
        for request in [dashboard.get("/"), session.get("/api/records")] {
            let answer = request.header("Host", host).send();
            assert_ne!(answer.status, 200, "{host}: {answer:?}");
        }
        let change = session.post("/api/change/pause", &json!({ "topic": "mail.receipt" }));
        let change = change.header("Host", host).header("Origin", &format!("http://{host}"));
        assert_ne!(change.send().status, 200, "{host}");
    }
    let absent = dashboard.get("/").without("Host").send();
    assert_ne!(absent.status, 200);
    for host in [
        format!("localhost:{port}"),
        "127.0.0.1".to_owned(),
        "[::1]:9".to_owned(),
        "OPS.example.com".to_owned(),
    ] {
        assert_eq!(
            session.get("/api/session").header("Host", &host).send().status,
            200,
            "{host}"
        );
    }
}

#[tokio::test]
async fn without_a_token_all_is_read_and_nothing_changed() {
    let filled = fill::empty().await;
    filled.doubt(id("a7f3")).await;
    let dashboard = Dashboard::reading(filled.path());
    let session = dashboard.get("/api/session").send().json();
    assert_eq!((&session["may"], &session["csrf"]), (&json!("read_only"), &json!(null)));
    assert!(session["why"].as_str().unwrap().contains("--token-file"));
    for path in READS {
        assert_eq!(dashboard.get(path).send().status, 200, "{path}");
    }
    for path in CHANGES {
        let answer = dashboard
            .post(path, &json!({ "topic": "mail.receipt", "id": "1" }))
            .send();
        assert_eq!(answer.problem(), (403, "read-only".to_owned()), "{path}");
        assert_eq!(answer.json()["message"], session["why"]);
    }
    let guess = dashboard.post("/api/login", &json!({ "token": "" })).send();
    assert_eq!(guess.problem(), (401, "token".to_owned()));
}

#[test]
fn what_others_can_reach_takes_a_token_and_a_token_has_some_length() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, "  too short   \n").unwrap();
    let run = |arguments: &[&str], token: Option<&str>| {
        let mut command = command();
        command.args(["dashboard", "--store", "nothing.db"]).args(arguments);
        if let Some(token) = token {
            command.env("ONEFLIGHT_DASHBOARD_TOKEN", token);
        }
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for open in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let (code, told) = run(&["--listen", open], None);
        assert_eq!(code, Some(78), "{told}");
        assert!(told.contains("--token-file"), "{told}");
    }
    let (code, told) = run(&[], Some("short"));
    assert_eq!(code, Some(78), "{told}");
    assert!(told.contains("at least 16") && !told.contains("short;"), "{told}");
    let (code, told) = run(&["--token-file", file.to_str().unwrap()], None);
    assert_eq!(code, Some(78), "{told}");
    assert!(told.contains("9 bytes") && !told.contains("too short"), "{told}");
    assert_eq!(run(&["--token-file", "/nowhere/token"], None).0, Some(66));
    // A token on the command line could be read by every user of the machine.
    assert_eq!(run(&["--token", TOKEN], None).0, Some(64));
    assert_eq!(run(&["--metrics", "https://10.0.0.7/metrics"], None).0, Some(64));
    // The page and the log would show it.
    let (code, told) = run(&["--metrics", "http://me:hunter2@10.0.0.7/metrics"], None);
    assert!(code == Some(64) && !told.contains("hunter2"), "{code:?} {told}");
}

#[tokio::test]
async fn with_a_token_nothing_is_read_or_changed_before_it_was_given() {
    let filled = fill::empty().await;
    let dashboard = Dashboard::changing(filled.path());
    let told = dashboard.get("/api/session").send().json();
    assert_eq!(
        told,
        json!({ "may": "login", "why": null, "csrf": null, "store": null, "version": null })
    );
    let page = dashboard.get("/").send();
    assert!(page.status == 200 && !page.body.contains(&*filled.path().to_string_lossy()));
    let strangers = [
        "",
        "oneflight_dashboard_1=x",
        "x=y; z",
        &format!("oneflight_dashboard_{}=guessed", dashboard.address.port()),
    ];
    for cookie in strangers {
        for path in READS {
            let answer = dashboard.get(path).header("Cookie", cookie).send();
            assert_eq!(answer.problem(), (401, "login".to_owned()), "{path}");
        }
        for path in CHANGES {
            let answer = dashboard.post(path, &json!({})).header("Cookie", cookie).send();
            assert_eq!(answer.problem(), (401, "login".to_owned()), "{path}");
        }
    }
    let session = dashboard.log_in();
    for path in READS {
        assert_eq!(session.get(path).send().status, 200, "{path}");
    }
    // Somebody who has logged out is a stranger, with the cookie of before too.
    assert_eq!(session.post("/api/logout", &json!({})).send().status, 200);
    assert_eq!(session.get("/api/records").send().status, 401);
}

#[tokio::test]
async fn the_cookie_is_for_this_page_alone_and_not_for_scripts() {
    let filled = fill::empty().await;
    let dashboard = Dashboard::start(filled.path(), &["--public-host", "ops.example.com"], Some(TOKEN));
    let log_in = dashboard.post("/api/login", &json!({ "token": TOKEN }));
    let answer = log_in.send();
    let cookie = answer.header("set-cookie").unwrap();
    for part in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=28800"] {
        assert!(cookie.split("; ").any(|found| found == part), "{cookie}");
    }
    assert!(!cookie.contains("Secure") && !cookie.contains(TOKEN), "{cookie}");
    let (_, id) = cookie.split(';').next().unwrap().split_once('=').unwrap();
    assert_eq!(id.len(), 64);
    let again = log_in.send();
    assert_ne!(again.header("set-cookie"), Some(cookie));
    assert_ne!(again.json()["csrf"], answer.json()["csrf"]);
    // Behind a proxy with TLS the browser says so.
    let secure = log_in
        .header("Host", "ops.example.com")
        .header("Origin", "https://ops.example.com")
        .send();
    assert!(secure.header("set-cookie").unwrap().ends_with("; Secure"), "{secure:?}");
}

#[tokio::test]
async fn only_the_page_itself_changes_something() {
    let filled = fill::empty().await;
    let dashboard = Dashboard::changing(filled.path());
    let session = dashboard.log_in();
    let other = dashboard.log_in();
    let change = || session.post("/api/change/pause", &json!({ "topic": "mail.receipt" }));
    let own = format!("http://{}", dashboard.address);
    let forged = [
        (change().without("X-Oneflight-Csrf"), (403, "csrf")),
        (change().header("X-Oneflight-Csrf", ""), (403, "csrf")),
        (change().header("X-Oneflight-Csrf", &session.csrf[1..]), (403, "csrf")),
        (change().header("X-Oneflight-Csrf", &other.csrf), (403, "csrf")),
        (change().without("Origin"), (403, "origin")),
        (change().header("Origin", "null"), (403, "origin")),
        (change().header("Origin", "http://evil.example"), (403, "origin")),
        (
            change().header("Origin", &format!("{own}.evil.example")),
            (403, "origin"),
        ),
        // Another program's page on this machine.
        (change().header("Origin", "http://127.0.0.1:1"), (403, "origin")),
        (change().header("Sec-Fetch-Site", "cross-site"), (403, "foreign")),
        (change().header("Sec-Fetch-Site", "same-site"), (403, "foreign")),
        (change().header("Sec-Fetch-Site", "none"), (403, "foreign")),
        // What a form can send.
        (change().header("Content-Type", "text/plain"), (415, "type")),
        (
            change().header("Content-Type", "application/x-www-form-urlencoded"),
            (415, "type"),
        ),
        (change().without("Content-Type"), (415, "type")),
    ];
    for (request, expected) in forged {
        assert_eq!(
            request.send().problem(),
            (expected.0, expected.1.to_owned()),
            "{request:?}"
        );
        assert!(!filled.is_paused("mail.receipt").await, "{request:?}");
    }
    let log_in = dashboard.post("/api/login", &json!({ "token": TOKEN }));
    for request in [
        log_in.clone().without("Origin"),
        log_in.header("Sec-Fetch-Site", "cross-site"),
    ] {
        assert_eq!(request.send().status, 403);
    }
    for path in READS {
        let answer = session.get(path).header("Sec-Fetch-Site", "cross-site").send();
        assert_eq!(answer.problem(), (403, "foreign".to_owned()), "{path}");
    }
    // A link to the page is no harm.
    assert_eq!(
        session.get("/").header("Sec-Fetch-Site", "cross-site").send().status,
        200
    );
    let by_get = session.get("/api/change/pause?topic=mail.receipt").send();
    assert_eq!(by_get.problem(), (405, "method".to_owned()));
    assert!(!filled.is_paused("mail.receipt").await);

    assert_eq!(change().send().status, 200);
    assert!(filled.is_paused("mail.receipt").await);
}

#[tokio::test]
async fn who_guesses_the_token_is_stopped() {
    let filled = fill::empty().await;
    let dashboard = Dashboard::changing(filled.path());
    let guess = |token: &str| dashboard.post("/api/login", &json!({ "token": token })).send();
    for number in 0..5 {
        assert_eq!(guess(&format!("guess {number}")).problem(), (401, "token".to_owned()));
    }
    // From now on it is not even looked at.
    let right = guess(TOKEN);
    assert_eq!(right.problem(), (429, "attempts".to_owned()));
    assert!(right.header("retry-after").unwrap().parse::<u64>().unwrap() <= 61);
    assert_eq!(right.header("set-cookie"), None);
}

#[tokio::test]
async fn a_token_that_nobody_guesses_locks_nobody_out() {
    let filled = fill::empty().await;
    let long = "7f".repeat(16);
    let dashboard = Dashboard::start(filled.path(), &[], Some(&long));
    let guess = |token: &str| dashboard.post("/api/login", &json!({ "token": token })).send();
    // Behind a reverse proxy, all of them come from one address.
    for number in 0..80 {
        assert_eq!(guess(&format!("guess {number}")).problem(), (401, "token".to_owned()));
    }
    assert_eq!(guess(&long).status, 200);
}

#[tokio::test]
async fn what_is_too_large_or_makes_no_sense_is_told_and_changes_nothing() {
    let filled = fill::empty().await;
    filled.doubt(id("a7f3")).await;
    let dashboard = Dashboard::changing(filled.path());
    let session = dashboard.log_in();
    let large = json!({ "topic": "t".repeat(300 * 1024) });
    assert_eq!(session.post("/api/change/pause", &large).send().status, 413);
    let mut broken = session.post("/api/change/pause", &json!({}));
    broken.body = "{\"topic\": ".to_owned();
    assert_eq!(broken.send().problem(), (400, "invalid".to_owned()));
    let resolve = |how: serde_json::Value| json!({ "scope": id("a7f3").scope(), "key": "a7f3", "token": "18446744073709551615", "how": how });
    for (path, body) in [
        ("pause", json!({ "topic": "" })),
        ("pause", json!({ "topic": "a\nb" })),
        ("redrive", json!({ "id": "one" })),
        (
            "resolve",
            json!({ "scope": "", "key": "a7f3", "token": "1", "how": "rerun" }),
        ),
        (
            "resolve",
            json!({ "scope": "s", "key": "", "token": "1", "how": "rerun" }),
        ),
        (
            "resolve",
            json!({ "scope": "s", "key": "k", "token": "-1", "how": "rerun" }),
        ),
    ] {
        let answer = session.post(&format!("/api/change/{path}"), &body).send();
        assert_eq!(
            answer.problem(),
            (400, "invalid".to_owned()),
            "{path} {body}: {answer:?}"
        );
    }
    assert_eq!(
        session
            .post("/api/change/resolve", &resolve(json!("all")))
            .send()
            .status,
        422
    );
    // It is another attempt than the one that was looked at.
    for how in [json!("rerun"), json!("hold"), json!({ "recorded": { "json": "1" } })] {
        let answer = session.post("/api/change/resolve", &resolve(how)).send();
        assert_eq!(answer.problem(), (409, "changed".to_owned()));
    }
    let absent = session.post("/api/change/redrive", &json!({ "id": "77" })).send();
    assert_eq!(absent.problem(), (409, "changed".to_owned()));
    for path in [
        "/api/records?state=broken",
        "/api/story",
        "/api/story?key=",
        "/api/story?key=a&correlation_id=b",
        "/api/dead?after=x",
    ] {
        assert_eq!(
            session.get(path).send().problem(),
            (400, "invalid".to_owned()),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_change_is_logged_without_its_key_and_a_signal_ends_the_dashboard() {
    let filled = fill::empty().await;
    let key = "8e03978e-40d5-43e8-bc93-6894a57f9324";
    filled.doubt(id(key)).await;
    let dashboard = Dashboard::changing(filled.path());
    let session = dashboard.log_in();
    let token = filled.token(&id(key)).await;
    let body = json!({ "scope": id(key).scope(), "key": key, "token": token.to_string(), "how": "rerun" });
    let answer = session.post("/api/change/resolve", &body).send();
    assert_eq!(answer.status, 200, "{answer:?}");
    // A client that says nothing holds nobody up.
    let silent = std::net::TcpStream::connect(dashboard.address).unwrap();
    let (cookie, address) = (session.cookie.clone(), dashboard.address);
    let (ended, log) = dashboard.stop();
    assert!(ended.success(), "{ended}");
    assert!(log.contains("change=\"free\"") && log.contains("127.0.0.1"), "{log}");
    assert!(log.contains("POST /orders"), "{log}");
    for secret in [key, TOKEN, cookie.split_once('=').unwrap().1] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
    until("the end of the listener", || {
        std::net::TcpStream::connect(address).is_err()
    });
    drop(silent);
}
