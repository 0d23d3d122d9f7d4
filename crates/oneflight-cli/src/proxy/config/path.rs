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
    match plain.find(|character: char| character.is_whitespace() || character.is_control()) {
        Some(_) => Err(format!(
            "the path {path:?} would match nothing: white space is sent as %20"
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
