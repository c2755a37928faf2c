//! Redis loses data, in five ways, again and again, while a sale sells out.

use std::time::Duration;

use common::ids::ItemId;
use e2e::crowd::Buyer;
use futures_util::future::try_join_all;
use parking_lot::Mutex;
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
const STOCK: u64 = WAVE * KINDS - 80;
/// Holders at which the time to open is promised, and fewer where fewer losses are asked for.
const HOLDERS_MAX: u64 = 10_000;
const HOLDERS_PER_LOSS: u64 = 500;
const HOLDERS_AT_ONCE: usize = 64;
/// How often each kind of loss hits the many holders.
const LOSSES_WITH_HOLDERS: u64 = 4;
/// Kinds of losses.
const KINDS: u64 = 5;
/// Systems at the same time.
const LANES_MAX: u64 = 3;
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
    let rounds = count.div_ceil(KINDS);
    let lanes = rounds.min(LANES_MAX);
    let so_far = Mutex::new((0, 0));
    let lanes = (0..lanes).map(|lane| {
        // As many rounds as its neighbours, or one more.
        let rounds = rounds / lanes + u64::from(lane < rounds % lanes);
        run_lane(rounds, |losses, accepted| {
            let mut so_far = so_far.lock();
            *so_far = (so_far.0 + losses, so_far.1 + accepted);
            say(&format!("  {}/{count} losses, {} orders accepted", so_far.0, so_far.1));
        })
    });
    let mut lanes = try_join_all(lanes).await?;
    let recoveries: Vec<Duration> = lanes.iter().flat_map(|lane| lane.recoveries.clone()).collect();
    for lane in &mut lanes {
        let of_lane = std::mem::replace(&mut lane.outcome, Outcome::new("redis-losses", 0));
        outcome.lost += of_lane.lost;
        outcome.oversold += of_lane.oversold;
        outcome.broken += of_lane.broken;
        outcome.accepted += of_lane.accepted;
        outcome.violations.extend(of_lane.violations);
    }
    outcome.count = rounds * KINDS;
    outcome.recovery_ms = Recovery::of(&recoveries);
    // Where many sales are over already, which are all loaded anew each time.
    let Some(lane) = lanes.first_mut() else { return Ok(outcome) };
    let holders = (count * HOLDERS_PER_LOSS).min(HOLDERS_MAX);
    with_many_holders(&mut lane.stage, holders, &mut outcome).await?;
    for lane in &lanes {
        books::nothing_parked(&lane.stage, &mut outcome).await?;
    }
    Ok(outcome)
}

/// A system of its own, in which Redis loses its data.
struct Lane {
    stage: Stage,
    outcome: Outcome,
    recoveries: Vec<Duration>,
}

/// Systems that are harmed at the same time mostly wait, each for itself. Each round is one sale with each kind of loss;
/// `progress` is told how many losses and accepted orders there were.
async fn run_lane(rounds: u64, progress: impl Fn(u64, u64)) -> anyhow::Result<Lane> {
    let mut lane = Lane {
        stage: Stage::start(1, &[]).await?,
        outcome: Outcome::new("redis-losses", 0),
        recoveries: Vec::new(),
    };
    let crowd = lane.stage.buyers("buyer", WAVE * KINDS).await?;
    let probes = lane.stage.buyers("probe", KINDS).await?;
    for _ in 0..rounds {
        let sale = lane.stage.open_sale(STOCK, 1).await?;
        let (item, mut promises) = (sale.items[0].id, Promises::default());
        let mut waves = crowd.chunks(usize::try_from(WAVE)?);
        for (fault, prober) in kinds().iter().zip(probes.iter()) {
            let buyers = waves.next().unwrap_or_default().to_vec();
            let wave = Wave::start(&lane.stage.client, buyers, item, AT_ONCE);
            wave.under_way(BEFORE).await;
            if let Some(loss) = lose(&mut lane.stage, fault, (prober, item), &mut promises).await? {
                lane.recoveries.push(loss.open_after);
            }
            promises.add(wave.end().await?);
        }
        books::settle(&lane.stage, sale.id, &promises, &mut lane.outcome).await?;
        let sold = u64::try_from(promises.accepted.len())?;
        let sold_out = sold == STOCK;
        lane.outcome.require(sold_out, format_args!("sale {}: {sold} of {STOCK} units were sold", sale.id));
        lane.stage.tell_sale(sale.id, "end").await?;
        progress(KINDS, sold);
    }
    Ok(lane)
}

/// How a loss was survived.
struct Loss {
    /// From Redis' first answer to the next order.
    open_after: Duration,
    /// What all services used of processors meanwhile.
    cpu: Duration,
}

/// Makes Redis lose its data and sees how long after its first answer orders are taken again; `None`: nothing is left.
async fn lose(
    stage: &mut Stage,
    fault: &Fault,
    (prober, item): (&Buyer, ItemId),
    promises: &mut Promises,
) -> anyhow::Result<Option<Loss>> {
    fault.inject(&mut stage.world).await?;
    let (answered, cpu) = (Instant::now(), stage.cpu());
    match probe(&stage.client, prober, item, answered).await? {
        Probe::Open(open_after, order) => {
            promises.accepted.insert(order);
            Ok(Some(Loss { open_after, cpu: stage.cpu().saturating_sub(cpu) }))
        }
        Probe::SoldOut => Ok(None),
    }
}

/// The same five losses, several times each, with so many orders that are all loaded again.
async fn with_many_holders(stage: &mut Stage, holders: u64, outcome: &mut Outcome) -> anyhow::Result<()> {
    say(&format!("  now with {holders} holders"));
    let buyers = stage.buyers("holder", holders).await?;
    let losses = usize::try_from(KINDS * LOSSES_WITH_HOLDERS)?;
    let probes = stage.buyers("late", KINDS * LOSSES_WITH_HOLDERS).await?;
    let sale = stage.open_sale(holders + 1_000, 1).await?;
    let (item, mut promises) = (sale.items[0].id, Promises::default());
    let wave = Wave::start(&stage.client, buyers.to_vec(), item, HOLDERS_AT_ONCE);
    promises.add(wave.end().await?);
    // As in the middle of a sale: everything that was accepted has become an order by now.
    stage.client.wait_until_quiet(&stage.admin, sale.id, Duration::from_secs(60)).await?;
    let (mut times, mut cpus) = (Vec::new(), Vec::new());
    for (fault, prober) in kinds().iter().cycle().take(losses).zip(probes.iter()) {
        if let Some(loss) = lose(stage, fault, (prober, item), &mut promises).await? {
            let (time, cpu) = (milliseconds(loss.open_after), milliseconds(loss.cpu));
            say(&format!("  {}: open after {time} ms, {cpu} ms of processors", fault.kind()));
            times.push(loss.open_after);
            cpus.push(loss.cpu);
        }
    }
    books::settle(stage, sale.id, &promises, outcome).await?;
    outcome.figure("holders", holders);
    for (name, values) in [("open_with_holders_ms", &times), ("cpu_with_holders_ms", &cpus)] {
        if let Some(Recovery { median, max }) = Recovery::of(values) {
            outcome.figure(&format!("{name}_median"), median);
            outcome.figure(&format!("{name}_max"), max);
        }
    }
    if let Some(longest) = times.iter().max() {
        outcome.bound("open again with many holders", *longest, OPEN_WITHIN);
    }
    Ok(())
}
