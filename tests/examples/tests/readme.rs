//! The README's programs compile in an empty project, after exactly the `cargo add` lines that stand above them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The project's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap()
        .to_owned()
}

/// Where this workspace is built.
fn built() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap()
}

/// A program, and the lines that are typed before it.
struct Snippet {
    adds: Vec<String>,
    program: String,
}

/// The programs of a page: each fenced block of Rust, with the fenced block of `cargo add` lines before it.
fn snippets(page: &str) -> Vec<Snippet> {
    let (mut snippets, mut adds) = (Vec::new(), Vec::new());
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(kind) = line.strip_prefix("```").filter(|kind| !kind.is_empty()) else {
            continue;
        };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        match kind {
            "sh" => {
                adds = block
                    .iter()
                    .filter(|it| it.starts_with("cargo add "))
                    .map(|it| (*it).to_owned())
                    .collect()
            }
            _ if kind.starts_with("rust") => snippets.push(Snippet {
                adds: std::mem::take(&mut adds),
                program: block.join("\n"),
            }),
            _ => {}
        }
    }
    snippets
}

/// Types a line. Ours are not published yet when this runs, so they come from here instead.
fn add(line: &str, project: &Path) {
    let mut words = line.split(' ').skip(2);
    let package = words.next().unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(project).args(["add", "--quiet", "--offline"]);
    match package {
        "oneflight" => cargo.arg("--path").arg(root()),
        ours if ours.starts_with("oneflight-") => cargo.arg("--path").arg(root().join("crates").join(ours)),
        other => cargo.arg(other),
    };
    let added = cargo.args(words).output().unwrap();
    assert!(
        added.status.success(),
        "`{line}`: {}",
        String::from_utf8_lossy(&added.stderr)
    );
}

#[test]
fn every_program_compiles_after_the_lines_above_it() {
    let page = fs::read_to_string(root().join("README.md")).unwrap();
    let snippets = snippets(&page);
    assert!(snippets.len() >= 4, "{} programs", snippets.len());
    let folder = tempfile::tempdir().unwrap();
    for (number, snippet) in snippets.iter().enumerate() {
        assert!(
            !snippet.adds.is_empty(),
            "nothing to type stands above:\n{}",
            snippet.program
        );
        let project = folder.path().join(format!("program-{number}"));
        fs::create_dir_all(project.join("src")).unwrap();
        let manifest = format!("[package]\nname = \"program-{number}\"\nedition = \"2024\"\n\n[workspace]\n");
        fs::write(project.join("Cargo.toml"), manifest).unwrap();
        fs::write(project.join("src/main.rs"), &snippet.program).unwrap();
        // The versions that are tested, and already here.
        fs::copy(root().join("Cargo.lock"), project.join("Cargo.lock")).unwrap();
        for line in &snippet.adds {
            add(line, &project);
        }
        let checked = Command::new(env!("CARGO"))
            .args(["check", "--quiet", "--offline"])
            .current_dir(&project)
            // What this workspace has built in the same version with the same features is not built again, if it was built
            // with the same settings: those of `[profile.dev]` in its manifest.
            .env("CARGO_TARGET_DIR", built())
            .env("CARGO_PROFILE_DEV_DEBUG", "line-tables-only")
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success(), "{}\n{told}", snippet.program);
        assert!(told.is_empty(), "it compiles with warnings:\n{told}");
    }
}
