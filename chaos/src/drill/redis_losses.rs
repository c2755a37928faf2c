//! Redis loses data, in five ways, again and again, while a sale sells out.

use std::time::Duration;

use common::ids::ItemId;
use e2e::crowd::Buyer;
use tokio::time::Instant;

use super::books::{self, Promises};
use super::report::{milliseconds, say};
use super::rush::{Probe, Wave, probe};
use super::stage::Stage;
use super::{Outcome, Recovery};
use crate::fault::Fault;

/// Buyers of each wave; the door is closed in the middle of it.
const WAVE: u64 = 120;
/// Orders that a wave gets before Redis loses its data.
const BEFORE: u64 = 30;
const AT_ONCE: usize = 24;
/// Fewer units than buyers, so that the last wave meets the last unit.
const STOCK: u64 = WAVE * 5 - 80;
/// Holders at which the time to open is promised, and fewer where fewer losses are asked for.
const HOLDERS_MAX: u64 = 10_000;
const HOLDERS_PER_LOSS: u64 = 500;
const HOLDERS_AT_ONCE: usize = 64;
/// Reserve path open again, with 10,000 holders.
const OPEN_WITHIN: Duration = Duration::from_secs(3);

fn kinds() -> [Fault; 5] {
    [
        Fault::FlushRedis,
        Fault::EmptyRedis,
        Fault::StaleRedis { age_ms: 150 },
        Fault::TruncateRedis { bytes: 20_000 },
        Fault::FailOver { lag_ms: 100 },
    ]
}

pub(super) async fn run(count: u64) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new("redis-losses", count);
    let mut stage = Stage::start(1, &[]).await?;
    let crowd = stage.buyers("buyer", WAVE * 5).await?;
    let probes = stage.buyers("probe", 5).await?;
    let mut recoveries = Vec::new();
    let rounds = count.div_ceil(5);
    for round in 0..rounds {
        let sale = stage.open_sale(STOCK, 1).await?;
        let (item, mut promises) = (sale.items[0].id, Promises::default());
        let mut waves = crowd.chunks(usize::try_from(WAVE)?);
        for (fault, prober) in kinds().iter().zip(probes.iter()) {
            let buyers = waves.next().unwrap_or_default().to_vec();
            let wave = Wave::start(&stage.client, buyers, item, AT_ONCE);
            wave.under_way(BEFORE).await;
            if let Some(time) = lose(&mut stage, fault, (prober, item), &mut promises).await? {
                recoveries.push(time);
            }
            promises.add(wave.end().await?);
        }
        books::settle(&stage, sale.id, &promises, &mut outcome).await?;
        let sold = u64::try_from(promises.accepted.len())?;
        outcome.require(sold == STOCK, format_args!("sale {}: {sold} of {STOCK} units were sold", sale.id));
        stage.tell_sale(sale.id, "end").await?;
        say(&format!("  {}/{count} losses, {} orders accepted", (round + 1) * 5, outcome.accepted));
    }
    outcome.count = rounds * 5;
    outcome.recovery_ms = Recovery::of(&recoveries);
    with_many_holders(&mut stage, (count * HOLDERS_PER_LOSS).min(HOLDERS_MAX), &mut outcome).await?;
    books::nothing_parked(&stage, &mut outcome).await?;
    Ok(outcome)
}

/// Makes Redis lose its data and says how long after its first answer orders are taken again.
async fn lose(
    stage: &mut Stage,
    fault: &Fault,
    (prober, item): (&Buyer, ItemId),
    promises: &mut Promises,
) -> anyhow::Result<Option<Duration>> {
    fault.inject(&mut stage.world).await?;
    let answered = Instant::now();
    match probe(&stage.client, prober, item, answered).await? {
        Probe::Open(time, order) => {
            promises.accepted.insert(order);
            Ok(Some(time))
        }
        Probe::SoldOut => Ok(None),
    }
}

/// The same five losses, with so many orders that are all loaded again.
async fn with_many_holders(stage: &mut Stage, holders: u64, outcome: &mut Outcome) -> anyhow::Result<()> {
    say(&format!("  now with {holders} holders"));
    let buyers = stage.buyers("holder", holders).await?;
    let probes = stage.buyers("late", 5).await?;
    let sale = stage.open_sale(holders + 1_000, 1).await?;
    let (item, mut promises) = (sale.items[0].id, Promises::default());
    let wave = Wave::start(&stage.client, buyers.to_vec(), item, HOLDERS_AT_ONCE);
    promises.add(wave.end().await?);
    // As in the middle of a sale: everything that was accepted has become an order by now.
    stage.client.wait_until_quiet(&stage.admin, sale.id, Duration::from_secs(60)).await?;
    let mut times = Vec::new();
    for (fault, prober) in kinds().iter().zip(probes.iter()) {
        if let Some(time) = lose(stage, fault, (prober, item), &mut promises).await? {
            say(&format!("  {}: open after {} ms", fault.kind(), milliseconds(time)));
            times.push(time);
        }
    }
    books::settle(stage, sale.id, &promises, outcome).await?;
    outcome.figure("holders", holders);
    if let Some(longest) = times.iter().max() {
        outcome.bound("open again with many holders", *longest, OPEN_WITHIN);
    }
    Ok(())
}
