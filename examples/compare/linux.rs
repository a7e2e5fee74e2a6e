//! What the command line asks for, and all the modules.

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

/// Runs glassloop's example server and its peers side by side under the same loads, and prints what each costs.
///
/// All servers of a scenario are up at once, on one processor, and idle but for the one under load; the load has another processor. A round
/// loads each of them once, in an order that is shuffled anew for each round. Machines drift, by more than the peers differ; so a peer's ratio is
/// to the yardstick, epoll by hand in C, in the same round, and what is printed is the median over the rounds and how far they spread.
///
/// CPU is what the server's threads ran, and the kernel's network thread on its processor, for each request.
/// System calls are counted by strace, in a run of its own that counts for nothing else.
#[derive(Parser)]
#[command(name = "compare", version, args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,

    /// How often each peer is loaded in each scenario; the more, the less the noise of single runs matters
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,

    /// How long each time, in seconds
    #[arg(long, value_name = "S", default_value_t = 0.3, value_parser = seconds)]
    secs: f64,

    /// Only these scenarios [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    scenarios: Vec<Scenario>,

    /// Only these peers: glassloop, threads, tokio, tokio-framed, go-lesson, go-batched [default: all that are there]; the yardstick c-epoll is always one of them
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    peers: Vec<String>,

    /// One more server, which gets its port in place of {port}: a command for sh, which is to become the server itself
    #[arg(long, value_name = "NAME=COMMAND", value_parser = also)]
    also: Vec<(String, String)>,

    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,

    /// Where the plot goes
    #[arg(long, value_name = "DIR", default_value = "target/compare")]
    svg: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Run one of the peers that are written in Rust
    #[command(hide = true)]
    Serve {
        #[arg(value_enum)]
        peer: RustPeer,
        #[arg(long)]
        port: u16,
    },
    /// Become another program, on one processor, that ends with whoever started this one
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
        .map_err(|_| "a number of seconds is wanted, such as 0.3".to_string())?;
    if (0.01..=600.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("not in 0.01..=600".into())
    }
}

fn also(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, command)) if !name.is_empty() && command.contains("{port}") => Ok((name.into(), command.into())),
        _ => Err("wanted is NAME=COMMAND with {port} in it, such as mine='target/release/mine --port {port}'".into()),
    }
}

pub(crate) fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.command {
        Some(Command::Serve { peer, port }) => peers::rust::serve(*peer, *port),
        Some(Command::Become { core, command }) => process::become_one(*core, command),
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
    eprintln!("they answer properly: {}", names.join(", "));
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
