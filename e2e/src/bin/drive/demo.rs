//! A flash sale in front of the reader.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use chrono::Utc;
use common::api::Sale;
use common::api::admin::Audit;
use common::ids::{ItemId, OrderId};
use e2e::client::{Client, one_dish};
use e2e::crowd::{self, Buyer, End, Tally};
use tokio::task::JoinSet;

use crate::audit;

/// Buyers who press "buy" at the same moment.
const AT_ONCE: usize = 512;
/// Seconds that a winner of the demo has to pay.
const PAYMENT_WINDOW_S: u32 = 6;
/// Two of three winners pay; the others let their hold lapse.
const PAYERS_OF_THREE: usize = 2;
/// How long the books may take to come to rest after the last hold has lapsed.
const QUIET_WITHIN: Duration = Duration::from_secs(30);
/// How often the progress line is written anew.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// Who plays.
#[derive(clap::Args)]
pub struct Arguments {
    /// Buyers, each with a token of their own.
    #[arg(long, default_value_t = 2_000)]
    buyers: usize,
    /// Units on sale.
    #[arg(long, default_value_t = 100)]
    units: u32,
}

/// Plays one sale from the opening to the verdict.
pub async fn run(client: &Client, arguments: Arguments) -> anyhow::Result<ExitCode> {
    say(&format!("{} buyers are waiting for {} units of roast duck …", arguments.buyers, arguments.units))?;
    let admin = client.token("admin", "admin").await?;
    let run_id = uuid::Uuid::new_v4().simple().to_string();
    let buyers = Arc::new(crowd::gather(client, &format!("demo-{}", &run_id[..8]), arguments.buyers).await?);

    #[expect(clippy::disallowed_methods, reason = "a client picks its sale's opening by its own clock")]
    let opening = Utc::now() + chrono::Duration::seconds(2);
    let dish = one_dish(opening, i64::from(arguments.units), 1, PAYMENT_WINDOW_S)?;
    let sale = client.open_sale(&admin, &dish).await?;
    client.wait_until_listed(sale.id, QUIET_WITHIN).await?;
    say(&format!("sale {} opens at {}", sale.id, sale.starts_at.format("%H:%M:%S")))?;
    wait_for_opening(client, &sale).await?;

    let began = Instant::now();
    let tally = rush_with_progress(client, buyers.clone(), sale.items[0].id).await?;
    say(&format!("answered everybody in {:.2} s", began.elapsed().as_secs_f64()))?;
    print_outcomes(&tally)?;

    let paid = pay(client, &buyers, &tally).await;
    say(&format!("{paid} winners paid; the others let their hold lapse in {PAYMENT_WINDOW_S} s …"))?;
    let books = wait_for_lapse(client, &admin, &sale, tally.accepted.len() - paid).await?;
    audit::print(sale.id, &books)?;
    let truthful =
        tally.strange.is_empty() && tally.accepted.len() == arguments.buyers.min(arguments.units as usize);
    say(if books.consistent && truthful {
        "verdict: every answer kept, every unit accounted for"
    } else {
        "verdict: FAILED"
    })?;
    Ok(if books.consistent && truthful { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn wait_for_opening(client: &Client, sale: &Sale) -> anyhow::Result<()> {
    let listed: Sale = client.get(&format!("/api/v1/sales/{}", sale.id), "").await?.json()?;
    let wait = (listed.starts_at - listed.server_time).to_std().unwrap_or_default();
    tokio::time::sleep(wait).await;
    Ok(())
}

async fn rush_with_progress(client: &Client, buyers: Arc<Vec<Buyer>>, item: ItemId) -> anyhow::Result<Tally> {
    let (accepted, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let total = buyers.len();
    let watch = {
        let (accepted, refused) = (accepted.clone(), refused.clone());
        move |purchase: &crowd::Purchase| {
            let counter = if matches!(purchase.end, End::Accepted(_)) { &accepted } else { &refused };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    };
    let rush = crowd::rush(client, buyers, item, AT_ONCE, watch);
    tokio::pin!(rush);
    let mut tick = tokio::time::interval(PROGRESS_EVERY);
    let tally = loop {
        tokio::select! {
            tally = &mut rush => break tally?,
            _ = tick.tick() => progress(&accepted, &refused, total)?,
        }
    };
    progress(&accepted, &refused, total)?;
    say("")?;
    Ok(tally)
}

fn progress(accepted: &AtomicUsize, refused: &AtomicUsize, total: usize) -> std::io::Result<()> {
    let (accepted, refused) = (accepted.load(Ordering::Relaxed), refused.load(Ordering::Relaxed));
    let mut out = std::io::stdout().lock();
    write!(
        out,
        "\r  {:>6} of {total} answered: {accepted:>5} got one, {refused:>6} did not",
        accepted + refused
    )?;
    out.flush()
}

fn print_outcomes(tally: &Tally) -> std::io::Result<()> {
    say(&format!("  {:<24} {:>7}", "accepted (202)", tally.accepted.len()))?;
    for (code, count) in &tally.refused {
        say(&format!("  {code:<24} {count:>7}"))?;
    }
    for what in tally.strange.iter().take(5) {
        say(&format!("  unexpected: {what}"))?;
    }
    say(&format!("  {:<24} {:>7}", "attempts in all", tally.attempts))
}

/// Two of three winners pay; how many did.
async fn pay(client: &Client, buyers: &[Buyer], tally: &Tally) -> usize {
    let mut payments = JoinSet::new();
    for (n, (buyer, order)) in tally.accepted.iter().enumerate() {
        if n % 3 < PAYERS_OF_THREE {
            let (client, token, order) = (client.clone(), buyers[*buyer].token.clone(), *order);
            payments.spawn(async move { pay_once_known(&client, &token, order).await });
        }
    }
    payments.join_all().await.into_iter().filter(|paid| *paid).count()
}

/// Pays as soon as the order is no longer queued; false when that does not come about in time.
async fn pay_once_known(client: &Client, token: &str, order: OrderId) -> bool {
    let deadline = Instant::now() + Duration::from_secs(u64::from(PAYMENT_WINDOW_S));
    while Instant::now() < deadline {
        if client.pay(token, order).await.is_ok() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    false
}

async fn wait_for_lapse(client: &Client, admin: &str, sale: &Sale, lapsing: usize) -> anyhow::Result<Audit> {
    let deadline = Instant::now() + QUIET_WITHIN + Duration::from_secs(u64::from(PAYMENT_WINDOW_S));
    loop {
        let books = client.wait_until_quiet(admin, sale.id, QUIET_WITHIN).await?;
        let expired: i64 = books.items.iter().map(|item| item.expired).sum();
        if usize::try_from(expired).is_ok_and(|expired| expired >= lapsing) || Instant::now() > deadline {
            return Ok(books);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn say(line: &str) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{line}")
}
