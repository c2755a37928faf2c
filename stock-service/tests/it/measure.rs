//! Measurements, run by hand, on a quiet machine: `./dev test --release -p stock-service how_long -- --ignored --nocapture`.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::api::inventory::ReserveOutcome;
use stock_service::inventory::Committed;

use crate::support::app::{TestApp, order_id};
use crate::support::shelf::{Shelf, commit};

/// Holds, buyers and `unsettled` of `ARGV[1]` orders of one unit each, from number `ARGV[2]` on.
const FILL: &str = "for n = tonumber(ARGV[2]), tonumber(ARGV[2]) + tonumber(ARGV[1]) - 1 do \
    local id = string.format('00000000-0000-8000-8000-%012x', n) \
    redis.call('HSET', KEYS[1], id, '1:held:0:1000:user-' .. n) \
    redis.call('HSET', KEYS[2], 'user-' .. n, 1) \
    redis.call('ZADD', KEYS[3], 1000, id) end";
const FILL_STEP: usize = 5_000;

/// The longest that any command of a load with this many unsettled orders keeps Redis busy.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: ./dev test --release -p stock-service how_long -- --ignored --nocapture"]
async fn how_long_a_load_with_many_unsettled_orders_holds_up_redis() {
    const UNSETTLED: usize = 300_000;
    let shelf = Shelf::open(1_000_000, 5).await;
    let keys = [&*shelf.keys.holds, &*shelf.keys.buyers, &*shelf.keys.unsettled];
    for first in (0..UNSETTLED).step_by(FILL_STEP) {
        let (step, first) = (FILL_STEP.to_string(), first.to_string());
        shelf.redis_command(&[&["EVAL", FILL, "3"], &keys[..], &[&*step, &*first]].concat()).await;
    }
    shelf.redis_command(&["CONFIG", "SET", "slowlog-log-slower-than", "500"]).await;
    shelf.redis_command(&["CONFIG", "SET", "slowlog-max-len", "1000"]).await;
    shelf.redis_command(&["SLOWLOG", "RESET"]).await;
    let began = Instant::now();
    shelf.inventory.begin_load(&shelf.keys, 2).await.unwrap();
    let opened = shelf.commit_load(commit(2, 0, 0), &shelf.definition(1_000_000, 5)).await.unwrap();
    assert!(matches!(opened, Committed::Opened { merged, .. } if merged == UNSETTLED as i64), "{opened:?}");
    let slow: Vec<(i64, i64, i64, redis::Value, redis::Value, redis::Value)> =
        shelf.ask(&["SLOWLOG", "GET", "1000"]).await;
    let mut times_us: Vec<i64> = slow.iter().map(|entry| entry.2).collect();
    times_us.sort_unstable();
    // On a busy machine the slowest ones are those that were interrupted.
    let (median, p99) = (times_us[times_us.len() / 2], times_us[times_us.len() * 99 / 100]);
    let (all, slowest, elapsed) = (times_us.len(), times_us[times_us.len() - 1], began.elapsed());
    println!(
        "{UNSETTLED} unsettled: load {elapsed:?}, {all} commands over 0.5 ms, us: median {median}, p99 {p99}, most {slowest}"
    );
}

/// From the loss of all data of Redis to the first order that is accepted again.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: ./dev test --release -p stock-service how_long -- --ignored --nocapture"]
async fn how_long_a_redis_that_lost_ten_thousand_holders_sells_nothing() {
    const HOLDERS: usize = 10_000;
    // As in config/default.toml, where the tests have others.
    let app = TestApp::start_with(&[
        ("REDIS__RESPONSE_TIMEOUT_MS", "300"),
        ("AMQP__PUBLISH_TIMEOUT_MS", "1000"),
        ("CATALOGUE__LEASE_MS", "1000"),
        ("LOAD__SYNC_INTERVAL_MS", "1000"),
        ("RELAY__INTERVAL_MS", "1000"),
        ("RELAY__AGE_MS", "3000"),
    ])
    .await;
    let item = app.open_item(20_000, 1).await;
    for first in (0..HOLDERS).step_by(200) {
        let names: Vec<String> = (first..first + 200).map(|n| format!("u{n}")).collect();
        let requests = names.iter().map(|name| app.request(item, name, "k", 1)).collect();
        let outcomes = app.reserve_batch(item, requests).await;
        assert!(outcomes.iter().all(|outcome| *outcome == ReserveOutcome::Accepted));
    }
    while app.orders.orders(item).len() < HOLDERS {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for round in 0..5 {
        let epochs = app.orders.switches.epochs.load(Ordering::SeqCst);
        app.redis.flush_all().await;
        let began = Instant::now();
        let user = format!("after{round}");
        while app.reserve(item, &user, "k", 1).await != ReserveOutcome::Accepted {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let closed = began.elapsed();
        let loads = app.orders.switches.epochs.load(Ordering::SeqCst) - epochs;
        println!("{HOLDERS} holders, everything lost: sells again after {closed:?}, {loads} loads");
        assert_eq!(app.reserve(item, "u0", "k", 1).await, ReserveOutcome::Accepted);
        assert!(app.orders.has(order_id(item, &user, "k")) || !app.unsettled(item).await.is_empty());
    }
}
