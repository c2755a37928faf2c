//! The inventory behind Redis Sentinel: primaries are replaced in mid-sale; promises are kept.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use common::api::OrderStatus;
use common::ids::ItemId;
use e2e::client::Client;
use e2e::crowd::{self, Buyer, Tally};
use testkit::{RedisSentinels, Services};
use tokio::task::JoinHandle;

use crate::support::World;

const BUYERS: usize = 900;
const UNITS: i64 = 600;
const AT_ONCE: usize = 32;
/// How far a wave of buyers has come when its primary goes away.
const UNDER_WAY: Duration = Duration::from_millis(300);

fn wave(world: &World, buyers: &[Buyer], item: ItemId) -> JoinHandle<Tally> {
    let (client, buyers) = (world.client.clone(), Arc::new(buyers.to_vec()));
    tokio::spawn(async move { crowd::rush(&client, buyers, item, AT_ONCE, |_| {}).await.unwrap() })
}

#[tokio::test(flavor = "multi_thread")]
async fn primaries_that_die_or_are_cut_off_are_replaced_and_nothing_is_lost_or_sold_twice() {
    let mut redis = RedisSentinels::start().await;
    let sentinels = redis.addresses();
    let settings = [
        ("STOCK_SERVICE__REDIS__MODE", "sentinel"),
        ("STOCK_SERVICE__REDIS__ADDRESSES", sentinels.as_str()),
        ("STOCK_SERVICE__REDIS__MASTER_NAME", redis.master_name()),
        ("GATEWAY__REDIS__MODE", "sentinel"),
        ("GATEWAY__REDIS__ADDRESSES", sentinels.as_str()),
        ("GATEWAY__REDIS__MASTER_NAME", redis.master_name()),
    ];
    let services = Services::start_with(1, &settings).await;
    let client = Client::new(services.gateway_urls()).unwrap();
    let admin = client.token("admin", "admin").await.unwrap();
    let world = World { services, client, admin };
    let buyers = crowd::gather(&world.client, "sentinel", BUYERS).await.unwrap();
    let sale = world.open_sale(UNITS, 1, 3_600).await;
    let item = sale.items[0].id;

    // One dies.
    let first = redis.primary().await;
    let rush = wave(&world, &buyers[..300], item);
    tokio::time::sleep(UNDER_WAY).await;
    redis.stop(first);
    redis.replaced(first).await;
    let mut tallies = vec![rush.await.unwrap()];
    redis.resume(first).await;

    // One is cut off, and comes back in the belief that it is the primary while the sale goes on.
    let second = redis.primary().await;
    let rush = wave(&world, &buyers[300..], item);
    tokio::time::sleep(UNDER_WAY).await;
    redis.freeze(second);
    redis.replaced(second).await;
    redis.unfreeze(second);
    tallies.push(rush.await.unwrap());

    let mut accepted = Vec::new();
    for (tally, offset) in tallies.iter().zip([0, 300]) {
        assert_eq!(tally.strange, Vec::<String>::new());
        accepted.extend(tally.accepted.iter().map(|(buyer, order)| (buyer + offset, *order)));
    }
    let distinct: HashSet<_> = accepted.iter().map(|(_, order)| order).collect();
    assert_eq!((accepted.len(), distinct.len()), (600, 600));
    for (buyer, order) in accepted {
        world.reaches(&buyers[buyer].token, order, OrderStatus::PendingPayment).await;
    }
    let books = world.quiet(sale.id).await;
    assert_eq!((books.items[0].pending_payment, books.items[0].rejected), (UNITS, 0));
}
