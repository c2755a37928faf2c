//! What admins list is read from a streaming replica, as long as it is not too far behind.

use diesel_async::{AsyncConnection as _, AsyncPgConnection, SimpleAsyncConnection as _};
use reqwest::Method;
use testkit::{Database, PostgresServer, eventually};

use crate::support::{Instance, Wanted, World, answer, reserved};

/// How many orders an admin sees.
async fn listed(instance: &Instance) -> usize {
    let call = instance.call(Method::GET, "/admin/orders?limit=100", "root").header("x-user-role", "admin");
    let (status, page) = answer(call).await;
    assert_eq!(status, 200, "{page}");
    page["items"].as_array().expect("a page").len()
}

async fn becomes_listed(instance: &Instance, orders: usize) {
    let what = format!("{orders} orders are listed");
    eventually(&what, async || (listed(instance).await == orders).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_read_while_it_is_recent_and_the_primary_when_it_is_not() {
    let primary = PostgresServer::start().await;
    let world = World::on(Database::create_on(&primary, "replica").await).await;
    let mut replica = primary.start_replica().await;
    let url = replica.url_of(&world.database);
    let lag =
        |lag_max_ms| [("DATABASE__REPLICA_URL", url.as_str()), ("DATABASE__REPLICA_LAG_MAX_MS", lag_max_ms)];
    // One that takes what was true a minute ago, and one that does not.
    let (patient, strict) =
        (world.instance_with(&lag("60000")).await, world.instance_with(&lag("1000")).await);
    let item = world.item(Wanted::default()).await;
    world.reserve(item, &[reserved(item, "u1", "key")]).await;
    becomes_listed(&patient, 1).await;
    becomes_listed(&strict, 1).await;

    // Replay stands still: what is new is on the primary alone.
    let mut to_replica = AsyncPgConnection::establish(&url).await.expect("the replica answers");
    to_replica.batch_execute("SELECT pg_wal_replay_pause()").await.expect("replay is paused");
    world.reserve(item, &[reserved(item, "u2", "key")]).await;
    world.number_becomes("SELECT count(*) FROM orders", 2).await;
    becomes_listed(&strict, 2).await;
    becomes_listed(&patient, 1).await;

    to_replica.batch_execute("SELECT pg_wal_replay_resume()").await.expect("replay goes on");
    becomes_listed(&patient, 2).await;

    // It dies: nobody notices.
    replica.stop();
    for instance in [&patient, &strict, &patient, &strict] {
        assert_eq!(listed(instance).await, 2);
    }
}
