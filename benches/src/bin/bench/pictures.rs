//! How cost grows, as SVG pictures: one line for each entrant, ours the thick one, beneath all others. Peers whose figures are
//! the same share a line and are all named beside it. So no line is hidden behind another. Each picture is drawn for light pages,
//! and once more for dark ones.

#[path = "../../../common/dark.rs"]
mod dark;

use super::measure::{Measured, THREADS};
use oneflight_benches::contest::Standings;
use oneflight_benches::peers::Side;
use plotters::coord::Shift;
use plotters::coord::combinators::LogCoord;
use plotters::coord::ranged1d::ValueFormatter;
use plotters::prelude::*;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::thread::available_parallelism;

const SIZE: (u32, u32) = (960, 560);
/// Room for the names of the lines.
const SIDE: i32 = 210;
const OURS: RGBColor = RGBColor(0xC0, 0x10, 0x20);
const OTHERS: [RGBColor; 10] = [
    RGBColor(0x1F, 0x77, 0xB4),
    RGBColor(0x2C, 0xA0, 0x2C),
    RGBColor(0x94, 0x67, 0xBD),
    RGBColor(0xFF, 0x7F, 0x0E),
    RGBColor(0x8C, 0x56, 0x4B),
    RGBColor(0x17, 0xBE, 0xCF),
    RGBColor(0xBC, 0xBD, 0x22),
    RGBColor(0xE3, 0x77, 0xC2),
    RGBColor(0x7F, 0x7F, 0x7F),
    RGBColor(0x00, 0x00, 0x00),
];

/// Lines that differ by less than this part of their values at each point are drawn as one.
const SAME: f64 = 0.01;

/// A line: whose it is, and its points.
#[derive(Clone)]
struct Line {
    names: Vec<String>,
    side: Side,
    points: Vec<(f64, f64)>,
}

/// How a picture goes up.
#[derive(Clone, Copy)]
enum Scale {
    Powers,
    FromNothing,
}

/// A picture before it is drawn.
struct Picture {
    file: &'static str,
    title: &'static str,
    across: &'static str,
    up: &'static str,
    scale: Scale,
    /// From where on the points are of a machine that has fewer cores, and what that means.
    crowded: Option<(f64, String)>,
    lines: Vec<Line>,
}

/// Draws all pictures into this folder and says how they are called.
pub fn draw(folder: &Path, measured: &Measured) -> Result<Vec<(String, &'static str)>, Box<dyn Error>> {
    fs::create_dir_all(folder)?;
    let cores = available_parallelism()?.get();
    let pictures = pictures(measured, cores);
    pictures.iter().try_for_each(|picture| picture.draw(folder))?;
    let drawn = pictures.iter();
    Ok(drawn.map(|picture| (picture.file.to_owned(), picture.title)).collect())
}

/// What is drawn of a run on a machine with so many cores.
fn pictures(measured: &Measured, cores: usize) -> [Picture; 5] {
    let threads: Vec<_> = THREADS.into_iter().zip(measured.distinct.clone()).collect();
    let weights = measured.weights.iter().map(|weight| Line {
        names: vec![weight.name.clone()],
        side: weight.side,
        points: weight
            .flights
            .iter()
            .map(|(count, heap)| (*count as f64, *heap))
            .collect(),
    });
    [
        Picture {
            file: "followers.svg",
            title: "Cost of a follower against the number of followers (lower is better)",
            across: "followers of one flight",
            up: "nanoseconds per follower",
            scale: Scale::Powers,
            crowded: None,
            lines: lines(&measured.fan_in, |cost| cost),
        },
        Picture {
            file: "tasks.svg",
            title: "Cost of a follower as a task of its own on two workers (lower is better)",
            across: "followers of one flight, each a spawned task",
            up: "nanoseconds per follower",
            scale: Scale::Powers,
            crowded: None,
            lines: lines(&measured.tasks, |cost| cost),
        },
        Picture {
            file: "flights.svg",
            title: "Cost of a flight's life against the number of flights at once (lower is better)",
            across: "flights at once",
            up: "nanoseconds per flight",
            scale: Scale::Powers,
            crowded: None,
            lines: lines(&measured.flights, |cost| cost),
        },
        Picture {
            file: "memory.svg",
            title: "Heap of a flight against the number of flights at once (lower is better)",
            across: "flights at once",
            up: "bytes per flight, its key and its share of the map included",
            scale: Scale::Powers,
            crowded: None,
            lines: weights.collect(),
        },
        Picture {
            file: "threads.svg",
            title: "Throughput on distinct keys against the number of threads (higher is better)",
            across: "threads",
            up: "million calls per second, all threads together",
            scale: Scale::FromNothing,
            crowded: crowded(cores),
            lines: lines(&threads, |cost| 1e3 / cost),
        },
    ]
}

