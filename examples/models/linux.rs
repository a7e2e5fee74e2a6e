//! What the command line asks for, and all the modules.

mod measure;
mod plot;
#[path = "servers.rs"] // so that its modules stand beside it
mod servers;
mod table;
mod wait_cost;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use servers::{Model, Serve};

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
        Err(error) => {
            eprintln!("models: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(args: &Args) -> Result<(), Box<dyn Error>> {
    rlimit::increase_nofile_limit(u64::MAX)?;
    let models = if args.models.is_empty() { Model::value_variants() } else { &args.models };
    let mut rows = Vec::new();
    for (number, model) in models.iter().enumerate() {
        eprintln!("{} of {}: {}", number + 1, models.len(), model.name());
        rows.push(measure::measure(*model)?);
    }
    eprintln!("what a wait costs");
    let costs = wait_cost::measure(&args.idle);
    let plots = plot::draw(&rows, &costs, &args.svg)?;
    if args.json {
        println!("{}", table::json(&rows, &costs));
    } else {
        print!("{}{}", table::models(&rows), table::wait_costs(&costs));
        println!("\nplots: {}", plots.join(", "));
    }
    Ok(())
}
