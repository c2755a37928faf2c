//! Books and order ids of items that are too big to be read in one go.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::api::inventory::Books;
use common::messages::order::Units;
use stock_service::inventory::{BOOKS_ATOMIC_MAX, Begun};
use stock_service::stock::{ORDERS_PER_CALL_MAX, OrderState};

use crate::support::shelf::{LEASE_MS, Shelf, commit, granted};

/// Reads nothing in one go.
const PAGED: u32 = 0;
/// Reads everything in one go.
const ATOMIC: u32 = u32::MAX;

/// `count` orders of as many users, of every kind.
fn orders(shelf: &Shelf, count: usize) -> Vec<OrderState> {
    let kinds = [(1, Units::Held, 1), (2, Units::Sold, 2), (3, Units::Returned, 3), (1, Units::Sold, 2)];
    let order = |n: usize| {
        let (quantity, units, version) = kinds[n % kinds.len()];
        shelf.order(&format!("u{n}"), "k", quantity, (units, version))
    };
    (0..count).map(order).collect()
}

/// How often Redis ran these commands, wherever they came from.
async fn calls(shelf: &Shelf, command: &str) -> u64 {
    let mut connection = shelf.connection().await;
    let info: String = redis::cmd("INFO").arg("commandstats").query_async(&mut connection).await.unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.map_or(0, |rest| rest.split(',').next().unwrap().parse().unwrap())
}

async fn whole_reads(shelf: &Shelf) -> u64 {
    let mut sum = 0;
    for command in ["hgetall", "hkeys", "hvals", "zrange"] {
        sum += calls(shelf, command).await;
    }
    sum
}

