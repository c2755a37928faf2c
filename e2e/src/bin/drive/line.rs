//! `drive line`: a sale with a waiting room, played by people and bots.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use e2e::client::Client;
use e2e::line::{Findings, Plan, play};
use serde_json::{Value, json};

/// How the crowd is made up, and what it must come to.
#[derive(clap::Args)]
pub struct Arguments {
    /// Accounts with a person behind them.
    #[arg(long, default_value_t = 10_000)]
    people: usize,
    /// Accounts with a program behind them, at twenty times a person's rate.
    #[arg(long, default_value_t = 2_000)]
    bots: usize,
    /// Units on sale.
    #[arg(long, default_value_t = 4_000)]
    units: i64,
    /// Seconds from the first arrival to the opening.
    #[arg(long, default_value_t = 40)]
    gathering: u64,
    /// Seconds from the opening until everybody must have heard the end.
    #[arg(long, default_value_t = 200)]
    patience: u64,
    /// Most units of a bot's account for each of a person's.
    #[arg(long, default_value_t = 1.2)]
    advantage_max: f64,
    /// Most milliseconds from the last order until whoever watches hears that nothing is left.
    #[arg(long, default_value_t = 1_000)]
    end_within_ms: i64,
    /// Where the findings are written, as JSON; the folder is made.
    #[arg(long, default_value = ".dev/reports/line.json")]
    report: PathBuf,
}

/// Plays, prints what was found, and fails if it was not fair.
pub async fn run(client: &Client, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let plan = Plan {
        people: arguments.people,
        bots: arguments.bots,
        units: arguments.units,
        gathering: Duration::from_secs(arguments.gathering),
        patience: Duration::from_secs(arguments.patience),
    };
    let admin = client.token("admin", "admin").await?;
    // What the draw, the order of the line and the books must be is checked in there: without it there are no findings.
    let played = play(client, &admin, &plan, say).await;
    let verdicts = played.as_ref().ok().map(|findings| {
        [
            ("bot_against_person", findings.bot_advantage() <= arguments.advantage_max),
            ("end_within", findings.end_heard_after_ms <= arguments.end_within_ms),
        ]
    });
    let good = verdicts.is_some_and(|verdicts| verdicts.iter().all(|(_, holds)| *holds));
    let report = json!({
        "people": arguments.people, "bots": arguments.bots, "units": arguments.units,
        "advantage_max": arguments.advantage_max, "end_within_ms": arguments.end_within_ms,
        "passed": good, "error": played.as_ref().err().map(|error| format!("{error:#}")),
        "verdicts": verdicts.map(|verdicts| verdicts.into_iter().collect::<BTreeMap<_, _>>()),
        "draw_verifies": played.is_ok(), "nobody_overtaken": played.is_ok(),
        "bot_against_person": played.as_ref().ok().map(Findings::bot_advantage),
        "findings": played.as_ref().ok(),
    });
    write(&arguments.report, &report)?;
    say(&played?.to_string());
    say(if good { "fair" } else { "NOT as it should be" });
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write(path: &Path, report: &Value) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, serde_json::to_vec_pretty(report)?).with_context(|| path.display().to_string())
}

#[expect(clippy::print_stdout, reason = "the program's output")]
fn say(text: &str) {
    println!("{text}");
}
