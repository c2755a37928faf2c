//! The database goes away or stands still: nothing is parked, nothing is lost, all of it is drained.

use std::time::Duration;

use diesel_async::SimpleAsyncConnection as _;
use reqwest::Method;
use testkit::eventually;
use tokio::net::lookup_host;
use url::Url;

use crate::desk::Desk;
use crate::proxy::Proxy;
use crate::support::{Instance, Wanted, World, reserved};

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

/// An instance whose way to the database leads through a proxy.
async fn behind_proxy(world: &World, overrides: &[(&str, &str)]) -> (Instance, Proxy) {
    let mut url: Url = world.database.url().parse().expect("an address");
    let server = format!("{}:{}", url.host_str().expect("a host"), url.port().expect("a port"));
    let server = lookup_host(server).await.expect("the host is known").next().expect("an address");
    let proxy = Proxy::start(server).await;
    url.set_ip_host(proxy.address.ip()).expect("a host");
    url.set_port(Some(proxy.address.port())).expect("a port");
    let through = ("DATABASE__URL", url.as_str());
    (world.instance_with(&[&[through], overrides].concat()).await, proxy)
}

/// The transaction is committed and nobody hears of it: done again, it has no second effect.
#[tokio::test(flavor = "multi_thread")]
async fn commits_whose_answers_are_lost_have_no_second_effect() {
    let world = World::start("lost_commit").await;
    let item = world.item(Wanted { total: 1_000, ..Wanted::default() }).await;
    let (_instance, proxy) = behind_proxy(&world, &[]).await;

    for round in 0..10 {
        proxy.lose_commits(3);
        let events: Vec<_> = (0..20).map(|n| reserved(item, &format!("u{round}-{n}"), "key")).collect();
        world.reserve(item, &events).await;
        eventually("the answers are lost", async || (proxy.to_lose() == 0).then_some(())).await;
    }

    world.number_becomes("SELECT count(*) FROM orders", 200).await;
    world.number_becomes("SELECT count(*) FROM outbox WHERE published_at IS NULL", 0).await;
    assert_eq!(world.number("SELECT taken FROM items").await, 200);
    assert_eq!(world.number("SELECT count(*) FROM order_transitions").await, 200);
    assert_eq!(world.number("SELECT count(*) FROM dead_letters").await, 0);
}

/// What a buyer hears then is that nobody knows; and asking again tells.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_whose_commit_is_not_answered_has_an_unknown_outcome() {
    let desk = Desk::open("lost_cancel").await;
    let sale = desk.open_sale(10).await;
    let order = desk.order(&sale, "ann", 1).await;
    // Nothing but this request commits anything meanwhile.
    let quiet = [("EXPIRY__INTERVAL_MS", "600000"), ("DEAD_LETTERS__INTERVAL_MS", "600000")];
    let (instance, proxy) = behind_proxy(&desk.world, &quiet).await;
    let path = format!("/orders/{order}/cancel");
    let answer = eventually("the answer to this commit is lost", async || {
        proxy.lose_commits(1);
        let answer = instance.call(Method::POST, &path, "ann").send().await.expect("an answer");
        (answer.status() != 409).then_some(answer)
    })
    .await;
    if answer.status() == 503 {
        assert_eq!(answer.headers()["x-outcome"], "unknown");
    }
    proxy.lose_commits(0);
    // The commit is on its way to the database when its connection breaks: it may take effect a moment later.
    instance.order_becomes(order, "ann", common::api::OrderStatus::Cancelled).await;
    assert_eq!(instance.post(&path, "ann").await.0, 409);
    assert_eq!(desk.world.number("SELECT count(*) FROM order_transitions").await, 2);
    assert_eq!(desk.world.number("SELECT taken FROM items").await, 0);
}

/// The connections stay open and carry nothing back: they are given up, and new ones work.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_swallows_questions_is_left() {
    let world = World::start("mute").await;
    let item = world.item(Wanted::default()).await;
    let (instance, proxy) = behind_proxy(&world, &[("DATABASE__STATEMENT_TIMEOUT_MS", "500")]).await;
    world.reserve(item, &[reserved(item, "first", "key")]).await;
    world.number_becomes("SELECT count(*) FROM orders", 1).await;

    proxy.mute(true);
    for n in 0..5 {
        world.reserve(item, &[reserved(item, &format!("u{n}"), "key")]).await;
    }
    let order = reserved(item, "first", "key").data.order_id;
    let (status, problem) = instance.get(&format!("/orders/{order}"), "first").await;
    assert_eq!((status, problem["code"].as_str()), (503, Some("unavailable")));

    proxy.mute(false);
    world.number_becomes("SELECT count(*) FROM orders", 6).await;
    assert_eq!(world.number("SELECT taken FROM items").await, 6);
    let (status, _) = instance.get(&format!("/orders/{order}"), "first").await;
    assert_eq!(status, 200);
}

/// Whoever waits gives up before a connection is open; it is there for those who come next.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_takes_longer_to_connect_to_than_anybody_waits_is_used_all_the_same() {
    let world = World::start("slow_connect").await;
    let item = world.item(Wanted::default()).await;
    let impatient = [("DATABASE__POOL_WAIT_MS", "400"), ("DATABASE__CONNECT_TIMEOUT_MS", "10000")];
    let (instance, proxy) = behind_proxy(&world, &impatient).await;
    proxy.be_slow_to_connect(Duration::from_millis(1_500));
    world.database.close_all_connections().await;

    world.reserve(item, &[reserved(item, "first", "key")]).await;
    world.number_becomes("SELECT count(*) FROM orders", 1).await;
    let order = reserved(item, "first", "key").data.order_id;
    eventually("orders can be read", async || {
        (instance.get(&format!("/orders/{order}"), "first").await.0 == 200).then_some(())
    })
    .await;
}

