//! A process that stood still wakes up with grants in hand, and a load has been there meanwhile.

use std::time::Duration;

use common::amqp::{AmqpSettings, PublishError, Publisher, Topology};
use common::health::Health;
use common::ids::{Currency, ItemId, OrderId, SaleId};
use common::shutdown::Tasks;
use common::topology::{Exchange, Queue};
use secrecy::SecretString;
use stock_service::announce::{Announcer, Asked, Grant};
use stock_service::stock::Offer;
use testkit::{Vhost, eventually};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::shelf::{units, user};

const ITEM: ItemId = ItemId(Uuid::from_u128(7));
/// Longer than this test may take.
const PUBLISH_TIMEOUT_MS: u64 = 60_000;
const REPLY_TIMEOUT_MS: u64 = 300;

fn grant() -> Grant {
    Grant {
        order_id: OrderId(Uuid::from_u128(1)),
        user_id: user("u"),
        quantity: units(1),
        reserved_ms: 1_000,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_was_asked_for_long_ago_is_not_published() {
    let vhost = Vhost::create().await;
    let settings = AmqpSettings {
        addresses: common::amqp::NodeList::default(),
        url: SecretString::from(vhost.url()),
        heartbeat_s: 10,
        connect_timeout_ms: 20_000,
        publish_timeout_ms: PUBLISH_TIMEOUT_MS,
        publish_window: 16,
    };
    let queue = Queue::reservations(ITEM.partition());
    let topology = Topology { exchanges: vec![Exchange::Stock], queues: vec![queue.clone()] };
    let (health, tasks) = (Health::default(), Tasks::new(CancellationToken::new()));
    let publisher = Publisher::start(&settings, "test", topology, health.dependency("publisher"), &tasks);
    eventually("the publisher is ready", async || publisher.is_ready().then_some(())).await;
    let announcer = Announcer::new(publisher, PUBLISH_TIMEOUT_MS, REPLY_TIMEOUT_MS);
    let currency = Currency::try_from("CNY".to_owned()).unwrap();
    let offer = Offer { epoch: 1, sale_id: SaleId(Uuid::from_u128(2)), unit_price_cents: 5, currency };
    let announce =
        async |at| announcer.reserved(ITEM, &offer, Asked { at, redis_ms: 1_000 }, vec![grant()]).await;
    let depth = async || vhost.queue_depths().await.get(&queue.name).copied().unwrap_or(0);

    let now = Instant::now();
    let late = now.checked_sub(announcer.longest() + Duration::from_millis(1)).unwrap();
    assert_eq!(announce(late).await, Err(PublishError::NotReady));
    assert_eq!(depth().await, 0, "a load may have sold its unit to somebody else");
    assert_eq!(announce(now).await, Ok(()));
    assert_eq!(depth().await, 1);
}
