//! Loading: staged, committed at once, by one loader.

use common::messages::order::Units;
use stock_service::inventory::{Begun, Committed};
use stock_service::stock::{Decision, Refusal, Shut};

use crate::support::shelf::{LEASE_MS, Shelf, commit, granted, refused};

#[tokio::test(flavor = "multi_thread")]
async fn a_load_brings_all_orders_back_and_finished_ones_as_tombstones() {
    let shelf = Shelf::empty().await;
    let orders = [
        shelf.order("a", "k", 2, (Units::Held, 1)),
        shelf.order("b", "k", 1, (Units::Sold, 2)),
        shelf.order("c", "k", 4, (Units::Returned, 2)),
    ];
    assert_eq!(shelf.load(1, &shelf.definition(10, 5), &orders).await, 7);
    let books = shelf.books().await;
    assert_eq!((books.held, books.sold, books.unsettled, books.epoch), (2, 1, 0, 1));
    assert!(matches!(shelf.reserve("c", "k", 4).await, Decision::Known { settled: true, .. }));
    assert!(matches!(shelf.reserve("a", "k", 2).await, Decision::Known { settled: true, .. }));
    shelf.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reservations_that_the_source_of_truth_does_not_know_survive_a_load() {
    let shelf = Shelf::open(10, 5).await;
    assert!(granted(shelf.reserve("known", "k", 1).await));
    assert!(granted(shelf.reserve("unknown", "k", 2).await));
    let known = shelf.order("known", "k", 1, (Units::Held, 1));
    assert_eq!(shelf.load(2, &shelf.definition(10, 5), &[known]).await, 7);
    let books = shelf.books().await;
    assert_eq!((books.held, books.unsettled), (3, 2));
    assert!(matches!(shelf.reserve("unknown", "k", 2).await, Decision::Known { settled: false, .. }));
    shelf.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_granted_from_the_beginning_of_a_load_to_its_commit() {
    let shelf = Shelf::open(10, 5).await;
    assert!(matches!(
        shelf.inventory.begin_load(&shelf.keys, 2).await.unwrap(),
        Begun::Yes { earlier: true }
    ));
    assert_eq!(shelf.shut().await, Some(Shut::Closed));
    shelf.commit_load(commit(2, 0, 0), &shelf.definition(10, 5)).await.unwrap();
    assert_eq!(shelf.shut().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_loader_that_wakes_up_changes_nothing() {
    let shelf = Shelf::open(10, 5).await;
    let item = shelf.definition(10, 5);
    assert!(matches!(shelf.inventory.begin_load(&shelf.keys, 2).await.unwrap(), Begun::Yes { .. }));
    assert!(matches!(shelf.inventory.begin_load(&shelf.keys, 3).await.unwrap(), Begun::Yes { .. }));
    let order = shelf.order("a", "k", 1, (Units::Held, 1));
    assert!(!shelf.inventory.stage_orders(&shelf.keys, 2, std::slice::from_ref(&order)).await.unwrap());
    assert_eq!(shelf.commit_load(commit(2, 0, 0), &item).await.unwrap(), Committed::NotReady);
    assert_eq!(shelf.inventory.begin_load(&shelf.keys, 2).await.unwrap(), Begun::Superseded);
    assert!(shelf.inventory.stage_orders(&shelf.keys, 3, &[order]).await.unwrap());
    let opened = shelf.commit_load(commit(3, 1, 0), &item).await.unwrap();
    assert_eq!(opened, Committed::Opened { available: 9, merged: 0 });
    // Also not after the newer one has opened the gate.
    assert_eq!(shelf.inventory.begin_load(&shelf.keys, 2).await.unwrap(), Begun::AlreadyOpen);
    assert_eq!(shelf.inventory.begin_load(&shelf.keys, 3).await.unwrap(), Begun::AlreadyOpen);
    assert_eq!(shelf.commit_load(commit(2, 0, 0), &item).await.unwrap(), Committed::NotReady);
    assert_eq!(shelf.books().await.epoch, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_in_the_middle_of_a_load_keeps_the_gate_closed() {
    let shelf = Shelf::empty().await;
    let item = shelf.definition(10, 5);
    let order = shelf.order("a", "k", 1, (Units::Held, 1));
    shelf.inventory.begin_load(&shelf.keys, 1).await.unwrap();
    assert!(shelf.inventory.stage_orders(&shelf.keys, 1, std::slice::from_ref(&order)).await.unwrap());
    shelf.redis.flush_all().await;
    assert!(!shelf.inventory.stage_orders(&shelf.keys, 1, &[order]).await.unwrap());
    assert_eq!(shelf.commit_load(commit(1, 1, 0), &item).await.unwrap(), Committed::NotReady);
    assert_eq!(shelf.dump().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_the_middle_of_a_load_keeps_the_gate_closed() {
    let mut shelf = Shelf::empty().await;
    shelf.inventory.begin_load(&shelf.keys, 1).await.unwrap();
    shelf.redis.kill_and_restart().await;
    testkit::eventually("the restarted Redis answers", async || {
        shelf.inventory.probe(&shelf.inventory.nodes()[0]).await.ok()
    })
    .await;
    let item = shelf.definition(10, 5);
    let commit = testkit::eventually("the bulk connection is back", async || {
        shelf.commit_load(commit(1, 0, 0), &item).await.ok()
    });
    assert_eq!(commit.await, Committed::NotReady);
}

/// The same process, with books that lack what it granted before another one had its place.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_was_demoted_and_promoted_again_sells_nothing_until_it_is_loaded() {
    let shelf = Shelf::open(10, 5).await;
    let mut replica = shelf.redis.start_replica().await;
    shelf.inventory.begin_load(&shelf.keys, 2).await.unwrap();
    let opened = shelf.commit_load(commit(2, 0, 0), &shelf.definition(10, 5)).await.unwrap();
    assert_eq!(opened, Committed::Opened { available: 10, merged: 0 });
    assert_eq!(shelf.shut().await, None);

    replica.promote().await;
    shelf.redis.command(&format!("REPLICAOF 127.0.0.1 {}", replica.port())).await;
    testkit::eventually("the demoted one has caught up", async || {
        shelf.redis.command("INFO replication").await.contains("master_link_status:up").then_some(())
    })
    .await;
    shelf.redis.command("REPLICAOF NO ONE").await;
    assert_eq!(shelf.shut().await, Some(Shut::Closed));
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_staged_orders_keep_the_gate_closed() {
    let shelf = Shelf::empty().await;
    shelf.inventory.begin_load(&shelf.keys, 1).await.unwrap();
    let item = shelf.definition(10, 5);
    assert_eq!(shelf.commit_load(commit(1, 1, 0), &item).await.unwrap(), Committed::NotReady);
    assert_eq!(shelf.shut().await, Some(Shut::Unknown));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_is_staged_twice_counts_once() {
    let shelf = Shelf::empty().await;
    let order = shelf.order("a", "k", 3, (Units::Sold, 2));
    shelf.inventory.begin_load(&shelf.keys, 1).await.unwrap();
    for _ in 0..2 {
        let chunk = std::slice::from_ref(&order);
        assert!(shelf.inventory.stage_orders(&shelf.keys, 1, chunk).await.unwrap());
    }
    let commit = shelf.commit_load(commit(1, 1, 0), &shelf.definition(10, 5)).await.unwrap();
    assert_eq!(commit, Committed::Opened { available: 7, merged: 0 });
    shelf.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reload_units_are_offered_when_old_snapshots_have_run_out() {
    let shelf = Shelf::open(10, 5).await;
    shelf.inventory.begin_load(&shelf.keys, 2).await.unwrap();
    shelf.commit_load(commit(2, 0, LEASE_MS), &shelf.definition(10, 5)).await.unwrap();
    assert_eq!(shelf.reserve("a", "k", 1).await, refused(Refusal::Reopening));
    tokio::time::sleep(std::time::Duration::from_millis(LEASE_MS + 50)).await;
    assert!(granted(shelf.reserve("a", "k", 1).await));
}
