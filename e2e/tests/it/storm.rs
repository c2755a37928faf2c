//! The moment that everything is built for.

use std::collections::HashSet;
use std::sync::Arc;

use common::api::OrderStatus;
use e2e::crowd;

use crate::support::World;

const BUYERS: usize = 10_000;
const UNITS: usize = 1_000;
const AT_ONCE: usize = 512;

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_buyers_get_exactly_a_thousand_units_and_everybody_a_true_answer() {
    let world = World::start().await;
    let buyers = Arc::new(crowd::gather(&world.client, "storm", BUYERS).await.unwrap());
    let sale = world.open_sale(UNITS as i64, 1, 3_600).await;

    let tally = crowd::rush(&world.client, buyers.clone(), sale.items[0].id, AT_ONCE, |_| {}).await.unwrap();

    assert_eq!(tally.strange, Vec::<String>::new());
    assert_eq!(tally.accepted.len(), UNITS, "refused: {:?}", tally.refused);
    let only_sold_out = tally.refused.keys().all(|code| code == "sold_out");
    assert!(only_sold_out, "who asks again gets a final answer: {:?}", tally.refused);
    let distinct: HashSet<_> = tally.accepted.iter().map(|(_, order)| order).collect();
    assert_eq!(distinct.len(), UNITS, "two buyers were given the same order");

    for (buyer, order) in &tally.accepted {
        world.reaches(&buyers[*buyer].token, *order, OrderStatus::PendingPayment).await;
    }
    let books = world.quiet(sale.id).await;
    assert_eq!(books.items[0].pending_payment, UNITS as i64);
    assert_eq!((books.items[0].available, books.items[0].held), (0, UNITS as i64));
    world.queues_run_dry().await;
}

/// Demand far below the stock: nobody is refused, nothing leaks.
#[tokio::test(flavor = "multi_thread")]
async fn everybody_gets_one_when_there_is_enough() {
    let world = World::start().await;
    let buyers = Arc::new(crowd::gather(&world.client, "calm", 200).await.unwrap());
    let sale = world.open_sale(500, 1, 3_600).await;

    let tally = crowd::rush(&world.client, buyers, sale.items[0].id, 32, |_| {}).await.unwrap();

    assert_eq!((tally.accepted.len(), tally.refused.len(), tally.strange.len()), (200, 0, 0));
    let books = world.quiet(sale.id).await;
    assert_eq!((books.items[0].available, books.items[0].pending_payment), (300, 200));
}
