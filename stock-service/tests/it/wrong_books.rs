//! Books that contradict themselves: nothing is sold from them.

use std::sync::atomic::Ordering;

use common::api::OrderStatus;
use common::api::inventory::ReserveOutcome;
use common::ids::ItemId;
use common::messages::order::Units;
use stock_service::inventory::{BOOKS_ATOMIC_MAX, BooksChecked, Fault, Reading};
use stock_service::keys::ItemKeys;
use stock_service::stock::{Applied, Shut};

use crate::support::app::{TestApp, order_id};
use crate::support::shelf::Shelf;

/// What the check says of the books, read at one moment and by pages, with rests and without.
async fn check(shelf: &Shelf) -> BooksChecked {
    let check = async |atomic_max, reading| {
        shelf.inventory.check_books(&shelf.keys, 0, atomic_max, reading).await.unwrap()
    };
    let at_once = check(BOOKS_ATOMIC_MAX, Reading::Check).await;
    assert_eq!(check(0, Reading::Check).await, at_once);
    assert_eq!(check(0, Reading::Confirm).await, at_once);
    at_once
}

#[tokio::test(flavor = "multi_thread")]
async fn each_contradiction_is_found_and_named() {
    let shelf = Shelf::open(10, 5).await;
    for (user, quantity) in [("a", 1), ("b", 2), ("c", 3)] {
        shelf.reserve(user, "k", quantity).await;
    }
    shelf
        .apply(&[shelf.order("b", "k", 2, (Units::Sold, 2)), shelf.order("c", "k", 3, (Units::Returned, 2))])
        .await;
    assert_eq!(check(&shelf).await, BooksChecked::Sound);

    let (a, unknown) = (shelf.order_id("a", "k").to_string(), shelf.order_id("z", "k").to_string());
    let hold: String = shelf.ask(&["HGET", &shelf.keys.holds, &a]).await;
    let keys = &shelf.keys;
    let harm_and_cure: [(Fault, Vec<&str>, Vec<&str>); 7] = [
        (
            Fault::Sum,
            vec!["HINCRBY", &keys.item, "available", "1"],
            vec!["HINCRBY", &keys.item, "available", "-1"],
        ),
        (Fault::Sum, vec!["HSET", &keys.item, "total", "11"], vec!["HSET", &keys.item, "total", "10"]),
        (Fault::Sum, vec!["HDEL", &keys.holds, &a], vec!["HSET", &keys.holds, &a, &hold]),
        (Fault::Buyers, vec!["HINCRBY", &keys.buyers, "b", "-1"], vec!["HINCRBY", &keys.buyers, "b", "1"]),
        (Fault::Negative, vec!["HSET", &keys.buyers, "x", "-1"], vec!["HDEL", &keys.buyers, "x"]),
        (Fault::Garbled, vec!["HSET", &keys.holds, &a, "evil"], vec!["HSET", &keys.holds, &a, &hold]),
        (
            Fault::NoHold,
            vec!["ZADD", &keys.unsettled, "1", &unknown],
            vec!["ZREM", &keys.unsettled, &unknown],
        ),
    ];
    for (fault, harm, cure) in harm_and_cure {
        shelf.redis_command(&harm).await;
        assert_eq!(check(&shelf).await, BooksChecked::Wrong { epoch: 1, fault }, "after {harm:?}");
        shelf.redis_command(&cure).await;
        assert_eq!(check(&shelf).await, BooksChecked::Sound, "after {cure:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn units_that_go_backwards_close_the_gate_and_change_nothing() {
    let backwards = [
        ((Units::Returned, 2), (Units::Held, 3)),
        ((Units::Returned, 2), (Units::Sold, 3)),
        ((Units::Sold, 2), (Units::Held, 3)),
        ((Units::Sold, 2), (Units::Returned, 2)),
    ];
    for (before, after) in backwards {
        let shelf = Shelf::open(5, 5).await;
        shelf.reserve("a", "k", 2).await;
        shelf.apply(&[shelf.order("a", "k", 2, before)]).await;
        let dump: Vec<(String, String)> = shelf.ask(&["HGETALL", &shelf.keys.holds]).await;

        let orders = [shelf.order("b", "k", 1, (Units::Held, 1)), shelf.order("a", "k", 2, after)];
        let (gate, applied) = shelf.inventory.apply_orders(&shelf.keys, 0, 0, &orders).await.unwrap();
        assert_eq!((gate, applied), (Some(Shut::Broken), vec![Applied::Dropped, Applied::Contradicts]));
        let now: Vec<(String, String)> = shelf.ask(&["HGETALL", &shelf.keys.holds]).await;
        assert_eq!(now, dump, "{before:?} to {after:?}: something was written");
        let look = shelf.inventory.look(&shelf.keys).await.unwrap();
        assert_eq!((look.shut, look.alarms), (Some(Shut::Closed), 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn books_of_another_load_are_not_closed() {
    let shelf = Shelf::open(5, 5).await;
    shelf.load(2, &shelf.definition(5, 5), &[]).await;
    assert_eq!(shelf.inventory.close_as_wrong(&shelf.keys, 1, Fault::Sum).await.unwrap(), 0);
    assert_eq!(shelf.inventory.look(&shelf.keys).await.unwrap().shut, None);
    assert_eq!(shelf.inventory.close_as_wrong(&shelf.keys, 2, Fault::Sum).await.unwrap(), 1);
    assert_eq!(shelf.inventory.look(&shelf.keys).await.unwrap().shut, Some(Shut::Closed));
}

async fn spoil(app: &TestApp, item: ItemId) {
    let _: i64 = app.redis_command(&["HINCRBY", &ItemKeys::of(item).item, "available", "5"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_books_are_healed_by_a_load_and_left_closed_when_they_are_wrong_again_and_again() {
    let app = TestApp::start_with(&[("RECONCILE__INTERVAL_MS", "200")]).await;
    let item = app.open_item(3, 1).await;
    assert_eq!(app.reserve(item, "a", "k", 1).await, ReserveOutcome::Accepted);
    app.assert_quiet_and_equal(item).await;
    for epoch in [2, 3] {
        spoil(&app, item).await;
        testkit::eventually("the books are loaded anew", async || {
            Some(app.books(item).await).filter(|books| books.epoch == epoch)
        })
        .await;
        assert_eq!(app.assert_quiet_and_equal(item).await.available, 2);
    }
    spoil(&app, item).await;
    let epochs = app.orders.switches.epochs.load(Ordering::SeqCst);
    testkit::eventually("the gate is closed", async || app.shown(item).await.filter(|shown| !shown.open))
        .await;
    // Longer than any load waits for its turn.
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    assert_eq!(app.reserve(item, "b", "k", 1).await, ReserveOutcome::Unavailable);
    assert_eq!(app.orders.switches.epochs.load(Ordering::SeqCst), epochs, "it was loaded once more");
    assert!(app.shown(item).await.is_some(), "it is still shown");

    // The operator has found the cause.
    let _: i64 = app.redis_command(&["DEL", &ItemKeys::of(item).alarm]).await;
    assert_eq!(app.reserve_until_decided(item, "b", "k", 1).await, ReserveOutcome::Accepted);
    assert_eq!(app.assert_quiet_and_equal(item).await.available, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_contradicts_the_books_ends_in_what_the_source_of_truth_says() {
    let app = TestApp::start().await;
    let item = app.open_item(3, 1).await;
    assert_eq!(app.reserve(item, "a", "k", 1).await, ReserveOutcome::Accepted);
    app.assert_quiet_and_equal(item).await;
    let order = order_id(item, "a", "k");
    // Redis believes that the order is over; then it hears that it is paid.
    let returned = format!("1:returned:1:1:{}", "a");
    let _: i64 = app.redis_command(&["HSET", &ItemKeys::of(item).holds, &order.to_string(), &returned]).await;
    app.orders.move_order(order, Units::Sold, OrderStatus::Paid).await;
    testkit::eventually("the books are loaded anew", async || {
        Some(app.books(item).await).filter(|books| books.epoch == 2)
    })
    .await;
    let books = app.assert_quiet_and_equal(item).await;
    assert_eq!((books.available, books.sold), (2, 1));
}
