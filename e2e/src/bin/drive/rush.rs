//! Orders for a while, for measurements of what they cost: prints how many were accepted.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use chrono::Utc;
use e2e::client::{Client, one_dish};
use e2e::crowd;
use futures_util::future::join_all;
use reqwest::StatusCode;
use uuid::Uuid;

/// Units on sale: more than any run takes.
const UNITS: i64 = 10_000_000;
/// Most units of one buyer.
const PER_USER: u32 = 100;
/// Distinct buyers.
const BUYERS: usize = 3_000;
/// How long the sale may take to be listed.
const LISTED_WITHIN: Duration = Duration::from_secs(20);

#[derive(clap::Args)]
pub struct Arguments {
    /// Orders in flight.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// How long to send orders.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

/// Sends the next order of a connection when the last one was answered.
pub async fn run(client: &Client, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let admin = client.token("admin", "admin").await?;
    let run_id = Uuid::new_v4().simple().to_string();
    let buyers = crowd::gather(client, &format!("rush-{}", &run_id[..8]), BUYERS).await?;
    #[expect(clippy::disallowed_methods, reason = "a client picks its sale's opening by its own clock")]
    let sale = client.open_sale(&admin, &one_dish(Utc::now(), UNITS, PER_USER, 3_600)?).await?;
    client.wait_until_listed(sale.id, LISTED_WITHIN).await?;
    let item = sale.items.first().context("the sale has no item")?.id;

    let end = Instant::now() + Duration::from_secs(arguments.seconds);
    let connections = (0..arguments.connections).map(|connection| {
        let mine: Vec<_> = buyers.iter().skip(connection).step_by(arguments.connections).collect();
        let run_id = &run_id;
        async move {
            let mut accepted = 0_u64;
            for (turn, buyer) in mine.iter().cycle().enumerate() {
                if Instant::now() >= end {
                    break;
                }
                let answer =
                    client.order(&buyer.token, item, &format!("{run_id}-{connection}-{turn}"), 1).await;
                accepted += u64::from(answer.is_ok_and(|answer| answer.status == StatusCode::ACCEPTED));
            }
            accepted
        }
    });
    let accepted: u64 = join_all(connections).await.into_iter().sum();
    client.wait_until_quiet(&admin, sale.id, Duration::from_secs(120)).await?;
    writeln!(std::io::stdout(), "{accepted}")?;
    Ok(ExitCode::SUCCESS)
}
