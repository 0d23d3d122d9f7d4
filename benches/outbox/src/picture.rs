//! How fast backlogs went over time, as a picture.

#[path = "../../common/dark.rs"]
mod dark;

use std::path::Path;

use plotters::prelude::*;

use crate::Failure;
use crate::curve::Curve;

const SIZE: (u32, u32) = (960, 520);
const OURS: [RGBColor; 3] = [
    RGBColor(0xC0, 0x10, 0x20),
    RGBColor(0xE0, 0x60, 0x60),
    RGBColor(0x90, 0x40, 0x10),
];
const OTHERS: [RGBColor; 3] = [
    RGBColor(0x1F, 0x77, 0xB4),
    RGBColor(0x60, 0xA0, 0xD0),
    RGBColor(0x7F, 0x7F, 0x7F),
];

/// Draws a line for each backlog.
pub fn draw(path: &Path, curves: &[Curve]) -> Result<(), Failure> {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let right = points().map(|point| point.0).fold(1.0, f64::max);
    let high = points().map(|point| point.1).fold(1.0, f64::max);
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(
            "Messages a second over time (higher is better, and level)",
            ("sans-serif", 20),
        )
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(0.0..right, 0.0..high * 1.1)?;
    let mesh = &mut chart.configure_mesh();
    mesh.x_desc("seconds")
        .y_desc("messages a second")
        .light_line_style(WHITE)
        .draw()?;
    let (mut ours, mut others) = (OURS.iter().cycle(), OTHERS.iter().cycle());
    for curve in curves {
        let is_ours = curve.name.starts_with("relay");
        let colour = *if is_ours { &mut ours } else { &mut others }.next().unwrap_or(&BLACK);
        let style = colour.stroke_width(if is_ours { 4 } else { 2 });
        chart
            .draw_series(LineSeries::new(curve.points.iter().copied(), style))?
            .label(&curve.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .label_font(("sans-serif", 14))
        .draw()?;
    area.present()?;
    dark::write_dark(path)?;
    Ok(())
}