/// One line for everybody, through all cases.
fn lines(cases: &[(usize, Standings)], value: impl Fn(f64) -> f64) -> Vec<Line> {
    let entrants = cases.first().map_or(&[][..], |(_, standings)| &standings.figures);
    let line = |name: &str, side| {
        let point = |(across, standings): &(usize, Standings)| {
            let figure = standings.named(name)?;
            Some((*across as f64, value(figure.median)))
        };
        Line {
            names: vec![name.to_owned()],
            side,
            points: cases.iter().filter_map(point).collect(),
        }
    };
    entrants.iter().map(|figure| line(&figure.name, figure.side)).collect()
}

/// Where more threads than cores are measured, and what to say of it.
fn crowded(cores: usize) -> Option<(f64, String)> {
    let most = *THREADS.iter().max()?;
    (most > cores).then(|| (cores as f64, format!("more threads than the {cores} cores")))
}

impl Line {
    fn is_as(&self, other: &Self) -> bool {
        self.side == other.side
            && self.points.len() == other.points.len()
            && self.points.iter().zip(&other.points).all(|(one, other)| {
                one.0.total_cmp(&other.0).is_eq() && (one.1 - other.1).abs() <= SAME * one.1.abs().max(other.1.abs())
            })
    }
}

impl Picture {
    /// The lines that are drawn, and how. Entrants that differ from another by the hasher alone are not drawn, and the
    /// floors are in the table.
    fn drawn(&self) -> Vec<(Line, ShapeStyle)> {
        let mut others: Vec<Line> = Vec::new();
        let mut ours = Vec::new();
        for line in &self.lines {
            match line.side {
                Side::Ours => ours.push((line.clone(), OURS.stroke_width(5))),
                Side::Peer => match others.iter_mut().find(|other| other.is_as(line)) {
                    Some(same) => same.names.extend_from_slice(&line.names),
                    None => others.push(line.clone()),
                },
                Side::Tuned | Side::Floor => {}
            }
        }
        let mut colours = OTHERS.into_iter();
        let others = others
            .into_iter()
            .map(|line| (line, colours.next().unwrap_or(BLACK).stroke_width(2)));
        // Thin lines over ours, which is seen on both sides of them.
        ours.into_iter().chain(others).collect()
    }

    fn range(&self, of: impl Fn(&(f64, f64)) -> f64) -> (f64, f64) {
        let drawn = self.drawn();
        let values = drawn.iter().flat_map(|(line, _)| &line.points).map(of);
        values.fold((f64::MAX, f64::MIN), |(least, most), value| {
            (least.min(value), most.max(value))
        })
    }

    fn draw(&self, folder: &Path) -> Result<(), Box<dyn Error>> {
        let (left, right) = self.range(|point| point.0);
        let (low, high) = self.range(|point| point.1);
        let path = folder.join(self.file);
        let area = SVGBackend::new(&path, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area);
        let across = powers(left, right);
        match self.scale {
            Scale::Powers => {
                let chart = self
                    .frame(&mut chart)
                    .build_cartesian_2d(across, powers(low * 0.8, high * 1.25))?;
                self.fill(chart)?;
            }
            Scale::FromNothing => {
                let chart = self.frame(&mut chart).build_cartesian_2d(across, 0.0..high * 1.1)?;
                self.fill(chart)?;
            }
        }
        self.name_lines(&area)?;
        area.present()?;
        Ok(dark::write_dark(&path)?)
    }

    /// Names the lines at the side, in the order of their ends; all names of a line that is shared.
    fn name_lines(&self, area: &DrawingArea<SVGBackend<'_>, Shift>) -> Result<(), Box<dyn Error>> {
        let end = |line: &Line| line.points.last().map_or(0.0, |point| point.1);
        let mut lines = self.drawn();
        lines.sort_by(|(one, _), (other, _)| end(other).total_cmp(&end(one)));
        let (left, font) = (SIZE.0 as i32 - SIDE + 16, ("sans-serif", 14).into_font());
        let mut middle = 80;
        for (line, style) in lines {
            let last = 20 * (line.names.len() as i32 - 1);
            area.draw(&PathElement::new([(left, middle), (left + 24, middle)], style))?;
            if last > 0 {
                area.draw(&PathElement::new([(left, middle), (left, middle + last)], style))?;
            }
            for (place, name) in (0..).zip(line.names) {
                area.draw(&Text::new(name, (left + 32, middle - 7 + 20 * place), font.clone()))?;
            }
            middle += last + 24;
        }
        if let Some((_, what)) = &self.crowded {
            let grey = ("sans-serif", 12).into_font().color(&RGBColor(0x55, 0x55, 0x55));
            area.draw(&Text::new(format!("shaded: {what}"), (left, middle + 8), grey))?;
        }
        Ok(())
    }

