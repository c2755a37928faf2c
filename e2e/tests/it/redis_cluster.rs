//! The inventory in a Redis Cluster: slots move and primaries die in mid-sale; promises are kept.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use common::api::OrderStatus;
use e2e::client::Client;
use e2e::crowd::{self, Tally};
use redis_route::slot_of;
use testkit::{RedisCluster, Services};
use tokio::task::JoinHandle;

use crate::support::World;

const BUYERS: usize = 1_200;
const UNITS: i64 = 400;
const AT_ONCE: usize = 32;

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_moves_and_a_primary_that_dies_cost_no_order_and_sell_nothing_twice() {
    let mut cluster = RedisCluster::start().await;
    let addresses = cluster.addresses();
    let settings =
        [("STOCK_SERVICE__REDIS__MODE", "cluster"), ("STOCK_SERVICE__REDIS__ADDRESSES", addresses.as_str())];
    let services = Services::start_with(1, &settings).await;
    let client = Client::new(services.gateway_urls()).unwrap();
    let admin = client.token("admin", "admin").await.unwrap();
    let world = World { services, client, admin };
    let buyers = Arc::new(crowd::gather(&world.client, "cluster", BUYERS).await.unwrap());
    let sale = world.open_sale(UNITS, 1, 3_600).await;
    let slot = slot_of(&format!("item:{{{}}}", sale.items[0].id));

    let rush: JoinHandle<Tally> = {
        let (client, buyers, item) = (world.client.clone(), buyers.clone(), sale.items[0].id);
        tokio::spawn(async move { crowd::rush(&client, buyers, item, AT_ONCE, |_| {}).await.unwrap() })
    };
    tokio::time::sleep(Duration::from_millis(200)).await;
    cluster.move_slot(slot).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let owner = cluster.owner(slot).await;
    cluster.stop(owner);
    let tally = rush.await.unwrap();

    assert_eq!(tally.strange, Vec::<String>::new());
    let distinct: HashSet<_> = tally.accepted.iter().map(|(_, order)| order).collect();
    assert_eq!((tally.accepted.len(), distinct.len()), (400, 400), "refused: {:?}", tally.refused);
    for (buyer, order) in &tally.accepted {
        world.reaches(&buyers[*buyer].token, *order, OrderStatus::PendingPayment).await;
    }
    let books = world.quiet(sale.id).await;
    assert_eq!((books.items[0].pending_payment, books.items[0].rejected), (UNITS, 0));
    assert_ne!(cluster.owner(slot).await, owner, "another server has the item now");
}
