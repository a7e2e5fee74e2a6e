//! Runs the loop in simulated worlds, one for each seed, and looks whether anything was lost, doubled, altered or forgotten.
//!
//! `cargo run --release --features sim --example simulate -- --seeds 1000`

mod guest;
mod hub;
mod judge;
mod ledger;
mod oracle;
mod plan;
mod relay;
mod report;
mod scene;
mod seeds;
mod shrink;
mod wire;
mod witness;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::Parser;
use glassloop::Step;
use glassloop::sim::Fault;

use crate::plan::Plan;
use crate::report::Report;

/// Runs the loop in simulated worlds, and checks every frame. Exits with 1 if anything was wrong.
#[derive(Parser)]
struct Args {
    /// How many seeds to run [default: 100, or 1 with --seed]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: Option<u64>,
    /// The first of them [default: 0]
    #[arg(long)]
    seed: Option<u64>,
    /// Print the summary as one JSON object
    #[arg(long)]
    json: bool,
    /// Print every step of the loop
    #[arg(long)]
    trace: bool,
    /// Threads that run seeds at the same time [default: one for each processor]
    #[arg(long)]
    threads: Option<usize>,
    /// Stop at the first failure, and do not look for a smaller one
    #[arg(long)]
    first: bool,
    /// Only these clients take part, by their numbers
    #[arg(long, value_delimiter = ',')]
    clients: Option<Vec<usize>>,
    /// The most requests that each client makes
    #[arg(long)]
    requests: Option<usize>,
    /// Faults that do not happen, by their names
    #[arg(long, value_delimiter = ',', value_parser = fault)]
    without: Vec<Fault>,
}

fn fault(name: &str) -> Result<Fault, String> {
    let found = Fault::ALL.iter().find(|fault| fault.name() == name);
    found.copied().ok_or_else(|| {
        format!(
            "no fault has this name; there are {}",
            Fault::ALL
                .iter()
                .map(|fault| fault.name())
                .collect::<Vec<_>>()
                .join(", ")
        )
    })
}

fn main() -> ExitCode {
    let args = Args::parse();
    let first = args.seed.unwrap_or(0);
    let count = args
        .seeds
        .unwrap_or(if args.seed.is_some() { 1 } else { 100 });
    let Some(end) = first.checked_add(count) else {
        eprintln!(
            "{count} seeds from {first} on are more than there are: the last one is {}",
            u64::MAX - 1
        );
        return ExitCode::from(2);
    };
    // One after the other, if their steps are to be read.
    let threads = if args.trace {
        1
    } else {
        args.threads.unwrap_or_else(seeds::threads).clamp(1, 256)
    };
    let plan = |seed| Plan {
        clients: args.clients.clone(),
        requests: args.requests,
        without: args.without.clone(),
        ..Plan::of(seed)
    };
    let (begun, mut told, mut report) = (Instant::now(), Instant::now(), Report::default());
    seeds::run(
        first..end,
        threads,
        plan,
        || show(args.trace),
        |seed, outcome| {
            report.add(seed, outcome);
            if told.elapsed() > Duration::from_secs(5) {
                told = Instant::now();
                let Report {
                    seeds,
                    frames,
                    tally,
                    failed,
                    ..
                } = &report;
                eprintln!(
                    "{seeds} of {count} seeds: {frames} frames, {} faults, {} failed",
                    tally.total(),
                    failed.len()
                );
            }
            !args.first || report.failed.is_empty()
        },
    );
    report.real = begun.elapsed();
    if args.json {
        println!("{}", report.json());
    } else {
        print!("{report}");
    }
    let Some((seed, violations)) = report.failure() else {
        return ExitCode::SUCCESS;
    };
    eprintln!("seed {seed} failed: {}", violations.join("; "));
    if report.failed.len() > 1 {
        eprintln!("and so did {}", report.other_failures(20).join(", "));
    }
    if !args.first {
        let small = shrink::shrink(plan(seed));
        let (steps, last) = steps_of(&small);
        eprintln!(
            "\nThe smallest world that was found to fail takes {steps} steps. The last of them:\n{}",
            last.join("\n")
        );
        eprintln!(
            "\nTo see all of them:\n  {} --trace",
            shrink::command(&small)
        );
    }
    ExitCode::FAILURE
}

/// Prints steps, or does not.
fn show(trace: bool) -> impl FnMut(Duration, &Step<'_>) + 'static {
    move |now, step| {
        if trace {
            println!("{}", line(now, step));
        }
    }
}

fn line(now: Duration, step: &Step<'_>) -> String {
    match step {
        // Without the instant: it is another one in every run.
        Step::Turn { events, .. } => format!("{now:>14.6?} Turn {{ events: {events} }}"),
        step => format!("{now:>14.6?} {step:?}"),
    }
}

/// How many steps a run takes, and the last of them.
fn steps_of(plan: &Plan) -> (usize, Vec<String>) {
    let seen = Rc::new(RefCell::new((0, VecDeque::new())));
    let book = seen.clone();
    let outcome = scene::run(plan, move |now, step| {
        let (count, last) = &mut *book.borrow_mut();
        *count += 1;
        last.push_back(line(now, step));
        if last.len() > 20 {
            last.pop_front();
        }
    });
    let (count, mut last) = seen.take();
    last.extend(outcome.violations.into_iter().take(3));
    (count, last.into())
}
