//! A slot is moved, and its primary killed, in the middle of a sale that is kept in a Redis Cluster.

use redis_route::slot_of;
use stock_service::keys::ItemKeys;
use testkit::RedisCluster;
use tokio::time::Instant;

use super::books::{self, Promises};
use super::report::{milliseconds, say};
use super::rush::{Probe, Wave, probe};
use super::stage::Stage;
use super::{Outcome, Recovery};

const WAVE: u64 = 400;
const BEFORE: u64 = 100;
const AT_ONCE: usize = 32;
/// Waves of each round: one while the slot moves, one while its primary dies.
const WAVES: u64 = 2;

pub(super) async fn run(count: u64) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new("redis-cluster", count);
    let mut cluster = RedisCluster::start().await;
    let addresses = cluster.addresses();
    // The address of the world's own server stays in the settings and is of no use: it is in no cluster.
    let settings =
        [("STOCK_SERVICE__REDIS__MODE", "cluster"), ("STOCK_SERVICE__REDIS__ADDRESSES", addresses.as_str())];
    let stage = Stage::start(2, &settings).await?;
    let crowd = stage.buyers("buyer", WAVE * WAVES * count).await?;
    let probes = stage.buyers("probe", WAVES * count).await?;
    let sale = stage.open_sale((WAVE + 1) * WAVES * count, 1).await?;
    let (item, mut promises) = (sale.items[0].id, Promises::default());
    let slot = slot_of(&ItemKeys::of(item).item);
    let (mut moves, mut fail_overs) = (Vec::new(), Vec::new());

    for (n, (buyers, prober)) in crowd.chunks(usize::try_from(WAVE)?).zip(probes.iter()).enumerate() {
        let wave = Wave::start(&stage.client, buyers.to_vec(), item, AT_ONCE);
        wave.under_way(BEFORE).await;
        let (begun, dies) = (Instant::now(), n % 2 == 1);
        let owner = cluster.owner(slot).await;
        if dies {
            cluster.stop(owner);
        } else {
            cluster.move_slot(slot).await;
        }
        if let Probe::Open(time, order) = probe(&stage.client, prober, item, begun).await? {
            promises.accepted.insert(order);
            if dies {
                fail_overs.push(time)
            } else {
                moves.push(time)
            }
            let what = if dies { "primary killed" } else { "slot moved" };
            say(&format!("  {what}: orders again after {} ms", milliseconds(time)));
        }
        promises.add(wave.end().await?);
        if dies {
            cluster.resume(owner).await;
        }
    }
    books::settle(&stage, sale.id, &promises, &mut outcome).await?;
    books::nothing_parked(&stage, &mut outcome).await?;
    let sold = u64::try_from(promises.accepted.len())?;
    let wanted = (WAVE + 1) * WAVES * count;
    outcome.require(sold == wanted, format_args!("{sold} of {wanted} units were sold"));
    outcome.recovery_ms = Recovery::of(&fail_overs);
    if let Some(Recovery { median, max }) = Recovery::of(&moves) {
        outcome.figure("slot_move_ms_median", median);
        outcome.figure("slot_move_ms_max", max);
    }
    Ok(outcome)
}
