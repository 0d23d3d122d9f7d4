//! Each promise in `docs/promises.md` has its number, and a test that shows it or the word that it is next. Every test file
//! that is named there, or in the README, exists, and so does every source file that the documents name, and every test that a
//! row of a table in `docs/http.md`, `docs/outbox.md` or `docs/steps.md` names. Pictures are there for light pages and for dark ones.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

#[path = "../benches/common/dark.rs"]
mod dark;
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

/// A file beside the `main.rs` of a test program that is no module of it would never be compiled, and its tests never run.
#[test]
fn every_file_of_a_test_program_is_a_module_of_it() {
    let tests = test_files();
    let programs = tests.iter().filter(|file| {
        let folders = file.parent().and_then(Path::parent);
        file.ends_with("main.rs") && folders.is_some_and(|folder| folder.ends_with("tests"))
    });
    let (mut modules, mut left_out) = (0, Vec::new());
    for program in programs {
        let text = tree::read(program);
        for file in tests.iter().filter(|file| file.parent() == program.parent()) {
            let name = file.file_stem().unwrap().to_string_lossy();
            modules += 1;
            if name != "main" && !text.lines().any(|line| line == format!("mod {name};")) {
                left_out.push(format!("{}: no `mod {name};`", program.display()));
            }
        }
    }
    assert!(left_out.is_empty(), "{}", left_out.join("\n"));
    assert!(modules >= 60, "{modules} modules: this test no longer finds them");
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

/// The last cell of a row names tests, with semicolons between those of different files: of the file that stands behind them, or
/// else of the one that stands above the table.
fn tests_that_a_page_names_exist(page: &str, at_least: usize) {
    let text = tree::read(page);
    let (mut names, mut gone, mut above) = (0, Vec::new(), None);
    for (number, line) in (1..).zip(text.lines()) {
        if line.starts_with("Tests: ") {
            above = between(line, "](../", ")").map(|(_, file)| file).next();
        }
        let Some((_, cell)) = line.trim_end_matches(" |").rsplit_once(" | ") else {
            continue;
        };
        let cell = match line.starts_with('|') {
            true => cell,
            false => continue,
        };
        for part in cell.split("; ") {
            let file = match part.contains(" in [`") {
                true => between(part, "](../", ")").map(|(_, file)| file).next(),
                false => above,
            };
            let is_of_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            let is_test = |name: &&str| name.matches('_').count() > 2 && name.chars().all(is_of_name);
            for name in part.split('`').skip(1).step_by(2).filter(is_test) {
                names += 1;
                let source = file.map(tree::read).unwrap_or_default();
                // The checks of a conformance suite are generic.
                if !["(", "<"]
                    .iter()
                    .any(|next| source.contains(&format!("fn {name}{next}")))
                {
                    gone.push(format!("{page}:{number}: {name} in {}", file.unwrap_or("no file")));
                }
            }
        }
    }
    assert!(gone.is_empty(), "there are no such tests:\n{}", gone.join("\n"));
    assert!(
        names >= at_least,
        "{names} names of tests: this test no longer finds them"
    );
}

#[test]
fn the_tests_that_the_page_about_http_names_exist() {
    tests_that_a_page_names_exist("docs/http.md", 60);
}

#[test]
fn the_tests_that_the_pages_about_outbox_and_steps_name_exist() {
    tests_that_a_page_names_exist("docs/outbox.md", 12);
    tests_that_a_page_names_exist("docs/steps.md", 8);
}

#[test]
fn the_tests_that_the_page_about_the_proxy_names_exist() {
    tests_that_a_page_names_exist("docs/proxy.md", 25);
}

/// A document names a file by its name, or by a path that ends with it: `claim/end.rs`, `../tests/core/fresh.rs`.
#[test]
fn the_files_that_the_documents_name_exist() {
    let mut documents = tree::files("docs");
    documents.retain(|file| file.extension() == Some(OsStr::new("md")));
    documents.extend(["README.md", "CONTRIBUTING.md"].map(PathBuf::from));
    let files = tree::files("");
    let (mut names, mut gone) = (0, Vec::new());
    for document in &documents {
        for (number, line) in (1..).zip(tree::read(document).lines()) {
            for name in named_files(ours(document, line)) {
                names += 1;
                if !files.iter().any(|file| file.ends_with(name)) {
                    gone.push(format!("{}:{number}: {name}", document.display()));
                }
            }
        }
    }
    assert!(gone.is_empty(), "there are no such files:\n{}", gone.join("\n"));
    assert!(names >= 300, "{names} names of files: this test no longer finds them");
}

/// What a line says of this project: the tables of what peers test have their files in all columns but the last.
fn ours<'a>(document: &Path, line: &'a str) -> &'a str {
    match document.ends_with("peers_tests.md") {
        true => line
            .trim_end_matches(" |")
            .rsplit_once(" | ")
            .map_or("", |(_, last)| last),
        false => line,
    }
}

/// The sources, migrations and scripts that a line names.
fn named_files(line: &str) -> impl Iterator<Item = &str> {
    let is_of_path = |c: char| c.is_alphanumeric() || "_-./*".contains(c);
    line.split(move |c| !is_of_path(c))
        .map(|word| word.trim_end_matches('.').trim_start_matches("../"))
        .filter(|word| *word != "docs.rs" && !word.contains('*'))
        .filter(|word| {
            let file = Path::new(word);
            let endings = ["rs", "sql", "lua"].map(OsStr::new);
            file.extension().is_some_and(|ending| endings.contains(&ending))
        })
}

/// A page shows each picture in both colours, and the dark one is the light one with other colours.
#[test]
fn the_pictures_that_the_documents_show_exist_in_light_and_in_dark() {
    let mut documents = tree::files("docs");
    documents.retain(|file| file.extension() == Some(OsStr::new("md")));
    documents.push(PathBuf::from("README.md"));
    let (mut pictures, mut wrong) = (0, Vec::new());
    for document in &documents {
        let text = tree::read(document);
        let folder = document.parent().unwrap();
        let light: Vec<_> = between(&text, "src=\"", "\"").collect();
        let dark: Vec<_> = between(&text, "<source media=\"(prefers-color-scheme: dark)\" srcset=\"", "\"").collect();
        let alone = between(&text, "](", ")").filter(|(_, file)| file.ends_with(".svg"));
        for (number, file) in alone {
            wrong.push(format!(
                "{}:{number}: {file} is shown in one colour",
                document.display()
            ));
        }
        for (number, file) in light.into_iter().filter(|(_, file)| file.ends_with(".svg")) {
            pictures += 1;
            let place = format!("{}:{number}: {file}", document.display());
            let of_dark = file.replace(".svg", "-dark.svg");
            if !dark.iter().any(|(_, file)| *file == of_dark) {
                wrong.push(format!("{place}: no source for dark pages"));
            } else if !are_the_same_picture(&folder.join(file), &folder.join(of_dark)) {
                wrong.push(format!("{place}: the two are not there, or not the same picture"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(pictures >= 5, "{pictures} pictures: this test no longer finds them");
}

fn are_the_same_picture(light: &Path, dark: &Path) -> bool {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let copy = folder.join("picture.svg");
    std::fs::copy(tree::root().join(light), &copy).is_ok()
        && dark::write_dark(&copy).is_ok()
        && std::fs::read(tree::root().join(dark))
            .is_ok_and(|dark| std::fs::read(folder.join("picture-dark.svg")).unwrap() == dark)
}
