//! From the broker into the database: once each, in order, whatever comes.

use common::api::OrderStatus;
use common::messages::order::{CREATED_V1, PAID_V1};
use common::topology::Queue;
use serde_json::{Value, json};
use testkit::eventually;
use uuid::Uuid;

use crate::support::{World, order_event, some_time};

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_comes_again_is_told_once() {
    let world = World::start().await;
    let replica = world.replica().await;
    let mut stream = replica.stream("ann", None).await;

    let first = order_event("ann", 1, OrderStatus::PendingPayment);
    let second = order_event("ann", 2, OrderStatus::Paid);
    // Twice in one message, again in another one, and once more after what follows.
    world.publish(CREATED_V1, vec![first.clone(), first.clone()]).await;
    world.publish(CREATED_V1, vec![first.clone()]).await;
    world.publish(PAID_V1, vec![second.clone()]).await;
    world.publish(CREATED_V1, vec![first.clone()]).await;
    let last = world.tell("ann").await;

    let told = stream.take(3).await;
    let expected = [&first, &second, &last].map(|event| serde_json::to_value(&event.data.order).unwrap());
    assert_eq!(told.iter().map(|told| told.data.clone()).collect::<Vec<_>>(), expected);
    // Numbers without holes: a repetition uses none up.
    assert_eq!(told.iter().map(|told| told.id).collect::<Vec<_>>(), [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_older_than_one_already_stored_is_stored_too_in_the_order_of_arrival() {
    let world = World::start().await;
    let replica = world.replica().await;
    let mut stream = replica.stream("ann", None).await;

    let created = order_event("ann", 1, OrderStatus::PendingPayment);
    let mut paid = created.clone();
    paid.event_id = common::ids::EventId(Uuid::new_v4());
    paid.data.order.status = OrderStatus::Paid;
    paid.data.order.version = 2;
    world.publish(PAID_V1, vec![paid]).await;
    world.publish(CREATED_V1, vec![created]).await;

    let told = stream.take(2).await;
    let versions: Vec<_> =
        told.iter().map(|told| (told.id, told.data["version"].as_i64().unwrap())).collect();
    assert_eq!(versions, [(1, 2), (2, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_is_parked_alone_and_its_neighbours_are_told() {
    let world = World::start().await;
    let replica = world.replica().await;
    let mut stream = replica.stream("ann", None).await;

    world.publish_bytes(CREATED_V1, b"not json".to_vec()).await;
    world.publish_bytes("order.eaten.v1", envelope("order.eaten.v1", vec![good("ann")])).await;
    // One bad event between two good ones.
    let mixed = vec![good("ann"), json!({ "event_id": Uuid::new_v4(), "user_id": "ann" }), good("ann")];
    world.publish_bytes(CREATED_V1, envelope(CREATED_V1, mixed)).await;

    let told = stream.take(2).await;
    assert_eq!(told.iter().map(|told| told.id).collect::<Vec<_>>(), [1, 2]);
    let queue = Queue::notify_orders();
    eventually("three messages are parked and the queue is empty", async || {
        let depths = world.vhost.queue_depths().await;
        (depths[&queue.dead_name()] == 3 && depths[&queue.name] == 0).then_some(())
    })
    .await;
    // Still consuming.
    world.tell("ann").await;
    assert_eq!(stream.next().await.unwrap().id, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_the_order_shows_is_told() {
    let world = World::start().await;
    let replica = world.replica().await;
    let mut stream = replica.stream("ann", None).await;
    let event = world.tell("ann").await;

    let told = stream.next().await.unwrap();
    assert_eq!(told.kind, "order");
    assert_eq!(told.data, serde_json::to_value(&event.data.order).unwrap());
    for field in ["user_id", "units", "epoch", "event_id"] {
        assert!(told.data.get(field).is_none(), "{field}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_events_wait_and_none_is_lost_or_parked() {
    let world = World::start().await;
    let replica = world.replica().await;
    let mut stream = replica.stream("ann", None).await;
    world.tell("ann").await;
    stream.take(1).await;

    world.database.block().await;
    for _ in 0..5 {
        world.tell("ann").await;
    }
    crate::support::a_while().await;
    world.database.unblock().await;

    let told = stream.take(5).await;
    assert_eq!(told.iter().map(|told| told.id).collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
    let depths = world.vhost.queue_depths().await;
    assert_eq!(depths[&Queue::notify_orders().dead_name()], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_broker_was_away_everything_goes_on() {
    let world = World::start().await;
    let replica = world.replica().await;
    let mut stream = replica.stream("ann", None).await;
    world.tell("ann").await;
    stream.take(1).await;

    world.vhost.block().await;
    crate::support::a_while().await;
    world.vhost.unblock().await;
    world.tell("ann").await;
    assert_eq!(stream.next().await.unwrap().id, 2);

    // Empty, without its queues: they are made again.
    world.vhost.wipe().await;
    eventually("the queue is there again", async || {
        world.vhost.queue_depths().await.contains_key(&Queue::notify_orders().name).then_some(())
    })
    .await;
    world.tell("ann").await;
    assert_eq!(stream.next().await.unwrap().id, 3);
}

fn good(user: &str) -> Value {
    serde_json::to_value(order_event(user, 1, OrderStatus::PendingPayment)).unwrap()
}

fn envelope(kind: &str, events: Vec<Value>) -> Vec<u8> {
    let envelope = json!({
        "id": Uuid::new_v4(), "type": kind, "occurred_at": some_time(), "producer": "test", "events": events,
    });
    serde_json::to_vec(&envelope).unwrap()
}
