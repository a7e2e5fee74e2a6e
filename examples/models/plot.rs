//! The figures as pictures.

use std::error::Error;
use std::fs;
use std::path::Path;

use plotters::prelude::*;

use super::measure::Row;
use super::wait_cost::{CALLS, Cost};

/// Draws them into a directory, and says which files they are.
pub(crate) fn draw(rows: &[Row], costs: &[Cost], directory: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    fs::create_dir_all(directory).map_err(|error| format!("cannot make the directory {} for the plots: {error}", directory.display()))?;
    let at = |name: &str| directory.join(name).display().to_string();
    let (waits, calls, cpu) = (at("wait-cost.svg"), at("calls.svg"), at("idle-cpu.svg"));
    draw_waits(costs, &waits)?;
    draw_bars(rows, "system calls a request, one at a time", |row| row.calls, &calls)?;
    draw_bars(rows, "% of a processor while all clients are silent", |row| row.idle_cpu, &cpu)?;
    Ok(vec![waits, calls, cpu])
}

fn draw_waits(costs: &[Cost], file: &str) -> Result<(), Box<dyn Error>> {
    let known = |call: usize| costs.iter().filter_map(move |cost| Some((cost.idle as f64, *cost.nanos[call].as_ref().ok()?)));
    let most = |values: &mut dyn Iterator<Item = f64>| values.fold(10.0, f64::max);
    let width = most(&mut costs.iter().map(|cost| cost.idle as f64));
    let height = most(&mut (0..CALLS.len()).flat_map(known).map(|(_, nanos)| nanos));
    let root = SVGBackend::new(file, (720, 480)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(16)
        .caption("one wait, one client ready", ("sans-serif", 20))
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d((1.0..width * 1.2).log_scale(), (100.0..height * 2.0).log_scale())?;
    let whole = |number: &f64| format!("{number:.0}");
    chart.configure_mesh().x_desc("idle connections").y_desc("nanoseconds").x_label_formatter(&whole).y_label_formatter(&whole).draw()?;
    for (call, color) in [RED, BLUE, BLACK].into_iter().enumerate() {
        let line = LineSeries::new(known(call), color.stroke_width(2)).point_size(3);
        chart.draw_series(line)?.label(CALLS[call]).legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color));
    }
    chart.configure_series_labels().position(SeriesLabelPosition::UpperLeft).border_style(BLACK).draw()?;
    root.present()?;
    Ok(())
}

fn draw_bars(rows: &[Row], what: &str, value: impl Fn(&Row) -> f64, file: &str) -> Result<(), Box<dyn Error>> {
    let most = rows.iter().map(&value).fold(1.0, f64::max);
    let root = SVGBackend::new(file, (720, 64 + 36 * rows.len() as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    let text = ("sans-serif", 15).into_font();
    root.draw(&Text::new(what.to_string(), (16, 16), ("sans-serif", 20)))?;
    for (row, top) in rows.iter().zip((56..).step_by(36)) {
        let length = (value(row) / most * 480.0) as i32;
        root.draw(&Text::new(row.model.name(), (16, top), text.clone()))?;
        root.draw(&Rectangle::new([(110, top), (111 + length, top + 20)], BLUE.filled()))?;
        root.draw(&Text::new(format!("{:.2}", value(row)), (120 + length, top), text.clone()))?;
    }
    root.present()?;
    Ok(())
}
