//! One node after the other of a RabbitMQ cluster is killed in the middle of a sale.

use testkit::{Database, RabbitCluster, Redis, Stores};
use tokio::time::Instant;

use super::books::{self, Promises};
use super::report::{milliseconds, say};
use super::rush::{Probe, Wave, probe};
use super::stage::Stage;
use super::{Outcome, Recovery};

const WAVE: u64 = 400;
const BEFORE: u64 = 100;
const AT_ONCE: usize = 32;

pub(super) async fn run(count: u64) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new("rabbitmq-cluster", count);
    let mut cluster = RabbitCluster::start().await;
    let (redis, orders, notify) =
        tokio::join!(Redis::start(), Database::create("orders"), Database::create("notify"));
    let stores = Stores { redis, vhost: cluster.vhost(), orders, notify };
    // The proxy before the first node stays one of the addresses.
    let addresses = cluster.addresses();
    let settings = [
        ("STOCK_SERVICE__AMQP__ADDRESSES", addresses.as_str()),
        ("ORDER_SERVICE__AMQP__ADDRESSES", addresses.as_str()),
        ("NOTIFY_SERVICE__AMQP__ADDRESSES", addresses.as_str()),
    ];
    let stage = Stage::start_on(stores, 2, &settings).await?;
    let crowd = stage.buyers("buyer", WAVE * count).await?;
    let probes = stage.buyers("probe", count).await?;
    let sale = stage.open_sale((WAVE + 1) * count, 1).await?;
    let (item, mut promises, mut times) = (sale.items[0].id, Promises::default(), Vec::new());

    for (n, (buyers, prober)) in crowd.chunks(usize::try_from(WAVE)?).zip(probes.iter()).enumerate() {
        let wave = Wave::start(&stage.client, buyers.to_vec(), item, AT_ONCE);
        wave.under_way(BEFORE).await;
        let (node, killed) = (n % cluster.len(), Instant::now());
        cluster.stop(node);
        if let Probe::Open(time, order) = probe(&stage.client, prober, item, killed).await? {
            promises.accepted.insert(order);
            say(&format!("  node {}: orders again after {} ms", node + 1, milliseconds(time)));
            times.push(time);
        }
        promises.add(wave.end().await?);
        // With the node away: two of three are enough.
        let mut one = Outcome::new(outcome.name, count);
        let quiet = books::settle(&stage, sale.id, &promises, &mut one).await?;
        say(&format!(
            "  node {}: quiet {} ms after the last answer, {} lost",
            node + 1,
            milliseconds(quiet),
            one.lost
        ));
        outcome.violations.append(&mut one.violations);
        cluster.resume(node).await;
    }
    books::settle(&stage, sale.id, &promises, &mut outcome).await?;
    books::nothing_parked(&stage, &mut outcome).await?;
    outcome.recovery_ms = Recovery::of(&times);
    drop(stage); // Before the nodes that it talks to.
    Ok(outcome)
}
