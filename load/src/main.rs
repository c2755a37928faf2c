//! The program behind `./dev load` and `./dev bench`.

mod command;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures a running Stampede.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Offers load step by step, and reports what was accepted, refused and how fast.
    Run(command::run::Arguments),
    /// Offers ten times what the system takes, and judges how it bears that.
    Overload(command::overload::Arguments),
    /// Compares a normal client's goodput with and without slow connections.
    Slowloris(command::slowloris::Arguments),
    /// Compares a bare handler, the classic design, our refusal and our accepted order.
    Bench(command::bench::Arguments),
    /// The bare handler of the benchmark.
    #[command(hide = true)]
    ServeBare {
        /// The file with the answer.
        #[arg(long)]
        answer: PathBuf,
    },
    /// The classic design of the benchmark.
    #[command(hide = true)]
    ServeClassic {
        /// Its Redis.
        #[arg(long)]
        redis_url: String,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    match Arguments::parse().command {
        Command::Run(arguments) => command::run::run(arguments).await,
        Command::Overload(arguments) => command::overload::run(arguments).await,
        Command::Slowloris(arguments) => command::slowloris::run(arguments).await,
        Command::Bench(arguments) => command::bench::run(arguments).await,
        Command::ServeBare { answer } => {
            load::yardstick::bare(&answer).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::ServeClassic { redis_url } => {
            load::yardstick::classic(&redis_url).await?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
