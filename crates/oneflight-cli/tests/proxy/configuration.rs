//! The configuration: what is right, and what is said of what is wrong.

use std::path::Path;
use std::process::{Command, Output};

use crate::proxy::Home;

fn check(text: &str) -> Output {
    let home = Home::new();
    home.write_text(text);
    let mut command = Command::new(env!("CARGO_BIN_EXE_oneflight"));
    command
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
        ("[[route]]\nsettle = \"1s\"", "`settle` says when it is sent again"),
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
    ] {
        let told = told(&check(text));
        assert!(told.contains(told_of), "{text}: {told}");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_oneflight"))
        .args(["proxy", "--config", "/nowhere.toml"])
        .output()
        .expect("the command");
    assert_eq!(output.status.code(), Some(66));
}
