//! Arrivals come by the clock, whatever the system does.

use std::sync::atomic::Ordering;
use std::time::Duration;

use load::engine::{Engine, Pace};
use load::record::quantile_ms;

use crate::support::{Shop, end, plan, step, until};

const HOLD: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stalls_gets_every_arrival_and_its_stall_is_in_the_latency() {
    let shop = Shop::open(true, usize::MAX).await;
    let step = step(Pace::Open { per_second: 400.0 }, HOLD);
    let engine = Engine::start(&plan(shop.address, 1_000, 2), std::slice::from_ref(&step)).unwrap();

    // A closed loop would send nothing while nothing is answered.
    until("all arrivals are sent", || step.recorder.sent_count() == 400).await;
    assert_eq!(step.recorder.in_flight(), 400);
    assert_eq!(step.recorder.totals().unwrap().all.answered(), 0);
    shop.stalled.send_replace(false);

    let all = end(engine, &step).await.all;
    assert_eq!((all.accepted(), all.beyond_bound), (400, 0));
    // The first arrival waited for the whole second, the middle one for half of it.
    assert!(quantile_ms(&all.accepted_us, 1.0) >= 990.0, "{}", quantile_ms(&all.accepted_us, 1.0));
    assert!(quantile_ms(&all.accepted_us, 0.5) >= 450.0, "{}", quantile_ms(&all.accepted_us, 0.5));
}

#[tokio::test(flavor = "multi_thread")]
async fn arrivals_beyond_the_bound_are_counted_and_none_is_missing() {
    let shop = Shop::open(true, usize::MAX).await;
    let step = step(Pace::Open { per_second: 200.0 }, HOLD);
    let engine = Engine::start(&plan(shop.address, 25, 1), std::slice::from_ref(&step)).unwrap();
    until("the schedule is through", || {
        step.recorder.totals().unwrap().all.beyond_bound + step.recorder.sent_count() == 200
    })
    .await;
    shop.stalled.send_replace(false);

    let totals = end(engine, &step).await;
    assert_eq!((totals.sent, totals.all.accepted(), totals.all.beyond_bound), (25, 25, 175));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_the_server_closed_in_between_costs_no_arrival() {
    let shop = Shop::open(false, 3).await;
    let step = step(Pace::Open { per_second: 100.0 }, HOLD);
    let engine = Engine::start(&plan(shop.address, 100, 1), std::slice::from_ref(&step)).unwrap();
    let totals = end(engine, &step).await;
    assert_eq!((totals.sent, totals.all.accepted(), totals.all.failed()), (100, 100, 0));
    assert!(shop.connections.load(Ordering::Relaxed) >= 33);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_server_every_arrival_is_a_failure() {
    let shop = Shop::open(false, 0).await;
    let step = step(Pace::Open { per_second: 50.0 }, HOLD);
    let engine = Engine::start(&plan(shop.address, 100, 1), std::slice::from_ref(&step)).unwrap();
    let totals = end(engine, &step).await;
    assert_eq!((totals.all.failed(), totals.all.accepted()), (50, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_loop_has_as_many_requests_as_connections() {
    let shop = Shop::open(true, usize::MAX).await;
    let step = step(Pace::Closed { connections: 7 }, HOLD);
    let engine = Engine::start(&plan(shop.address, 100, 2), std::slice::from_ref(&step)).unwrap();
    until("each connection has asked", || step.recorder.sent_count() == 7).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(step.recorder.sent_count(), 7);
    shop.stalled.send_replace(false);
    let totals = end(engine, &step).await;
    assert_eq!(totals.all.accepted(), totals.sent);
    assert_eq!(shop.connections.load(Ordering::Relaxed), 7);
}
