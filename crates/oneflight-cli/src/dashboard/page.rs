//! The page: one file, and the policy by which a browser runs its script and its style and nothing else.

use axum::http::HeaderValue;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oneflight::Fingerprint;

const PAGE: &str = include_str!("page.html");

pub(super) struct Page {
    pub(super) text: &'static str,
    pub(super) policy: HeaderValue,
}

impl Page {
    pub(super) fn new() -> Self {
        let policy = policy(digest(PAGE, "script").as_deref(), digest(PAGE, "style").as_deref());
        // Without the digests, the page is shown and does nothing.
        let closed = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
        Self {
            text: PAGE,
            policy: HeaderValue::from_str(&policy).unwrap_or(closed),
        }
    }
}

fn policy(script: Option<&str>, style: Option<&str>) -> String {
    let of = |digest: Option<&str>| digest.map_or_else(|| "'none'".to_owned(), |digest| format!("'sha256-{digest}'"));
    format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src data:; form-action 'none'; base-uri \
         'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
        of(script),
        of(style)
    )
}

/// Returns the digest of what stands in the one element of this name.
fn digest(page: &str, element: &str) -> Option<String> {
    let (_, rest) = page.split_once(&format!("<{element}>"))?;
    let (text, _) = rest.split_once(&format!("</{element}>"))?;
    Some(STANDARD.encode(Fingerprint::of(text).as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole_by_itself_and_never_makes_markup_of_text() {
        for element in ["script", "style"] {
            assert_eq!(PAGE.matches(&format!("<{element}")).count(), 1, "{element}");
            assert!(digest(PAGE, element).is_some(), "{element}");
        }
        for outside in [
            "http://",
            "https://",
            " src=",
            "@import",
            "url(",
            "innerHTML",
            "outerHTML",
            "insertAdjacent",
            "eval(",
        ] {
            let found = PAGE.replace("http://www.w3.org/2000/svg", "").contains(outside);
            assert!(!found, "{outside} in the page");
        }
        // Inline handlers and styles would be against the policy.
        assert!(!PAGE.contains(" style=") && !PAGE.contains(" onclick="));
    }
}
