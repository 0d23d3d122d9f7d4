//! The patterns of paths: what each matches, and what only looks like one.

/// How a pattern is written, as an error shows it.
const FORMS: &str = "one segment of any name is `{name}`, as in \"/orders/{id}\", and all that follows is `{*rest}`, as in \"/orders/{*rest}\"";

/// Whether a pattern can stand beside those before it, and matches what it seems to.
pub(super) fn check<'a>(path: &str, before: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let mut paths = matchit::Router::new();
    for known in before.filter(|known| *known != path) {
        let _ = paths.insert(known, ());
    }
    paths.insert(path, ()).map_err(|error| match error {
        matchit::InsertError::Conflict { with } => format!("the path {path:?} is also that of {with:?}"),
        error => format!("{path:?} is no path such as \"/orders/{{id}}\" or \"/api/{{*rest}}\": {error}"),
    })?;
    if !path.starts_with('/') {
        return Err(format!("the path {path:?} does not begin with /"));
    }
    let plain = without_names(path);
    if plain.contains('*') {
        return Err(format!(
            "the path {path:?} would match a `*` and nothing else there, and so protect nothing: {FORMS}"
        ));
    }
    if let Some(segment) = plain
        .split('/')
        .find(|segment| segment.len() > 1 && segment.starts_with(':'))
    {
        return Err(format!(
            "the path {path:?} would match `{segment}` as it is and nothing else there, and so protect nothing: {FORMS}"
        ));
    }
    if let Some(end) = plain.find(['?', '#']) {
        return Err(format!(
            "the path {path:?} would match nothing: a path ends before `{}`, and a route is for all queries",
            &plain[end..=end]
        ));
    }
    if plain.contains(char::is_whitespace) {
        return Err(format!(
            "the path {path:?} would match nothing: white space is sent as %20"
        ));
    }
    // All that a path has (RFC 3986, section 3.3). Clients encode the rest.
    let is_sent = |character: char| character.is_ascii_alphanumeric() || "/-._~%!$&'()+,;=:@".contains(character);
    match plain.chars().find(|character| !is_sent(*character)) {
        Some(other) => Err(format!(
            "the path {path:?} would match nothing, since no path has {other:?} in it: a character is sent as its bytes in hexadecimal \
             digits, as in %C3%A9, and {FORMS}"
        )),
        None => Ok(()),
    }
}

/// Returns what stands for itself: the pattern without what is in braces.
fn without_names(path: &str) -> String {
    let mut depth = 0_u32;
    let plain = path.chars().filter(|character| {
        match character {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => return depth == 0,
        }
        false
    });
    plain.collect()
}
