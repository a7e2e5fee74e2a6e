//! What the command line asks for, and all the modules.

mod measure;
mod plot;
#[path = "servers.rs"] // so that its modules stand beside it
mod servers;
mod table;
mod wait_cost;

use std::error::Error;
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use servers::{Model, Serve, complain};

/// Runs nine servers that speak the same protocol side by side, and prints what each costs.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,

    /// Only these models [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    models: Vec<Model>,

    /// Idle connections beside which a wait is measured
    #[arg(long, value_delimiter = ',', value_name = "N", default_values_t = [10, 100, 1_000, 5_000, 9_000])]
    idle: Vec<usize>,

    /// Where the plots go
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
        // Nobody reads any further: what was wanted has been said.
        Err(error)
            if error
                .downcast_ref()
                .is_some_and(|error: &io::Error| error.kind() == ErrorKind::BrokenPipe) =>
        {
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(format_args!("models: {error}"));
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
        complain(format_args!(
            "{} of {}: {}",
            number + 1,
            models.len(),
            model.name()
        ));
        rows.push(measure::measure(*model));
    }
    complain("what a wait costs");
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
        Err(error) => complain(format_args!("models: no plots: {error}")), // the figures are out
    }
    Ok(out.flush()?)
}
