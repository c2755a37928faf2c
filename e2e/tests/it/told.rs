//! Winners are told on their own event stream. (Webhooks are tested in notify-service.)

use common::api::OrderStatus;
use futures_util::StreamExt as _;
use reqwest::Method;
use tokio::sync::mpsc;
use tokio::time::{Duration, timeout};

use crate::support::World;

const PATIENCE: Duration = Duration::from_secs(30);

/// Follows a user's event stream through the gateway; each received line is passed on.
async fn follow(world: &World, token: &str, last_event_id: Option<&str>) -> mpsc::UnboundedReceiver<String> {
    let mut request = world.client.request(Method::GET, &format!("/api/v1/events?access_token={token}"));
    if let Some(id) = last_event_id {
        request = request.header("Last-Event-ID", id);
    }
    let response = request.timeout(PATIENCE * 2).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let content_type = response.headers()["content-type"].to_str().unwrap();
    assert!(content_type.starts_with("text/event-stream"), "{content_type}");
    let (sender, lines) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let (mut body, mut text) = (response.bytes_stream(), String::new());
        while let Some(Ok(bytes)) = body.next().await {
            text.push_str(&String::from_utf8_lossy(&bytes));
            while let Some((line, rest)) = text.split_once('\n') {
                if sender.send(line.trim_end().to_owned()).is_err() {
                    return;
                }
                text = rest.to_owned();
            }
        }
    });
    lines
}

/// The id and the order of the next event.
async fn next_event(lines: &mut mpsc::UnboundedReceiver<String>) -> (String, serde_json::Value) {
    let mut id = String::new();
    loop {
        let line =
            timeout(PATIENCE, lines.recv()).await.expect("an event in time").expect("the stream is open");
        if let Some(value) = line.strip_prefix("id:") {
            id = value.trim().to_owned();
        }
        if let Some(data) = line.strip_prefix("data:") {
            return (id, serde_json::from_str(data.trim()).unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_sees_each_step_of_their_own_order_and_resumes_without_a_gap() {
    let world = World::start().await;
    let sale = world.open_sale(5, 5, 3_600).await;
    let (buyer, other) = (world.customer("buyer").await, world.customer("other").await);
    let mut lines = follow(&world, &buyer, None).await;

    world.accepted(&other, sale.items[0].id, "not-mine").await;
    let order = world.accepted(&buyer, sale.items[0].id, "mine").await;
    let (first_id, created) = next_event(&mut lines).await;
    assert_eq!(
        (created["id"].as_str(), created["status"].as_str()),
        (Some(order.to_string().as_str()), Some("pending_payment"))
    );
    assert!(
        created.get("user_id").is_none() && created.get("epoch").is_none(),
        "what GET shows, no more: {created}"
    );
    drop(lines);

    world.client.pay(&buyer, order).await.unwrap();
    world.reaches(&buyer, order, OrderStatus::Paid).await;
    let mut resumed = follow(&world, &buyer, Some(&first_id)).await;
    let (second_id, paid) = next_event(&mut resumed).await;
    assert_eq!((paid["status"].as_str(), paid["version"].as_i64()), (Some("paid"), Some(2)));
    let number = |id: &str| id.parse::<i64>().unwrap();
    assert_eq!(number(&second_id), number(&first_id) + 1, "the user's own sequence has no gap");
}
