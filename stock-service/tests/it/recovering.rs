//! Redis loses its process or its data in the middle of a sale.

use std::sync::atomic::Ordering;

use common::api::OrderStatus;
use common::api::inventory::{AdminHold, ReserveOutcome};
use common::messages::order::Units;
use futures_util::future::join_all;
use reqwest::StatusCode;
use stock_service::keys::{self, ItemKeys, Purpose};

use crate::support::app::{TestApp, order_id};

/// Sells some units, does `harm`, and asserts that everything is as it was and goes on.
async fn survives(harm: impl AsyncFnOnce(&mut TestApp)) {
    let mut app = TestApp::start().await;
    let item = app.open_item(10, 1).await;
    for name in ["a", "b", "c"] {
        assert_eq!(app.reserve(item, name, "k", 1).await, ReserveOutcome::Accepted);
    }
    app.assert_quiet_and_equal(item).await;
    app.orders.move_order(order_id(item, "b", "k"), Units::Sold, OrderStatus::Paid).await;
    app.orders.move_order(order_id(item, "c", "k"), Units::Returned, OrderStatus::Cancelled).await;
    testkit::eventually("the books have followed", async || {
        Some(app.books(item).await).filter(|books| (books.sold, books.available) == (1, 8))
    })
    .await;

    harm(&mut app).await;

    // Accepted before: accepted again, also the one whose order is over.
    for name in ["a", "b", "c"] {
        let again = app.reserve_until_decided(item, name, "k", 1).await;
        assert_eq!(again, ReserveOutcome::Accepted, "{name}");
    }
    let books = app.assert_quiet_and_equal(item).await;
    assert_eq!((books.available, books.held, books.sold), (8, 1, 1));
    assert!(books.epoch >= 2, "the item was loaded anew: {books:?}");
    assert_eq!(app.reserve_until_decided(item, "a", "k2", 1).await, ReserveOutcome::LimitExceeded);

    let names: Vec<String> = (0..20).map(|n| format!("new{n}")).collect();
    let outcomes = join_all(names.iter().map(|name| app.reserve_until_decided(item, name, "k", 1))).await;
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == ReserveOutcome::Accepted).count(), 8);
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == ReserveOutcome::SoldOut).count(), 12);
    assert_eq!(app.assert_quiet_and_equal(item).await.available, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_with_data() {
    survives(async |app| app.redis.kill_and_restart().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_without_data() {
    survives(async |app| app.redis.wipe().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_of_the_running_server() {
    survives(async |app| app.redis.flush_all().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn evil_data_at_every_key() {
    survives(async |app| {
        for item in app.catalogue().await.items {
            for key in &ItemKeys::of(item.item_id).all()[..5] {
                let _: () = app.redis_command(&["SET", key, "evil"]).await;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_that_was_on_its_way_survives_a_flush() {
    let app = TestApp::start().await;
    let item = app.open_item(2, 1).await;
    app.orders.switches.paused.store(true, Ordering::SeqCst);
    assert_eq!(app.reserve(item, "a", "k", 1).await, ReserveOutcome::Accepted);
    app.redis.flush_all().await;
    // While the gate is closed nobody is told that there is no such order.
    testkit::eventually("the closed gate is noticed", async || {
        (app.reservation(order_id(item, "a", "k")).await.status() == StatusCode::SERVICE_UNAVAILABLE)
            .then_some(())
    })
    .await;
    app.orders.switches.paused.store(false, Ordering::SeqCst);
    assert_eq!(app.reserve_until_decided(item, "a", "k", 1).await, ReserveOutcome::Accepted);
    assert_eq!(app.reserve_until_decided(item, "b", "k", 1).await, ReserveOutcome::Accepted);
    assert_eq!(app.reserve_until_decided(item, "c", "k", 1).await, ReserveOutcome::SoldOut);
    let books = app.assert_quiet_and_equal(item).await;
    assert_eq!((books.available, books.held), (0, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn order_events_that_come_while_the_gate_is_closed_are_not_lost() {
    let app = TestApp::start().await;
    let item = app.open_item(3, 1).await;
    for name in ["a", "b"] {
        assert_eq!(app.reserve(item, name, "k", 1).await, ReserveOutcome::Accepted);
    }
    app.assert_quiet_and_equal(item).await;

    // The load begins and waits for its fence; meanwhile an order expires and another one is paid.
    app.orders.switches.paused.store(true, Ordering::SeqCst);
    app.redis.flush_all().await;
    let epochs = app.orders.switches.epochs.load(Ordering::SeqCst);
    testkit::eventually("a load has begun", async || {
        (app.orders.switches.epochs.load(Ordering::SeqCst) > epochs).then_some(())
    })
    .await;
    app.orders.move_order(order_id(item, "a", "k"), Units::Returned, OrderStatus::Expired).await;
    app.orders.move_order(order_id(item, "b", "k"), Units::Sold, OrderStatus::Paid).await;
    app.orders.change_item(item, |definition| definition.total = 5).await;
    app.orders.switches.paused.store(false, Ordering::SeqCst);

    app.until_open(item).await;
    testkit::eventually("the books have followed", async || {
        Some(app.books(item).await).filter(|books| (books.total, books.available, books.sold) == (5, 4, 1))
    })
    .await;
    app.assert_quiet_and_equal(item).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_away_answers_are_quick_and_have_no_effect() {
    let mut app = TestApp::start().await;
    let item = app.open_item(3, 1).await;
    app.redis.stop();
    testkit::eventually("the outage is noticed", async || {
        (app.reserve(item, "a", "k", 1).await == ReserveOutcome::Unavailable).then_some(())
    })
    .await;
    let shown =
        testkit::eventually("it is shown closed", async || app.shown(item).await.filter(|s| !s.open)).await;
    assert_eq!(
        (shown.available, shown.granted),
        (3, None),
        "the last known figures, and nothing to refuse by"
    );
    assert_eq!(app.get(&format!("/items/{item}/books")).send().await.unwrap().status(), 503);
    app.redis.resume().await;
    assert_eq!(app.reserve_until_decided(item, "a", "k", 1).await, ReserveOutcome::Accepted);
    assert_eq!(app.assert_quiet_and_equal(item).await.available, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_service_alone_does_not_need_order_service() {
    let app = TestApp::start().await;
    let item = app.open_item(3, 1).await;
    app.orders.switches.away.store(true, Ordering::SeqCst);
    let second = app.replica(&[]).await;
    app.until_ready(&second.url).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let path = format!("{}/internal/v1/items/{item}/reservations", second.url);
    let batch = common::api::inventory::ReserveBatch { requests: vec![app.request(item, "a", "k", 1)] };
    testkit::eventually("the new replica sells", async || {
        let call = client.post(&path).header("x-internal-token", crate::support::app::TOKEN).json(&batch);
        call.send().await.unwrap().text().await.unwrap().contains("accepted").then_some(())
    })
    .await;
    second.stop().await;
    assert_eq!(app.assert_quiet_and_equal(item).await.held, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_that_find_a_flush_load_once_and_sell_together() {
    let app = TestApp::start().await;
    let item = app.open_item(10, 10).await;
    let second = app.replica(&[]).await;
    app.until_ready(&second.url).await;
    app.redis.flush_all().await;
    assert_eq!(app.reserve_until_decided(item, "a", "k", 3).await, ReserveOutcome::Accepted);
    let books = app.assert_quiet_and_equal(item).await;
    assert_eq!((books.available, books.held), (7, 3));
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_is_over_and_settled_is_retired_and_not_loaded_again() {
    let app = TestApp::start_with(&[("RETIRE__KEEP_MS", "500")]).await;
    let item = app.open_item(3, 1).await;
    assert_eq!(app.reserve(item, "a", "k", 1).await, ReserveOutcome::Accepted);
    app.assert_quiet_and_equal(item).await;
    app.orders.change_item(item, |definition| definition.hold = AdminHold::Ended).await;
    testkit::eventually("the end is in force", async || {
        // More than anybody gets, so that it is not granted before.
        (app.reserve(item, "b", "k", 100).await == ReserveOutcome::Ended).then_some(())
    })
    .await;
    // Its order is still open: the keys stay.
    tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
    assert_eq!(app.reserve(item, "a", "k", 1).await, ReserveOutcome::Accepted);
    app.orders.change_item_silently(item, |definition| definition.settled = true);
    testkit::eventually("the keys are gone", async || {
        (app.redis_command::<Vec<String>>(&["KEYS", "*"]).await.is_empty()).then_some(())
    })
    .await;
    let epochs = app.orders.switches.epochs.load(Ordering::SeqCst);
    tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
    assert_eq!(app.orders.switches.epochs.load(Ordering::SeqCst), epochs, "it was loaded again");
    assert_eq!(app.reserve(item, "a", "k", 1).await, ReserveOutcome::UnknownItem);
}

/// Redis stands still: whoever was sent to it has an unknown outcome, all others are refused at once; and what runs
/// after the stop has no effect any more, because its time is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_stands_still_grants_nothing_to_those_who_have_gone() {
    let app = TestApp::start_with(&[("REDIS__RESPONSE_TIMEOUT_MS", "300")]).await;
    let item = app.open_item(5, 1).await;
    let _: () = app.redis_command(&["CLIENT", "PAUSE", "3000", "ALL"]).await;
    let mut request = app.request(item, "u", "k", 1);
    request.deadline_ms = 1_000;
    let outcome = app.reserve_batch(item, vec![request]).await.remove(0);
    // Unavailable if the watch found out before.
    assert!(matches!(outcome, ReserveOutcome::Unknown | ReserveOutcome::Unavailable), "{outcome:?}");
    testkit::eventually("others are refused at once", async || {
        (app.reserve(item, "v", "k", 1).await == ReserveOutcome::Unavailable).then_some(())
    })
    .await;
    app.until_open(item).await;
    assert_eq!(app.books(item).await.orders, [], "a request was granted after its time");
    assert_eq!(app.reserve_until_decided(item, "u", "k", 1).await, ReserveOutcome::Accepted);
    let books = app.assert_quiet_and_equal(item).await;
    assert_eq!((books.available, books.epoch), (4, 1), "a pause is no reason to load");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_is_an_unknown_outcome_and_the_retry_learns_of_the_grant() {
    let app = TestApp::start_with(&[("REDIS__RESPONSE_TIMEOUT_MS", "300")]).await;
    let item = app.open_item(5, 1).await;
    let _: () = app.redis_command(&["CLIENT", "PAUSE", "1500", "ALL"]).await;
    let outcome = app.reserve(item, "u", "k", 1).await;
    assert!(matches!(outcome, ReserveOutcome::Unknown | ReserveOutcome::Unavailable), "{outcome:?}");
    assert_eq!(app.reserve_until_decided(item, "u", "k", 1).await, ReserveOutcome::Accepted);
    let books = app.assert_quiet_and_equal(item).await;
    assert_eq!((books.available, books.held, books.orders.len()), (4, 1, 1));
}

/// Half of the replicas have failed over to another Redis, and the old one is still there.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_redis_that_is_still_reachable_stops_selling_when_another_was_loaded() {
    let app = TestApp::start().await;
    let item = app.open_item(10, 1).await;
    assert_eq!(app.reserve(item, "a", "k", 1).await, ReserveOutcome::Accepted);
    app.assert_quiet_and_equal(item).await;
    // So that the replica at the old one does not answer by loading it again.
    let lock = keys::lock(item, Purpose::Load);
    let _: () = app.redis_command(&["SET", &lock, "somebody", "PX", "600000"]).await;

    let other = testkit::Redis::start().await;
    let second = app.replica_on(&other, &[]).await;
    testkit::eventually("the new Redis was loaded", async || {
        (app.orders.switches.epochs.load(Ordering::SeqCst) == 2).then_some(())
    })
    .await;
    testkit::eventually("the old one sells no more", async || {
        app.shown(item).await.filter(|shown| !shown.open)
    })
    .await;
    let keys = ItemKeys::of(item);
    for n in 0..5 {
        assert_eq!(app.reserve(item, &format!("n{n}"), "k", 1).await, ReserveOutcome::Unavailable);
    }
    let holds: i64 = app.redis_command(&["HLEN", &keys.holds]).await;
    let run_id: Option<String> = app.redis_command(&["HGET", &keys.item, "run_id"]).await;
    assert_eq!((holds, run_id.is_some()), (1, true), "its gate is open by itself, yet nothing was granted");
    // Nobody is told there that an order does not exist.
    let unknown = app.reservation(order_id(item, "z", "k")).await;
    assert_eq!(unknown.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(app.get(&format!("/items/{item}/books")).send().await.unwrap().status(), 503);
    second.stop().await;
}
