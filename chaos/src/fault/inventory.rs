//! What happens to Redis.

use std::net::SocketAddr;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use testkit::Redis;
use tokio::time::sleep;

use crate::world::{Edge, World};

/// The keys of items.
const ITEMS: &str = "item:*";
/// What a spoiled key holds.
const SPOILT: &str = "not an item";
/// Less than an empty server uses: every write is refused.
const NO_MEMORY_BYTES: u64 = 1;

/// The Redis of the world, running and answering, whatever was done to it.
pub(super) async fn awake(world: &mut World) -> &Redis {
    let redis = world.services.redis_mut();
    if redis.is_running() {
        redis.unfreeze();
    } else {
        redis.resume().await;
    }
    world.services.redis()
}

async fn connect(world: &mut World) -> anyhow::Result<MultiplexedConnection> {
    let url = awake(world).await.url();
    Ok(redis::Client::open(url)?.get_multiplexed_async_connection().await?)
}

pub(super) async fn flush(world: &mut World) -> anyhow::Result<()> {
    redis::cmd("FLUSHALL").arg("SYNC").exec_async(&mut connect(world).await?).await?;
    Ok(())
}

pub(super) async fn flush_scripts(world: &mut World) -> anyhow::Result<()> {
    redis::cmd("SCRIPT").arg("FLUSH").exec_async(&mut connect(world).await?).await?;
    Ok(())
}

pub(super) async fn go_back(world: &mut World, age_ms: u64) {
    let copy = awake(world).await.copy();
    sleep(Duration::from_millis(age_ms)).await;
    world.services.redis_mut().restart_from(&copy).await;
}

/// The replica stops listening to its primary some time before that one dies.
pub(super) async fn fail_over(world: &mut World, lag_ms: u64) -> anyhow::Result<()> {
    let mut replica = awake(world).await.start_replica().await;
    replica.promote().await;
    sleep(Duration::from_millis(lag_ms)).await;
    let address = SocketAddr::from(([127, 0, 0, 1], replica.port()));
    let mut old = std::mem::replace(world.services.redis_mut(), replica);
    old.stop();
    world.proxies(Edge::StockToRedis).iter().for_each(|proxy| proxy.retarget(address));
    Ok(())
}

pub(super) async fn fill(world: &mut World) -> anyhow::Result<()> {
    limit_memory(world, NO_MEMORY_BYTES).await
}

pub(super) async fn make_room(world: &mut World) -> anyhow::Result<()> {
    limit_memory(world, 0).await
}

async fn limit_memory(world: &mut World, bytes: u64) -> anyhow::Result<()> {
    let mut connection = connect(world).await?;
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes).exec_async(&mut connection).await?;
    Ok(())
}

async fn items(connection: &mut MultiplexedConnection) -> anyhow::Result<Vec<String>> {
    Ok(redis::cmd("KEYS").arg(ITEMS).query_async(connection).await?)
}

/// One item's hash becomes a text, whichever is the first.
pub(super) async fn spoil(world: &mut World) -> anyhow::Result<()> {
    let mut connection = connect(world).await?;
    if let Some(key) = items(&mut connection).await?.into_iter().min() {
        redis::pipe().atomic().del(&key).set(&key, SPOILT).exec_async(&mut connection).await?;
    }
    Ok(())
}

/// Removes what is still spoiled, as an operator would.
pub(super) async fn unspoil(world: &mut World) -> anyhow::Result<()> {
    let mut connection = connect(world).await?;
    for key in items(&mut connection).await? {
        let kind: String = redis::cmd("TYPE").arg(&key).query_async(&mut connection).await?;
        if kind == "string" {
            redis::cmd("DEL").arg(&key).exec_async(&mut connection).await?;
        }
    }
    Ok(())
}
