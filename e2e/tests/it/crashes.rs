//! Processes and stores die in mid-sale; promises are kept.

use std::sync::Arc;
use std::time::Duration;

use common::api::OrderStatus;
use e2e::crowd::{self, Tally};
use testkit::eventually;
use tokio::task::JoinHandle;

use crate::support::World;

const BUYERS: usize = 3_000;
const UNITS: i64 = 1_000;
const AT_ONCE: usize = 64;

#[tokio::test(flavor = "multi_thread")]
async fn no_order_is_lost_and_no_unit_sold_twice_when_each_service_is_killed_in_turn() {
    let mut world = World::start().await;
    let buyers = Arc::new(crowd::gather(&world.client, "crash", BUYERS).await.unwrap());
    let sale = world.open_sale(UNITS, 1, 3_600).await;

    let rush: JoinHandle<Tally> = {
        let (client, buyers, item) = (world.client.clone(), buyers.clone(), sale.items[0].id);
        tokio::spawn(async move { crowd::rush(&client, buyers, item, AT_ONCE, |_| {}).await.unwrap() })
    };
    for name in ["stock-service", "order-service", "notify-service", "gateway"] {
        tokio::time::sleep(Duration::from_millis(300)).await;
        world.services.kill(name);
        tokio::time::sleep(Duration::from_millis(300)).await;
        world.services.restart(name).await;
    }
    let tally = rush.await.unwrap();

    assert_eq!(tally.strange, Vec::<String>::new());
    check(&world, &buyers, &tally, sale.id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_loses_everything_in_mid_sale_loses_no_order_and_sells_nothing_twice() {
    let mut world = World::start().await;
    let buyers = Arc::new(crowd::gather(&world.client, "wipe", BUYERS).await.unwrap());
    let sale = world.open_sale(UNITS, 1, 3_600).await;

    let rush: JoinHandle<Tally> = {
        let (client, buyers, item) = (world.client.clone(), buyers.clone(), sale.items[0].id);
        tokio::spawn(async move { crowd::rush(&client, buyers, item, AT_ONCE, |_| {}).await.unwrap() })
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    world.services.redis().flush_all().await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    world.services.redis_mut().wipe().await;
    let tally = rush.await.unwrap();

    assert_eq!(tally.strange, Vec::<String>::new());
    check(&world, &buyers, &tally, sale.id).await;
}

/// Every 202 is an order of its buyer that waits for payment; the books add up, with nothing under way.
async fn check(world: &World, buyers: &[crowd::Buyer], tally: &Tally, sale: common::ids::SaleId) {
    for (buyer, order) in &tally.accepted {
        world.reaches(&buyers[*buyer].token, *order, OrderStatus::PendingPayment).await;
    }
    let accepted = i64::try_from(tally.accepted.len()).unwrap();
    assert!(accepted <= UNITS, "{accepted} of {UNITS} sold");
    let books = world.quiet(sale).await;
    // Who gave up without an answer may have an order too, but nobody did: each buyer asked until the answer was final.
    assert_eq!((books.items[0].pending_payment, books.items[0].rejected), (accepted, 0));
    assert_eq!(accepted, UNITS, "more buyers than units asked until the end");
    eventually("queues run dry", async || {
        world.services.vhost().queue_depths().await.values().all(|depth| *depth == 0).then_some(())
    })
    .await;
}
