//! `reserve.lua` on an item with a waiting room: no admission, no unit; one admission, one order.

use common::messages::order::Units;
use stock_service::inventory::Updated;
use stock_service::stock::{Decision, Refusal, Wish};

use crate::support::shelf::{LEASE_MS, Shelf, granted, refused};

/// An open item whose buyers need an admission.
async fn with_line(total: i64, limit: u32) -> Shelf {
    let shelf = Shelf::empty().await;
    let mut item = shelf.definition(total, limit);
    item.waiting_room = true;
    shelf.load(1, &item, &[]).await;
    shelf
}

fn admitted(shelf: &Shelf, user: &str, key: &str, at_ms: i64) -> Wish {
    Wish { admitted_ms: Some(at_ms), ..shelf.wish(user, key, 1) }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_admission_nothing_is_granted_and_nothing_changes() {
    let shelf = with_line(10, 5).await;
    let before = shelf.dump().await;
    assert_eq!(shelf.reserve("u", "k", 1).await, refused(Refusal::PlaceRequired));
    assert_eq!(shelf.dump().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admission_is_good_for_one_order_also_within_a_batch() {
    let shelf = with_line(10, 5).await;
    let (first, second) = (admitted(&shelf, "u", "k1", 500), admitted(&shelf, "u", "k2", 500));
    let decisions = shelf.reserve_all(&[first.clone(), second.clone()]).await;
    assert!(granted(decisions[0]), "{decisions:?}");
    assert_eq!(decisions[1], refused(Refusal::PlaceRequired));
    assert_eq!(shelf.reserve_all(&[second]).await, [refused(Refusal::PlaceRequired)]);
    // The same order is told what it was told, with its admission, with an old one, and with none.
    for retry in [first, admitted(&shelf, "u", "k1", 499), shelf.wish("u", "k1", 1)] {
        let decisions = shelf.reserve_all(&[retry]).await;
        assert!(matches!(decisions[0], Decision::Known { settled: false, .. }), "{decisions:?}");
    }
    assert!(granted(shelf.reserve_all(&[admitted(&shelf, "u", "k3", 501)]).await[0]), "a newer admission");
    assert!(granted(shelf.reserve_all(&[admitted(&shelf, "other", "k", 500)]).await[0]), "another user's");
    shelf.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_leaves_the_admission_as_it_is() {
    let shelf = with_line(2, 1).await;
    let mut two = admitted(&shelf, "u", "k1", 500);
    two.quantity = crate::support::shelf::units(2);
    assert_eq!(shelf.reserve_all(&[two]).await, [refused(Refusal::OverLimit)]);
    assert!(granted(shelf.reserve_all(&[admitted(&shelf, "u", "k2", 500)]).await[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admission_that_was_used_stays_used_when_the_order_ends() {
    let shelf = with_line(10, 1).await;
    assert!(granted(shelf.reserve_all(&[admitted(&shelf, "u", "k1", 500)]).await[0]));
    shelf.apply(&[shelf.order("u", "k1", 1, (Units::Returned, 2))]).await;
    assert_eq!(
        shelf.reserve_all(&[admitted(&shelf, "u", "k2", 500)]).await,
        [refused(Refusal::PlaceRequired)]
    );
    assert!(granted(shelf.reserve_all(&[admitted(&shelf, "u", "k2", 900)]).await[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_can_open_and_close_the_waiting_room_of_a_sale_that_runs() {
    let shelf = Shelf::open(10, 5).await;
    assert!(granted(shelf.reserve("u", "k1", 1).await));
    for (version, waiting_room) in [(2, true), (3, false)] {
        let mut item = shelf.definition(10, 5);
        (item.version, item.waiting_room, item.challenge) = (version, waiting_room, waiting_room);
        let updated = shelf.inventory.update_item(&shelf.keys, 0, LEASE_MS, &item).await.unwrap();
        assert_eq!(updated, Updated::Changed);
        let figures = shelf.figures().await;
        assert_eq!((figures.waiting_room, figures.challenge), (waiting_room, waiting_room));
        let decision = shelf.reserve("u", &format!("k{version}"), 1).await;
        assert_eq!(granted(decision), !waiting_room, "{decision:?}");
        assert!(matches!(shelf.reserve("u", "k1", 1).await, Decision::Known { .. }), "a known order stays");
    }
}
