//! The configuration: what is right, and what is said of what is wrong.

use std::path::Path;
use std::process::{Command, Output};

use crate::proxy::Home;

fn check(text: &str) -> Output {
    let home = Home::new();
    home.write_text(text);
    let mut command = Command::new(env!("CARGO_BIN_EXE_oneflight"));
    command
        .env_remove("ONEFLIGHT_STORE")
        .args(["proxy", "--check", "--config"])
        .arg(home.path().join("oneflight.toml"));
    command.output().expect("the command")
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The blocks of TOML on the page.
fn examples() -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/proxy.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let blocks = page.split("```toml\n").skip(1);
    blocks
        .map(|block| block.split("```").next().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn the_files_of_the_documentation_are_right() {
    let examples = examples();
    assert!(examples.len() >= 2, "the shortest and the whole one");
    for text in examples {
        let output = check(&text);
        assert!(output.status.success(), "{text}\n{}", told(&output));
    }
}

#[test]
fn the_whole_file_of_the_documentation_names_everything_that_can_be_set() {
    let whole = examples().into_iter().max_by_key(String::len).expect("an example");
    // What is not known is told together with all that is: each of these has to stand in the example.
    for table in [
        "",
        "[upstream]",
        "[forward]",
        "[store]",
        "[admin]",
        "[clients]",
        "[[route]]",
        "[[route]]\n[route.key]",
    ] {
        let required = "listen = \"127.0.0.1:1\"\nupstream.url = \"http://127.0.0.1:1\"\n";
        let text = match table {
            "[upstream]" => format!("listen = \"127.0.0.1:1\"\n{table}\nnobody-knows-this = 1\n"),
            _ => format!("{required}{table}\nnobody-knows-this = 1\n"),
        };
        let output = check(&text);
        assert_eq!(output.status.code(), Some(78), "{text}");
        let told = told(&output);
        let known: Vec<&str> = told
            .split("expected")
            .last()
            .unwrap_or_default()
            .split('`')
            .skip(1)
            .step_by(2)
            .collect();
        assert!(!known.is_empty(), "{told}");
        for name in known {
            assert!(whole.contains(name), "{table}: {name} is not in the documentation");
        }
    }
}

#[test]
fn an_error_names_the_line_and_what_is_allowed() {
    let head = "listen = \"127.0.0.1:8080\"\nupstream.url = \"http://127.0.0.1:3000\"\n";
    for (line, told_of) in [
        ("listne = 1", "unknown field `listne`"),
        ("stop-time = 30", "expected a time with its unit"),
        ("stop-time = \"30\"", "expected a time with its unit"),
        ("clients.header-size = \"64 kb\"", "expected a size with its unit"),
        (
            "[[route]]\nscope = \"session\"",
            "expected \"none\", \"header NAME\" or \"cookie NAME\"",
        ),
        ("[[route]]\nmethods = [\"post\"]", "expected a method in capitals"),
        ("[[route]]\nin-doubt = \"retry\"", "expected `hold` or `rerun`"),
        ("[[route]]\npath = \"orders\"", "does not begin with /"),
        ("[[route]]\npath = \"/orders/{id\"", "is no path such as"),
        (
            "[[route]]\npath = \"/o/{a}\"\n[[route]]\npath = \"/o/{b}\"",
            "is also that of",
        ),
        (
            "[[route]]\npath = \"/o\"\n[[route]]\npath = \"/o\"",
            "has a route before",
        ),
        ("[[route]]\nstatuses.not-done = \"700\"", "expected a status or a class"),
        ("[[route]]\nlease = \"1ms\"", "100ms at the least"),
        ("[[route]]\nlease = \"10years\"", "1h at the most"),
        ("[[route]]\nwait = \"1000years\"", "longer than ten years"),
        ("[[route]]\nretention = \"0s\"", "is replayed to nobody"),
        ("[[route]]\nkey.required = true", "a word in quotes is expected there"),
        ("[[route]\npath = \"/a\"", "is not closed: write it as in `[[route]]`"),
        ("[[route]]\npath = \"/orders/*\"", "all that follows is `{*rest}`"),
        ("[[route]]\npath = \"/o/*/lines\"", "protect nothing"),
        ("[[route]]\npath = \"/pay/:id\"", "one segment of any name is `{name}`"),
        ("[[route]]\npath = \"/pay?a=1\"", "a path ends before `?`"),
        ("[[route]]\npath = \"/a b\"", "%20"),
        (
            "[[route]]\ndocumentation = \"docs/keys\"",
            "expected the address of a page",
        ),
        ("forward.via = \"one flight\"", "cannot stand in `Via`"),
        (
            "[[route]]\nkey = \"required\"",
            "expected a table, as in `key = { required = \"required\" }`",
        ),
        (
            "[[route]]\nlimits = \"1 MiB\"",
            "expected a table, as in `limits = { request = \"2 MiB\" }`",
        ),
        ("store = \"redis://cache\"", "expected a table, as in `store.url"),
        ("[route.limits]\nrequest = \"1 MiB\"", "a route begins with `[[route]]`"),
        ("[route]\npath = \"/a\"", "a route begins with `[[route]]`"),
        (
            "[route.limits]\nrequest = \"1 MiB\"\n[[route]]\npath = \"/a\"",
            "a route begins with `[[route]]`",
        ),
        (
            "[[route]]\nkey = { required = \"required\"\nwait = \"1s\"",
            "the `{` at line 4, column 7 is not closed: write it as in `key = {",
        ),
        (
            "[[route]]\nmethods = [\"PUT\"\nwait = \"1s\"",
            "the `[` at line 4, column 11 is not closed: write it as in `methods = [",
        ),
        ("[[route]]\nsettle = \"1s\"", "`settle` says when it is sent again"),
        ("[[route]]\nin-doubt = \"rerun\"\nsettle = \"41m\"", "40m at the most"),
        ("[[route]]\nlimits.record = \"10 B\"", "256 B at the least"),
        ("[[route]]\npath = \"/v1/<id>\"", "since no path has '<' in it"),
        ("[[route]]\npath = \"/v1/[id]\"", "since no path has '[' in it"),
        ("[[route]]\npath = \"/\u{e9}\"", "as in %C3%A9"),
        ("[[route]]\nscope = \"header Connection\"", "is of the connection"),
        ("[[route]]\nin-doubt = \"rerun\"\nlease = \"1h\"", "40m at the most"),
        (
            "[[route]]\nserver-actions = true\nscope = \"none\"\ndialect = \"stripe\"",
            "`dialect` is of requests by programs",
        ),
        (
            "[[route]]\nserver-actions = true\nscope = \"none\"\nfingerprint.json = \"sorted\"",
            "`fingerprint.json` is of bodies of JSON",
        ),
    ] {
        let output = check(&format!("{head}{line}"));
        let told = told(&output);
        assert_eq!(output.status.code(), Some(78), "{line}: {told}");
        assert!(told.contains(told_of) && told.contains("line "), "{line}: {told}");
        assert!(told.contains("oneflight.toml"), "{told}");
    }
    for (text, told_of) in [
        ("upstream.url = \"http://127.0.0.1:1\"", "missing field `listen`"),
        (
            "listen = \"8080\"\nupstream.url = \"http://127.0.0.1:1\"",
            "an address and a port",
        ),
        (
            "listen = \"127.0.0.1:1\"\nupstream.url = \"http://127.0.0.1:1\"\nclients.header-size = \"4 KiB\"",
            "`clients.header-size` is 8 KiB at the least",
        ),
        (
            "listen = []\nupstream.url = \"http://127.0.0.1:1\"",
            "`listen` is an empty list",
        ),
        (
            "listen = \"127.0.0.1:1\"\nupstream.url = \"ftp://x\"",
            "expected \"http://host:port\"",
        ),
        (
            "listen = \"127.0.0.1:1\"\nupstream.url = \"http://x/api\"",
            "has a path",
        ),
        (
            "listen = \"0.0.0.0:8080\"\nupstream.url = \"http://localhost:8080\"",
            "it would forward to itself",
        ),
        (
            "listen = \"127.0.0.1:8080\"\nupstream.url = [\"http://127.0.0.1:1\", \"http://127.0.0.1:8080\"]",
            "it would forward to itself",
        ),
        (
            "listen = \"127.0.0.1:8080\"\nupstream.url = \"http://127.0.0.1:9464\"",
            "where the proxy listens for operators",
        ),
        (
            "listen = \"127.0.0.1:8080\"\nupstream.url = \"http://x\"\nadmin.listen = \"0.0.0.0:8080\"",
            "operators need an address of their own",
        ),
        (
            "listen = [\"127.0.0.1:8080\", \"127.0.0.1:8080\"]\nupstream.url = \"http://x\"",
            "name each address once",
        ),
        (
            "listen = \"127.0.0.1:1\"\nupstream.url = \"http://x\"\nstore.timeout = \"1ms\"",
            "`store.timeout` is 1ms",
        ),
    ] {
        assert_eq!(check(text).status.code(), Some(78), "{text}");
        let told = told(&check(text));
        assert!(told.contains(told_of), "{text}: {told}");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_oneflight"))
        .args(["proxy", "--config", "/nowhere.toml"])
        .output()
        .expect("the command");
    assert_eq!(output.status.code(), Some(66));
}

#[test]
fn a_store_that_is_none_is_found_before_the_start_and_its_password_is_not_told() {
    let head = "listen = \"127.0.0.1:8080\"\nupstream.url = \"http://127.0.0.1:3000\"\n";
    for (url, told_of) in [
        (
            "mysql://shop:hunter2@db/x",
            "the store's address is none that is known here",
        ),
        ("postgres://shop:hunter2@db:99999/x", "no address of PostgreSQL"),
        ("redis://:hunter2@/x/y/z", "no address of Redis"),
    ] {
        let output = check(&format!("{head}store.url = {url:?}"));
        let told = told(&output);
        assert_eq!(output.status.code(), Some(78), "{told}");
        assert!(
            told.contains(told_of) && told.contains("oneflight.toml: `store.url`") && !told.contains("hunter2"),
            "{told}"
        );
    }
}

#[test]
fn addresses_with_one_port_that_are_apart_are_right() {
    for text in [
        "listen = [\"127.0.0.1:8080\", \"[::1]:8080\"]\nupstream.url = \"http://10.0.0.7:8080\"",
        "listen = \"127.0.0.1:0\"\nadmin.listen = \"127.0.0.1:0\"\nupstream.url = \"http://127.0.0.1:3000\"",
        "listen = \"10.0.0.7:8080\"\nupstream.url = \"http://127.0.0.1:8080\"\n[[route]]\npath = \"/v1/orders:cancel\"",
    ] {
        let output = check(text);
        assert!(output.status.success(), "{text}: {}", told(&output));
    }
}
