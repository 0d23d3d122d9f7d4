//! How a page shows a picture: on a light page the light one, on a dark page the dark one.

/// Returns the Markdown for the SVG of this name in `docs/benchmarks`, for a page in `docs`.
pub fn shown(file: &str, title: &str) -> String {
    let name = file.strip_suffix(".svg").unwrap_or(file);
    format!(
        "<picture>\n  <source media=\"(prefers-color-scheme: dark)\" srcset=\"benchmarks/{name}-dark.svg\">\n  \
         <img alt=\"{title}\" src=\"benchmarks/{name}.svg\">\n</picture>\n"
    )
}
