//! A picture that was drawn for a light page, once more for a dark one.

use std::io;
use std::path::Path;

/// The colours of pictures, in light and in dark. All others are seen on both.
const COLOURS: [(&str, &str); 9] = [
    ("#FFFFFF", "#0D1117"),
    ("#000000", "#E6EDF3"),
    ("#555555", "#9DA7B3"),
    ("#7F7F7F", "#9DA7B3"),
    ("#C01020", "#FF6B6B"),
    ("#904010", "#D29922"),
    ("#1F77B4", "#58A6FF"),
    ("#8C564B", "#C49C94"),
    ("#9467BD", "#B794F4"),
];

/// Writes the SVG once more beside itself, as `NAME-dark.svg`.
pub fn write_dark(light: &Path) -> io::Result<()> {
    let mut svg = std::fs::read_to_string(light)?;
    for (from, to) in COLOURS {
        svg = svg.replace(from, to);
    }
    let name = light.file_stem().unwrap_or_default().to_string_lossy();
    let dark = light.with_file_name(format!("{name}-dark.svg"));
    std::fs::write(dark, svg)
}
