//! Draws the figures as SVG plots.

use std::error::Error;
use std::fs;
use std::ops::Range;
use std::path::Path;

use plotters::prelude::*;

use super::measure::{Figures, Row};
use super::wait_cost::{CALLS, Cost};

/// Writes the plots into a directory, and returns the paths of the files.
pub(crate) fn draw(
    rows: &[Row],
    costs: &[Cost],
    directory: &Path,
) -> Result<Vec<String>, Box<dyn Error>> {
    fs::create_dir_all(directory).map_err(|error| {
        format!(
            "cannot create the directory {} for the plots: {error}",
            directory.display()
        )
    })?;
    let at = |name: &str| directory.join(name).display().to_string();
    let (waits, calls, cpu) = (at("wait-cost.svg"), at("calls.svg"), at("idle-cpu.svg"));
    draw_waits(costs, &waits)?;
    draw_bars(
        rows,
        "system calls a request, one request at a time",
        |figures| figures.calls,
        &calls,
    )?;
    draw_bars(
        rows,
        "% of a processor while all clients are idle",
        |figures| figures.idle_cpu,
        &cpu,
    )?;
    Ok(vec![waits, calls, cpu])
}

fn draw_waits(costs: &[Cost], file: &str) -> Result<(), Box<dyn Error>> {
    let known = |call: usize| {
        costs.iter().filter_map(move |cost| {
            Some((cost.idle.max(1) as f64, *cost.nanos[call].as_ref().ok()?))
        })
    };
    let all: Vec<(f64, f64)> = (0..CALLS.len()).flat_map(known).collect();
    let (x, y) = (
        range(all.iter().map(|point| point.0), 10.0),
        range(all.iter().map(|point| point.1), 100.0),
    );
    let root = SVGBackend::new(file, (720, 480)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(16)
        .caption("cost of one wait with one client ready", ("sans-serif", 20))
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(x.log_scale(), y.log_scale())?;
    let whole = |number: &f64| format!("{number:.0}");
    let mut mesh = chart.configure_mesh();
    mesh.x_desc("idle connections")
        .y_desc("time of one call")
        .x_label_formatter(&whole)
        .y_label_formatter(&time)
        .draw()?;
    for (call, color) in [RED, BLUE, BLACK].into_iter().enumerate() {
        let line = LineSeries::new(known(call), color.stroke_width(2)).point_size(3);
        let name = if CALLS[call] == "select" {
            "select: descriptors up to 1,023"
        } else {
            CALLS[call]
        };
        chart
            .draw_series(line)?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .border_style(BLACK)
        .draw()?;
    root.present()?;
    Ok(())
}

/// Returns the range of the values, with a margin on both sides; without values, a decade from
/// `otherwise` on.
fn range(values: impl Iterator<Item = f64>, otherwise: f64) -> Range<f64> {
    let (least, most) = values.fold((f64::INFINITY, 0.0), |(least, most), value| {
        (value.min(least), value.max(most))
    });
    if most > 0.0 {
        least / 1.2..most * 1.2
    } else {
        otherwise..otherwise * 10.0
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the signature that plotters requires
fn time(nanos: &f64) -> String {
    match *nanos {
        nanos if nanos < 1e3 => format!("{nanos:.0} ns"),
        nanos if nanos < 1e6 => format!("{:.0} µs", nanos / 1e3),
        nanos => format!("{:.0} ms", nanos / 1e6),
    }
}

/// Draws bars on a logarithmic scale that begins at 0.1. On a linear one, a bar fifty times as long
/// as the others would make them invisible.
fn draw_bars(
    rows: &[Row],
    what: &str,
    value: impl Fn(&Figures) -> f64,
    file: &str,
) -> Result<(), Box<dyn Error>> {
    const LEFT: i32 = 110;
    const DECADE: f64 = 120.0;
    let known: Vec<(String, f64)> = rows
        .iter()
        .filter_map(|row| Some((row.model.name(), value(row.figures.as_ref().ok()?))))
        .collect();
    let most = known.iter().map(|(_, value)| *value).fold(1.0, f64::max);
    let at = |value: f64| LEFT + ((value.max(0.1) * 10.0).log10() * DECADE) as i32;
    let bottom: i32 = (56..).step_by(36).nth(known.len()).unwrap_or(56);
    let size = (
        at(most * 10.0).max(520).unsigned_abs(),
        bottom.unsigned_abs() + 32,
    );
    let root = SVGBackend::new(file, size).into_drawing_area();
    root.fill(&WHITE)?;
    let text = ("sans-serif", 15).into_font();
    root.draw(&Text::new(what.to_string(), (16, 16), ("sans-serif", 20)))?;
    for decade in (-1..)
        .map(|power| 10_f64.powi(power))
        .take_while(|decade| *decade <= most)
    {
        root.draw(&PathElement::new(
            [(at(decade), 48), (at(decade), bottom)],
            BLACK.mix(0.2),
        ))?;
        root.draw(&Text::new(
            decade.to_string(),
            (at(decade) - 4, bottom + 8),
            text.clone(),
        ))?;
    }
    for ((model, value), top) in known.into_iter().zip((56..).step_by(36)) {
        root.draw(&Text::new(model, (16, top), text.clone()))?;
        root.draw(&Rectangle::new(
            [(LEFT, top), (at(value) + 1, top + 20)],
            BLUE.filled(),
        ))?;
        root.draw(&Text::new(
            format!("{value:.2}"),
            (at(value) + 10, top),
            text.clone(),
        ))?;
    }
    root.present()?;
    Ok(())
}
