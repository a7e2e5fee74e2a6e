//! Draws the ratios to the yardstick as an SVG plot: CPU a request, and requests a second.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use plotters::coord::Shift;
use plotters::prelude::*;

use super::figures::{Figure, Results, Spread};
use super::peers::OURS;
use super::scenarios::Scenario;

const WIDTH: u32 = 1040;
const TOP: i32 = 64;
const LINE: i32 = 18;
/// Space between two scenarios.
const GAP: i32 = 40;
/// Where the bars of the two panels begin.
const PANELS: [i32; 2] = [140, 610];
/// Width of a ratio of 1.
const ONE: f64 = 130.0;
/// Ratios above this one are drawn this long.
const LONGEST: f64 = 2.4;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Writes the plot into a directory, and returns the path of the file.
pub(crate) fn draw(results: &Results, directory: &Path) -> Result<PathBuf, Box<dyn Error>> {
    fs::create_dir_all(directory).map_err(|error| {
        format!(
            "cannot create the directory {} for the plot: {error}",
            directory.display()
        )
    })?;
    let file = directory.join("compare.svg");
    let block = GAP + LINE * i32::try_from(results.peers.len())?;
    let height = TOP + block * i32::try_from(results.scenarios.len())?;
    let root = SVGBackend::new(&file, (WIDTH, height.unsigned_abs())).into_drawing_area();
    root.fill(&WHITE)?;
    root.draw(&Text::new(
        "ratios to the yardstick, epoll by hand in C: median, least and greatest of the rounds",
        (16, 14),
        ("sans-serif", 20),
    ))?;
    for (scenario, top) in results
        .scenarios
        .iter()
        .zip((TOP..).step_by(block.unsigned_abs() as usize))
    {
        draw_scenario(results, *scenario, top, &root)?;
    }
    root.present()?;
    drop(root);
    Ok(file)
}

fn draw_scenario(
    results: &Results,
    scenario: Scenario,
    top: i32,
    root: &Area<'_>,
) -> Result<(), Box<dyn Error>> {
    let panels = match scenario {
        Scenario::Idle => vec![(Figure::Idle, "memory (less is better)")],
        _ => vec![
            (Figure::Cpu, "CPU a request (less is better)"),
            (Figure::Rate, "requests a second (more is better)"),
        ],
    };
    root.draw(&Text::new(
        scenario.title(),
        (16, top - 16),
        ("sans-serif", 16),
    ))?;
    for ((figure, what), left) in panels.into_iter().zip(PANELS) {
        root.draw(&Text::new(what, (left, top), ("sans-serif", 12)))?;
        let first = top + 16;
        for (peer, top) in results
            .peers
            .iter()
            .zip((first..).step_by(LINE.unsigned_abs() as usize))
        {
            if left == PANELS[0] {
                root.draw(&Text::new(peer.as_str(), (16, top), ("sans-serif", 13)))?;
            }
            match results.ratio(scenario, peer, figure) {
                Some(ratio) => draw_bar(ratio, peer == OURS, (left, top), root)?,
                None => root.draw(&Text::new("n/a", (left, top), ("sans-serif", 13)))?,
            }
        }
        let one = left + ONE as i32;
        let bottom = first + LINE * i32::try_from(results.peers.len())?;
        root.draw(&PathElement::new(
            [(one, first - 2), (one, bottom)],
            BLACK.mix(0.4),
        ))?;
    }
    Ok(())
}

fn draw_bar(
    ratio: Spread,
    is_ours: bool,
    (left, top): (i32, i32),
    root: &Area<'_>,
) -> Result<(), Box<dyn Error>> {
    let at = |ratio: f64| left + (ratio.clamp(0.0, LONGEST) * ONE) as i32;
    let color = if is_ours {
        BLUE.mix(0.8)
    } else {
        BLACK.mix(0.3)
    };
    root.draw(&Rectangle::new(
        [(left, top), (at(ratio.median).max(left + 1), top + 12)],
        color.filled(),
    ))?;
    root.draw(&PathElement::new(
        [(at(ratio.least), top + 6), (at(ratio.most), top + 6)],
        BLACK.stroke_width(1),
    ))?;
    let beyond = if ratio.median > LONGEST { "→ " } else { "" };
    root.draw(&Text::new(
        format!("{beyond}{:.2}", ratio.median),
        (at(ratio.most.max(ratio.median)) + 6, top),
        ("sans-serif", 13),
    ))?;
    Ok(())
}