#[tokio::test(flavor = "multi_thread")]
async fn books_of_more_holds_than_the_bound_are_read_by_pages_and_are_the_same_when_quiet() {
    let count = BOOKS_ATOMIC_MAX as usize + 1;
    let shelf = Shelf::empty().await;
    shelf.load(1, &shelf.definition(50_000, 5), &orders(&shelf, count)).await;
    for n in 0..700 {
        assert!(granted(shelf.reserve(&format!("unsettled{n}"), "k", 3).await));
    }
    let before = whole_reads(&shelf).await;
    let paged = shelf.books().await;
    assert_eq!(whole_reads(&shelf).await, before, "a big key was read in one go");
    assert!(calls(&shelf, "hscan").await > 20, "pages are small");

    assert_eq!((paged.orders.len(), paged.unsettled, paged.epoch), (count + 700, 2_100, 1));
    assert_eq!(paged, shelf.books_with(ATOMIC).await);
    shelf.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_key_above_the_bound_makes_the_books_paged_and_the_bound_itself_does_not() {
    let shelf = Shelf::open(10, 5).await;
    assert!(granted(shelf.reserve("a", "k", 2).await));
    assert!(granted(shelf.reserve("b", "k", 1).await));
    let atomic = shelf.books_with(2).await;
    assert_eq!(calls(&shelf, "hscan").await, 0);
    assert_eq!(shelf.books_with(1).await, atomic);
    assert!(calls(&shelf, "hscan").await > 0);

    // One user may have many orders, and what is unsettled outlives nothing: each key counts for itself.
    shelf
        .redis_command(&["ZADD", &shelf.keys.unsettled, "1", &shelf.order_id("gone", "k").to_string()])
        .await;
    let before = calls(&shelf, "zscan").await;
    assert_eq!(shelf.books_with(2).await, atomic, "an unsettled id without a hold has no units");
    assert!(calls(&shelf, "zscan").await > before);
}

#[tokio::test(flavor = "multi_thread")]
async fn reserving_goes_on_while_books_are_read_by_pages() {
    let shelf = Arc::new(Shelf::empty().await);
    let orders = orders(&shelf, 3_000);
    shelf.load(1, &shelf.definition(50_000, 5), &orders).await;
    let known: HashSet<_> = orders.iter().map(|order| order.order_id).collect();
    let done = Arc::new(AtomicBool::new(false));
    let auditor = tokio::spawn({
        let (shelf, done) = (shelf.clone(), done.clone());
        async move {
            let mut audits: Vec<Books> = Vec::new();
            while !done.load(Ordering::Relaxed) || audits.is_empty() {
                audits.push(shelf.books_with(PAGED).await);
            }
            audits
        }
    });
    for n in 0..2_000 {
        assert!(granted(shelf.reserve(&format!("buyer{n}"), "k", 1).await));
    }
    done.store(true, Ordering::Relaxed);
    for books in auditor.await.unwrap() {
        let ids: HashSet<_> = books.orders.iter().map(|order| order.order_id).collect();
        assert_eq!(ids.len(), books.orders.len(), "an order came twice");
        assert!(ids.is_superset(&known), "an order that was there all the time is missing");
    }
    assert_eq!(shelf.books_with(PAGED).await, shelf.books_with(ATOMIC).await);
    shelf.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_two_loads_are_never_mixed() {
    let shelf = Arc::new(Shelf::empty().await);
    let (many, few) = (orders(&shelf, 5_000), orders(&shelf, 40));
    shelf.load(1, &shelf.definition(20_000, 5), &many).await;
    let done = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn({
        let (shelf, done) = (shelf.clone(), done.clone());
        async move {
            while !done.load(Ordering::Relaxed) {
                let books = shelf.inventory.books(shelf.item, &shelf.keys, 0, PAGED).await.unwrap();
                let Ok(books) = books else { continue };
                let expected = if books.epoch % 2 == 1 { 5_000 } else { 40 };
                assert_eq!(books.orders.len(), expected, "books of epoch {}", books.epoch);
            }
        }
    });
    for epoch in 2..40 {
        let orders = if epoch % 2 == 1 { &many } else { &few };
        shelf.load(epoch, &shelf.definition(20_000, 5), orders).await;
    }
    done.store(true, Ordering::Relaxed);
    reader.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn books_of_a_closed_gate_are_not_shown_by_pages_either() {
    let shelf = Shelf::open(10, 5).await;
    assert!(granted(shelf.reserve("a", "k", 1).await));
    assert!(matches!(shelf.inventory.begin_load(&shelf.keys, 2).await.unwrap(), Begun::Yes { .. }));
    assert!(shelf.inventory.books(shelf.item, &shelf.keys, 0, PAGED).await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn order_ids_are_read_by_pages_and_only_of_the_epoch_that_was_asked_for() {
    let shelf = Shelf::empty().await;
    let orders = orders(&shelf, 2_000);
    shelf.load(1, &shelf.definition(10_000, 5), &orders).await;
    let before = whole_reads(&shelf).await;
    let ids = shelf.inventory.order_ids(&shelf.keys, 1).await.unwrap().expect("nothing has changed");
    // The look that follows reads one element by ZRANGE.
    assert_eq!(whole_reads(&shelf).await, before + 1, "a big key was read in one go");
    assert_eq!(ids.len(), 2_000);
    assert!(orders.iter().all(|order| ids.contains(&order.order_id)));

    shelf.inventory.begin_load(&shelf.keys, 2).await.unwrap();
    assert_eq!(shelf.inventory.order_ids(&shelf.keys, 1).await.unwrap(), None, "the gate is closed");
    shelf.commit_load(commit(2, 0, 0), &shelf.definition(10_000, 5)).await.unwrap();
    assert_eq!(shelf.inventory.order_ids(&shelf.keys, 1).await.unwrap(), None, "loaded meanwhile");
    assert!(shelf.inventory.order_ids(&shelf.keys, 2).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_kept_during_a_long_load_are_taken_a_few_at_a_time_until_none_is_left() {
    let shelf = Shelf::open(10_000, 5).await;
    shelf.inventory.begin_load(&shelf.keys, 2).await.unwrap();
    let orders = orders(&shelf, 3_000);
    for chunk in orders.chunks(ORDERS_PER_CALL_MAX) {
        shelf.inventory.apply_orders(&shelf.keys, 0, LEASE_MS, chunk).await.unwrap();
    }
    shelf.commit_load(commit(2, 0, 0), &shelf.definition(10_000, 5)).await.unwrap();
    let before = whole_reads(&shelf).await;
    loop {
        let late = shelf.inventory.late_orders(&shelf.keys).await.unwrap();
        if late.is_empty() {
            break;
        }
        assert!(late.len() <= ORDERS_PER_CALL_MAX);
        shelf.apply(&late).await;
    }
    assert_eq!(whole_reads(&shelf).await, before, "a big key was read in one go");
    assert_eq!(shelf.books().await.orders.len(), 3_000);
    shelf.assert_balanced().await;
}
