//! Orders over HTTP: owners only, listing, waiting, refusals.

use std::time::Duration;

use common::api::{Order, OrderStatus};
use reqwest::Method;
use testkit::eventually;
use uuid::Uuid;

use crate::support::{Wanted, World, answer, reserved};

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_order_does_not_exist() {
    let world = World::start("owner").await;
    let item = world.item(Wanted::default()).await;
    let instance = world.instance().await;
    let event = reserved(item, "ann", "key");
    world.reserve(item, std::slice::from_ref(&event)).await;
    let order = event.data.order_id;
    instance.order_becomes(order, "ann", OrderStatus::PendingPayment).await;

    let path = format!("/orders/{order}");
    let theirs = instance.get(&path, "bob").await;
    let nobodys = instance.get(&format!("/orders/{}", Uuid::new_v4()), "bob").await;
    assert_eq!(theirs, nobodys, "the two cannot be told apart");
    assert_eq!((theirs.0, theirs.1["code"].as_str()), (404, Some("not_found")));
    assert_eq!(instance.post(&format!("{path}/cancel"), "bob").await.0, 404);
    assert_eq!(instance.get("/orders", "bob").await.1["items"].as_array().unwrap().len(), 0);
    instance.order_becomes(order, "ann", OrderStatus::PendingPayment).await;

    // Cancelling ends it, once.
    let (status, cancelled) = instance.post(&format!("{path}/cancel"), "ann").await;
    assert_eq!(
        (status, cancelled["status"].as_str(), cancelled["version"].as_i64()),
        (200, Some("cancelled"), Some(2))
    );
    let (status, problem) = instance.post(&format!("{path}/cancel"), "ann").await;
    assert_eq!((status, problem["code"].as_str()), (409, Some("invalid_transition")));
    assert_eq!(world.number("SELECT taken FROM items").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_has_every_order_once_newest_first() {
    let world = World::start("listing").await;
    let item = world.item(Wanted { per_user_limit: 100, ..Wanted::default() }).await;
    let instance = world.instance().await;
    // Many of one moment, and some of others.
    let events: Vec<_> = (0..12).map(|n| reserved(item, "ann", &format!("k{n}"))).collect();
    world.reserve(item, &events).await;
    world.number_becomes("SELECT count(*) FROM orders", 12).await;
    world.reserve(item, &[reserved(item, "ann", "later"), reserved(item, "bob", "k")]).await;
    world.number_becomes("SELECT count(*) FROM orders", 14).await;

    let (mut seen, mut path) = (Vec::<Order>::new(), "/orders?limit=5".to_owned());
    loop {
        let (status, page) = instance.get(&path, "ann").await;
        assert_eq!(status, 200);
        let items: Vec<Order> = serde_json::from_value(page["items"].clone()).unwrap();
        assert!(!items.is_empty() && items.len() <= 5);
        seen.extend(items);
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/orders?limit=5&cursor={cursor}");
    }
    assert_eq!(seen.len(), 13);
    assert!(seen.is_sorted_by(|a, b| (a.created_at, a.id) > (b.created_at, b.id)), "strictly newest first");

    for (query, field) in
        [("limit=0", "limit"), ("limit=101", "limit"), ("cursor=xyz", "cursor"), ("limit=x", "limit")]
    {
        let (status, problem) = instance.get(&format!("/orders?{query}"), "ann").await;
        assert_eq!((status, problem["field"].as_str()), (400, Some(field)), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_is_answered_when_the_order_changes() {
    let world = World::start("waiting").await;
    let item = world.item(Wanted::default()).await;
    let instance = world.instance().await;
    let event = reserved(item, "ann", "key");
    world.reserve(item, std::slice::from_ref(&event)).await;
    let order = event.data.order_id;
    instance.order_becomes(order, "ann", OrderStatus::PendingPayment).await;

    // A version that it has already: at once.
    let (_, now) = instance.get(&format!("/orders/{order}?wait=20&version=0"), "ann").await;
    assert_eq!(now["version"], 1);
    let waiting: Vec<_> = ["?wait=25&version=1", "?wait=25"]
        .into_iter()
        .map(|query| {
            tokio::spawn(answer(instance.call(Method::GET, &format!("/orders/{order}{query}"), "ann")))
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(waiting.iter().all(|one| !one.is_finished()));
    assert_eq!(instance.post(&format!("/orders/{order}/cancel"), "ann").await.0, 200);
    for one in waiting {
        let (status, body) = one.await.unwrap();
        assert_eq!((status, body["status"].as_str()), (200, Some("cancelled")));
    }
    // Nothing more will happen: no reason to wait.
    let (_, end) = instance.get(&format!("/orders/{order}?wait=25"), "ann").await;
    assert_eq!(end["status"], "cancelled");
    let (_, late) = instance.get(&format!("/orders/{order}?wait=1&version=2"), "ann").await;
    assert_eq!(late["version"], 2);
}

/// A client that waits is answered at once when the instance stops, and does not hold it up.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_waiting() {
    let world = World::start("stop_waiting").await;
    let item = world.item(Wanted::default()).await;
    let instance = world.instance_with(&[("DRAIN__TIMEOUT_MS", "60000")]).await;
    let event = reserved(item, "ann", "key");
    world.reserve(item, std::slice::from_ref(&event)).await;
    let order = event.data.order_id;
    instance.order_becomes(order, "ann", OrderStatus::PendingPayment).await;

    let path = format!("/orders/{order}?wait=30&version=1");
    let waiting = tokio::spawn(answer(instance.call(Method::GET, &path, "ann")));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let began = std::time::Instant::now();
    instance.stop().await;
    let (status, body) = waiting.await.unwrap();
    assert_eq!((status, body["version"].as_i64()), (200, Some(1)));
    assert!(began.elapsed() < Duration::from_secs(25), "it waited for the waiting client");
}

/// Reservations are on their way, events are in the outbox, somebody waits: a stop finishes what is in hand, and the
/// rest is found by whoever comes next.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_the_middle_of_a_flood_loses_nothing() {
    const MESSAGES: usize = 60;
    let world = World::start("stop_flood").await;
    let item = world.item(Wanted { total: 10_000, ..Wanted::default() }).await;
    let heard = world.listen();
    let mut instance = world.instance().await;
    let flood = async {
        for n in 0..MESSAGES {
            let events: Vec<_> = (0..10).map(|m| reserved(item, &format!("u{n}-{m}"), "key")).collect();
            world.reserve(item, &events).await;
        }
    };
    let stopping = async {
        for number in [20, 200, 400] {
            let enough = format!("SELECT (count(*) >= {number})::int FROM orders");
            world.number_becomes(&enough, 1).await;
            let stopped = tokio::time::timeout(Duration::from_secs(25), instance.stop());
            stopped.await.expect("it does not take longer than a grace period");
            instance = world.instance().await;
        }
        instance
    };
    let ((), _instance) = tokio::join!(flood, stopping);

    let orders = i64::try_from(MESSAGES * 10).unwrap();
    world.number_becomes("SELECT count(*) FROM orders", orders).await;
    world.number_becomes("SELECT count(*) FROM outbox WHERE published_at IS NULL", 0).await;
    assert_eq!(world.number("SELECT taken FROM items").await, orders);
    assert_eq!(world.number("SELECT count(*) FROM dead_letters").await, 0);
    eventually("all of it is told", async || (heard.news().len() == MESSAGES * 10).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_nonsense_are_refused() {
    let world = World::start("strangers").await;
    let instance = world.instance().await;
    let (status, problem) = answer(world.client.get(instance.url("/orders"))).await;
    assert_eq!((status, problem["code"].as_str()), (401, Some("unauthenticated")));
    let nobody = world.client.get(instance.url("/orders")).header("x-internal-token", crate::support::TOKEN);
    assert_eq!(answer(nobody).await.0, 401);
    assert_eq!(instance.get("/orders", "not a user").await.0, 401);
    assert_eq!(instance.get("/orders/17", "ann").await.0, 400);
    let (status, problem) = instance.get("/nonsense", "ann").await;
    assert_eq!((status, problem["code"].as_str()), (404, Some("not_found")));
}

/// Several instances start on an empty database at once, and again on a full one; a stop is clean.
#[tokio::test(flavor = "multi_thread")]
async fn instances_start_together_and_again() {
    let world = World::start("starting").await;
    let (first, second, third) = tokio::join!(world.instance(), world.instance(), world.instance());
    first.stop().await;
    second.stop().await;
    third.stop().await;
    world.instance().await.stop().await;
}
