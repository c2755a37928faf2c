//! The moment that everything is built for, against whatever runs: everybody a final and true answer, exactly the stock.

use std::collections::HashSet;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use common::api::OrderStatus;
use e2e::client::{Client, one_dish};
use e2e::crowd::{self, Buyer, Tally};

use crate::audit;

/// How long the sale may take to be listed, an order to be made, and the books to come to rest.
const WITHIN: Duration = Duration::from_secs(60);
/// Between two looks at an order.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Long enough that no hold lapses meanwhile.
const PAYMENT_WINDOW_S: u32 = 3_600;

/// Who plays.
#[derive(clap::Args)]
pub struct Arguments {
    /// Buyers, each with a token of their own.
    #[arg(long, default_value_t = 10_000)]
    buyers: usize,
    /// Units on sale.
    #[arg(long, default_value_t = 1_000)]
    units: usize,
    /// Buyers who press at the same moment.
    #[arg(long, default_value_t = 512)]
    at_once: usize,
}

/// Plays the storm and says what was wrong; the exit code is the verdict.
pub async fn run(client: &Client, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { buyers, units, at_once } = arguments;
    let admin = client.token("admin", "admin").await?;
    let run_id = uuid::Uuid::new_v4().simple().to_string();
    let crowd = Arc::new(crowd::gather(client, &format!("storm-{}", &run_id[..8]), buyers).await?);
    #[expect(clippy::disallowed_methods, reason = "a client picks its sale's opening by its own clock")]
    let dish = one_dish(Utc::now(), i64::try_from(units)?, 1, PAYMENT_WINDOW_S)?;
    let sale = client.open_sale(&admin, &dish).await?;
    client.wait_until_listed(sale.id, WITHIN).await?;

    let began = Instant::now();
    let tally = crowd::rush(client, crowd.clone(), sale.items[0].id, at_once, |_| {}).await?;
    let took = began.elapsed();
    say(&format!(
        "{buyers} buyers, {units} units: {} accepted, {:?}, {} attempts in {:.2} s",
        tally.accepted.len(),
        tally.refused,
        tally.attempts,
        took.as_secs_f64()
    ))?;
    let mut wrong = judge(&tally, units.min(buyers));
    wrong.extend(orders_that_are_not_there(client, &crowd, &tally).await);
    let books = client.wait_until_quiet(&admin, sale.id, WITHIN).await?;
    audit::print(sale.id, &books)?;
    if books.items.iter().map(|item| item.held).sum::<i64>() != i64::try_from(tally.accepted.len())? {
        wrong.push("the books hold another number of units than were accepted".to_owned());
    }
    for what in wrong.iter().take(10) {
        say(&format!("wrong: {what}"))?;
    }
    say(if wrong.is_empty() { "verdict: the storm passes" } else { "verdict: FAILED" })?;
    Ok(if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn judge(tally: &Tally, wanted: usize) -> Vec<String> {
    let mut wrong = tally.strange.clone();
    if tally.accepted.len() != wanted {
        wrong.push(format!("{} accepted instead of {wanted}", tally.accepted.len()));
    }
    let distinct: HashSet<_> = tally.accepted.iter().map(|(_, order)| order).collect();
    if distinct.len() != tally.accepted.len() {
        wrong.push("two buyers were given the same order".to_owned());
    }
    let others = tally.refused.keys().filter(|code| *code != "sold_out");
    wrong.extend(others.map(|code| format!("a final refusal that is not sold_out: {code}")));
    wrong
}

/// Each accepted order has to become one that waits for its payment, at its URL.
async fn orders_that_are_not_there(client: &Client, crowd: &[Buyer], tally: &Tally) -> Vec<String> {
    let deadline = Instant::now() + WITHIN;
    let mut missing = Vec::new();
    for (buyer, order) in &tally.accepted {
        loop {
            let seen = client.order_state(&crowd[*buyer].token, *order).await;
            if seen.as_ref().is_ok_and(|seen| seen.status == OrderStatus::PendingPayment) {
                break;
            }
            if Instant::now() > deadline {
                missing.push(format!("order {order} is not there: {seen:?}"));
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    missing
}

fn say(line: &str) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{line}")
}
