//! What is said to the person, beside the answer: on standard error, where perhaps nobody reads, and without what would be a command to a
//! terminal.

use std::io::Write;

/// Says something beside the answer: why the command failed, that there is more, or what is left out.
pub(crate) fn note(text: &str) {
    say(&format!("{text}\n"));
}

/// The same, and stays in the line.
pub(crate) fn say(text: &str) {
    let mut stderr = std::io::stderr().lock();
    // Nobody may be there to read it.
    let _ = stderr.write_all(visible(text).as_bytes());
    let _ = stderr.flush();
}

/// Returns a text as a terminal can be given it: without what would be a command to it, or would have it show something else than what is
/// there.
pub(crate) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' | '\t' => shown.push(character),
            character if character.is_control() => shown.extend(character.escape_default()),
            // What turns the direction around, and what has no width.
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' => {
                shown.extend(character.escape_unicode());
            }
            character => shown.push(character),
        }
    }
    shown
}

/// A word as a shell takes it.
pub(crate) fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/@,+".contains(&byte);
    match !word.is_empty() && word.bytes().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// A word as a shell and the command take it where it names something, behind all options: it is no option, however it begins.
pub(crate) fn named(word: &str) -> String {
    match word.starts_with('-') {
        true => format!("-- {}", quoted(word)),
        false => quoted(word),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_typed_so_that_it_is_neither_split_nor_taken_for_an_option() {
        assert_eq!(named("2026-11-29"), "2026-11-29");
        assert_eq!(named("a b's"), r"'a b'\''s'");
        assert_eq!(named("--yes"), "-- --yes");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn what_would_command_or_deceive_is_shown_as_what_it_is() {
        assert_eq!(visible("a\tb\nc"), "a\tb\nc");
        assert_eq!(visible("\u{1b}[2J"), "\\u{1b}[2J");
        assert_eq!(visible("\u{202e}evil\u{2069}"), "\\u{202e}evil\\u{2069}");
        assert_eq!(visible("a\u{200b}7\u{feff}"), "a\\u{200b}7\\u{feff}");
        assert_eq!(visible("Grüße, 東京"), "Grüße, 東京");
    }
}
