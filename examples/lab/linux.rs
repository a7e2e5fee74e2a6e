//! The command line, and all modules.

mod allocations;
mod beside;
mod blocking;
mod buffers;
mod claim;
mod close;
mod course;
mod demos;
mod dial;
mod go;
mod go_fd;
mod illusion;
mod lines;
mod listen;
mod models;
mod multiplexing;
mod netpoller;
mod packets;
mod packets_bytes;
mod packets_server;
mod parts;
mod prelude;
mod protocol;
mod read;
mod read_deadlines;
mod register;
mod report;
#[allow(dead_code)] // the lab uses only a part of it
#[path = "../models/servers.rs"]
mod servers;
mod service;
mod share;
mod source;
mod speed;
mod speed_calls;
mod text;
mod tools;
mod value;
#[allow(dead_code)]
#[path = "../models/wait_cost.rs"]
mod wait_cost;
mod whereabouts;
mod write;
mod write_blocks;
mod write_deadlines;
mod wrong;

use std::error::Error;
use std::io::{self, BufRead};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use serde_json::Value;

use claim::{Claim, Lab, Outcome};
use report::Report;

/// Runs the claims of the lessons on TCP servers, and compares them with what it measures
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List all claims, and whether they can be run
    List {
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Run claims: C43, C32..C38, all
    Run {
        #[arg(required = true, value_parser = register::choose)]
        claims: Vec<Vec<&'static Claim>>,

        /// Ask for a guess before each
        #[arg(long, conflicts_with = "json")]
        predict: bool,

        /// Print a JSON array
        #[arg(long)]
        json: bool,

        /// Start no experiment after this time
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        budget: Option<Duration>,

        /// Also run experiments that take minutes
        #[arg(long)]
        slow: bool,
    },
    /// Explain a claim: what the lesson says, why it comes out as it does, and how to see it
    Explain {
        #[arg(required = true, value_parser = register::choose)]
        claims: Vec<Vec<&'static Claim>>,
    },
    /// Print a task and a program to begin with
    Exercise {
        #[arg(required = true, value_parser = register::choose)]
        claims: Vec<Vec<&'static Claim>>,
    },
    /// Show wrong reactors: the symptom, what catches it, and the fix
    Wrong {
        /// w1, w2, …; all by default
        #[arg(value_parser = wrong::find)]
        reactors: Vec<wrong::Wrong>,

        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Be one of the nine servers
    #[command(hide = true)]
    Serve(servers::Serve),
    /// Be a part of an experiment that needs a process of its own
    #[command(hide = true)]
    Play { part: String, args: Vec<String> },
}

pub(crate) fn main() -> ExitCode {
    match Args::parse().command {
        Command::List { json } => list(json),
        Command::Run {
            claims,
            predict,
            json,
            budget,
            slow,
        } => return run(&claims.concat(), predict, json, budget, Lab { slow }),
        Command::Explain { claims } => claims
            .concat()
            .iter()
            .for_each(|claim| report::say(report::explanation(claim))),
        Command::Exercise { claims } => claims
            .concat()
            .iter()
            .for_each(|claim| report::say(report::exercise(claim))),
        Command::Wrong { reactors, json } => return wrong::run(reactors, json),
        Command::Serve(serve) => return ended(servers::serve(&serve)),
        Command::Play { part, args } => {
            return ended(parts::play(&part, &args).map_err(Into::into));
        }
    }
    ExitCode::SUCCESS
}

fn ended(result: Result<(), Box<dyn Error>>) -> ExitCode {
    result.map_or_else(
        |error| {
            eprintln!("lab: {error}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

fn list(json: bool) {
    if json {
        let claims = register::claims().iter().map(report::state_json).collect();
        report::say(format!("{}\n", Value::Array(claims)));
    } else {
        for claim in register::claims() {
            report::say(report::state(claim) + "\n");
        }
    }
}

/// Runs the claims one after the other: two at once would disturb each other.
fn run(
    claims: &[&'static Claim],
    predict: bool,
    json: bool,
    budget: Option<Duration>,
    lab: Lab,
) -> ExitCode {
    let (begun, mut results, mut failed) = (Instant::now(), Vec::new(), 0);
    for (number, claim) in claims.iter().enumerate() {
        let over = budget.is_some_and(|budget| begun.elapsed() > budget);
        if json && claims.len() > 1 {
            eprintln!("{} of {}: {}", number + 1, claims.len(), claim.text.id);
        }
        let guess = (predict && !over && claim.run.is_some()).then(|| ask(claim));
        let started = Instant::now();
        let outcome = if over {
            Err(io::Error::other("the time budget is used up"))
        } else {
            carry_out(claim, lab)
        };
        let report = Report::of(claim, outcome);
        failed += usize::from(!report.has_verdict());
        if json {
            results.push(report.json());
        } else {
            report::say(report.text(guess.as_deref(), started.elapsed()));
        }
    }
    if json {
        report::say(format!("{}\n", Value::Array(results)));
    } else if claims.len() > 1 {
        report::say(format!(
            "{} claims, {failed} without a verdict, {:.1} s\n",
            claims.len(),
            begun.elapsed().as_secs_f64()
        ));
    }
    ExitCode::from(u8::from(failed > 0))
}

fn carry_out(claim: &Claim, lab: Lab) -> io::Result<Outcome> {
    let (_, reason) = claim.state();
    let outcome = match claim.run {
        Some(run) => run(lab).map(|outcome| {
            let note = format!("{reason} {}", outcome.note);
            outcome.note(note)
        }),
        None => Ok(Outcome::not_here(reason)),
    };
    match outcome {
        Err(error) if lacks_descriptors(&error) => Ok(Outcome::not_here(TOO_FEW)),
        outcome => outcome,
    }
}

const TOO_FEW: &str = "This process may open too few descriptors (ulimit -n).";

/// Whether it is EMFILE or ENFILE, or has one as its cause.
fn lacks_descriptors(error: &io::Error) -> bool {
    let named =
        |error: &io::Error| matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
    let mut inner: Option<&dyn Error> = error.get_ref().map(|inner| inner as _);
    while let Some(error) = inner {
        match error.downcast_ref::<io::Error>() {
            Some(error) if lacks_descriptors(error) => return true,
            _ => inner = error.source(),
        }
    }
    named(error)
}

/// The learner's guess. The result shows what the lesson says: that is often the answer.
fn ask(claim: &Claim) -> String {
    const NO_GUESS: &str = "(no guess)";
    report::say(format!(
        "{}  {}\n    your guess: ",
        claim.text.id, claim.text.asks
    ));
    let mut guess = Vec::new();
    if !io::stdin()
        .lock()
        .read_until(b'\n', &mut guess)
        .is_ok_and(|count| count > 0)
    {
        report::say(format!("{NO_GUESS}\n"));
        return NO_GUESS.into();
    }
    String::from_utf8_lossy(&guess).trim().to_string()
}
