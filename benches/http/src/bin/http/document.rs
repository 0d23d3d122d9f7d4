//! The part of `docs/benchmarks.md` that a run writes: what stands between its markers.

use std::fs;
use std::io;
use std::path::Path;

const BEGIN: &str = "<!-- http: begin (written by a run; edit nothing in here) -->";
const END: &str = "<!-- http: end -->";

/// Replaces the part.
///
/// # Errors
///
/// If the page cannot be read or written, or the markers were taken out.
pub fn write(page: &Path, text: &str) -> io::Result<()> {
    let old = fs::read_to_string(page)?;
    let replaced = old.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", text.trim()))
    });
    let missing = || io::Error::other(format!("{} has no part between `{BEGIN}` and `{END}`", page.display()));
    fs::write(page, replaced.ok_or_else(missing)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_by_hand_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let page = folder.path().join("benchmarks.md");
        fs::write(&page, format!("# Before\n{BEGIN}\nold\n{END}\n# After\n")).expect("it can be written");
        write(&page, "| new |\n").expect("it is replaced");
        let text = fs::read_to_string(&page).expect("it is there");
        assert_eq!(text, format!("# Before\n{BEGIN}\n\n| new |\n\n{END}\n# After\n"));
        fs::write(&page, "no markers").expect("it can be written");
        assert!(write(&page, "| third |").is_err());
    }

    #[test]
    fn the_page_has_the_part() {
        let page = include_str!("../../../../../docs/benchmarks.md");
        let (_, rest) = page.split_once(BEGIN).expect("it begins");
        assert!(rest.contains(END), "it ends");
    }
}
