//! Three replicas of each service: how much they take together and how evenly; then one of each is killed in turn.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::Instant;

use super::Outcome;
use super::books::{self, Promises};
use super::report::{milliseconds, say};
use super::rush::Wave;
use super::stage::Stage;

const REPLICAS: usize = 3;
const SERVICES: [&str; 4] = ["stock-service", "order-service", "notify-service", "gateway"];
/// Buyers of the storm and of each wave in which a replica dies, and how many of them there are units for.
const STORM: u64 = 10_000;
const STORM_UNITS: u64 = 1_000;
const STORM_AT_ONCE: usize = 256;
const WAVE: u64 = 300;
const BEFORE: u64 = 50;
const AT_ONCE: usize = 32;
/// Items that are sold at once while the partitions are looked at: more than there are partitions.
const ITEMS: u64 = 24;
/// How long replicas have to share the partitions.
const SHARED_WITHIN: Duration = Duration::from_secs(15);

pub(super) async fn run(count: u64) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new("three-replicas", count);
    let mut stage = Stage::start(REPLICAS, &[]).await?;
    storm(&stage, &mut outcome).await?;
    share_partitions(&stage, &mut outcome).await?;
    for round in 0..count {
        let crowd = stage.buyers(&format!("buyer-{round}"), WAVE * 4).await?;
        let sale = stage.open_sale(WAVE * 4, 1).await?;
        let (item, mut promises) = (sale.items[0].id, Promises::default());
        for (n, (service, buyers)) in SERVICES.iter().zip(crowd.chunks(usize::try_from(WAVE)?)).enumerate() {
            let replica = (usize::try_from(round)? + n) % REPLICAS + 1;
            let name = if replica == 1 { (*service).to_owned() } else { format!("{service}-{replica}") };
            let wave = Wave::start(&stage.client, buyers.to_vec(), item, AT_ONCE);
            wave.under_way(BEFORE).await;
            stage.world.services.kill(&name);
            let killed = Instant::now();
            promises.add(wave.end().await?);
            say(&format!(
                "  {name} killed: everybody had an answer {} ms later",
                milliseconds(killed.elapsed())
            ));
            stage.world.services.restart(&name).await;
        }
        books::settle(&stage, sale.id, &promises, &mut outcome).await?;
    }
    books::nothing_parked(&stage, &mut outcome).await?;
    Ok(outcome)
}

/// Ten buyers for each unit.
async fn storm(stage: &Stage, outcome: &mut Outcome) -> anyhow::Result<()> {
    let buyers = stage.buyers("storm", STORM).await?;
    let sale = stage.open_sale(STORM_UNITS, 1).await?;
    let begun = Instant::now();
    let wave = Wave::start(&stage.client, buyers.to_vec(), sale.items[0].id, STORM_AT_ONCE);
    let tally = wave.end().await?;
    let took = begun.elapsed();
    let sold = u64::try_from(tally.accepted.len())?;
    outcome.require(sold == STORM_UNITS, format_args!("storm: {sold} of {STORM_UNITS} units were sold"));
    outcome.figure("storm_ms", milliseconds(took));
    outcome.figure("storm_answers_per_s", (tally.attempts * 1_000) / milliseconds(took).max(1));
    let mut promises = Promises::default();
    promises.add(tally);
    books::settle(stage, sale.id, &promises, outcome).await?;
    fairness(stage, outcome).await
}

/// What each replica did of the storm's work.
async fn fairness(stage: &Stage, outcome: &mut Outcome) -> anyhow::Result<()> {
    let asked = [
        ("gateway", "http_server_request_duration_seconds_count", "\"202\""),
        ("stock-service", "stock_grants_total", ""),
    ];
    for (service, metric, part) in asked {
        let shares = by_replica(stage, service, (metric, part)).await?;
        say(&format!("  orders by replica: {shares:?}"));
        let (least, most) = (shares.values().min().copied(), shares.values().max().copied());
        outcome.figure(&format!("{service}_least"), least.unwrap_or_default());
        outcome.figure(&format!("{service}_most"), most.unwrap_or_default());
    }
    Ok(())
}

/// Sells many items until every replica of order-service is fed from its share of the partitions.
async fn share_partitions(stage: &Stage, outcome: &mut Outcome) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut round = 0;
    loop {
        round += 1;
        let before = partitions_fed(stage).await?;
        let buyers = stage.buyers(&format!("share-{round}"), ITEMS).await?;
        for buyer in buyers.iter() {
            let sale = stage.open_sale(1, 1).await?;
            let wave = Wave::start(&stage.client, vec![buyer.clone()], sale.items[0].id, 1);
            let tally = wave.end().await?;
            outcome.require(tally.accepted.len() == 1, "an order was refused");
        }
        let after = partitions_fed(stage).await?;
        let fed = after.iter().map(|(name, partitions)| {
            let before = before.get(name);
            let new = partitions.iter().filter(|(partition, batches)| {
                before.and_then(|before| before.get(*partition)).is_none_or(|before| before < *batches)
            });
            (name.clone(), u64::try_from(new.count()).unwrap_or(u64::MAX))
        });
        let fed: BTreeMap<String, u64> = fed.collect();
        say(&format!("  partitions fed in round {round}: {fed:?}"));
        let most = fed.values().max().copied().unwrap_or_default();
        let least = fed.values().min().copied().unwrap_or_default();
        if (fed.len() == REPLICAS && least > 0 && most <= 3) || begun.elapsed() > SHARED_WITHIN * 4 {
            outcome.figure("partitions_of_a_replica_least", least);
            outcome.figure("partitions_of_a_replica_most", most);
            outcome.require(least > 0, "a replica of order-service has no partition");
            return Ok(());
        }
    }
}

/// Batches by partition, by replica of order-service.
async fn partitions_fed(stage: &Stage) -> anyhow::Result<BTreeMap<String, BTreeMap<String, u64>>> {
    let mut fed = BTreeMap::new();
    for name in replicas(stage, "order-service") {
        let mut partitions = BTreeMap::new();
        for line in metrics(stage, &name).await?.lines() {
            let Some(rest) = line.strip_prefix("order_batches_total{") else { continue };
            let Some((labels, value)) = rest.rsplit_once(' ') else { continue };
            partitions.insert(labels.to_owned(), number(value)?);
        }
        fed.insert(name, partitions);
    }
    Ok(fed)
}

/// The sum of a counter, over the labels with `part` in them, at each replica of a service.
async fn by_replica(
    stage: &Stage,
    service: &str,
    (metric, part): (&str, &str),
) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut shares = BTreeMap::new();
    for name in replicas(stage, service) {
        let text = metrics(stage, &name).await?;
        let lines = text.lines().filter(|line| line.starts_with(metric) && line.contains(part));
        let values = lines.filter_map(|line| line.rsplit_once(' ')).map(|(_, value)| number(value));
        shares.insert(name, values.sum::<anyhow::Result<u64>>()?);
    }
    Ok(shares)
}

fn replicas(stage: &Stage, service: &str) -> Vec<String> {
    stage.world.services.names().into_iter().filter(|name| name.starts_with(service)).collect()
}

async fn metrics(stage: &Stage, name: &str) -> anyhow::Result<String> {
    let url = format!("{}/metrics", stage.world.services.ops_url(name));
    Ok(reqwest::Client::builder()
        .no_proxy()
        .timeout(SHARED_WITHIN)
        .build()?
        .get(url)
        .send()
        .await?
        .text()
        .await?)
}

fn number(text: &str) -> anyhow::Result<u64> {
    text.trim().parse().with_context(|| format!("not a count: {text}"))
}
