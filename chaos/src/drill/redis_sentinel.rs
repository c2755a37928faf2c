//! The primary of a Redis with sentinels is killed, then cut off, then killed again, each in the middle of a wave of buyers.

use testkit::RedisSentinels;
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
    let mut outcome = Outcome::new("redis-sentinel", count);
    let mut redis = RedisSentinels::start().await;
    let sentinels = redis.addresses();
    // The address of the world's own server stays in the settings; only its user counts.
    let settings = [
        ("STOCK_SERVICE__REDIS__MODE", "sentinel"),
        ("STOCK_SERVICE__REDIS__ADDRESSES", sentinels.as_str()),
        ("STOCK_SERVICE__REDIS__MASTER_NAME", redis.master_name()),
    ];
    let stage = Stage::start(2, &settings).await?;
    let crowd = stage.buyers("buyer", WAVE * count).await?;
    let probes = stage.buyers("probe", count).await?;
    let sale = stage.open_sale((WAVE + 1) * count, 1).await?;
    let (item, mut promises, mut times) = (sale.items[0].id, Promises::default(), Vec::new());

    for (n, (buyers, prober)) in crowd.chunks(usize::try_from(WAVE)?).zip(probes.iter()).enumerate() {
        let primary = redis.primary().await;
        let wave = Wave::start(&stage.client, buyers.to_vec(), item, AT_ONCE);
        wave.under_way(BEFORE).await;
        let (away, dies) = (Instant::now(), n % 2 == 0);
        if dies {
            redis.stop(primary);
        } else {
            redis.freeze(primary);
        }
        let what = if dies { "killed" } else { "cut off" };
        if let Probe::Open(time, order) = probe(&stage.client, prober, item, away).await? {
            promises.accepted.insert(order);
            say(&format!("  primary {what}: orders again after {} ms", milliseconds(time)));
            times.push(time);
        }
        redis.replaced(primary).await;
        if dies {
            redis.resume(primary).await;
        } else {
            // It wakes up in the belief that it is the primary, while buyers buy.
            redis.unfreeze(primary);
        }
        promises.add(wave.end().await?);
        redis.healthy().await;
    }
    books::settle(&stage, sale.id, &promises, &mut outcome).await?;
    books::nothing_parked(&stage, &mut outcome).await?;
    let (sold, wanted) = (u64::try_from(promises.accepted.len())?, (WAVE + 1) * count);
    outcome.require(sold == wanted, format_args!("{sold} of {wanted} units were sold"));
    outcome.recovery_ms = Recovery::of(&times);
    drop(stage); // Before the servers that it talks to.
    Ok(outcome)
}
