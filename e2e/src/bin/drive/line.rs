//! `drive line`: a sale with a waiting room, played by people and bots.

use std::process::ExitCode;
use std::time::Duration;

use e2e::client::Client;
use e2e::line::{Plan, play};

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
    #[arg(long, default_value_t = 240)]
    patience: u64,
    /// Most units of a bot's account for each of a person's.
    #[arg(long, default_value_t = 1.2)]
    advantage_max: f64,
    /// Most milliseconds from the last order until whoever watches hears that nothing is left.
    #[arg(long, default_value_t = 1_000)]
    end_within_ms: i64,
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
    let findings = play(client, &admin, &plan, say).await?;
    say(&findings.to_string());
    let fair = findings.bot_advantage() <= arguments.advantage_max;
    let ended = findings.end_heard_after_ms <= arguments.end_within_ms;
    say(if fair && ended { "fair" } else { "NOT as it should be" });
    Ok(if fair && ended { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[expect(clippy::print_stdout, reason = "the program's output")]
fn say(text: &str) {
    println!("{text}");
}
