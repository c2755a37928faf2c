//! Reservations become orders: guards, duplicates, poison.

use common::api::{OrderStatus, Reason};
use common::ids::OrderId;
use common::messages::order::{CANCELLED_V1, CREATED_V1, REJECTED_V1, Units};
use common::messages::stock::RESERVED_V1;
use serde_json::json;
use testkit::eventually;
use uuid::Uuid;

use crate::support::{Wanted, World, envelope, quantity, reserved};

/// An inventory that grants four times what there is: exactly what there is becomes orders, everybody else is told.
#[tokio::test(flavor = "multi_thread")]
async fn never_takes_more_than_there_is() {
    let world = World::start("oversold").await;
    let item = world.item(Wanted { total: 10, ..Wanted::default() }).await;
    let heard = world.listen();
    let _instances = (world.instance().await, world.instance().await);

    for message in 0..8 {
        let events: Vec<_> = (0..5).map(|n| reserved(item, &format!("u{message}-{n}"), "key")).collect();
        world.reserve(item, &events).await;
    }

    world.number_becomes("SELECT count(*) FROM orders", 40).await;
    assert_eq!(world.number("SELECT taken FROM items").await, 10);
    assert_eq!(world.number("SELECT count(*) FROM orders WHERE status = 'pending_payment'").await, 10);
    let rejected = "SELECT count(*) FROM orders WHERE status = 'rejected' AND reason = 'sold_out'
                    AND units = 'returned' AND expires_at IS NULL";
    assert_eq!(world.number(rejected).await, 30);
    assert_eq!(world.number("SELECT count(*) FROM order_transitions WHERE version = 1").await, 40);

    eventually("everybody is told", async || (heard.news().len() == 40).then_some(())).await;
    let news = heard.news();
    let created = news.iter().filter(|kind| **kind == CREATED_V1);
    let rejected = news.iter().filter(|kind| **kind == REJECTED_V1);
    assert_eq!((created.count(), rejected.count()), (10, 30));
    let (_, _, refused) = heard.all().into_iter().find(|(kind, ..)| *kind == REJECTED_V1).unwrap();
    assert_eq!((refused.order.reason, refused.units), (Some(Reason::SoldOut), Units::Returned));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_per_user_holds_within_and_across_batches() {
    let world = World::start("limit").await;
    let item = world.item(Wanted { per_user_limit: 3, ..Wanted::default() }).await;
    let instance = world.instance().await;

    let mut big = reserved(item, "ann", "big");
    big.data.quantity = quantity(2);
    world.reserve(item, &[big, reserved(item, "ann", "1"), reserved(item, "ann", "2")]).await;
    world.number_becomes("SELECT count(*) FROM orders", 3).await;
    world.reserve(item, &[reserved(item, "ann", "3"), reserved(item, "bob", "1")]).await;
    world.number_becomes("SELECT count(*) FROM orders", 5).await;

    let statuses = world
        .words("SELECT status || ' ' || coalesce(reason, '') FROM orders WHERE user_id = 'ann' ORDER BY 1")
        .await;
    let expected =
        ["pending_payment ", "pending_payment ", "rejected limit_exceeded", "rejected limit_exceeded"];
    assert_eq!(statuses, expected);
    assert_eq!(world.number("SELECT taken FROM items").await, 4);

    // What comes back can be had again.
    let first: OrderId = reserved(item, "ann", "1").data.order_id;
    instance.order_becomes(first, "ann", OrderStatus::PendingPayment).await;
    assert_eq!(instance.post(&format!("/orders/{first}/cancel"), "ann").await.0, 200);
    let again = reserved(item, "ann", "4");
    world.reserve(item, std::slice::from_ref(&again)).await;
    instance.order_becomes(again.data.order_id, "ann", OrderStatus::PendingPayment).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_message_makes_no_second_order_and_is_answered_with_the_present_state() {
    let world = World::start("repeated").await;
    let item = world.item(Wanted::default()).await;
    let heard = world.listen();
    let instance = world.instance().await;
    let event = reserved(item, "ann", "key");
    let order = event.data.order_id;

    // Twice in one message, and the message twice.
    world.reserve(item, &[event.clone(), event.clone()]).await;
    eventually("it is told", async || (!heard.about(order).is_empty()).then_some(())).await;
    world.reserve(item, std::slice::from_ref(&event)).await;
    eventually("it is told again", async || (heard.about(order).len() == 2).then_some(())).await;
    assert_eq!(heard.about(order), [CREATED_V1, CREATED_V1]);
    let ids: Vec<_> = heard.all().into_iter().map(|(_, id, _)| id).collect();
    assert_eq!(ids[0], ids[1], "the same news has the same id");

    assert_eq!(instance.post(&format!("/orders/{order}/cancel"), "ann").await.0, 200);
    world.reserve(item, std::slice::from_ref(&event)).await;
    eventually("the end is told twice", async || (heard.about(order).len() == 4).then_some(())).await;
    assert_eq!(heard.about(order)[2..], [CANCELLED_V1, CANCELLED_V1]);

    assert_eq!(world.number("SELECT count(*) FROM orders").await, 1);
    assert_eq!(world.number("SELECT count(*) FROM order_transitions").await, 2);
    assert_eq!(world.number("SELECT taken FROM items").await, 0);
}

/// Every kind of poison is parked by itself, and its neighbours in the same message become orders.
#[tokio::test(flavor = "multi_thread")]
async fn poison_is_parked_alone() {
    let world = World::start("poison").await;
    let item = world.item(Wanted::default()).await;
    let _instance = world.instance().await;

    let mut unknown_item = reserved(item, "u1", "key");
    unknown_item.data.item_id.0 = Uuid::new_v4();
    let mut other_sale = reserved(item, "u2", "key");
    other_sale.data.sale_id.0 = Uuid::new_v4();
    let mut other_price = reserved(item, "u3", "key");
    other_price.data.unit_price_cents += 1;
    let mut stolen_id = reserved(item, "u4", "key");
    stolen_id.data.order_id = reserved(item, "good1", "key").data.order_id;
    let mut nowhere_in_time = reserved(item, "u5", "key");
    nowhere_in_time.data.reserved_at = chrono::DateTime::<chrono::Utc>::MAX_UTC;
    let good = |user: &str| serde_json::to_value(reserved(item, user, "key")).unwrap();
    let value = |event| serde_json::to_value(event).unwrap();
    let mut nothing = good("u6");
    nothing["quantity"] = json!(0);
    let mut negative = good("u7");
    negative["quantity"] = json!(-1);
    let mut no_user = good("u8");
    no_user["user_id"] = json!("' OR 1=1--");
    let events = [
        good("good1"),
        value(unknown_item),
        nothing,
        good("good2"),
        value(other_sale),
        value(other_price),
        value(stolen_id),
        negative,
        no_user,
        value(nowhere_in_time),
        good("good3"),
    ];
    let message = json!({
        "id": Uuid::new_v4(), "type": RESERVED_V1, "occurred_at": "2026-11-22T12:00:00Z",
        "producer": "stock-service", "events": events,
    });
    world.publish(RESERVED_V1, item.id, serde_json::to_vec(&message).unwrap()).await;
    world.publish(RESERVED_V1, item.id, b"{ this is no JSON".to_vec()).await;
    world.publish(RESERVED_V1, item.id, vec![0xff, 0xfe, 0x00]).await;
    let newer = [reserved(item, "u9", "key")];
    world.publish("stock.reserved.v9", item.id, envelope("stock.reserved.v9", &newer)).await;
    world.reserve(item, &[reserved(item, "good4", "key")]).await;

    world.number_becomes("SELECT count(*) FROM orders WHERE user_id LIKE 'good%'", 4).await;
    world.number_becomes("SELECT count(*) FROM dead_letters", 11).await;
    assert_eq!(world.number("SELECT count(*) FROM orders").await, 4);
    let queue = format!("order-service.reservations.{}", item.id.partition());
    let of_queue = format!("SELECT count(*) FROM dead_letters WHERE queue = '{queue}' AND reason <> ''");
    assert_eq!(world.number(&of_queue).await, 11);
    for reason in
        ["no such item", "another sale", "price", "another order", "unknown type", "between 1 and 100"]
    {
        let told = format!("SELECT count(*) FROM dead_letters WHERE reason LIKE '%{reason}%'");
        assert!(world.number(&told).await >= 1, "no dead letter says: {reason}");
    }
}

/// What only the database refuses, and only when it is written: the batch is taken apart until the culprit is alone.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_the_database_refuses_does_not_take_its_neighbours_along() {
    let world = World::start("refused").await;
    let item = world.item(Wanted::default()).await;
    world
        .execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'not this one' USING ERRCODE = 'check_violation'; END $$;
             CREATE TRIGGER refuse BEFORE INSERT ON orders FOR EACH ROW WHEN (NEW.user_id = 'evil')
             EXECUTE FUNCTION refuse()",
        )
        .await;
    let _instance = world.instance().await;

    let users = ["a", "b", "evil", "c", "d"];
    let events: Vec<_> = users.iter().map(|user| reserved(item, user, "key")).collect();
    world.reserve(item, &events).await;

    world.number_becomes("SELECT count(*) FROM orders", 4).await;
    world.number_becomes("SELECT count(*) FROM dead_letters WHERE reason LIKE '%not this one%'", 1).await;
    assert_eq!(world.number("SELECT taken FROM items").await, 4);
}

/// Eight partitions, two instances, one of which goes away in between.
#[tokio::test(flavor = "multi_thread")]
async fn two_instances_share_the_partitions() {
    let world = World::start("shared").await;
    let mut items = Vec::new();
    for _ in 0..6 {
        items.push(world.item(Wanted { total: 1_000, ..Wanted::default() }).await);
    }
    let first = world.instance().await;
    let _second = world.instance().await;

    for round in 0..10 {
        for item in &items {
            let events: Vec<_> = (0..20).map(|n| reserved(*item, &format!("u{round}-{n}"), "key")).collect();
            world.reserve(*item, &events).await;
        }
    }
    first.stop().await;

    world.number_becomes("SELECT count(*) FROM orders WHERE status = 'pending_payment'", 1_200).await;
    assert_eq!(world.number("SELECT sum(taken) FROM items").await, 1_200);
    assert_eq!(world.number("SELECT count(*) FROM dead_letters").await, 0);
}
