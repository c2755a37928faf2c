//! A source of truth that was restored from an older backup: nothing is sold until somebody has looked.

use std::sync::atomic::Ordering;
use std::time::Duration;

use common::api::OrderStatus;
use common::api::inventory::ReserveOutcome;
use common::ids::ItemId;
use common::messages::order::Units;
use stock_service::keys::ItemKeys;

use crate::support::app::{TestApp, order_id};

const TOTAL: i64 = 5;

async fn start() -> (TestApp, ItemId) {
    let app =
        TestApp::start_with(&[("RECONCILE__INTERVAL_MS", "200"), ("LOAD__SYNC_INTERVAL_MS", "200")]).await;
    let item = app.open_item(TOTAL, 1).await;
    assert_eq!(app.reserve(item, "a", "k", 1).await, ReserveOutcome::Accepted);
    app.assert_quiet_and_equal(item).await;
    (app, item)
}

/// It is closed, stays so over a restart of Redis, and opens with what the source of truth has when somebody has looked.
async fn stays_closed_until_somebody_has_looked(app: &mut TestApp, item: ItemId, why: &str) {
    let alarm = ItemKeys::of(item).alarm;
    testkit::eventually("somebody is alarmed", async || {
        let cause: Option<String> = app.redis_command(&["HGET", &alarm, "why"]).await;
        cause.filter(|cause| cause == why)
    })
    .await;
    testkit::eventually("the gate is closed", async || app.shown(item).await.filter(|shown| !shown.open))
        .await;
    app.redis.kill_and_restart().await;
    // Longer than any load waits for its turn.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(app.reserve(item, "late", "k", 1).await, ReserveOutcome::Unavailable);

    let _: i64 = app.redis_command(&["DEL", &alarm]).await;
    assert_eq!(app.reserve_until_decided(item, "late", "k", 1).await, ReserveOutcome::Accepted);
    app.assert_quiet_and_equal(item).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_that_it_has_forgotten_close_the_item() {
    let (mut app, item) = start().await;
    let backup = app.orders.backup();
    assert_eq!(app.reserve(item, "b", "k", 1).await, ReserveOutcome::Accepted);
    app.assert_quiet_and_equal(item).await;
    app.orders.restore(&backup);
    stays_closed_until_somebody_has_looked(&mut app, item, "order_lost").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_went_back_closes_the_item() {
    let (mut app, item) = start().await;
    let backup = app.orders.backup();
    app.orders.move_order(order_id(item, "a", "k"), Units::Sold, OrderStatus::Paid).await;
    testkit::eventually("the books have followed", async || {
        Some(app.books(item).await).filter(|books| books.sold == 1)
    })
    .await;
    app.orders.restore(&backup);
    stays_closed_until_somebody_has_looked(&mut app, item, "order_lost").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_that_it_has_forgotten_closes_the_item() {
    let (mut app, item) = start().await;
    let backup = app.orders.backup();
    app.redis.kill_and_restart().await;
    testkit::eventually("it is loaded anew", async || {
        Some(app.books(item).await).filter(|books| books.epoch == 2)
    })
    .await;
    app.orders.restore(&backup);
    stays_closed_until_somebody_has_looked(&mut app, item, "epoch_behind").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_it_has_forgotten_closes_the_item() {
    let (mut app, item) = start().await;
    let backup = app.orders.backup();
    app.orders.change_item(item, |definition| definition.total += 1).await;
    testkit::eventually("the change is in force", async || {
        Some(app.books(item).await).filter(|books| books.total == TOTAL + 1)
    })
    .await;
    app.orders.restore(&backup);
    stays_closed_until_somebody_has_looked(&mut app, item, "version_behind").await;
}

/// Both are restarted, one of them with less: nobody has looked at the list while the gate was open.
#[tokio::test(flavor = "multi_thread")]
async fn a_load_does_not_sell_again_what_only_redis_knows() {
    let (mut app, item) = start().await;
    let backup = app.orders.backup();
    assert_eq!(app.reserve(item, "b", "k", 1).await, ReserveOutcome::Accepted);
    app.assert_quiet_and_equal(item).await;
    app.orders.switches.away.store(true, Ordering::SeqCst);
    app.redis.kill_and_restart().await;
    app.orders.restore(&backup);
    app.orders.switches.away.store(false, Ordering::SeqCst);
    stays_closed_until_somebody_has_looked(&mut app, item, "order_lost").await;
}
