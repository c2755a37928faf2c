//! What was committed is told, whatever happens to the broker.

use common::api::OrderStatus;
use common::messages::order::{CANCELLED_V1, CREATED_V1};
use testkit::eventually;

use crate::support::{Wanted, World, reserved};

const GENERATION: &str = "SELECT generation FROM broker_generation WHERE generation IS NOT NULL";

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_told_after_the_broker_was_away() {
    let world = World::start("broker_away").await;
    let item = world.item(Wanted::default()).await;
    let heard = world.listen();
    let instance = world.instance().await;
    let events: Vec<_> = (0..20).map(|n| reserved(item, &format!("u{n}"), "key")).collect();
    world.reserve(item, &events).await;
    world.number_becomes("SELECT count(*) FROM orders", 20).await;

    world.vhost.block().await;
    for (n, event) in events.iter().enumerate() {
        let path = format!("/orders/{}/cancel", event.data.order_id);
        assert_eq!(instance.post(&path, &format!("u{n}")).await.0, 200, "cancelling works without a broker");
    }
    world.vhost.unblock().await;

    let told = || heard.all().into_iter().filter(|(kind, ..)| *kind == CANCELLED_V1).count();
    eventually("every cancellation is told", async || (told() >= 20).then_some(())).await;
    world.number_becomes("SELECT count(*) FROM outbox WHERE published_at IS NULL", 0).await;
    for event in &events {
        assert!(heard.about(event.data.order_id).contains(&CANCELLED_V1));
    }
}

/// The broker comes back empty: everything of the last day is told again, by the same event ids.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_lost_its_data_is_told_again() {
    let world = World::start("broker_wiped").await;
    let item = world.item(Wanted::default()).await;
    let instance = world.instance().await;
    let event = reserved(item, "ann", "key");
    let order = event.data.order_id;
    world.reserve(item, std::slice::from_ref(&event)).await;
    instance.order_becomes(order, "ann", OrderStatus::PendingPayment).await;
    assert_eq!(instance.post(&format!("/orders/{order}/cancel"), "ann").await.0, 200);
    world.number_becomes("SELECT count(*) FROM outbox WHERE published_at IS NULL", 0).await;
    let generation = eventually("the broker is marked", async || {
        let generation = world.words(GENERATION).await.pop()?;
        let marker = format!("order-service.generation.{generation}");
        world.vhost.queue_depths().await.contains_key(&marker).then_some(generation)
    })
    .await;

    world.vhost.wipe().await;
    let heard = world.listen();

    eventually("it is told again", async || (heard.about(order).len() >= 2).then_some(())).await;
    let mut kinds = heard.about(order);
    kinds.sort_unstable();
    assert_eq!(kinds, [CANCELLED_V1, CREATED_V1]);
    world.number_becomes("SELECT count(*) FROM outbox WHERE published_at IS NULL", 0).await;
    eventually("it is another generation", async || {
        (world.words(GENERATION).await != [generation.clone()]).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn published_messages_are_deleted_when_they_are_old() {
    let world = World::start("outbox_old").await;
    world
        .execute(
            "INSERT INTO outbox (message_id, exchange, routing_key, kind, body, created_at, published_at)
             SELECT gen_random_uuid(), 'order', 'order.paid.v1', 'order.paid.v1', '', now() - age, now() - age
               FROM unnest(ARRAY[interval '25 hours', interval '30 hours', interval '1 hour']) AS age",
        )
        .await;
    let _instance = world.instance().await;
    world.number_becomes("SELECT count(*) FROM outbox", 1).await;
}
