//! The command line, and the list of modules.

mod calls;
mod check;
mod figures;
mod peers;
mod plot;
mod process;
mod rounds;
mod scenarios;
mod table;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use peers::Peer;
use peers::rust::RustPeer;
use scenarios::Scenario;

/// Runs glassloop's example server and its peers under the same loads, and prints what each costs.
///
/// All servers of a scenario run at the same time on one processor, and all but the one under load
/// are idle. The load runs on another processor. A round loads each server once, in an order that
/// is shuffled for each round. A machine's speed drifts by more than the peers differ. So a peer's
/// ratio is to the yardstick (epoll by hand in C) in the same round, and the table shows the median
/// of the ratios over the rounds, and their spread.
///
/// CPU is the time of the server's threads, and of the kernel's network thread on its processor,
/// for each request. strace counts the system calls, in a separate run that measures nothing else.
#[derive(Parser)]
#[command(name = "compare", version, args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,

    /// Rounds in each scenario; more rounds reduce the noise
    #[arg(
        long,
        value_name = "N",
        default_value_t = 3,
        value_parser = clap::value_parser!(u32).range(1..=1000)
    )]
    rounds: u32,

    /// Duration of each measurement, in seconds
    #[arg(long, value_name = "S", default_value_t = 0.3, value_parser = seconds)]
    secs: f64,

    /// Run only these scenarios [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    scenarios: Vec<Scenario>,

    /// Run only these peers: glassloop, threads, tokio, tokio-framed, go-lesson, go-batched
    /// [default: all that are available]; the yardstick c-epoll always runs
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    peers: Vec<String>,

    /// Add a server: a command for sh, in which {port} is replaced by the port. The process must
    /// become the server itself
    #[arg(long, value_name = "NAME=COMMAND", value_parser = also)]
    also: Vec<(String, String)>,

    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,

    /// Directory for the plot
    #[arg(long, value_name = "DIR", default_value = "target/compare")]
    svg: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Run one of the peers written in Rust
    #[command(hide = true)]
    Serve {
        #[arg(value_enum)]
        peer: RustPeer,
        #[arg(long)]
        port: u16,
    },
    /// Become another program, on one processor, that is killed when the parent process ends
    #[command(hide = true)]
    Become {
        #[arg(long)]
        core: Option<usize>,
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<String>,
    },
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "expected a number of seconds, such as 0.3".to_string())?;
    if (0.01..=600.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("not in 0.01..=600".into())
    }
}

fn also(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, command)) if !name.is_empty() && command.contains("{port}") => {
            Ok((name.into(), command.into()))
        }
        _ => Err("expected NAME=COMMAND with {port} in the command, \
                  such as mine='target/release/mine --port {port}'"
            .into()),
    }
}

pub(crate) fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.command {
        Some(Command::Serve { peer, port }) => peers::rust::serve(*peer, *port),
        Some(Command::Become { core, command }) => process::exec_pinned(*core, command),
        None => compare(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(args: &Args) -> Result<(), Box<dyn Error>> {
    rlimit::increase_nofile_limit(u64::MAX)?;
    let programs = peers::Programs::find()?;
    let cores = process::Cores::choose()?;
    eprintln!("{cores}");
    let (found, mut missing) = peers::all(&programs, &args.peers, &args.also)?;
    let mut present: Vec<Peer> = Vec::new();
    for peer in found {
        match check::check(&peer, &cores) {
            Ok(()) => present.push(peer),
            Err(error) => missing.push((peer.name, error)),
        }
    }
    let names: Vec<&str> = present.iter().map(|peer| peer.name.as_str()).collect();
    eprintln!("peers that pass the protocol check: {}", names.join(", "));
    for (name, why) in &missing {
        eprintln!("left out: {name}: {why}");
    }
    let scenarios = if args.scenarios.is_empty() {
        Scenario::all()
    } else {
        args.scenarios.clone()
    };
    let plan = rounds::Plan {
        peers: &present,
        scenarios: &scenarios,
        rounds: args.rounds,
        secs: args.secs,
        cores: &cores,
        load: &programs.load,
    };
    let mut results = rounds::run(&plan);
    results.missing = missing;
    let plot = plot::draw(&results, &args.svg)?;
    if args.json {
        println!("{}", table::json(&results, args, &cores));
    } else {
        print!("{}", table::text(&results, args, &cores));
        println!("\nplot: {}", plot.display());
    }
    if present.is_empty() {
        Err("no peer could be measured".into())
    } else {
        Ok(())
    }
}
