//! Every replica of every service is stopped and started again, one after the other, under load. Nobody notices.

mod streams;

use std::time::Duration;

use tokio::time::Instant;

use self::streams::Streams;
use super::Outcome;
use super::books::{self, Promises};
use super::load::Load;
use super::report::{milliseconds, say};
use super::stage::Stage;

const SERVICES: [&str; 4] = ["stock-service", "order-service", "notify-service", "gateway"];
const REPLICAS: usize = 2;
const USERS: u64 = 2_000;
/// Of them, this many follow their event streams.
const LISTENERS: usize = 100;
/// Enough that the item never sells out: refusals would be cheap, and so a weak test.
const STOCK: u64 = 1_000_000;
/// How long a gateway goes on serving after SIGTERM, for the balancer to notice.
const SETTINGS: [(&str, &str); 1] = [("GATEWAY__DRAIN__READY_DELAY_MS", "1000")];
/// A process has ended, after SIGTERM.
const EXIT_WITHIN: Duration = Duration::from_secs(25);

pub(super) async fn run(count: u64) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new("rolling-restarts", count);
    let mut stage = Stage::start(REPLICAS, &SETTINGS).await?;
    let users = stage.buyers("user", USERS).await?;
    let sale = stage.open_sale(STOCK, 100).await?;
    let streams = Streams::start(&stage, &users[..LISTENERS]).await?;
    let load = Load::start(&stage, users, sale.items[0].id)?;
    let mut longest = Duration::ZERO;
    for round in 0..count {
        for service in SERVICES {
            for name in [service.to_owned(), format!("{service}-2")] {
                let begin = Instant::now();
                if let Err(error) = stage.world.services.try_stop(&name).await {
                    outcome.violations.push(format!("{error:#}"));
                }
                longest = longest.max(begin.elapsed());
                stage.world.services.restart(&name).await;
            }
        }
        say(&format!("  {}/{count} rounds, {}", round + 1, load.so_far()));
    }
    let done = load.end().await?;
    outcome.figure("requests", done.requests);
    outcome.figure("unavailable_503", done.unavailable);
    outcome.figure("refused_4xx", done.refused);
    outcome.figure("without_answer", done.unanswered);
    outcome.figure("restarts", count * u64::try_from(SERVICES.len() * REPLICAS)?);
    outcome.figure("longest_drain_ms", milliseconds(longest));
    outcome.bound("drained after SIGTERM", longest, EXIT_WITHIN);
    outcome.require(
        done.unanswered == 0,
        format_args!("{} requests to ready gateways got no answer: {:?}", done.unanswered, done.broken),
    );
    outcome.violations.extend(done.strange);
    let promises = Promises { accepted: done.accepted, ..Promises::default() };
    books::settle(&stage, sale.id, &promises, &mut outcome).await?;
    streams.end(&stage, &mut outcome).await?;
    books::nothing_parked(&stage, &mut outcome).await?;
    Ok(outcome)
}
