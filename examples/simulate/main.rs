//! Runs the loop on a simulated network, once for each seed, and checks that no frame is lost,
//! duplicated, altered or late.
//!
//! `cargo run --release --features sim --example simulate -- --seeds 1000`

mod client;
mod delivery;
mod handler;
mod invariants;
mod plan;
mod record;
mod relay;
mod report;
mod run;
mod seeds;
mod shrink;
mod verify;
mod wire;

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

/// Runs the loop on a simulated network, and checks every frame. Exits with 1 if a check fails
#[derive(Parser)]
struct Args {
    /// How many seeds to run [default: 100, or 1 with --seed]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: Option<u64>,
    /// The first seed [default: 0]
    #[arg(long)]
    seed: Option<u64>,
    /// Print the summary as one JSON object
    #[arg(long)]
    json: bool,
    /// Print every step of the loop
    #[arg(long)]
    trace: bool,
    /// Threads to run seeds on [default: one for each processor]
    #[arg(long)]
    threads: Option<usize>,
    /// Stop at the first failure, and do not shrink it
    #[arg(long)]
    first: bool,
    /// Only these clients take part (comma-separated numbers)
    #[arg(long, value_delimiter = ',')]
    clients: Option<Vec<usize>>,
    /// The most requests that each client makes
    #[arg(long)]
    requests: Option<usize>,
    /// Faults that do not happen (comma-separated names)
    #[arg(long, value_delimiter = ',', value_parser = fault)]
    without: Vec<Fault>,
}

fn fault(name: &str) -> Result<Fault, String> {
    let found = Fault::ALL.iter().find(|fault| fault.name() == name);
    found.copied().ok_or_else(|| {
        format!(
            "unknown fault; the faults are {}",
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
            "{count} seeds from {first} on exceed the last seed, {}",
            u64::MAX - 1
        );
        return ExitCode::from(2);
    };
    // Steps of several seeds at once would be mixed.
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
    let (begun, mut reported_at, mut report) = (Instant::now(), Instant::now(), Report::default());
    seeds::run(
        first..end,
        threads,
        plan,
        || show(args.trace),
        |seed, outcome| {
            report.add(seed, outcome);
            if reported_at.elapsed() > Duration::from_secs(5) {
                reported_at = Instant::now();
                let Report {
                    seeds,
                    frames,
                    fault_counts,
                    failed,
                    ..
                } = &report;
                eprintln!(
                    "{seeds} of {count} seeds: {frames} frames, {} faults, {} failed",
                    fault_counts.total(),
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
        eprintln!(
            "other seeds that failed: {}",
            report.other_failures(20).join(", ")
        );
    }
    if !args.first {
        let small = shrink::shrink(plan(seed));
        let (steps, last) = steps_of(&small);
        eprintln!(
            "\nThe smallest failing run found has {steps} steps. The last of them:\n{}",
            last.join("\n")
        );
        eprintln!(
            "\nTo print all steps:\n  {} --trace",
            shrink::command(&small)
        );
    }
    ExitCode::FAILURE
}

/// Returns an observer that prints every step if `trace` is set.
fn show(trace: bool) -> impl FnMut(Duration, &Step<'_>) + 'static {
    move |now, step| {
        if trace {
            println!("{}", line(now, step));
        }
    }
}

fn line(now: Duration, step: &Step<'_>) -> String {
    match step {
        // Without the instant, which differs in every run.
        Step::Turn { events, .. } => format!("{now:>14.6?} Turn {{ events: {events} }}"),
        step => format!("{now:>14.6?} {step:?}"),
    }
}

/// Counts the steps of a run, and keeps the last 20.
fn steps_of(plan: &Plan) -> (usize, Vec<String>) {
    let seen = Rc::new(RefCell::new((0, VecDeque::new())));
    let observed = seen.clone();
    let outcome = run::run(plan, move |now, step| {
        let (count, last) = &mut *observed.borrow_mut();
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
