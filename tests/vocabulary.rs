//! One word has one meaning (`docs/glossary.md`): the words that went out do not come back.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::fmt::Write;
use std::path::Path;

#[path = "common/tree.rs"]
mod tree;

/// Where the vocabulary holds: these folders, as far as they are there, and these files.
const READ: [&str; 7] = [
    "src",
    "crates",
    "docs",
    "examples",
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
];

/// Words that went out.
struct Gone {
    /// A word without capitals is found in any case, and a word only where it stands alone.
    words: &'static [&'static str],
    /// What to say instead.
    instead: &'static str,
    /// The files, or folders, in which they may stand, each with the reason.
    allowed: &'static [(&'static str, &'static str)],
}

const GLOSSARY: (&str, &str) = ("docs/glossary.md", "says what went out");

const GONE: &[Gone] = &[
    Gone {
        words: &["RequestId"],
        instead: "RequestIdentity: a request id is what `X-Request-Id` carries",
        allowed: &[GLOSSARY],
    },
    Gone {
        words: &["Source::Executed", "Source::Collapsed", "Source::Replayed"],
        instead: "Origin: a reply has an origin, an error a source",
        allowed: &[GLOSSARY],
    },
    Gone {
        words: &[
            "Refused",
            "is_refused",
            "Recovery::Refuse",
            "Resolution::Refuse",
            "Ending::Refuse",
        ],
        instead: "Declined for what the business refuses for good, Denied for a claim, Hold for the policy",
        allowed: &[GLOSSARY],
    },
    Gone {
        words: &[
            "idempotency::Answer",
            "Answer::Completed",
            "Answer::completed",
            "Answer::Rerun",
            "Answer::Refuse",
        ],
        instead: "Resolution",
        allowed: &[GLOSSARY],
    },
    Gone {
        words: &["he", "his", "him", "himself", "whoever"],
        instead: "the noun (caller, driver, holder, task), or it",
        allowed: &[GLOSSARY],
    },
];

/// Whether the word stands alone somewhere in the line.
fn has(line: &str, word: &str) -> bool {
    let lower = line.to_lowercase();
    let line = if word.chars().any(char::is_uppercase) {
        line
    } else {
        &lower
    };
    let part_of_word = |char: char| char.is_alphanumeric() || char == '_';
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + word.len()..]);
        !before.ends_with(part_of_word) && !after.starts_with(part_of_word)
    })
}

/// The places at which words that went out stand in a file, one a line.
fn found(file: &Path, text: &str) -> String {
    let mut found = String::new();
    for Gone {
        words,
        instead,
        allowed,
    } in GONE
    {
        if allowed.iter().any(|(path, _)| file.starts_with(path)) {
            continue;
        }
        for (number, line) in (1..).zip(text.lines()) {
            for word in words.iter().filter(|word| has(line, word)) {
                writeln!(found, "{}:{number}: `{word}` went out; say {instead}", file.display()).unwrap();
            }
        }
    }
    found
}

#[test]
fn the_words_that_went_out_do_not_come_back() {
    let mut files: Vec<_> = READ
        .into_iter()
        .filter(|path| tree::root().join(path).is_dir())
        .flat_map(tree::files)
        .collect();
    files.extend(
        READ.iter()
            .map(Path::new)
            .filter(|path| tree::root().join(path).is_file())
            .map(Path::to_owned),
    );
    files.retain(|file| {
        file.extension()
            .is_some_and(|end| ["rs", "md", "sql", "lua"].iter().any(|known| end == *known))
    });
    assert!(
        files.len() > 100,
        "{} files: this test no longer finds them",
        files.len()
    );

    let found: String = files.iter().map(|file| found(file, &tree::read(file))).collect();
    assert!(found.is_empty(), "{} places:\n{found}", found.lines().count());
}

#[test]
fn a_word_is_found_where_it_stands_alone() {
    let found = found(
        Path::new("src/x.rs"),
        "// Whoever asks, he waits.\nuse crate::RequestId;\nRequestIdentity, X_REQUEST_ID, leaves_his_place, the, Source::Executed(",
    );
    assert_eq!(
        found
            .lines()
            .map(|hit| hit.split("; say").next().unwrap())
            .collect::<Vec<_>>(),
        [
            "src/x.rs:2: `RequestId` went out",
            "src/x.rs:3: `Source::Executed` went out",
            "src/x.rs:1: `he` went out",
            "src/x.rs:1: `whoever` went out",
        ]
    );
    assert_eq!(self::found(Path::new("docs/glossary.md"), "he is RequestId"), "");
}
