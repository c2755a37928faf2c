//! What admins list is read from a streaming replica, as long as it is not too far behind.

use diesel_async::{AsyncConnection as _, AsyncPgConnection, SimpleAsyncConnection as _};
use reqwest::Method;
use testkit::{Database, PostgresServer, eventually};

use crate::support::{Instance, Wanted, World, answer, reserved};

const LAG_MAX_MS: &str = "1000";

/// How often each of the two was read.
async fn reads(world: &World, instance: &Instance) -> (u64, u64) {
    let url = format!("http://{}/metrics", instance.address);
    let text = world.client.get(url).send().await.expect("it answers").text().await.expect("a body");
    let from = |place: &str| {
        let name = format!("reports_read_total{{from=\"{place}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or(0)
    };
    (from("replica"), from("primary"))
}

async fn listed(instance: &Instance) -> usize {
    let call = instance.call(Method::GET, "/admin/orders?limit=100", "root").header("x-user-role", "admin");
    let (status, page) = answer(call).await;
    assert_eq!(status, 200, "{page}");
    page["items"].as_array().expect("a page").len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_read_while_it_is_recent_and_the_primary_when_it_is_not() {
    let primary = PostgresServer::start().await;
    let world = World::on(Database::create_on(&primary, "replica").await).await;
    let mut replica = primary.start_replica().await;
    let replica_url = replica.url_of(&world.database);
    let settings =
        [("DATABASE__REPLICA_URL", replica_url.as_str()), ("DATABASE__REPLICA_LAG_MAX_MS", LAG_MAX_MS)];
    let instance = world.instance_with(&settings).await;
    let item = world.item(Wanted::default()).await;
    world.reserve(item, &[reserved(item, "u1", "key")]).await;

    eventually("the order is listed, from the replica", async || {
        (listed(&instance).await == 1 && reads(&world, &instance).await.0 > 0).then_some(())
    })
    .await;

    // Replay stands still: what is new is on the primary alone, and is listed all the same.
    let mut to_replica = AsyncPgConnection::establish(&replica_url).await.expect("the replica answers");
    to_replica.batch_execute("SELECT pg_wal_replay_pause()").await.expect("replay is paused");
    world.reserve(item, &[reserved(item, "u2", "key")]).await;
    eventually("the new order is listed", async || (listed(&instance).await == 2).then_some(())).await;
    let (from_replica, _) = reads(&world, &instance).await;
    assert_eq!(listed(&instance).await, 2, "from the primary, as long as the replica is behind");
    assert_eq!(reads(&world, &instance).await.0, from_replica);

    to_replica.batch_execute("SELECT pg_wal_replay_resume()").await.expect("replay goes on");
    eventually("the replica is read again", async || {
        (listed(&instance).await == 2 && reads(&world, &instance).await.0 > from_replica).then_some(())
    })
    .await;

    // It dies: nobody notices.
    replica.stop();
    for _ in 0..5 {
        assert_eq!(listed(&instance).await, 2);
    }
}
