//! Each promise in `docs/promises.md` has its number, and a test that shows it or the word that it is next. Every test file
//! that is named there, or in the README, exists.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

#[path = "common/tree.rs"]
mod tree;

const PROMISES: &str = "docs/promises.md";

/// The test files of all packages.
fn test_files() -> Vec<PathBuf> {
    let mut files = tree::files("");
    files.retain(|file| {
        file.extension() == Some(OsStr::new("rs")) && file.iter().any(|folder| folder == "tests" || folder == "benches")
    });
    files
}

/// The texts between these two, each with the number of its line.
fn between<'a>(text: &'a str, before: &'a str, after: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    text.lines().enumerate().flat_map(move |(number, line)| {
        line.split(before)
            .skip(1)
            .filter_map(move |rest| Some((number + 1, rest.split_once(after)?.0)))
    })
}

#[test]
fn the_promises_are_numbered_and_each_has_a_test_or_is_next() {
    let text = tree::read(PROMISES);
    let promises: Vec<_> = text.split("\n### ").skip(1).collect();
    assert_eq!(promises.len(), 20, "{PROMISES} has another number of promises");
    for (number, promise) in (1..).zip(promises) {
        let title = promise.lines().next().unwrap();
        assert!(
            title.starts_with(&format!("{number}. ")),
            "{PROMISES}: {title:?} is not number {number}"
        );
        for part in ["\n* **Rests on**: ", "\n* **Shown by**: "] {
            assert!(promise.contains(part), "{PROMISES}: {title:?} has no line {part:?}");
        }
        let shown = promise.contains(".rs)");
        assert!(
            shown || title.ends_with("(next)"),
            "{PROMISES}: no test shows {title:?}"
        );
    }
}

#[test]
fn the_tests_that_the_promises_link_to_exist() {
    let (text, tests) = (tree::read(PROMISES), test_files());
    let mut links = 0;
    for (line, link) in between(&text, "](", ")").filter(|(_, link)| link.ends_with(".rs")) {
        links += 1;
        let file = link.strip_prefix("../").expect("tests are outside of docs/");
        if tests.iter().any(|test| test == Path::new(file)) {
            continue;
        }
        let moved = tests
            .iter()
            .filter(|test| test.file_name() == Path::new(file).file_name());
        let moved: Vec<_> = moved.map(|test| format!("../{}", test.display())).collect();
        panic!("{PROMISES}:{line}: there is no {link}; of that name there are {moved:?}");
    }
    assert!(links >= 50, "{links} links to tests: this test no longer finds them");
}

#[test]
fn the_tests_that_the_readme_names_exist() {
    let (text, tests) = (tree::read("README.md"), test_files());
    let mut names = 0;
    for (line, name) in between(&text, "tests/", "`").filter(|(_, name)| name.ends_with(".rs")) {
        names += 1;
        let found = tests.iter().any(|test| test.ends_with(name));
        assert!(found, "README.md:{line}: there is no test file {name}");
    }
    assert!(names > 0, "this test no longer finds the names");
}
