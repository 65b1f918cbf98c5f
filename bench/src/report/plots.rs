//! Throughput and latency over what is in flight, as SVG.

use std::{error::Error, ops::Range, path::Path};

use plotters::prelude::*;

use super::{Figures, ReportRow, table};
use crate::args::{Mix, Mode};

const SIZE: (u32, u32) = (860, 520);
const MODES: [(Mode, RGBColor); 5] = [
    (Mode::Engine, RGBColor(0x1b, 0x6c, 0xa8)),
    (Mode::Workers, RGBColor(0x2e, 0x8b, 0x57)),
    (Mode::Orders, RGBColor(0xc0, 0x50, 0x2d)),
    (Mode::Everything, RGBColor(0x7a, 0x4f, 0x9e)),
    (Mode::Shop, RGBColor(0x8a, 0x6d, 0x1f)),
];
/// Minimum number of levels for a curve.
const LEVELS: usize = 3;

/// A curve: its name, its colour, whether it is the bold one of its mode, and its points.
struct Curve {
    name: String,
    colour: RGBColor,
    bold: bool,
    points: Vec<(f64, f64)>,
}

/// Writes `throughput.svg` and `latency.svg`; returns whether there was a curve to draw.
pub fn write(rows: &[ReportRow], directory: &Path) -> Result<bool, Box<dyn Error>> {
    let curves = |name: &str, bold, value: fn(&Figures) -> Option<f64>| {
        let of = |(mode, colour): (Mode, RGBColor)| {
            let drawn = |row: &&ReportRow| row.mode == mode && row.mix == Mix::Fulfilled;
            let points = rows
                .iter()
                .filter(drawn)
                .filter_map(|row| Some((row.in_flight? as f64, value(row.figures.as_ref()?)?)));
            let mut points: Vec<(f64, f64)> = points.collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            Curve { name: format!("{}{name}", table::word(&mode)), colour, bold, points }
        };
        MODES.map(of).into_iter().filter(|curve| curve.points.len() >= LEVELS).collect::<Vec<_>>()
    };
    let throughput = curves("", true, |figures| Some(figures.sagas_per_s));
    let mut latency = curves(", p50", true, |figures| figures.latency.map(|l| l.p50_ms));
    latency.extend(curves(", p99", false, |figures| figures.latency.map(|l| l.p99_ms)));
    if throughput.is_empty() {
        return Ok(false);
    }
    draw(&directory.join("throughput.svg"), "sagas a second", &throughput)?;
    draw(&directory.join("latency.svg"), "milliseconds", &latency)?;
    Ok(true)
}

/// The range of decades that contains all values.
fn decades(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (low, high) =
        values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
    10_f64.powf(low.max(1e-3).log10().floor())..10_f64.powf(high.max(1e-2).log10().ceil())
}

fn draw(path: &Path, what: &str, curves: &[Curve]) -> Result<(), Box<dyn Error>> {
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let points = || curves.iter().flat_map(|curve| curve.points.iter().copied());
    let most = points().map(|(x, _)| x).fold(1.0, f64::max);
    let across = (0.8..most * 1.3).log_scale();
    let up = decades(points().map(|(_, y)| y)).log_scale();
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(across, up)?;
    let number = |value: &f64| if *value < 1.0 { format!("{value}") } else { table::thousands(*value) };
    chart
        .configure_mesh()
        .x_desc("sagas in flight")
        .y_desc(what)
        .x_label_formatter(&number)
        .y_label_formatter(&number)
        .label_style(("sans-serif", 14))
        .light_line_style(BLACK.mix(0.05))
        .bold_line_style(BLACK.mix(0.12))
        .draw()?;
    for curve in curves {
        let style = ShapeStyle {
            color: curve.colour.to_rgba(),
            filled: true,
            stroke_width: if curve.bold { 3 } else { 1 },
        };
        chart
            .draw_series(LineSeries::new(curve.points.iter().copied(), style).point_size(if curve.bold {
                4
            } else {
                2
            }))?
            .label(&curve.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .margin(12)
        .label_font(("sans-serif", 14))
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_holds_every_point() {
        assert_eq!(decades([3.1, 250.0].into_iter()), 1.0..1000.0);
        assert_eq!(decades([20.0].into_iter()), 10.0..100.0);
    }
}