/// Readers go on, writers are refused with nothing done, reservations wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_can_only_be_read_refuses_writers_and_loses_nothing() {
    let desk = Desk::open("read_only").await;
    let sale = desk.open_sale(10).await;
    let order = desk.order(&sale, "ann", 1).await;
    let read_only = async |on: &str| {
        let name = &desk.world.words("SELECT current_database()").await[0];
        let sql = format!("ALTER DATABASE \"{name}\" SET default_transaction_read_only = {on}");
        // A session of its own may write whatever its database says.
        desk.world.execute(&format!("BEGIN READ WRITE; {sql}; COMMIT")).await;
        desk.world.database.close_all_connections().await;
    };
    read_only("on").await;

    let item = crate::support::Item { id: sale.items[0].id, sale: sale.id };
    let mut event = reserved(item, "bob", "key");
    event.data.unit_price_cents = sale.items[0].price_cents;
    desk.world.reserve(item, &[event]).await;
    let refused = eventually("the refusal of a writer", async || {
        let call = desk.instance.call(Method::POST, &format!("/orders/{order}/cancel"), "ann");
        let answer = call.send().await.expect("an answer");
        // The first ones find out that their connections were closed.
        (answer.headers().get("x-outcome")? == "none").then_some(answer.status().as_u16())
    })
    .await;
    assert_eq!(refused, 503);
    assert_eq!(desk.shown("ann", order).await.status, common::api::OrderStatus::PendingPayment);
    assert_eq!(desk.world.number("SELECT count(*) FROM orders").await, 1);

    read_only("off").await;
    desk.world.number_becomes("SELECT count(*) FROM orders", 2).await;
    assert_eq!(desk.world.number("SELECT count(*) FROM dead_letters").await, 0);
}

/// Two transactions that lock the same rows the other way round, again and again.
#[tokio::test(flavor = "multi_thread")]
async fn deadlocks_are_retried_and_nobody_hears_of_them() {
    let desk = Desk::open("deadlock").await;
    let sale = desk.open_sale(1_000).await;
    let mut orders = Vec::new();
    for n in 0..5 {
        orders.push((format!("u{n}"), desk.order(&sale, &format!("u{n}"), 1).await));
    }
    for (user, order) in &orders {
        // A cancellation locks the order, then the item.
        let mut other = desk.world.connection().await;
        other.batch_execute("BEGIN; SELECT 1 FROM items FOR UPDATE").await.expect("a lock");
        let path = format!("/orders/{order}/cancel");
        let cancel = async { desk.instance.post(&path, user).await };
        let cross = async {
            let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
                         AND datname = current_database()";
            desk.world.number_becomes(waits, 1).await;
            // Whoever of the two is broken off.
            let crossing = format!(
                "SET LOCAL deadlock_timeout = '1h'; SELECT 1 FROM orders WHERE id = '{order}' FOR UPDATE"
            );
            other.batch_execute(&crossing).await.ok();
            other.batch_execute("ROLLBACK").await.expect("the end");
        };
        let ((status, body), ()) = tokio::join!(cancel, cross);
        assert_eq!(status, 200, "{body}");
    }
    assert_eq!(desk.world.number("SELECT taken FROM items").await, 0);
    let twice = "SELECT count(*) FROM orders WHERE version <> 2";
    assert_eq!(desk.world.number(twice).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_be_written_to_yet_is_waited_for_at_start() {
    let world = World::start("read_only").await;
    world.database.set_read_only(true).await;
    let settings = world.settings();
    let migrating = tokio::spawn(async move { order_service::db::migrate(&settings.database).await });
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!migrating.is_finished(), "it goes on trying");
    world.database.set_read_only(false).await;
    migrating.await.expect("it does not panic").expect("the database is migrated");
}

/// The version before makes orders while this one migrates.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_whose_table_is_in_use_is_tried_again_until_it_gets_through() {
    let world = World::start("migrating").await;
    let mut connection = world.connection().await;
    // As it was before the last migrations.
    let before =
        "ALTER TABLE orders ADD CONSTRAINT orders_item_id_fkey FOREIGN KEY (item_id) REFERENCES items (id);
                  DELETE FROM __diesel_schema_migrations WHERE version = '20261122000020'";
    connection.batch_execute(before).await.expect("the schema of the version before");
    connection.batch_execute("BEGIN; LOCK TABLE orders IN ROW EXCLUSIVE MODE").await.expect("a lock");

    let settings = world.settings();
    let migrating = tokio::spawn(async move { order_service::db::migrate(&settings.database).await });
    // Longer than a migration waits for a lock.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!migrating.is_finished(), "it goes on trying");
    connection.batch_execute("COMMIT").await.expect("the lock is given back");
    migrating.await.expect("it does not panic").expect("the database is migrated");
    let constraints = "SELECT count(*) FROM pg_constraint WHERE conname = 'orders_item_id_fkey'";
    assert_eq!(world.number(constraints).await, 0);
}
