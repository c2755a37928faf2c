//! The broker is away, loses messages, or keeps them for long.

use std::sync::atomic::Ordering;

use common::api::OrderStatus;
use common::api::inventory::ReserveOutcome;
use common::messages::order::Units;
use common::topology::Queue;
use lapin::options::{QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties};

use crate::support::app::{TestApp, order_id};

#[tokio::test(flavor = "multi_thread")]
async fn without_a_broker_nothing_is_reserved() {
    let app = TestApp::start().await;
    let item = app.open_item(3, 1).await;
    app.vhost.block().await;
    testkit::eventually("the outage is noticed", async || {
        (app.reserve(item, "prober", "k", 1).await == ReserveOutcome::Unavailable).then_some(())
    })
    .await;
    let before = app.books(item).await;
    for n in 0..5 {
        assert_eq!(app.reserve(item, &format!("u{n}"), "k", 1).await, ReserveOutcome::Unavailable);
    }
    assert_eq!(app.books(item).await, before, "Redis was touched");
    app.vhost.unblock().await;
    assert_eq!(app.reserve_until_decided(item, "u", "k", 1).await, ReserveOutcome::Accepted);
    app.assert_quiet_and_equal(item).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_that_no_queue_took_is_unknown_and_announced_later() {
    let app = TestApp::start().await;
    let item = app.open_item(3, 1).await;
    delete_queue(&app, &Queue::reservations(item.partition()).name).await;
    assert_eq!(app.reserve(item, "u", "k", 1).await, ReserveOutcome::Unknown);
    // The topology is declared again; the relay announces what stayed in `unsettled`.
    testkit::eventually("the order exists", async || app.orders.has(order_id(item, "u", "k")).then_some(()))
        .await;
    assert_eq!(app.reserve_until_decided(item, "u", "k", 1).await, ReserveOutcome::Accepted);
    let books = app.assert_quiet_and_equal(item).await;
    assert_eq!((books.available, books.held), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_order_whose_message_is_lost_is_announced_again() {
    let app = TestApp::start().await;
    let item = app.open_item(3, 1).await;
    app.orders.switches.paused.store(true, Ordering::SeqCst);
    assert_eq!(app.reserve(item, "u", "k", 1).await, ReserveOutcome::Accepted);
    app.vhost.wipe().await;
    app.orders.switches.paused.store(false, Ordering::SeqCst);
    testkit::eventually("the order exists", async || app.orders.has(order_id(item, "u", "k")).then_some(()))
        .await;
    app.assert_quiet_and_equal(item).await;
    assert_eq!(app.reserve_until_decided(item, "u", "k", 1).await, ReserveOutcome::Accepted);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_news_are_lost_settles_by_asking() {
    let app = TestApp::start().await;
    let item = app.open_item(3, 1).await;
    app.orders.switches.silent.store(true, Ordering::SeqCst);
    assert_eq!(app.reserve(item, "u", "k", 1).await, ReserveOutcome::Accepted);
    let books = app.assert_quiet_and_equal(item).await;
    assert_eq!((books.available, books.held), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_of_an_unsettled_order_is_announced_again_before_it_is_accepted() {
    let app = TestApp::start_with(&[("RELAY__AGE_MS", "600000"), ("RELAY__LOOKUP_AGE_MS", "600000")]).await;
    let item = app.open_item(3, 1).await;
    app.orders.switches.silent.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        assert_eq!(app.reserve(item, "u", "k", 1).await, ReserveOutcome::Accepted);
    }
    testkit::eventually("both announcements came", async || {
        (app.orders.switches.received.load(Ordering::SeqCst) == 2).then_some(())
    })
    .await;
    let order = order_id(item, "u", "k");
    app.orders.tell(order).await;
    testkit::eventually("the order is settled", async || app.unsettled(item).await.is_empty().then_some(()))
        .await;
    assert_eq!(app.reserve(item, "u", "k", 1).await, ReserveOutcome::Accepted);
    assert_eq!(app.orders.switches.received.load(Ordering::SeqCst), 2, "settled: no need to announce it");
}

/// Redis and the source of truth disagree about the total: the order is rejected, its unit is not offered again.
#[tokio::test(flavor = "multi_thread")]
async fn units_that_the_source_of_truth_refuses_are_not_offered_again() {
    let app = TestApp::start_with(&[("LOAD__SYNC_INTERVAL_MS", "600000")]).await;
    let item = app.open_item(2, 1).await;
    app.orders.change_item_silently(item, |definition| definition.total = 1);
    assert_eq!(app.reserve(item, "a", "k", 1).await, ReserveOutcome::Accepted);
    testkit::eventually("a is settled", async || app.unsettled(item).await.is_empty().then_some(())).await;
    assert_eq!(app.reserve(item, "b", "k", 1).await, ReserveOutcome::Accepted);
    testkit::eventually("b is settled", async || app.unsettled(item).await.is_empty().then_some(())).await;
    let books = app.books(item).await;
    assert_eq!((books.total, books.available, books.held), (2, 0, 1), "the unit of b was never there");
    assert_eq!(app.reserve(item, "c", "k", 1).await, ReserveOutcome::SoldOut);
    app.orders.tell_item(item).await;
    testkit::eventually("the lower total is in force", async || {
        Some(app.books(item).await).filter(|books| (books.total, books.available, books.held) == (1, 0, 1))
    })
    .await;
    app.assert_quiet_and_equal(item).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn news_of_an_order_that_redis_never_had_are_adopted() {
    let app = TestApp::start().await;
    let item = app.open_item(3, 1).await;
    assert_eq!(app.reserve(item, "u", "k", 1).await, ReserveOutcome::Accepted);
    app.assert_quiet_and_equal(item).await;
    // Lose the hold by hand, as a failover to a lagging replica would.
    let keys = stock_service::keys::ItemKeys::of(item);
    let order = order_id(item, "u", "k");
    let _: i64 = app.redis_command(&["HDEL", &keys.holds, &order.to_string()]).await;
    let _: i64 = app.redis_command(&["HDEL", &keys.buyers, "u"]).await;
    let _: i64 = app.redis_command(&["HINCRBY", &keys.item, "available", "1"]).await;
    assert_eq!(app.books(item).await.available, 3);
    app.orders.move_order(order, Units::Sold, OrderStatus::Paid).await;
    testkit::eventually("the order is adopted", async || {
        Some(app.books(item).await).filter(|books| (books.available, books.sold) == (2, 1))
    })
    .await;
    app.assert_quiet_and_equal(item).await;
}

/// An event was parked, say: the order has moved on and nobody has told.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_whose_later_news_are_lost_is_brought_up_to_date_by_comparing() {
    let app = TestApp::start_with(&[("RECONCILE__INTERVAL_MS", "300")]).await;
    let item = app.open_item(3, 1).await;
    for name in ["a", "b"] {
        assert_eq!(app.reserve(item, name, "k", 1).await, ReserveOutcome::Accepted);
    }
    app.assert_quiet_and_equal(item).await;
    app.orders.move_order_silently(order_id(item, "a", "k"), Units::Returned, OrderStatus::Expired);
    app.orders.move_order_silently(order_id(item, "b", "k"), Units::Sold, OrderStatus::Paid);
    testkit::eventually("the books have followed", async || {
        Some(app.books(item).await).filter(|books| (books.available, books.sold) == (2, 1))
    })
    .await;
    app.assert_quiet_and_equal(item).await;
}

/// A failover to a lagging replica that nobody noticed, say: the orders are there and not here, and nobody will tell.
#[tokio::test(flavor = "multi_thread")]
async fn orders_that_redis_lacks_are_found_by_comparing() {
    let app = TestApp::start_with(&[("RECONCILE__INTERVAL_MS", "300")]).await;
    let item = app.open_item(10, 1).await;
    let keys = stock_service::keys::ItemKeys::of(item);
    for name in ["a", "b", "c", "d", "e"] {
        assert_eq!(app.reserve(item, name, "k", 1).await, ReserveOutcome::Accepted);
    }
    app.assert_quiet_and_equal(item).await;
    app.orders.move_order(order_id(item, "d", "k"), Units::Returned, OrderStatus::Cancelled).await;
    testkit::eventually("the books have followed", async || {
        Some(app.books(item).await).filter(|books| books.available == 6)
    })
    .await;
    for name in ["a", "c", "d"] {
        let order = order_id(item, name, "k").to_string();
        // All of it at once, as one state of the books that is no contradiction.
        let script = "redis.call('HDEL', KEYS[1], ARGV[1]); if redis.call('HDEL', KEYS[2], ARGV[2]) == 1 then \
                      redis.call('HINCRBY', KEYS[3], 'available', 1) end";
        let _: Option<i64> = app
            .redis_command(&["EVAL", script, "3", &keys.holds, &keys.buyers, &keys.item, &order, name])
            .await;
    }
    testkit::eventually("all orders are known again", async || {
        Some(app.books(item).await).filter(|books| books.orders.len() == 5 && books.available == 6)
    })
    .await;
    assert_eq!(app.assert_quiet_and_equal(item).await.epoch, 1, "no load was needed");
}

/// The queue takes no more: the reservation stands in Redis alone, and the buyer is not told that it stands.
#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_that_a_full_queue_refused_is_unknown_and_announced_later() {
    let app = TestApp::start_with(&[("RELAY__AGE_MS", "600000")]).await;
    let item = app.open_item(5, 1).await;
    let queue = Queue::reservations(item.partition());
    let connection = Connection::connect(&app.vhost.url(), ConnectionProperties::default()).await.unwrap();
    let make_small = async || {
        let channel = connection.create_channel().await.ok()?;
        channel.queue_delete(queue.name.as_str().into(), QueueDeleteOptions::default()).await.ok()?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(1));
        arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let (name, exchange) = (queue.name.as_str(), queue.exchange.name());
        channel.queue_declare(name.into(), durable, arguments).await.ok()?;
        let (options, none) = (QueueBindOptions::default(), FieldTable::default());
        channel
            .queue_bind(name.into(), exchange.into(), queue.pattern.as_str().into(), options, none)
            .await
            .ok()
    };
    // Whoever consumes it declares it as it should be, and may be faster.
    testkit::eventually("a queue for one message", make_small).await;
    let mut outcomes = Vec::new();
    for name in ["a", "b", "c", "d"] {
        outcomes.push(app.reserve(item, name, "k", 1).await);
    }
    let unknown = outcomes.iter().filter(|outcome| **outcome == ReserveOutcome::Unknown).count();
    assert!(unknown >= 2 && unknown + 1 >= outcomes.len(), "{outcomes:?}");
    assert_eq!(app.unsettled(item).await.len(), 4, "none of them may be forgotten");
    // A retry does not make it true.
    assert_eq!(app.reserve(item, "d", "k", 1).await, ReserveOutcome::Unknown);

    delete_queue(&app, &queue.name).await;
    for name in ["a", "b", "c", "d"] {
        assert_eq!(app.reserve_until_decided(item, name, "k", 1).await, ReserveOutcome::Accepted, "{name}");
    }
    assert_eq!(app.assert_quiet_and_equal(item).await.held, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_that_is_gone_is_noticed_and_made_again() {
    let app = TestApp::start().await;
    let item = app.open_item(3, 1).await;
    let queue = Queue::reservations(item.partition());
    let connection = Connection::connect(&app.vhost.url(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let (name, exchange) = (queue.name.as_str(), queue.exchange.name());
    channel
        .queue_unbind(name.into(), exchange.into(), queue.pattern.as_str().into(), FieldTable::default())
        .await
        .unwrap();
    assert_eq!(app.reserve(item, "u", "k", 1).await, ReserveOutcome::Unknown);
    assert_eq!(app.reserve_until_decided(item, "u", "k", 1).await, ReserveOutcome::Accepted);
    assert_eq!(app.assert_quiet_and_equal(item).await.held, 1);
}

async fn delete_queue(app: &TestApp, queue: &str) {
    let connection = Connection::connect(&app.vhost.url(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
    connection.close(200, "done".into()).await.unwrap();
}
