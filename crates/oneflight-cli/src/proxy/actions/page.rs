//! What went wrong, in words for the user of a page.

use std::fmt::Write;

use oneflight::http::kind;

/// What a user is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words<'a> {
    /// What it is, for scripts and tests.
    pub(super) name: &'a str,
    pub(super) title: &'a str,
    pub(super) text: &'a str,
}

/// The action failed when it was called in another way.
pub(super) const FAILED_BEFORE: Words<'static> = Words {
    name: "FAILED",
    title: "This failed",
    text: "This was sent before, and it failed. Nothing was done again. Load the page again to see what there is now.",
};

const KNOWN: &[(&str, Words<'static>)] = &[
    (
        kind::KEY_REUSED,
        Words {
            name: "KEY_REUSED",
            title: "Something else was sent with this form before",
            text: "The key of this form was used before, with something else in it. Send that again to see what came of it, or start \
                   anew.",
        },
    ),
    (
        kind::IN_PROGRESS,
        Words {
            name: "IN_PROGRESS",
            title: "This is still being done",
            text: "This is still being done. Wait a little, and send it again: it is not done twice.",
        },
    ),
    (
        kind::IN_DOUBT,
        Words {
            name: "IN_DOUBT",
            title: "It is not known whether this was done",
            text: "It is not known whether this was done. Do not start anew: keep this page, and ask those who run this site.",
        },
    ),
    (
        kind::OUTCOME_UNKNOWN,
        Words {
            name: "OUTCOME_UNKNOWN",
            title: "No answer came",
            text: "No answer came, so it is not known whether this was done. Do not start anew: send the same form again. It is not \
                   done twice.",
        },
    ),
    (
        kind::NOT_DONE,
        Words {
            name: "NOT_DONE",
            title: "Nothing was done",
            text: "Nothing was done. Wait a little, and send the same form again.",
        },
    ),
    (
        kind::UNAVAILABLE,
        Words {
            name: "UNAVAILABLE",
            title: "This is not possible now",
            text: "This is not possible now. Wait a little, and send the same form again: it is not done twice.",
        },
    ),
    (
        kind::OUTCOME_ONLY,
        Words {
            name: "OUTCOME_ONLY",
            title: "This was done before",
            text: "This was sent before, and is not done again. What was answered then is not kept.",
        },
    ),
    (
        kind::PRINCIPAL_MISSING,
        Words {
            name: "PRINCIPAL_MISSING",
            title: "It is not known who you are",
            text: "It is not known who you are, so nothing was done. Sign in, and send the form again.",
        },
    ),
    (
        kind::BODY_TOO_LARGE,
        Words {
            name: "BODY_TOO_LARGE",
            title: "This is too large",
            text: "What was sent is too large, so nothing was done.",
        },
    ),
    (
        kind::KEY_MISSING,
        Words {
            name: "KEY_MISSING",
            title: "The form has no key",
            text: "This form has no key, so nothing was done. Load the page again.",
        },
    ),
    (
        kind::KEY_MALFORMED,
        Words {
            name: "KEY_MALFORMED",
            title: "The form has no valid key",
            text: "This form has no valid key, so nothing was done. Load the page again.",
        },
    ),
    (
        kind::INTERNAL,
        Words {
            name: "INTERNAL",
            title: "Something went wrong",
            text: "Something went wrong, and it is not known whether this was done. Do not start anew: ask those who run this site.",
        },
    ),
];

/// Returns the words for a problem of this type.
pub(super) fn words<'a>(uri: &str, detail: Option<&'a str>) -> Words<'a> {
    let known = KNOWN.iter().find(|(known, _)| *known == uri);
    known.map_or(
        Words {
            name: "OTHER",
            title: "This was not done",
            text: detail.unwrap_or("This cannot be done as it was sent."),
        },
        |(_, words)| *words,
    )
}

/// Makes a page of them, with the way back to where the form was.
pub(super) fn html(words: &Words<'_>, back: &str) -> String {
    let mut page = String::with_capacity(1024);
    page.push_str(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n",
    );
    let (title, text, back) = (escaped(words.title), escaped(words.text), escaped(back));
    let _ = write!(
        page,
        "<title>{title}</title>\n\
         <style>:root {{ color-scheme: light dark }} body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 36rem; margin: 15vh \
         auto 0; padding: 0 1rem }}</style>\n\
         <h1>{title}</h1>\n\
         <p role=\"alert\" data-problem=\"{}\">{text}</p>\n\
         <p><a href=\"{back}\">Back to the page</a></p>\n",
        words.name
    );
    page
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            _ => escaped.push(character),
        }
    }
    escaped
}
