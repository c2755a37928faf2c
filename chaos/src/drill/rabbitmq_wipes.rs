//! A broker of the drill's own is killed and loses everything, again and again, in the middle of a sale.

use std::time::Duration;

use testkit::{Database, RabbitNode, Redis, Stores};
use tokio::time::sleep;

use super::books::{self, Promises};
use super::report::{milliseconds, say};
use super::rush::{Probe, Wave, probe};
use super::stage::Stage;
use super::{Outcome, Recovery};

/// Buyers of each wave; the broker goes in the middle of it.
const WAVE: u64 = 150;
const BEFORE: u64 = 50;
const AT_ONCE: usize = 24;
/// How long the broker is away.
const AWAY: Duration = Duration::from_millis(300);
/// Reserve path open again, after the broker's port is.
const OPEN_WITHIN: Duration = Duration::from_secs(3);
/// Everything published again and settled, after the last buyer has an answer.
const QUIET_WITHIN: Duration = Duration::from_secs(15);

pub(super) async fn run(count: u64) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new("rabbitmq-wipes", count);
    let mut node = RabbitNode::start().await;
    let (redis, orders, notify) =
        tokio::join!(Redis::start(), Database::create("orders"), Database::create("notify"));
    let stores = Stores { redis, vhost: node.vhost(), orders, notify };
    let stage = Stage::start_on(stores, 1, &[]).await?;
    let crowd = stage.buyers("buyer", WAVE * count).await?;
    let probes = stage.buyers("probe", count).await?;
    let sale = stage.open_sale((WAVE + 1) * count, 1).await?;
    let (item, mut promises) = (sale.items[0].id, Promises::default());
    let (mut recoveries, mut quiets) = (Vec::new(), Vec::new());

    for (buyers, prober) in crowd.chunks(usize::try_from(WAVE)?).zip(probes.iter()) {
        let wave = Wave::start(&stage.client, buyers.to_vec(), item, AT_ONCE);
        wave.under_way(BEFORE).await;
        node.stop_and_wipe();
        sleep(AWAY).await;
        let answered = node.resume().await;
        if let Probe::Open(time, order) = probe(&stage.client, prober, item, answered).await? {
            promises.accepted.insert(order);
            recoveries.push(time);
        }
        promises.add(wave.end().await?);
        let settled = Outcome::new(outcome.name, count);
        let (accepted, mut one) = (promises.accepted.len(), settled);
        quiets.push(books::settle(&stage, sale.id, &promises, &mut one).await?);
        outcome.violations.append(&mut one.violations);
        say(&format!("  {}/{count} wipes, {accepted} orders accepted, {} lost", quiets.len(), one.lost));
    }
    books::settle(&stage, sale.id, &promises, &mut outcome).await?;
    books::nothing_parked(&stage, &mut outcome).await?;
    outcome.recovery_ms = Recovery::of(&recoveries);
    if let (Some(open), Some(quiet)) = (recoveries.iter().max(), quiets.iter().max()) {
        outcome.bound("open again after a wipe", *open, OPEN_WITHIN);
        outcome.bound("quiet after a wipe", *quiet, QUIET_WITHIN);
        outcome.figure("quiet_ms_max", milliseconds(*quiet));
    }
    Ok(outcome)
}
