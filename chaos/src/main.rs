//! Runs fault campaigns and drills: what `./dev chaos` runs.

use std::path::PathBuf;
use std::process::ExitCode;

use chaos::campaign::{self, Options};
use chaos::{drill, planted, report};
use clap::Parser;

/// Runs fault campaigns against real services and stores, and checks every promise.
#[derive(Parser)]
struct Arguments {
    /// How many schedules to run, from the seed on; 0: none. [default: 20, or 0 with another option that runs something]
    #[arg(long)]
    schedules: Option<u64>,
    /// Seed of the first schedule.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run each crash point with each action, each in a schedule of its own.
    #[arg(long)]
    crash_points: bool,
    /// Only crash points that begin with this.
    #[arg(long)]
    point: Option<String>,
    /// Plant this mistake (several: commas between; `all`: each of them on its own) and see which seed notices it.
    #[arg(long, value_name = "NAMES|all")]
    planted: Option<String>,
    /// Last seed that has to notice a planted mistake.
    #[arg(long, default_value_t = 100)]
    planted_seeds: u64,
    /// Schedules at a time. They mostly wait.
    #[arg(long, default_value_t = 3)]
    jobs: usize,
    /// Keep the files of schedules that found nothing, too.
    #[arg(long)]
    keep: bool,
    /// Where the files of schedules go.
    #[arg(long, default_value = ".dev/chaos")]
    folder: PathBuf,
    /// Where the report goes.
    #[arg(long, default_value = ".dev/reports/chaos.json")]
    report: PathBuf,
    /// What was built, for the report.
    #[arg(long, default_value = "")]
    git_hash: String,
    #[command(flatten)]
    drill: drill::Arguments,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    testkit::init();
    if let Some(kept) = arguments.drill.run(&arguments.git_hash).await? {
        return Ok(code(kept));
    }
    let options =
        Options { folder: arguments.folder.clone(), jobs: arguments.jobs.max(1), keep: arguments.keep };
    let crash_points = arguments.crash_points || arguments.point.is_some();
    let others = crash_points || arguments.planted.is_some();
    let schedules = arguments.schedules.unwrap_or(if others { 0 } else { 20 });
    let mut good = true;
    if schedules > 0 {
        good &= run_schedules(&arguments, schedules, &options).await?;
    }
    if crash_points {
        good &= run_crash_points(&arguments, &options).await?;
    }
    if let Some(which) = &arguments.planted {
        good &= run_planted(&arguments, which, &options).await?;
    }
    Ok(code(good))
}

fn code(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn run_schedules(arguments: &Arguments, count: u64, options: &Options) -> anyhow::Result<bool> {
    let campaign = campaign::run(arguments.seed, count, options).await;
    eprintln!(
        "{} schedules, {} operations, {} accepted, {} faults, {} violations, {} could not be played, {:.0} s",
        campaign.schedules,
        campaign.operations,
        campaign.accepted,
        campaign.faults,
        campaign.findings.len(),
        campaign.unusable.len(),
        campaign.took_s
    );
    for (kind, count) in campaign::by_frequency(&campaign.fault_counts) {
        eprintln!("  {count:>5} {kind}");
    }
    report::write(&arguments.report, &arguments.git_hash, Some(&campaign), None, None)?;
    Ok(campaign.findings.is_empty() && campaign.unusable.is_empty())
}

async fn run_crash_points(arguments: &Arguments, options: &Options) -> anyhow::Result<bool> {
    let points = campaign::crash_points(arguments.point.as_deref(), options).await;
    eprintln!(
        "{} of {} crash points and actions ran, {} violations, {:.0} s; not reached: {:?}",
        points.ran.len(),
        points.listed,
        points.violations.len(),
        points.took_s,
        points.not_reached
    );
    report::write(&arguments.report, &arguments.git_hash, None, Some(&points), None)?;
    Ok(points.not_reached.is_empty() && points.violations.is_empty())
}

async fn run_planted(arguments: &Arguments, which: &str, options: &Options) -> anyhow::Result<bool> {
    let found = planted::run(which, arguments.planted_seeds, options).await?;
    // As docs/RELIABILITY.md has it.
    for caught in &found.caught {
        eprintln!("| `{}` | {} | {} |", caught.mistake, caught.seed, caught.invariants.join(" "));
    }
    eprintln!(
        "{} of {} mistakes noticed, {:.0} s; missed: {:?}",
        found.caught.len(),
        found.total,
        found.took_s,
        found.missed
    );
    report::write(&arguments.report, &arguments.git_hash, None, None, Some(&found))?;
    Ok(found.missed.is_empty())
}
