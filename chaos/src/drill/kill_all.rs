//! Every service and every store is killed at once, in the middle of a sale; a supervisor starts all of them again.

use std::time::Duration;

use testkit::{Database, PostgresServer, RabbitNode, Redis, Stores};
use tokio::time::Instant;

use super::books::{self, Promises};
use super::report::{milliseconds, say};
use super::rush::{Probe, Wave, probe};
use super::stage::Stage;
use super::{Outcome, Recovery};

const WAVE: u64 = 400;
const BEFORE: u64 = 100;
const AT_ONCE: usize = 48;
/// Serving again, after the stores are up.
const SERVING_WITHIN: Duration = Duration::from_secs(5);
/// Quiet, after the stores are up.
const QUIET_WITHIN: Duration = Duration::from_secs(20);
/// How often a supervisor looks after its processes.
const SUPERVISE: Duration = Duration::from_millis(200);

pub(super) async fn run(count: u64) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new("kill-all", count);
    let (mut node, mut postgres) = tokio::join!(RabbitNode::start(), PostgresServer::start());
    let (orders, notify) =
        (Database::create_on(&postgres, "orders").await, Database::create_on(&postgres, "notify").await);
    let stores = Stores { redis: Redis::start().await, vhost: node.vhost(), orders, notify };
    let mut stage = Stage::start_on(stores, 1, &[]).await?;
    let crowd = stage.buyers("buyer", WAVE * count).await?;
    let probes = stage.buyers("probe", count).await?;
    let sale = stage.open_sale((WAVE + 1) * count, 1).await?;
    let (item, mut promises) = (sale.items[0].id, Promises::default());
    let (mut serving, mut quiets) = (Vec::new(), Vec::new());

    for (buyers, prober) in crowd.chunks(usize::try_from(WAVE)?).zip(probes.iter()) {
        let wave = Wave::start(&stage.client, buyers.to_vec(), item, AT_ONCE);
        wave.under_way(BEFORE).await;
        let names = stage.world.services.names();
        postgres.stop();
        node.stop();
        stage.world.services.redis_mut().stop();
        names.iter().for_each(|name| stage.world.services.kill(name));

        names.iter().for_each(|name| stage.world.services.start_again(name));
        tokio::join!(node.resume(), postgres.resume(), stage.world.services.redis_mut().resume());
        let up = Instant::now();
        let client = stage.client.clone();
        let found = tokio::select! {
            found = probe(&client, prober, item, up) => found?,
            never = supervise(&mut stage) => never,
        };
        if let Probe::Open(time, order) = found {
            promises.accepted.insert(order);
            serving.push(time);
        }
        promises.add(wave.end().await?);
        let mut one = Outcome::new(outcome.name, count);
        books::settle(&stage, sale.id, &promises, &mut one).await?;
        quiets.push(up.elapsed());
        outcome.violations.append(&mut one.violations);
        say(&format!(
            "  {}/{count}: serving after {:?} ms, quiet after {} ms, {} accepted, {} lost",
            quiets.len(),
            serving.last().map(|time| milliseconds(*time)),
            milliseconds(up.elapsed()),
            one.accepted,
            one.lost,
        ));
    }
    books::settle(&stage, sale.id, &promises, &mut outcome).await?;
    books::nothing_parked(&stage, &mut outcome).await?;
    outcome.recovery_ms = Recovery::of(&serving);
    if let (Some(serving), Some(quiet)) = (serving.iter().max(), quiets.iter().max()) {
        outcome.bound("serving after the stores are up", *serving, SERVING_WITHIN);
        outcome.bound("quiet after the stores are up", *quiet, QUIET_WITHIN);
    }
    drop(stage); // Before the servers that its databases are on.
    Ok(outcome)
}

/// Starts again what ended because a store was away.
async fn supervise(stage: &mut Stage) -> Probe {
    loop {
        for (name, _) in stage.world.services.ended() {
            stage.world.services.start_again(&name);
        }
        tokio::time::sleep(SUPERVISE).await;
    }
}
