//! The database goes away or stands still: nothing is parked, nothing is lost, all of it is drained.

use std::time::Duration;

use diesel_async::SimpleAsyncConnection as _;
use testkit::eventually;

use crate::support::{Wanted, World, reserved};

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_is_waited_for() {
    let world = World::start("away").await;
    let item = world.item(Wanted::default()).await;
    let instance = world.instance().await;
    world.reserve(item, &[reserved(item, "first", "key")]).await;
    world.number_becomes("SELECT count(*) FROM orders", 1).await;

    world.database.block().await;
    for n in 0..5 {
        world.reserve(item, &[reserved(item, &format!("u{n}"), "key")]).await;
    }
    let order = reserved(item, "first", "key").data.order_id;
    let (status, problem) = instance.get(&format!("/orders/{order}"), "first").await;
    assert_eq!((status, problem["code"].as_str()), (503, Some("unavailable")));
    let ready = || instance_ready(&world, &instance);
    eventually("the outage is shown", async || (ready().await.contains("does not answer")).then_some(()))
        .await;

    world.database.unblock().await;
    world.number_becomes("SELECT count(*) FROM orders", 6).await;
    assert_eq!(world.number("SELECT taken FROM items").await, 6);
    assert_eq!(world.number("SELECT count(*) FROM dead_letters").await, 0);
    eventually("all is well", async || (!ready().await.contains("does not answer")).then_some(())).await;
}

async fn instance_ready(world: &World, instance: &crate::support::Instance) -> String {
    let url = format!("http://{}/readyz", instance.address);
    world.client.get(url).send().await.expect("it answers").text().await.expect("a body")
}

#[tokio::test(flavor = "multi_thread")]
async fn backends_that_are_killed_in_the_middle_lose_nothing() {
    let world = World::start("killed").await;
    let item = world.item(Wanted { total: 1_000, ..Wanted::default() }).await;
    let _instances = (world.instance().await, world.instance().await);

    for round in 0..30 {
        let events: Vec<_> = (0..10).map(|n| reserved(item, &format!("u{round}-{n}"), "key")).collect();
        world.reserve(item, &events).await;
        if round % 5 == 0 {
            world.database.close_all_connections().await;
        }
    }

    world.number_becomes("SELECT count(*) FROM orders", 300).await;
    assert_eq!(world.number("SELECT taken FROM items").await, 300);
    assert_eq!(world.number("SELECT count(*) FROM dead_letters").await, 0);
    world.number_becomes("SELECT count(*) FROM outbox WHERE published_at IS NULL", 0).await;
}

/// A lock that is held for longer than every time-out: the batch is tried again until it gets through.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_locked_is_waited_for() {
    let world = World::start("locked").await;
    let item = world.item(Wanted::default()).await;
    let timeouts = [("DATABASE__LOCK_TIMEOUT_MS", "100"), ("DATABASE__STATEMENT_TIMEOUT_MS", "200")];
    let _instance = world.instance_with(&timeouts).await;

    let mut blocker = world.connection().await;
    blocker.batch_execute("BEGIN; LOCK TABLE items IN ACCESS EXCLUSIVE MODE").await.expect("a lock");
    let events: Vec<_> = (0..20).map(|n| reserved(item, &format!("u{n}"), "key")).collect();
    world.reserve(item, &events).await;
    // Several attempts run into the lock meanwhile.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.number("SELECT count(*) FROM dead_letters").await, 0);
    blocker.batch_execute("COMMIT").await.expect("no lock");

    world.number_becomes("SELECT count(*) FROM orders", 20).await;
    assert_eq!(world.number("SELECT count(*) FROM dead_letters").await, 0);
}

/// Requests that are stuck have connections of their own to be stuck on.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_stuck_requests_does_not_keep_orders_from_being_made() {
    let world = World::start("crowd").await;
    let item = world.item(Wanted::default()).await;
    let instance = world.instance_with(&[("DATABASE__POOL_SIZE", "2")]).await;
    let mut blocker = world.connection().await;
    blocker.batch_execute("BEGIN; LOCK TABLE dead_letters IN ACCESS EXCLUSIVE MODE").await.expect("a lock");
    let crowd: Vec<_> = (0..20)
        .map(|_| instance.call(reqwest::Method::GET, "/admin/dead-letters", "root").send())
        .map(tokio::spawn)
        .collect();
    let stuck = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
                 AND datname = current_database() AND query LIKE '%first_seen_at%'";
    world.number_becomes(stuck, 2).await;

    let events: Vec<_> = (0..20).map(|n| reserved(item, &format!("u{n}"), "key")).collect();
    world.reserve(item, &events).await;
    world.number_becomes("SELECT count(*) FROM orders", 20).await;
    assert_eq!(world.number(stuck).await, 2, "they are still stuck");

    blocker.batch_execute("COMMIT").await.expect("no lock");
    for request in crowd {
        request.await.expect("no panic").expect("an answer");
    }
}
