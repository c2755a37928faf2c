//! `reserve.lua`: who gets a unit.

use chrono::DateTime;
use common::api::inventory::AdminHold;
use common::messages::order::Units;
use futures_util::future::join_all;
use stock_service::stock::{Applied, Decision, Refusal, Shut};

use crate::support::shelf::{ATTEMPTS_MAX, LEASE_MS, Shelf, granted, refused};

#[tokio::test(flavor = "multi_thread")]
async fn never_grants_more_than_there_is() {
    let shelf = Shelf::open(100, 1).await;
    let names: Vec<String> = (0..1_000).map(|n| format!("u{n}")).collect();
    let decisions = join_all(names.iter().map(|name| shelf.reserve(name, "k", 1))).await;
    assert_eq!(decisions.iter().filter(|decision| granted(**decision)).count(), 100);
    assert_eq!(decisions.iter().filter(|d| **d == refused(Refusal::NotEnough)).count(), 900);
    assert_eq!(shelf.books().await.available, 0);
    shelf.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_a_hundred_times_at_once_is_one_hold() {
    let shelf = Shelf::open(100, 5).await;
    let decisions = join_all((0..100).map(|_| shelf.reserve("u", "same", 2))).await;
    assert_eq!(decisions.iter().filter(|decision| granted(**decision)).count(), 1);
    assert!(
        decisions
            .iter()
            .all(|d| matches!(d, Decision::Granted { .. } | Decision::Known { settled: false, .. }))
    );
    assert_eq!(shelf.books().await.available, 98);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_holds_inside_one_batch_and_between_batches() {
    let shelf = Shelf::open(100, 3).await;
    let wishes: Vec<_> = (0..5).map(|n| shelf.wish("u", &format!("k{n}"), 1)).collect();
    let decisions = shelf.reserve_all(&wishes).await;
    assert_eq!(decisions.iter().filter(|decision| granted(**decision)).count(), 3);
    assert_eq!(decisions[3..], [refused(Refusal::OverLimit), refused(Refusal::OverLimit)]);
    assert_eq!(shelf.reserve("u", "later", 1).await, refused(Refusal::OverLimit));
    assert!(granted(shelf.reserve("other", "k", 3).await));
    shelf.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_twice_in_one_batch_is_granted_once() {
    let shelf = Shelf::open(10, 5).await;
    let wish = shelf.wish("u", "k", 2);
    let other_quantity = shelf.wish("u", "k", 3);
    let decisions = shelf.reserve_all(&[wish.clone(), wish, other_quantity]).await;
    assert!(granted(decisions[0]));
    assert!(matches!(decisions[1], Decision::Known { settled: false, .. }));
    assert_eq!(decisions[2], refused(Refusal::Mismatch));
    assert_eq!(shelf.books().await.available, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_change_no_key() {
    let shelf = Shelf::open(3, 2).await;
    assert!(granted(shelf.reserve("a", "k", 2).await));
    let before = shelf.dump().await;

    let mut too_late = shelf.wish("late", "k", 1);
    too_late.deadline_ms = 1;
    let wishes = [shelf.wish("b", "k", 2), shelf.wish("a", "k2", 1), shelf.wish("a", "k", 1), too_late];
    let decisions = shelf.reserve_all(&wishes).await;
    let expected =
        [Refusal::NotEnough, Refusal::OverLimit, Refusal::Mismatch, Refusal::DeadlinePassed].map(refused);
    assert_eq!(decisions, expected);
    assert!(matches!(shelf.reserve("a", "k", 2).await, Decision::Known { .. }));
    assert_eq!(shelf.dump().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_window_is_judged_by_the_clock_of_redis() {
    let shelf = Shelf::empty().await;
    let mut item = shelf.definition(5, 5);
    item.starts_at = DateTime::from_timestamp_millis(4_000_000_000_000 - 1).unwrap();
    shelf.load(1, &item, &[]).await;
    assert_eq!(shelf.reserve("u", "k", 1).await, refused(Refusal::NotStarted));

    item.version = 2;
    item.starts_at = DateTime::from_timestamp_millis(1_000).unwrap();
    item.ends_at = DateTime::from_timestamp_millis(2_000).unwrap();
    shelf.inventory.update_item(&shelf.keys, 0, 0, &item).await.unwrap();
    assert_eq!(shelf.reserve("u", "k", 1).await, refused(Refusal::Ended));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_stays_accepted_after_pause_end_sell_out_and_expiry() {
    let shelf = Shelf::open(2, 2).await;
    assert!(granted(shelf.reserve("a", "k", 1).await));
    assert!(granted(shelf.reserve("b", "k", 1).await));
    assert_eq!(shelf.reserve("c", "k", 1).await, refused(Refusal::NotEnough));
    assert!(matches!(shelf.reserve("a", "k", 1).await, Decision::Known { settled: false, .. }));

    shelf.apply(&[shelf.order("a", "k", 1, (Units::Returned, 2))]).await;
    assert!(matches!(shelf.reserve("a", "k", 1).await, Decision::Known { settled: true, .. }));

    let mut item = shelf.definition(2, 2);
    for (version, hold) in [(2, AdminHold::Paused), (3, AdminHold::Ended)] {
        (item.version, item.hold) = (version, hold);
        shelf.inventory.update_item(&shelf.keys, 0, 0, &item).await.unwrap();
        assert!(matches!(shelf.reserve("a", "k", 1).await, Decision::Known { settled: true, .. }));
        assert!(matches!(shelf.reserve("b", "k", 1).await, Decision::Known { settled: false, .. }));
        let refusal = if version == 2 { Refusal::Paused } else { Refusal::Ended };
        assert_eq!(shelf.reserve("c", "k", 1).await, refused(refusal));
    }
    shelf.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_of_one_user_are_bounded_though_every_order_was_cancelled() {
    let shelf = Shelf::open(10, 1).await;
    for n in 0..ATTEMPTS_MAX {
        let key = format!("k{n}");
        assert!(granted(shelf.reserve("u", &key, 1).await), "attempt {n}");
        assert_eq!(
            shelf.apply(&[shelf.order("u", &key, 1, (Units::Returned, 2))]).await,
            [Applied::GaveBack]
        );
    }
    assert_eq!(shelf.reserve("u", "more", 1).await, refused(Refusal::TooManyAttempts));
    assert!(granted(shelf.reserve("other", "k", 1).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn units_that_come_back_to_a_sold_out_item_are_offered_after_the_lease() {
    let shelf = Shelf::open(1, 1).await;
    assert!(granted(shelf.reserve("a", "k", 1).await));
    assert_eq!(shelf.apply(&[shelf.order("a", "k", 1, (Units::Returned, 2))]).await, [Applied::GaveBack]);
    assert_eq!(shelf.reserve("b", "k", 1).await, refused(Refusal::NotEnough));
    tokio::time::sleep(std::time::Duration::from_millis(LEASE_MS + 50)).await;
    assert!(granted(shelf.reserve("b", "k", 1).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_item_is_offered_after_the_lease_and_paused_until_then() {
    let shelf = Shelf::open(1, 1).await;
    let mut item = shelf.definition(1, 1);
    (item.version, item.hold) = (2, AdminHold::Paused);
    shelf.inventory.update_item(&shelf.keys, 0, LEASE_MS, &item).await.unwrap();
    (item.version, item.hold) = (3, AdminHold::None);
    shelf.inventory.update_item(&shelf.keys, 0, LEASE_MS, &item).await.unwrap();
    assert_eq!(shelf.reserve("a", "k", 1).await, refused(Refusal::Paused));
    tokio::time::sleep(std::time::Duration::from_millis(LEASE_MS + 50)).await;
    assert!(granted(shelf.reserve("a", "k", 1).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_knows_a_newer_epoch_finds_the_gate_closed() {
    let shelf = Shelf::open(1, 1).await;
    let wish = shelf.wish("a", "k", 1);
    let newer = shelf.inventory.reserve(&shelf.keys, 2, ATTEMPTS_MAX, &[wish]).await.unwrap();
    assert_eq!(newer, stock_service::inventory::Reserved::Shut(Shut::Closed));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_flushed_or_unknown_redis_grants_nothing() {
    let mut shelf = Shelf::open(10, 1).await;
    assert!(granted(shelf.reserve("a", "k", 1).await));
    shelf.redis.kill_and_restart().await;
    testkit::eventually("the restarted Redis answers", async || {
        shelf.inventory.probe(&shelf.inventory.nodes()[0]).await.ok()
    })
    .await;
    assert_eq!(shelf.shut().await, Some(Shut::Closed));
    shelf.redis.flush_all().await;
    assert_eq!(shelf.shut().await, Some(Shut::Unknown));
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_that_redis_has_forgotten_are_loaded_again() {
    let shelf = Shelf::open(10, 1).await;
    shelf.redis_command(&["SCRIPT", "FLUSH", "SYNC"]).await;
    assert!(granted(shelf.reserve("a", "k", 1).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_the_wrong_type_closes_the_gate_and_nothing_is_half_written() {
    for key in ["item", "holds", "buyers", "unsettled", "attempts"] {
        let shelf = Shelf::open(10, 1).await;
        assert!(granted(shelf.reserve("a", "k", 1).await));
        let name = format!("{key}:{{{}}}", shelf.item);
        shelf.redis_command(&["SET", &name, "evil"]).await;
        let before = shelf.dump().await;
        assert_eq!(shelf.shut().await, Some(Shut::Broken), "{key}");
        let look = shelf.inventory.look(&shelf.keys).await.unwrap();
        assert_eq!((look.shut, look.figures), (Some(Shut::Broken), None), "{key}");
        assert_eq!(shelf.apply(&[shelf.order("a", "k", 1, (Units::Returned, 2))]).await, [Applied::Dropped]);
        assert_eq!(shelf.dump().await, before, "{key}");

        let held = shelf.order("a", "k", 1, (Units::Held, 1));
        assert_eq!(shelf.load(2, &shelf.definition(10, 1), &[held]).await, 9, "{key}: the load heals it");
        assert_eq!(shelf.shut().await, None);
        shelf.assert_balanced().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_redis_refuses_buyers_and_still_gives_back() {
    let shelf = Shelf::open(10, 1).await;
    assert!(granted(shelf.reserve("a", "k", 1).await));
    shelf.redis_command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let refused = shelf.inventory.reserve(&shelf.keys, 0, ATTEMPTS_MAX, &[shelf.wish("b", "k", 1)]).await;
    assert!(matches!(refused, Err(stock_service::inventory::StoreError::NotDone(_))), "{refused:?}");
    assert_eq!(shelf.apply(&[shelf.order("a", "k", 1, (Units::Returned, 2))]).await, [Applied::GaveBack]);
    shelf.redis_command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(shelf.books().await.available, 10);
}