    fn frame<'c, 'a, 'b>(
        &self,
        chart: &'c mut ChartBuilder<'a, 'b, SVGBackend<'b>>,
    ) -> &'c mut ChartBuilder<'a, 'b, SVGBackend<'b>> {
        chart
            .caption(self.title, ("sans-serif", 20))
            .margin(16)
            .margin_right(SIDE)
            .x_label_area_size(44)
            .y_label_area_size(72)
    }

    fn fill<'b, X, Y>(
        &self,
        mut chart: ChartContext<'b, SVGBackend<'b>, Cartesian2d<X, Y>>,
    ) -> Result<(), Box<dyn Error>>
    where
        X: Ranged<ValueType = f64> + ValueFormatter<f64>,
        Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let label = |value: &f64| match *value {
            small if small < 10.0 && small.fract() > 0.0 => format!("{small:.1}"),
            value => super::row::thousands(value.round() as usize),
        };
        chart
            .configure_mesh()
            .x_desc(self.across)
            .y_desc(self.up)
            .label_style(("sans-serif", 14))
            .x_label_formatter(&label)
            .y_label_formatter(&label)
            .light_line_style(WHITE)
            .draw()?;
        if let Some((from, _)) = self.crowded {
            let (_, right) = self.range(|point| point.0);
            let (low, high) = (0.0, 1.1 * self.range(|point| point.1).1);
            let shade = RGBColor(0x80, 0x80, 0x80).mix(0.15).filled();
            chart.draw_series([Rectangle::new([(from, low), (right, high)], shade)])?;
        }
        for (line, style) in self.drawn() {
            chart.draw_series(LineSeries::new(line.points.iter().copied(), style).point_size(3))?;
        }
        Ok(())
    }
}

/// A scale in powers of ten, or of two if it is short.
fn powers(low: f64, high: f64) -> LogCoord<f64> {
    let base = if high / low < 200.0 { 2.0 } else { 10.0 };
    (low..high).log_scale().base(base).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, side: Side, points: [f64; 3]) -> Line {
        Line {
            names: vec![name.to_owned()],
            side,
            points: [1.0, 2.0, 4.0].into_iter().zip(points).collect(),
        }
    }

    /// The picture on a light page, and on a dark one.
    fn drawn(cores: usize, lines: Vec<Line>) -> [String; 2] {
        let folder = tempfile::tempdir().expect("a folder");
        let [.., threads] = pictures(&Measured::default(), cores);
        let picture = Picture { lines, ..threads };
        picture.draw(folder.path()).expect("it can be drawn");
        ["threads.svg", "threads-dark.svg"]
            .map(|file| fs::read_to_string(folder.path().join(file)).expect("it is there"))
    }

    #[test]
    fn every_picture_says_of_what_it_is_and_which_way_is_better() {
        for picture in pictures(&Measured::default(), 2) {
            let (title, up) = (picture.title, picture.up);
            assert!(
                title.ends_with(" is better)") && (title.contains(" of ") || title.contains(" on ")),
                "{title}"
            );
            assert!(up.contains(" per ") && !picture.across.is_empty(), "{up}");
        }
    }

    #[test]
    fn all_who_share_a_line_are_named_and_nobody_covers_another() {
        let ours = line("oneflight", Side::Ours, [1.0, 2.0, 4.0]);
        let as_ours = line("as ours", Side::Peer, [1.0, 2.0, 4.0]);
        let other = line("other", Side::Peer, [0.5, 1.0, 1.5]);
        let as_other = line("as other", Side::Peer, [0.501, 1.001, 1.499]);
        let [svg, dark] = drawn(2, vec![as_ours, other, as_other, ours]);
        for name in ["oneflight", "as ours", "other", "as other"] {
            for svg in [&svg, &dark] {
                assert!(svg.lines().any(|line| line.trim() == name), "{name} is not named");
            }
        }
        assert!(svg.contains("#FFFFFF") && !dark.contains("#FFFFFF"));
        // Three lines, the thick one first: a thin one over it hides nothing.
        let widths = svg.lines().filter(|line| line.starts_with("<polyline"));
        let widths: Vec<_> = widths.map(|line| line.contains("stroke-width=\"5\"")).collect();
        let ours = widths.iter().position(|is_ours| *is_ours);
        assert!(ours < widths.iter().rposition(|is_ours| !is_ours), "{widths:?}");
    }

    #[test]
    fn it_is_noted_where_threads_outnumber_cores() {
        let lines = || vec![line("oneflight", Side::Ours, [1.0, 2.0, 2.0])];
        assert!(drawn(2, lines())[0].contains("shaded: more threads than the 2 cores"));
        assert!(!drawn(4, lines())[0].contains("shaded"));
    }
}
