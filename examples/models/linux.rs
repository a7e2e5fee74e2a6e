//! The command line, and the list of modules.

mod measure;
mod plot;
#[path = "servers.rs"] // keeps its modules in this directory
mod servers;
mod table;
mod wait_cost;

use std::error::Error;
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use servers::{Model, Serve, log};

/// Runs nine servers that speak the same protocol, and prints what each costs
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,

    /// Measure only these models [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    models: Vec<Model>,

    /// Numbers of idle connections with which one wait call is measured
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "N",
        default_values_t = [10, 100, 1_000, 5_000, 9_000]
    )]
    idle: Vec<usize>,

    /// Directory for the plots
    #[arg(long, value_name = "DIR", default_value = "target/models")]
    svg: PathBuf,

    /// Print one JSON object instead of the tables
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Run one of the servers
    Serve(Serve),
}

pub(crate) fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.command {
        Some(Command::Serve(serve)) => servers::serve(&serve),
        None => compare(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has closed the pipe: the rest of the output is not wanted.
        Err(error)
            if error
                .downcast_ref()
                .is_some_and(|error: &io::Error| error.kind() == ErrorKind::BrokenPipe) =>
        {
            ExitCode::SUCCESS
        }
        Err(error) => {
            log(format_args!("models: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn compare(args: &Args) -> Result<(), Box<dyn Error>> {
    rlimit::increase_nofile_limit(u64::MAX)?;
    let models = if args.models.is_empty() {
        Model::value_variants()
    } else {
        &args.models
    };
    let mut rows = Vec::new();
    for (number, model) in models.iter().enumerate() {
        log(format_args!(
            "{} of {}: {}",
            number + 1,
            models.len(),
            model.name()
        ));
        rows.push(measure::measure(*model));
    }
    log("cost of a wait");
    let costs = wait_cost::measure(&args.idle);
    let mut out = io::stdout();
    if args.json {
        writeln!(out, "{}", table::json(&rows, &costs))?;
    } else {
        write!(out, "{}{}", table::models(&rows), table::wait_costs(&costs))?;
    }
    match plot::draw(&rows, &costs, &args.svg) {
        Ok(plots) if !args.json => writeln!(out, "\nplots: {}", plots.join(", "))?,
        Ok(_) => {}
        // Not a failure: the tables are printed already.
        Err(error) => log(format_args!("models: no plots: {error}")),
    }
    Ok(out.flush()?)
}
