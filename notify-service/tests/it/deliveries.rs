//! Deliveries: at least once, alike each time, and none forgotten.

use std::time::Duration;

use common::api::OrderStatus;
use common::messages::order::{CREATED_V1, PAID_V1};
use notify_service::settings::Numbers;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use testkit::eventually;

use crate::receiver::{Answer, Received, Receiver};
use crate::support::{Replica, World, a_while, order_event, some_time, text};

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_delivered_signed_as_standard_webhooks() {
    let world = World::start().await;
    let replica = world.replica().await;
    let receiver = Receiver::start().await;
    let (webhook, secret) = replica.register(&receiver.url("/hook"), &["order.created.v1"]).await;
    let event = world.tell("ann").await;

    let received = &receiver.wait_for("/hook", 1).await[0];
    received.assert_signed_with(&secret);
    assert_eq!(received.id, format!("msg_{}", event.event_id.0.simple()));
    let mut data = serde_json::to_value(&event.data.order).unwrap();
    data["user_id"] = json!("ann");
    let body: Value = serde_json::from_str(&received.body).unwrap();
    assert_eq!(body, json!({ "type": CREATED_V1, "timestamp": some_time(), "data": data }));

    let delivery = wait_for_state(&replica, &webhook, "delivered").await;
    assert_eq!(delivery["message_id"].as_str(), Some(received.id.as_str()));
    assert_eq!((delivery["attempts"].as_i64(), delivery["last_status"].as_i64()), (Some(1), Some(200)));
    assert_eq!(delivery["next_attempt_at"], Value::Null);
    assert_eq!(delivery["type"], CREATED_V1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_receiver_gets_the_same_message_until_it_takes_it() {
    let world = World::start().await;
    let mut settings = world.settings();
    settings.webhooks.timeout_ms = 300;
    settings.webhooks.retry_ms = Numbers(vec![10; 8]);
    let replica = world.replica_with(settings).await;
    let receiver = Receiver::start().await;
    let (webhook, secret) = replica.register(&receiver.url("/hook"), &["order.*"]).await;
    let elsewhere = receiver.url("/elsewhere");
    let failures = [
        Answer::Status(500),
        Answer::Status(404),
        Answer::Redirect(elsewhere),
        Answer::After(Duration::from_secs(2)),
        Answer::Endless,
        Answer::Dripping,
    ];
    receiver.answers("/hook", &failures);
    world.tell("ann").await;

    let received = receiver.wait_for("/hook", failures.len() + 1).await;
    let delivery = wait_for_state(&replica, &webhook, "delivered").await;
    assert_eq!(delivery["attempts"].as_u64(), Some(failures.len() as u64 + 1));
    let first = &received[0];
    for attempt in &received {
        assert_eq!((&attempt.id, &attempt.body), (&first.id, &first.body));
        attempt.assert_signed_with(&secret);
    }
    assert!(receiver.received("/elsewhere").is_empty(), "a redirect was followed");
    let log = attempts(&world).await;
    assert_eq!(
        log.iter().map(|line| line.1.as_deref()).collect::<Vec<_>>(),
        [
            Some("answered 500"),
            Some("answered 404"),
            Some("answered 302"),
            Some("timed out"),
            Some("answered more than 65536 bytes"),
            Some("timed out"),
            None,
        ]
    );
    a_while().await;
    assert_eq!(receiver.received("/hook").len(), failures.len() + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_last_attempt_a_delivery_is_parked_and_can_be_sent_again() {
    let world = World::start().await;
    let replica = world.replica().await; // Three retries.
    let receiver = Receiver::start().await;
    let (webhook, secret) = replica.register(&receiver.url("/hook"), &["order.*"]).await;
    receiver.always("/hook", Answer::Status(503));
    world.tell("ann").await;

    let parked = wait_for_state(&replica, &webhook, "parked").await;
    assert_eq!((parked["attempts"].as_i64(), parked["last_status"].as_i64()), (Some(4), Some(503)));
    assert_eq!(parked["last_error"], "answered 503");
    assert_eq!(parked["next_attempt_at"], Value::Null);
    a_while().await;
    assert_eq!(receiver.received("/hook").len(), 4);

    // Again, and still down: the whole ladder again.
    let again = format!("/{webhook}/deliveries/{}/redeliver", text(&parked["id"]));
    let (status, delivery) = replica.admin_json(Method::POST, &again, None).await;
    assert_eq!((status, delivery["state"].as_str()), (StatusCode::ACCEPTED, Some("pending")));
    receiver.wait_for("/hook", 8).await;
    wait_for_state(&replica, &webhook, "parked").await;

    receiver.always("/hook", Answer::Status(204));
    replica.admin_json(Method::POST, &again, None).await;
    let delivered = wait_for_state(&replica, &webhook, "delivered").await;
    assert_eq!(delivered["attempts"].as_i64(), Some(9));
    let received = receiver.wait_for("/hook", 9).await;
    assert!(received.iter().all(|attempt| attempt.id == received[0].id && attempt.body == received[0].body));
    received[8].assert_signed_with(&secret);

    let (other, _) = replica.register(&receiver.url("/other"), &["order.*"]).await;
    let foreign = format!("/{other}/deliveries/{}/redeliver", text(&parked["id"]));
    assert_eq!(replica.admin_json(Method::POST, &foreign, None).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_get_the_types_they_asked_for() {
    let world = World::start().await;
    let replica = world.replica().await;
    let receiver = Receiver::start().await;
    replica.register(&receiver.url("/paid"), &["order.paid.v1"]).await;
    replica.register(&receiver.url("/all"), &["order.*"]).await;
    world.publish(CREATED_V1, vec![order_event("ann", 1, OrderStatus::PendingPayment)]).await;
    world.publish(PAID_V1, vec![order_event("ann", 2, OrderStatus::Paid)]).await;

    let all = receiver.wait_for("/all", 2).await;
    let paid = receiver.wait_for("/paid", 1).await;
    a_while().await;
    assert_eq!((receiver.received("/all").len(), receiver.received("/paid").len()), (2, 1));
    assert_eq!(kind(&paid[0]), PAID_V1);
    // Of one event, both got the same id and body, under keys of their own.
    let same = all.iter().find(|received| received.id == paid[0].id).unwrap();
    assert_eq!(same.body, paid[0].body);
    assert_ne!(same.signature, paid[0].signature);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_comes_again_is_delivered_once() {
    let world = World::start().await;
    let replica = world.replica().await;
    let receiver = Receiver::start().await;
    replica.register(&receiver.url("/hook"), &["order.*"]).await;
    let event = order_event("ann", 1, OrderStatus::Paid);
    world.publish(PAID_V1, vec![event.clone(), event.clone()]).await;
    receiver.wait_for("/hook", 1).await;
    world.publish(PAID_V1, vec![event]).await;
    world.tell("ann").await;
    receiver.wait_for("/hook", 2).await;
    a_while().await;
    assert_eq!(receiver.received("/hook").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_receiver_holds_up_only_its_own_deliveries() {
    let world = World::start().await;
    let mut settings = world.settings();
    settings.webhooks.endpoint_concurrency = 2;
    let replica = world.replica_with(settings).await;
    let receiver = Receiver::start().await;
    let (slow, _) = replica.register(&receiver.url("/slow"), &["order.*"]).await;
    replica.register(&receiver.url("/quick"), &["order.*"]).await;
    receiver.always("/slow", Answer::After(Duration::from_secs(60))); // Every attempt takes the whole time-out.
    let events = (1..=40).map(|version| order_event("ann", version, OrderStatus::Paid)).collect();
    world.publish(PAID_V1, events).await;

    receiver.wait_for("/quick", 40).await;
    // The slow one has had its two places, and the rest waits.
    assert!(receiver.received("/slow").len() <= 4, "{}", receiver.received("/slow").len());
    assert!(replica.deliveries(&slow, "?state=pending&limit=100").await.len() >= 36);
}

/// A receiver that is down is asked now and then, not by every delivery; when it is back it gets all of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_fails_and_fails_is_tried_with_one_delivery_at_a_time() {
    let world = World::start().await;
    let mut settings = world.settings();
    settings.webhooks.circuit_failures = 5;
    settings.webhooks.circuit_pause_max_ms = 100;
    settings.webhooks.endpoint_concurrency = 4;
    let replica = world.replica_with(settings).await;
    let receiver = Receiver::start().await;
    let (down, _) = replica.register(&receiver.url("/down"), &["order.*"]).await;
    replica.register(&receiver.url("/up"), &["order.*"]).await;
    receiver.always("/down", Answer::Status(500));
    let events = (1..=40).map(|version| order_event("ann", version, OrderStatus::Paid)).collect();
    world.publish(PAID_V1, events).await;

    receiver.wait_for("/up", 40).await;
    receiver.wait_for("/down", 12).await;
    let pending = replica.deliveries(&down, "?state=pending&limit=100").await;
    assert!(pending.iter().filter(|delivery| delivery["attempts"] == 0).count() >= 20, "they wait");

    receiver.always("/down", Answer::Status(200));
    eventually("all are delivered", async || {
        (replica.deliveries(&down, "?state=delivered&limit=100").await.len() == 40).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_deliver_each_event_once() {
    let world = World::start().await;
    let one = world.replica().await;
    let _two = world.replica().await;
    let receiver = Receiver::start().await;
    let (webhook, _) = one.register(&receiver.url("/hook"), &["order.*"]).await;
    for _ in 0..10 {
        let events = (1..=20).map(|version| order_event("ann", version, OrderStatus::Paid)).collect();
        world.publish(PAID_V1, events).await;
    }
    receiver.wait_for("/hook", 200).await;
    a_while().await;
    let mut ids: Vec<String> = receiver.received("/hook").into_iter().map(|received| received.id).collect();
    assert_eq!(ids.len(), 200);
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 200);
    eventually("all are recorded", async || {
        one.deliveries(&webhook, "?state=pending").await.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_on_its_way_to_a_deleted_webhook_is_dropped() {
    let world = World::start().await;
    let mut settings = world.settings();
    settings.webhooks.retry_ms = Numbers(vec![500; 20]);
    settings.retention.interval_s = 1;
    let replica = world.replica_with(settings).await;
    let receiver = Receiver::start().await;
    let (webhook, _) = replica.register(&receiver.url("/hook"), &["order.*"]).await;
    receiver.always("/hook", Answer::Status(500));
    world.tell("ann").await;
    receiver.wait_for("/hook", 1).await;

    assert_eq!(
        replica.admin_json(Method::DELETE, &format!("/{webhook}"), None).await.0,
        StatusCode::NO_CONTENT
    );
    a_while().await; // One attempt may have been under way.
    let before = receiver.received("/hook").len();
    world.tell("ann").await;
    eventually("its deliveries are gone", async || {
        (count(&world, "deliveries").await == 0 && count(&world, "webhook_messages").await == 0).then_some(())
    })
    .await;
    a_while().await;
    assert_eq!(receiver.received("/hook").len(), before);
    assert_eq!(count(&world, "delivery_attempts").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_became_private_gets_nothing() {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    let replica = world.replica().await;
    let (webhook, _) = replica.register(&receiver.url("/hook"), &["order.*"]).await;
    replica.stop().await;
    // The rules have become strict, and one webhook has got a name of this machine since it was registered.
    let mut settings = world.settings();
    settings.webhooks.allow_private = false;
    settings.webhooks.ports = Numbers(vec![receiver.port()]);
    let replica = world.replica_with(settings).await;
    let named = format!("UPDATE webhooks SET url = 'https://rebound.example:{}/hook'", receiver.port());
    world.tell("ann").await;
    let parked = wait_for_state(&replica, &webhook, "parked").await;
    assert_eq!(parked["last_error"], "url must begin with https://");

    let mut connection = world.connection().await;
    diesel_async::RunQueryDsl::execute(diesel::sql_query(named), &mut connection).await.unwrap();
    world.tell("ann").await;
    eventually("both are parked", async || {
        (replica.deliveries(&webhook, "?state=parked").await.len() == 2).then_some(())
    })
    .await;
    assert!(receiver.received("/hook").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_are_listed_page_by_page() {
    let world = World::start().await;
    let replica = world.replica().await;
    let receiver = Receiver::start().await;
    let (webhook, _) = replica.register(&receiver.url("/hook"), &["order.*"]).await;
    let events = (1..=7).map(|version| order_event("ann", version, OrderStatus::Paid)).collect();
    world.publish(PAID_V1, events).await;
    eventually("all are delivered", async || {
        (replica.deliveries(&webhook, "?state=delivered").await.len() == 7).then_some(())
    })
    .await;

    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/{webhook}/deliveries?limit=3&cursor={cursor}");
        let (status, page) = replica.admin_json(Method::GET, &path, None).await;
        assert_eq!(status, StatusCode::OK);
        seen.extend(page["items"].as_array().unwrap().iter().map(|delivery| text(&delivery["id"])));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => break,
        }
    }
    let mut newest_first = seen.clone();
    newest_first.sort_by(|one, other| other.cmp(one));
    newest_first.dedup();
    assert_eq!((seen.len(), &seen), (7, &newest_first));
}

/// Waits until the newest delivery of `webhook` is in `state`.
pub async fn wait_for_state(replica: &Replica, webhook: &str, state: &str) -> Value {
    eventually(&format!("a delivery is {state}"), async || {
        replica.deliveries(webhook, "").await.into_iter().next().filter(|delivery| delivery["state"] == state)
    })
    .await
}

fn kind(received: &Received) -> String {
    let body: Value = serde_json::from_str(&received.body).unwrap();
    text(&body["type"])
}

/// The log of attempts: status and error, in order.
async fn attempts(world: &World) -> Vec<(Option<i32>, Option<String>)> {
    #[derive(diesel::QueryableByName)]
    struct Row {
        #[diesel(sql_type = diesel::sql_types::Nullable<diesel::sql_types::Integer>)]
        status: Option<i32>,
        #[diesel(sql_type = diesel::sql_types::Nullable<diesel::sql_types::Text>)]
        error: Option<String>,
    }
    let query = diesel::sql_query("SELECT status, error FROM delivery_attempts ORDER BY number");
    let rows: Vec<Row> = diesel_async::RunQueryDsl::load(query, &mut world.connection().await).await.unwrap();
    rows.into_iter().map(|row| (row.status, row.error)).collect()
}

async fn count(world: &World, table: &str) -> i64 {
    crate::retention::count(world, table).await
}
