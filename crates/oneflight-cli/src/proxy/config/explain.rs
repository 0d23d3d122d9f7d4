//! What is wrong with a file that is no TOML, or not the one that is wanted: in the parser's words, with the place, and with the right
//! form where it is known what was meant.

/// How routes are written.
pub(super) const ROUTES: &str = "a route begins with `[[route]]`, in two brackets, since there may be several; what belongs to it, such as \
                      `[route.limits]`, stands behind it";

/// Returns what is said of an error.
pub(super) fn told(text: &str, error: &toml::de::Error) -> String {
    let told = error.to_string().trim_end().to_owned();
    match meant(text, error) {
        Some(form) => format!("{told}\n{form}"),
        None => told,
    }
}

/// Returns the right form of what was probably meant.
fn meant(text: &str, error: &toml::de::Error) -> Option<String> {
    if let Some((bracket, at)) = unclosed(text) {
        let (line, column) = place(text, at);
        let begins_line = text[..at].rsplit('\n').next().is_none_or(|line| line.trim().is_empty());
        let form = match bracket {
            '{' => "`key = { required = \"required\" }`",
            _ if begins_line => "`[[route]]`",
            _ => "`methods = [\"POST\", \"PUT\"]`",
        };
        return Some(format!(
            "the `{bracket}` at line {line}, column {column} is not closed: write it as in {form}"
        ));
    }
    if error.message().contains("wanted string or table") {
        return Some(
            "a word in quotes is expected there, as in `in-doubt = \"rerun\"` and `key.required = \"required\"`"
                .to_owned(),
        );
    }
    let mut lines = text.lines().map(str::trim_start);
    let first = lines.find(|line| line.starts_with("[route") || line.starts_with("[[route"))?;
    let is_of_tables = error.message().contains("table") || error.message().contains("duplicate key");
    (is_of_tables && first.starts_with("[route")).then(|| ROUTES.to_owned())
}

/// Returns the first bracket that is open at the end.
fn unclosed(text: &str) -> Option<(char, usize)> {
    let mut open: Vec<(char, usize)> = Vec::new();
    let mut quote = None;
    let mut is_comment = false;
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match (character, quote) {
            ('\n', _) => (quote, is_comment) = (None, false),
            _ if is_comment => {}
            ('\\', Some('"')) => drop(characters.next()),
            (_, Some(begun)) => quote = quote.filter(|_| character != begun),
            ('"' | '\'', None) => quote = Some(character),
            ('#', None) => is_comment = true,
            ('{' | '[', None) => open.push((character, at)),
            ('}', None) => drop(open.pop_if(|(bracket, _)| *bracket == '{')),
            (']', None) => drop(open.pop_if(|(bracket, _)| *bracket == '[')),
            _ => {}
        }
    }
    open.first().copied()
}

/// The line and the column of a byte.
pub(super) fn place(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let begins = before.rfind('\n').map_or(0, |at| at + 1);
    (line, before[begins..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bracket_that_is_not_closed_is_found_where_it_stands() {
        let found = |text: &str| unclosed(text).map(|(bracket, at)| (bracket, place(text, at)));
        assert_eq!(
            found("a = 1\nkey = { required = \"required\"\nb = 2\n"),
            Some(('{', (2, 7)))
        );
        assert_eq!(found("listen = [\"a\"\n[x]\n"), Some(('[', (1, 10))));
        assert_eq!(found("key = { a = 1 ]\n"), Some(('{', (1, 7))));
        for closed in [
            "key = { a = \"{\" }\n",
            "# {\na = '['\n",
            "[[route]]\na = [\n1,\n]\n",
            "a = \"\\\"{\"\n",
        ] {
            assert_eq!(found(closed), None, "{closed}");
        }
    }
}
