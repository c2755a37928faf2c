//! Copies that are old, files that are cut, loads that are disturbed, and a Redis that takes no writes.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use common::api::OrderStatus;
use common::api::inventory::ReserveOutcome;
use common::ids::ItemId;
use common::messages::order::Units;
use futures_util::future::join_all;
use stock_service::inventory::Owner;
use stock_service::keys::{ITEMS, ItemKeys, Purpose, lock};

use crate::support::app::{TestApp, order_id};
use crate::support::shelf::Shelf;

const TOTAL: i64 = 12;

async fn data_folder(app: &TestApp) -> PathBuf {
    let (_, folder): (String, String) = app.redis_command(&["CONFIG", "GET", "dir"]).await;
    folder.into()
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Three orders that are known to be held, sold and returned.
async fn three_orders(app: &TestApp) -> ItemId {
    let item = app.open_item(TOTAL, 1).await;
    for name in ["a", "b", "c"] {
        assert_eq!(app.reserve(item, name, "k", 1).await, ReserveOutcome::Accepted);
    }
    app.assert_quiet_and_equal(item).await;
    item
}

/// More is sold, paid and given back after the moment to which Redis goes back.
async fn move_on(app: &TestApp, item: ItemId) {
    for name in ["d", "e", "f", "g"] {
        assert_eq!(app.reserve(item, name, "k", 1).await, ReserveOutcome::Accepted);
    }
    app.assert_quiet_and_equal(item).await;
    app.orders.move_order(order_id(item, "b", "k"), Units::Sold, OrderStatus::Paid).await;
    app.orders.move_order(order_id(item, "d", "k"), Units::Returned, OrderStatus::Cancelled).await;
    testkit::eventually("the books have followed", async || {
        Some(app.books(item).await).filter(|books| (books.sold, books.available) == (1, TOTAL - 6))
    })
    .await;
}

/// Everybody who was accepted still is, and exactly what is left is sold.
async fn sell_out(app: &TestApp, item: ItemId) {
    for name in ["a", "b", "c", "d", "e", "f", "g"] {
        let again = app.reserve_until_decided(item, name, "k", 1).await;
        assert_eq!(again, ReserveOutcome::Accepted, "{name}");
    }
    let names: Vec<String> = (0..20).map(|n| format!("new{n}")).collect();
    let outcomes = join_all(names.iter().map(|name| app.reserve_until_decided(item, name, "k", 1))).await;
    let accepted = outcomes.iter().filter(|outcome| **outcome == ReserveOutcome::Accepted).count();
    assert_eq!(accepted, usize::try_from(TOTAL - 6).unwrap(), "{outcomes:?}");
    assert_eq!(app.assert_quiet_and_equal(item).await.available, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_copy_sells_nothing_of_what_was_sold_since() {
    let mut app = TestApp::start().await;
    let item = three_orders(&app).await;
    let folder = data_folder(&app).await;
    let copy = folder.with_extension("copy");
    copy_folder(&folder, &copy);
    move_on(&app, item).await;
    app.redis.stop();
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::rename(&copy, &folder).unwrap();
    app.redis.resume().await;
    sell_out(&app, item).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_cut_off_sells_nothing_of_what_was_sold_since() {
    let mut app = TestApp::start().await;
    let item = three_orders(&app).await;
    let log = data_folder(&app).await.join("appendonlydir/appendonly.aof.1.incr.aof");
    let length = std::fs::metadata(&log).unwrap().len();
    move_on(&app, item).await;
    app.redis.stop();
    // In the middle of the first script after that moment.
    std::fs::OpenOptions::new().write(true).open(&log).unwrap().set_len(length + 40).unwrap();
    app.redis.resume().await;
    sell_out(&app, item).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_lagged_behind_is_loaded_before_it_sells() {
    let app = TestApp::start().await;
    let item = three_orders(&app).await;
    let lagging = testkit::Redis::start().await;
    let ask = async |words: &[&str]| {
        let client = redis::Client::open(lagging.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut command = redis::cmd(words[0]);
        words[1..].iter().for_each(|word| {
            command.arg(*word);
        });
        command.query_async::<redis::Value>(&mut connection).await.unwrap()
    };
    let port = app.redis.port().to_string();
    ask(&["REPLICAOF", "127.0.0.1", &port]).await;
    let holds = ItemKeys::of(item).holds;
    testkit::eventually("the replica has caught up", async || {
        (ask(&["HLEN", &holds]).await == redis::Value::Int(3)).then_some(())
    })
    .await;
    // From here on it hears nothing any more.
    ask(&["REPLICAOF", "NO", "ONE"]).await;
    move_on(&app, item).await;

    let second = app.replica_on(&lagging, &[]).await;
    app.until_ready(&second.url).await;
    let app = app.fail_over(lagging, second);
    sell_out(&app, item).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_in_the_middle_of_each_of_many_loads() {
    let app = TestApp::start().await;
    let item = three_orders(&app).await;
    move_on(&app, item).await;
    for n in 0..8_u64 {
        let epochs = app.orders.switches.epochs.load(Ordering::SeqCst);
        let begun = async || {
            while app.orders.switches.epochs.load(Ordering::SeqCst) <= epochs {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        testkit::eventually("a load has begun", async || {
            app.redis.flush_all().await;
            // A load that has its epoch and has not touched Redis yet goes on as if nothing had been.
            tokio::time::timeout(std::time::Duration::from_secs(3), begun()).await.ok()
        })
        .await;
        // A little later each time: before the fence, while it is waited for, while orders are staged, after it all.
        tokio::time::sleep(std::time::Duration::from_millis(n * 150)).await;
    }
    app.redis.flush_all().await;
    sell_out(&app, item).await;
}

/// As when the loader was stopped for longer than its lock lasts: another one takes over, and the first wakes up.
#[tokio::test(flavor = "multi_thread")]
async fn a_loader_that_lost_its_lock_leaves_the_load_to_the_next_one() {
    let app = TestApp::start().await;
    let item = three_orders(&app).await;
    move_on(&app, item).await;
    let second = app.replica(&[]).await;
    app.until_ready(&second.url).await;
    app.orders.switches.paused.store(true, Ordering::SeqCst);
    let key = lock(item, Purpose::Load);
    app.redis.flush_all().await;
    for _ in 0..3 {
        let epochs = app.orders.switches.epochs.load(Ordering::SeqCst);
        testkit::eventually("somebody loads", async || {
            app.redis_command::<Option<String>>(&["GET", &key]).await
        })
        .await;
        let _: i64 = app.redis_command(&["DEL", &key]).await;
        testkit::eventually("the next epoch was asked for", async || {
            (app.orders.switches.epochs.load(Ordering::SeqCst) > epochs).then_some(())
        })
        .await;
    }
    app.orders.switches.paused.store(false, Ordering::SeqCst);
    sell_out(&app, item).await;
    second.stop().await;
}

/// A failover in progress, a full disk, too few replicas: reads work, writes are refused before they begin.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_takes_no_writes_grants_nothing_and_loses_no_news() {
    // A primary that was demoted and promoted again is another Redis for us: meanwhile it may have got the books of a
    // primary that had not heard of the last grants, so it sells only after a load. One that only refused writes is not.
    for (refuse, allow, epoch) in [
        (["CONFIG", "SET", "min-replicas-to-write", "3"], ["CONFIG", "SET", "min-replicas-to-write", "0"], 1),
        (["REPLICAOF", "127.0.0.1", "1", ""], ["REPLICAOF", "NO", "ONE", ""], 2),
    ] {
        let words =
            |words: &[&'static str; 4]| words.iter().copied().filter(|w| !w.is_empty()).collect::<Vec<_>>();
        let app = TestApp::start().await;
        let item = three_orders(&app).await;
        let _: () = app.redis_command(&words(&refuse)).await;
        assert_eq!(app.reserve(item, "n", "k", 1).await, ReserveOutcome::Unavailable, "{refuse:?}");
        assert!(app.hold(order_id(item, "a", "k")).await.is_some(), "{refuse:?}: reads go on");
        let (paid, over) = (order_id(item, "b", "k"), order_id(item, "c", "k"));
        app.orders.move_order(paid, Units::Sold, OrderStatus::Paid).await;
        app.orders.move_order(over, Units::Returned, OrderStatus::Cancelled).await;
        let _: () = app.redis_command(&words(&allow)).await;
        testkit::eventually("the books have followed", async || {
            Some(app.books(item).await).filter(|books| (books.sold, books.available) == (1, TOTAL - 2))
        })
        .await;
        assert_eq!(app.reserve_until_decided(item, "n", "k", 1).await, ReserveOutcome::Accepted);
        assert_eq!(app.assert_quiet_and_equal(item).await.epoch, epoch, "{refuse:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn evil_data_at_any_key_at_all_is_healed() {
    let app = TestApp::start().await;
    let item = three_orders(&app).await;
    move_on(&app, item).await;
    let keys = ItemKeys::of(item);
    let locks = [Purpose::Load, Purpose::Relay, Purpose::Reconcile].map(|purpose| lock(item, purpose));
    let all: Vec<&str> =
        keys.all().into_iter().chain(locks.iter().map(String::as_str)).chain([ITEMS]).collect();
    for evil in ["string", "list"] {
        for key in &all {
            let _: i64 = app.redis_command(&["DEL", key]).await;
            if evil == "string" {
                let _: () = app.redis_command(&["SET", key, "evil"]).await;
            } else {
                let _: i64 = app.redis_command(&["RPUSH", key, "evil"]).await;
            }
        }
        assert_eq!(app.reserve_until_decided(item, "a", "k", 1).await, ReserveOutcome::Accepted, "{evil}");
    }
    sell_out(&app, item).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_its_owners_and_what_cannot_be_one_is_taken_over() {
    let shelf = Shelf::empty().await;
    let (time, key) = (std::time::Duration::from_secs(60), lock(shelf.item, Purpose::Load));
    let (one, other) = (Owner::draw(), Owner::draw());
    let take = async |owner| shelf.inventory.lock(&key, owner, time).await.unwrap();
    assert!(take(one).await);
    assert!(take(one).await, "kept");
    assert!(!take(other).await);
    shelf.inventory.unlock(&key, other).await.unwrap();
    assert!(!take(other).await, "given back by somebody else");
    shelf.inventory.unlock(&key, one).await.unwrap();
    assert!(take(other).await);
    for evil in [["SET", &key, "for ever"], ["RPUSH", &key, "no lock"]] {
        shelf.redis_command(&["DEL", &key]).await;
        shelf.redis_command(&evil).await;
        assert!(take(one).await, "after {evil:?}");
        assert!(shelf.ask::<i64>(&["PTTL", &key]).await > 0, "it has no end after {evil:?}");
    }
}
