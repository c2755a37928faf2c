//! Parked messages: seen, sent again, forgotten.

use common::api::OrderStatus;
use common::ids::{ItemId, SaleId};
use common::messages::stock::RESERVED_V1;
use reqwest::Method;
use testkit::eventually;
use uuid::Uuid;

use crate::support::{Item, Wanted, World, answer, reserved};

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_works_when_it_is_sent_again_after_the_cause_is_gone() {
    let world = World::start("replay").await;
    let instance = world.instance().await;
    let ghost = Item { id: ItemId(Uuid::new_v4()), sale: SaleId(Uuid::new_v4()) };
    let event = reserved(ghost, "ann", "key");
    world.reserve(ghost, std::slice::from_ref(&event)).await;
    world.number_becomes("SELECT count(*) FROM dead_letters", 1).await;

    let (status, page) = instance.get("/admin/dead-letters", "root").await;
    assert_eq!(status, 200);
    let letter = &page["items"][0];
    let queue = format!("order-service.reservations.{}", ghost.id.partition());
    assert_eq!(letter["queue"], queue);
    assert_eq!(letter["type"], RESERVED_V1);
    assert!(letter["reason"].as_str().unwrap().contains("no such item"), "{letter}");
    assert!(letter["body"].as_str().unwrap().contains(&event.data.order_id.to_string()));
    let path = format!("/admin/dead-letters/{}", letter["id"].as_str().unwrap());

    // Sent again too early it comes back.
    assert_eq!(instance.post(&format!("{path}/replay"), "root").await.0, 204);
    let replays = "SELECT count(*) FROM audit_log WHERE action = 'dead_letter.replay' AND actor = 'root'";
    assert_eq!(world.number(replays).await, 1);
    world.number_becomes("SELECT count(*) FROM dead_letters", 1).await;

    world.put_on_sale(ghost, Wanted::default()).await;
    assert_eq!(instance.post(&format!("{path}/replay"), "root").await.0, 204);
    instance.order_becomes(event.data.order_id, "ann", OrderStatus::PendingPayment).await;
    assert_eq!(world.number("SELECT count(*) FROM dead_letters").await, 0);
    assert_eq!(instance.post(&format!("{path}/replay"), "root").await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_by_queue_and_page_and_can_be_deleted() {
    let world = World::start("letters").await;
    let instance = world.instance().await;
    let item = world.item(Wanted::default()).await;
    for n in 0..5 {
        world.publish(RESERVED_V1, item.id, format!("not JSON {n}").into_bytes()).await;
    }
    world.publish(RESERVED_V1, item.id, b"\0\xff{".to_vec()).await;
    world.number_becomes("SELECT count(*) FROM dead_letters", 6).await;

    let mut seen = Vec::new();
    let mut path = "/admin/dead-letters?limit=4".to_owned();
    for _ in 0..2 {
        let (status, page) = instance.get(&path, "root").await;
        assert_eq!(status, 200);
        seen.extend(
            page["items"].as_array().unwrap().iter().map(|letter| letter["id"].as_str().unwrap().to_owned()),
        );
        path = format!(
            "/admin/dead-letters?limit=4&cursor={}",
            page["next_cursor"].as_str().unwrap_or_default()
        );
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 6);
    let (_, other) = instance.get("/admin/dead-letters?queue=stock-service.sales", "root").await;
    assert_eq!(other["items"].as_array().unwrap().len(), 0);

    for id in &seen {
        let path = format!("/admin/dead-letters/{id}");
        assert_eq!(answer(instance.call(Method::DELETE, &path, "root")).await.0, 204);
        assert_eq!(answer(instance.call(Method::DELETE, &path, "root")).await.0, 404);
    }
    assert_eq!(world.number("SELECT count(*) FROM dead_letters").await, 0);
    assert_eq!(world.number("SELECT count(*) FROM audit_log WHERE action = 'dead_letter.delete'").await, 6);
}

/// Queues of other services too: order-service looks after all of them.
#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_of_other_services_are_drained() {
    let world = World::start("drained").await;
    let _instance = world.instance().await;
    for queue in ["notify-service.orders.dead", "stock-service.sales.dead"] {
        let outgoing = common::amqp::Outgoing {
            exchange: "",
            routing_key: queue.to_owned(),
            message_id: Uuid::new_v4(),
            kind: "order.paid.v1".to_owned(),
            body: b"{}".to_vec(),
        };
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
        eventually("it is parked", async || {
            world.publisher.publish(outgoing.clone(), deadline).await.is_ok().then_some(())
        })
        .await;
    }
    let found =
        "SELECT count(*) FROM dead_letters WHERE queue IN ('notify-service.orders', 'stock-service.sales')";
    world.number_becomes(found, 2).await;
}
