//! Parked messages: seen, sent again, forgotten.

use std::time::Duration;

use common::amqp::Outgoing;
use common::api::OrderStatus;
use common::ids::{ItemId, SaleId};
use common::messages::stock::RESERVED_V1;
use diesel_async::SimpleAsyncConnection as _;
use futures_util::future::join_all;
use reqwest::Method;
use testkit::eventually;
use tokio::time::Instant;
use uuid::Uuid;

use crate::desk::Desk;
use crate::support::{Item, Wanted, World, answer, envelope, reserved};

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
        park(&world, queue, "order.paid.v1").await;
    }
    let found =
        "SELECT count(*) FROM dead_letters WHERE queue IN ('notify-service.orders', 'stock-service.sales')";
    world.number_becomes(found, 2).await;
}

/// Postgres' text cannot hold it; the messages behind it would wait for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_type_with_nul_is_stored_without_it() {
    let world = World::start("nul").await;
    let instance = world.instance().await;
    park(&world, "stock-service.sales.dead", "\u{0}").await;
    world.number_becomes("SELECT count(*) FROM dead_letters WHERE kind = '?'", 1).await;
    let (_, page) = instance.get("/admin/dead-letters", "root").await;
    let path = format!("/admin/dead-letters/{}", page["items"][0]["id"].as_str().unwrap());
    assert_eq!(instance.post(&format!("{path}/replay"), "root").await.0, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_parked_again_before_it_is_forgotten_is_not_lost() {
    let world = World::start("parked_again").await;
    let _instance = world.instance().await;
    let queue = "stock-service.sales.dead";
    park(&world, queue, "sale.changed.v1").await;
    world.number_becomes("SELECT count(*) FROM dead_letters", 1).await;

    // As a replay does it, with all the time in the world between sending and deleting.
    let mut replay = world.connection().await;
    replay.batch_execute("BEGIN; SELECT FROM dead_letters FOR UPDATE").await.unwrap();
    park(&world, queue, "sale.changed.v1").await;
    let waiting = "SELECT count(*) FROM pg_stat_activity
                   WHERE wait_event_type = 'Lock' AND datname = current_database()";
    world.number_becomes(waiting, 1).await;
    replay.batch_execute("DELETE FROM dead_letters; COMMIT").await.unwrap();
    world.number_becomes("SELECT count(*) FROM dead_letters", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_query_is_refused_and_its_field_named() {
    let desk = Desk::open("bad_queries").await;
    let long = format!("/admin/dead-letters?queue={}", "q".repeat(256));
    let cases = [
        ("/admin/dead-letters?queue=%00", "queue"),
        ("/admin/dead-letters?queue=", "queue"),
        ("/admin/dead-letters?queue=a%20b", "queue"),
        ("/admin/dead-letters?queue=%C3%A9", "queue"),
        (&long, "queue"),
        ("/admin/dead-letters?cursor=%00", "cursor"),
        ("/admin/orders?cursor=%00", "cursor"),
        ("/admin/orders?user_id=%00", "user_id"),
        ("/admin/orders?status=%00", "status"),
        ("/admin/orders?sale_id=%00", "sale_id"),
        ("/admin/orders?limit=%00", "limit"),
        ("/admin/sales?cursor=%00", "cursor"),
        ("/admin/audit-log?cursor=%00", "cursor"),
        ("/orders?cursor=%00", "cursor"),
    ];
    for (path, field) in cases {
        let (status, problem) = desk.admin_get(path).await;
        assert_eq!((status, problem["field"].as_str()), (400, Some(field)), "{path}: {problem}");
    }
}

/// Puts a message into a dead-letter queue.
/// Among good reservations: exactly the poison is parked, each piece once and whole, and the good ones become orders.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_pieces_of_poison_are_parked_and_nothing_else() {
    const KINDS: usize = 4;
    const MESSAGES: usize = 2_000;
    const EVENTS: usize = 2_000;
    const GOOD: usize = 1_000;
    let world = World::start("poison").await;
    let item = world.item(Wanted { total: 10_000, ..Wanted::default() }).await;
    // Of the same partition, so that they come through the same queue.
    let unknown = |n: usize| {
        let mut event = reserved(item, &format!("p{n}"), "key");
        event.data.unit_price_cents += 1;
        event
    };
    let _instances = (world.instance().await, world.instance().await);

    let whole = (0..MESSAGES * 3).map(|n| match n % 3 {
        0 => format!("not JSON {n}"),
        1 => format!(r#"{{"id":"{}","type":"stock.reserved.v9","occurred_at":"2026-11-22T12:00:00Z","producer":"t","events":[{{}}]}}"#, Uuid::new_v4()),
        _ => format!(r#"{{"events":"none","n":{n}}}"#),
    });
    let whole: Vec<Vec<u8>> = whole.map(String::into_bytes).collect();
    // Five events to a message: two that can never work, two that are not events, one that is an order.
    let mixed = (0..GOOD).map(|n| {
        let good = reserved(item, &format!("g{n}"), "key");
        let events = [unknown(2 * n), good, unknown(2 * n + 1)];
        let mut envelope: serde_json::Value =
            serde_json::from_slice(&envelope(RESERVED_V1, &events)).unwrap();
        let junk = |m: usize| serde_json::json!({ "event_id": Uuid::new_v4(), "junk": m });
        envelope["events"].as_array_mut().unwrap().extend([junk(2 * n), junk(2 * n + 1)]);
        envelope.to_string().into_bytes()
    });
    let mixed: Vec<Vec<u8>> = mixed.collect();
    let mut bodies = whole;
    for (n, body) in mixed.into_iter().enumerate() {
        bodies.insert(n * 7, body);
    }
    for some in bodies.chunks(100) {
        join_all(some.iter().map(|body| world.publish(RESERVED_V1, item.id, body.clone()))).await;
    }

    let good = i64::try_from(GOOD).unwrap();
    let poison = i64::try_from(MESSAGES * (KINDS - 1) + EVENTS * 2).unwrap();
    eventually_within(Duration::from_secs(180), "all are dealt with", async || {
        let orders = world.number("SELECT count(*) FROM orders").await;
        let letters = world.number("SELECT count(*) FROM dead_letters").await;
        ((orders, letters) == (good, poison)).then_some(())
    })
    .await;
    assert_eq!(poison, 10_000);
    assert_eq!(world.number("SELECT taken FROM items").await, good);
    let innocent =
        "SELECT count(*) FROM dead_letters d JOIN orders o ON position(o.id::text::bytea in d.body) > 0";
    assert_eq!(world.number(innocent).await, 0);
}

/// Kept and sent again whole, but not read, and shown in part.
#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_message_is_parked_unread() {
    let world = World::start("oversized").await;
    let item = world.item(Wanted::default()).await;
    let instance = world.instance().await;
    let mut huge = envelope(RESERVED_V1, &[reserved(item, "ann", "key")]);
    huge.extend(std::iter::repeat_n(b' ', 10 * 1024 * 1024));
    let length = huge.len();
    world.publish(RESERVED_V1, item.id, huge).await;
    world.reserve(item, &[reserved(item, "bob", "key")]).await;

    world.number_becomes("SELECT count(*) FROM orders", 1).await;
    world.number_becomes("SELECT count(*) FROM dead_letters", 1).await;
    assert_eq!(world.number("SELECT length(body) FROM dead_letters").await, i64::try_from(length).unwrap());
    let (_, page) = instance.get("/admin/dead-letters", "root").await;
    let letter = &page["items"][0];
    assert!(letter["reason"].as_str().unwrap().contains("bytes"), "{}", letter["reason"]);
    let shown = letter["body"].as_str().unwrap();
    assert!(shown.len() < 20_000 && shown.ends_with(&format!("({length} bytes in all)")));
}

/// As `eventually`, for what takes longer.
async fn eventually_within(limit: Duration, what: &str, holds: impl AsyncFn() -> Option<()>) {
    let deadline = Instant::now() + limit;
    while holds().await.is_none() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn park(world: &World, queue: &str, kind: &str) {
    let outgoing = Outgoing {
        exchange: "",
        routing_key: queue.to_owned(),
        message_id: Uuid::new_v4(),
        kind: kind.to_owned(),
        body: b"{}".to_vec(),
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    eventually("it is parked", async || {
        world.publisher.publish(outgoing.clone(), deadline).await.is_ok().then_some(())
    })
    .await;
}
