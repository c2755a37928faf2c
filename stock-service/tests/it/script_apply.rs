//! `apply_order.lua` and `update.lua`: the books follow the source of truth.

use common::api::inventory::AdminHold;
use common::messages::order::Units;
use stock_service::inventory::{Begun, Retired, Updated};
use stock_service::stock::{Applied, OrderState, Shut};

use crate::support::shelf::{LEASE_MS, Shelf, commit, granted};

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_comes_back_exactly_once_however_events_repeat_and_reorder() {
    let shelf = Shelf::open(5, 2).await;
    assert!(granted(shelf.reserve("u", "k", 2).await));
    let created = shelf.order("u", "k", 2, (Units::Held, 1));
    let expired = shelf.order("u", "k", 2, (Units::Returned, 2));
    assert_eq!(shelf.apply(std::slice::from_ref(&expired)).await, [Applied::GaveBack]);
    let again = shelf.apply(&[created.clone(), expired.clone(), created, expired]).await;
    assert_eq!(again, [Applied::Unchanged; 4]);
    let books = shelf.books().await;
    assert_eq!((books.available, books.held, books.unsettled, books.buyers), (5, 0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn any_event_settles() {
    let shelf = Shelf::open(5, 5).await;
    assert!(granted(shelf.reserve("u", "k", 2).await));
    assert_eq!(shelf.books().await.unsettled, 2);
    assert_eq!(shelf.apply(&[shelf.order("u", "k", 2, (Units::Sold, 2))]).await, [Applied::Noted]);
    let books = shelf.books().await;
    assert_eq!((books.held, books.sold, books.unsettled), (0, 2, 0));
    assert_eq!(shelf.apply(&[shelf.order("u", "k", 2, (Units::Returned, 4))]).await, [Applied::GaveBack]);
    shelf.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_missing_here_is_adopted_even_below_zero() {
    let shelf = Shelf::open(1, 5).await;
    assert!(granted(shelf.reserve("a", "k", 1).await));
    assert_eq!(shelf.apply(&[shelf.order("b", "k", 2, (Units::Held, 1))]).await, [Applied::Adopted]);
    assert_eq!(shelf.books().await.available, -2);
    shelf.assert_balanced().await;
    assert_eq!(shelf.apply(&[shelf.order("b", "k", 2, (Units::Returned, 2))]).await, [Applied::GaveBack]);
    assert_eq!(shelf.books().await.available, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_order_that_is_missing_here_leaves_a_tombstone() {
    let shelf = Shelf::open(5, 5).await;
    assert_eq!(shelf.apply(&[shelf.order("u", "k", 1, (Units::Returned, 3))]).await, [Applied::Tombstone]);
    assert_eq!(shelf.books().await.available, 5);
    assert!(!granted(shelf.reserve("u", "k", 1).await), "the same key took a unit again");
    assert_eq!(shelf.books().await.available, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_by_the_total_does_not_bring_units_back() {
    let shelf = Shelf::open(5, 5).await;
    assert!(granted(shelf.reserve("u", "k", 2).await));
    let refused = OrderState { refused_by_total: true, ..shelf.order("u", "k", 2, (Units::Returned, 1)) };
    assert_eq!(shelf.apply(&[refused]).await, [Applied::Withheld]);
    let (books, figures) = (shelf.books().await, shelf.figures().await);
    assert_eq!((books.available, books.held, books.buyers, figures.withheld), (3, 0, 0, 2));
    shelf.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_by_the_limit_does() {
    let shelf = Shelf::open(5, 5).await;
    assert!(granted(shelf.reserve("u", "k", 2).await));
    assert_eq!(shelf.apply(&[shelf.order("u", "k", 2, (Units::Returned, 1))]).await, [Applied::GaveBack]);
    assert_eq!(shelf.books().await.available, 5);
}

/// Redis had lost `lost` and gave its unit to `late`, which the source of truth then refused.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_withheld_pays_for_the_order_that_is_adopted_in_either_order() {
    for adopted_first in [true, false] {
        let shelf = Shelf::open(1, 1).await;
        assert!(granted(shelf.reserve("late", "k", 1).await));
        let lost = shelf.order("lost", "k", 1, (Units::Held, 1));
        let late = OrderState { refused_by_total: true, ..shelf.order("late", "k", 1, (Units::Returned, 1)) };
        let orders = if adopted_first { [lost, late] } else { [late, lost] };
        for order in orders {
            shelf.apply(&[order]).await;
            shelf.assert_balanced().await;
        }
        let (books, figures) = (shelf.books().await, shelf.figures().await);
        assert_eq!(
            (books.available, books.held, figures.withheld),
            (0, 1, 0),
            "adopted first: {adopted_first}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_are_taken_over_newer_ones_only() {
    let shelf = Shelf::open(5, 1).await;
    assert!(granted(shelf.reserve("u", "k", 1).await));
    let mut item = shelf.definition(8, 2);
    item.version = 3;
    assert_eq!(shelf.inventory.update_item(&shelf.keys, 0, LEASE_MS, &item).await.unwrap(), Updated::Changed);
    let mut older = shelf.definition(1, 1);
    (older.version, older.hold) = (2, AdminHold::Ended);
    assert_eq!(
        shelf.inventory.update_item(&shelf.keys, 0, LEASE_MS, &older).await.unwrap(),
        Updated::NotNewer
    );
    let figures = shelf.figures().await;
    assert_eq!((figures.total, figures.available, figures.limit, figures.version), (8, 7, 2, 3));
    shelf.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_event_during_a_load_is_applied_after_it() {
    let shelf = Shelf::open(5, 5).await;
    assert!(granted(shelf.reserve("u", "k", 2).await));
    // The load reads the source of truth while the order is still held ..
    let held = shelf.order("u", "k", 2, (Units::Held, 1));
    assert!(matches!(
        shelf.inventory.begin_load(&shelf.keys, 2).await.unwrap(),
        Begun::Yes { earlier: true }
    ));
    assert!(shelf.inventory.stage_orders(&shelf.keys, 2, &[held]).await.unwrap());
    // .. then it expires, and the event comes before the gate is open.
    let expired = shelf.order("u", "k", 2, (Units::Returned, 2));
    assert_eq!(shelf.apply(std::slice::from_ref(&expired)).await, [Applied::Kept]);
    shelf.commit_load(commit(2, 1, 0), &shelf.definition(5, 5)).await.unwrap();
    assert_eq!((shelf.books().await.available, shelf.figures().await.late), (3, 1));

    let kept = shelf.inventory.late_orders(&shelf.keys).await.unwrap();
    assert_eq!(kept, [expired]);
    assert_eq!(shelf.apply(&kept).await, [Applied::GaveBack]);
    assert_eq!((shelf.books().await.available, shelf.figures().await.late), (5, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_event_without_any_load_is_dropped_because_the_next_load_reads_it() {
    let shelf = Shelf::empty().await;
    let order = shelf.order("u", "k", 2, (Units::Held, 1));
    let (gate, applied) = shelf.inventory.apply_orders(&shelf.keys, 0, LEASE_MS, &[order]).await.unwrap();
    assert_eq!((gate, applied), (Some(Shut::Unknown), vec![Applied::Dropped]));
    assert_eq!(shelf.dump().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_is_retired_only_when_it_is_over_kept_long_enough_and_settled() {
    let keep = std::time::Duration::from_millis(200);
    let shelf = Shelf::open(5, 5).await;
    assert!(granted(shelf.reserve("u", "k", 1).await));
    assert_eq!(shelf.inventory.retire_item(&shelf.keys, keep).await.unwrap(), Retired::NotYet);
    let mut item = shelf.definition(5, 5);
    (item.version, item.hold) = (2, AdminHold::Ended);
    shelf.inventory.update_item(&shelf.keys, 0, LEASE_MS, &item).await.unwrap();
    tokio::time::sleep(keep * 2).await;
    assert_eq!(shelf.inventory.retire_item(&shelf.keys, keep).await.unwrap(), Retired::NotYet, "unsettled");
    shelf.apply(&[shelf.order("u", "k", 1, (Units::Sold, 2))]).await;
    let keep_long = std::time::Duration::from_secs(3_600);
    assert_eq!(shelf.inventory.retire_item(&shelf.keys, keep_long).await.unwrap(), Retired::NotYet, "kept");
    assert_eq!(shelf.inventory.retire_item(&shelf.keys, keep).await.unwrap(), Retired::Removed);
    assert_eq!(shelf.dump().await, []);
}
