//! Calls a second against clients, as a picture: a field for each store.

#[path = "../../../benches/common/dark.rs"]
mod dark;
#[path = "../../../benches/common/shown.rs"]
mod shown;

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::Failure;
use crate::curves::Curves;

const FIELD: (u32, u32) = (400, 420);

/// Ours, bare, racy.
const LINES: [RGBColor; 3] = [
    RGBColor(0xC0, 0x10, 0x20),
    RGBColor(0x7F, 0x7F, 0x7F),
    RGBColor(0x1F, 0x77, 0xB4),
];

/// Draws it into this folder, for light pages and for dark ones, and returns how a page shows it.
pub(crate) fn draw(folder: &Path, all: &[Curves]) -> Result<String, Failure> {
    let path = folder.join("durable.svg");
    let width = FIELD.0 * u32::try_from(all.len())?;
    let area = SVGBackend::new(&path, (width, FIELD.1)).into_drawing_area();
    area.fill(&WHITE)?;
    for (field, curves) in area.split_evenly((1, all.len())).iter().zip(all) {
        draw_field(field, curves)?;
    }
    area.present()?;
    dark::write_dark(&path)?;
    Ok(shown::shown(
        "durable.svg",
        "Calls a second against the number of clients, on each store (higher is better)",
    ))
}

fn draw_field(area: &DrawingArea<SVGBackend<'_>, Shift>, curves: &Curves) -> Result<(), Failure> {
    let points = || curves.lines.iter().flat_map(|line| &line.points);
    let right = points().map(|point| point.0).fold(2.0, f64::max);
    let high = points().map(|point| point.1).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{}: calls a second", curves.store), ("sans-serif", 17))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(58)
        // Room for the names of the lines.
        .build_cartesian_2d((1.0..right).log_scale().base(2.0), 0.0..high * 1.3)?;
    let whole = |value: &f64| format!("{value:.0}");
    chart
        .configure_mesh()
        .x_desc("clients")
        .light_line_style(WHITE)
        .label_style(("sans-serif", 13))
        .x_label_formatter(&whole)
        .y_label_formatter(&whole)
        .draw()?;
    // Ours last, over the others.
    for (at, (line, colour)) in curves.lines.iter().zip(LINES).enumerate().rev() {
        let style = colour.stroke_width(if at == 0 { 4 } else { 2 });
        chart
            .draw_series(LineSeries::new(line.points.iter().copied(), style))?
            .label(line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .label_font(("sans-serif", 13))
        .draw()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::curves::Line;

    #[test]
    fn each_line_is_named_in_both_pictures() {
        let folder = tempfile::tempdir().expect("a folder");
        let line = |name, height: f64| Line {
            name,
            points: vec![(1.0, height), (64.0, 2.0 * height)],
        };
        let all = [Curves {
            store: "SQLite",
            lines: [line("ours", 1.0), line("bare", 2.0), line("racy", 3.0)],
        }];
        draw(folder.path(), &all).expect("it can be drawn");
        let read = |file| std::fs::read_to_string(folder.path().join(file)).expect("it is there");
        let (light, dark) = (read("durable.svg"), read("durable-dark.svg"));
        for svg in [&light, &dark] {
            for name in ["SQLite: calls a second", "ours", "bare", "racy", "clients"] {
                assert!(svg.lines().any(|line| line.trim() == name), "{name} is not named");
            }
        }
        assert!(light.contains("fill=\"#FFFFFF\"") && !dark.contains("#FFFFFF"));
    }
}
