//! Accepted orders a second through the gateway, and whether all of them are in Postgres at the end.
//!
//! Without `--rate` a closed loop: each connection sends its next order when the last one was answered; that finds
//! what the system takes. With `--rate` an open loop: orders are sent by the clock whether or not answers come, and
//! latency counts from the moment an order was due, so that a stall is not left out of the figures
//! (Gil Tene, "How NOT to Measure Latency").

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chrono::Utc;
use common::ids::ItemId;
use e2e::client::{Client, one_dish};
use e2e::crowd::{self, Buyer};
use hdrhistogram::Histogram;
use reqwest::StatusCode;
use tokio::task::JoinSet;

use crate::audit;

/// How long the orders may take to be in Postgres after the last answer.
const SETTLED_WITHIN: Duration = Duration::from_secs(120);
/// Units on sale: more than any run takes.
const UNITS: i64 = 10_000_000;
/// Longest latency that the histogram tells apart, in microseconds.
const LATENCY_US_MAX: u64 = 60_000_000;

/// How to load.
#[derive(clap::Args, Clone)]
pub struct Arguments {
    /// Orders in flight at most.
    #[arg(long, default_value_t = 256)]
    connections: usize,
    /// How long to send orders.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Orders a second to send (open loop); without it as many as are answered.
    #[arg(long)]
    rate: Option<u64>,
    /// Distinct buyers, each with a token of their own, who order in turn.
    #[arg(long, default_value_t = 20_000)]
    buyers: usize,
    /// Fail when fewer orders a second are accepted.
    #[arg(long)]
    at_least: Option<f64>,
}

struct Run {
    client: Client,
    buyers: Vec<Buyer>,
    item: ItemId,
    rate: Option<u64>,
    begin: Instant,
    end: Instant,
    turn: AtomicU64,
    run_id: String,
}

struct Measured {
    latency_us: Histogram<u64>,
    accepted: u64,
    others: BTreeMap<String, u64>,
}

/// Loads, waits until all orders are in Postgres, reports.
pub async fn run(client: &Client, arguments: Arguments) -> anyhow::Result<ExitCode> {
    say(&format!("asking for {} tokens …", arguments.buyers))?;
    let admin = client.token("admin", "admin").await?;
    let run_id = uuid::Uuid::new_v4().simple().to_string();
    let buyers = crowd::gather(client, &format!("load-{}", &run_id[..8]), arguments.buyers).await?;
    #[expect(clippy::disallowed_methods, reason = "a client picks its sale's opening by its own clock")]
    let sale = client.open_sale(&admin, &one_dish(Utc::now(), UNITS, 100, 86_400)?).await?;
    client.wait_until_listed(sale.id, SETTLED_WITHIN).await?;

    let begin = Instant::now();
    let end = begin + Duration::from_secs(arguments.seconds);
    let item = sale.items[0].id;
    let rate = arguments.rate;
    let run = Arc::new(Run {
        client: client.clone(),
        buyers,
        item,
        rate,
        begin,
        end,
        turn: AtomicU64::new(0),
        run_id,
    });
    say(&format!("placing orders for {} s over {} connections …", arguments.seconds, arguments.connections))?;
    let measured = measure(run, arguments.connections).await?;
    let took = begin.elapsed().as_secs_f64();

    let answered = Instant::now();
    let books = client.wait_until_quiet(&admin, sale.id, SETTLED_WITHIN).await?;
    let settled = answered.elapsed().as_secs_f64();
    audit::print(sale.id, &books)?;
    let in_postgres = books.items[0].pending_payment;
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let per_second = measured.accepted as f64 / took;
    report(&measured, per_second, settled)?;
    say(&format!("in Postgres: {in_postgres}, accepted: {}", measured.accepted))?;

    let all_there = u64::try_from(in_postgres).is_ok_and(|orders| orders >= measured.accepted);
    let fast_enough = arguments.at_least.is_none_or(|least| per_second >= least);
    Ok(if books.consistent && all_there && fast_enough { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn measure(run: Arc<Run>, connections: usize) -> anyhow::Result<Measured> {
    let mut workers = JoinSet::new();
    for _ in 0..connections {
        workers.spawn(work(run.clone()));
    }
    let mut all = empty()?;
    while let Some(measured) = workers.join_next().await {
        let measured = measured??;
        all.latency_us.add(measured.latency_us)?;
        all.accepted += measured.accepted;
        for (what, count) in measured.others {
            *all.others.entry(what).or_default() += count;
        }
    }
    Ok(all)
}

fn empty() -> anyhow::Result<Measured> {
    let latency_us = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)?;
    Ok(Measured { latency_us, accepted: 0, others: BTreeMap::new() })
}

async fn work(run: Arc<Run>) -> anyhow::Result<Measured> {
    let mut measured = empty()?;
    loop {
        let turn = run.turn.fetch_add(1, Ordering::Relaxed);
        let due = match run.rate {
            Some(rate) => run.begin + Duration::from_nanos(turn.saturating_mul(1_000_000_000 / rate.max(1))),
            None => Instant::now(),
        };
        if due >= run.end {
            return Ok(measured);
        }
        tokio::time::sleep_until(due.into()).await;
        let buyer = &run.buyers[usize::try_from(turn)? % run.buyers.len()];
        let key = format!("{}-{turn}", run.run_id);
        let answer = run.client.order(&buyer.token, run.item, &key, 1).await;
        let latency_us = u64::try_from(due.elapsed().as_micros())?.min(LATENCY_US_MAX);
        match answer {
            Ok(answer) if answer.status == StatusCode::ACCEPTED => {
                measured.accepted += 1;
                measured.latency_us.record(latency_us)?;
            }
            Ok(answer) => {
                let what = answer.code().map_or_else(|| answer.status.to_string(), crowd::code_name);
                *measured.others.entry(what).or_default() += 1;
            }
            Err(_) => *measured.others.entry("no answer".to_owned()).or_default() += 1,
        }
    }
}

fn report(measured: &Measured, per_second: f64, settled_s: f64) -> std::io::Result<()> {
    #[expect(clippy::cast_precision_loss, reason = "below a minute in microseconds")]
    let ms = |quantile: f64| measured.latency_us.value_at_quantile(quantile) as f64 / 1_000.0;
    say(&format!("accepted: {} = {per_second:.0}/s", measured.accepted))?;
    say(&format!(
        "latency of accepted orders: p50 {:.1} ms, p95 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
        ms(0.5),
        ms(0.95),
        ms(0.99),
        ms(1.0)
    ))?;
    for (what, count) in &measured.others {
        say(&format!("other answers: {what} {count}"))?;
    }
    say(&format!("all settled {settled_s:.2} s after the last answer"))
}

fn say(line: &str) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{line}")
}
