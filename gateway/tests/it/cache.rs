//! What is asked for again and again, or is not there at all, costs the services behind nothing: calls are counted.

use common::api::inventory::ReserveOutcome;
use common::api::{ItemState, SaleState};
use common::ids::ItemId;
use futures_util::future::join_all;
use serde_json::json;
use testkit::Redis;
use uuid::Uuid;

use crate::support::*;

/// A sale that the listing has dropped.
const OLD: Uuid = Uuid::from_u128(0x77);

/// An order-service that knows all its ids, one of them of a sale that the listing has dropped.
fn with_old_sale(call: &Recorded) -> Reply {
    match call.path.as_str() {
        "/internal/v1/known-ids" => Reply::json(200, &json!({ "ids": [OLD], "next": null })),
        "/internal/v1/sales" => Reply::json(200, &json!({ "items": [sale(SaleState::Active)] })),
        path if path == format!("/internal/v1/sales/{OLD}") => {
            let mut old = sale(SaleState::Ended);
            old.id.0 = OLD;
            // Long enough for everybody to come meanwhile.
            let mut reply = Reply::new(200).header("content-type", "application/json");
            reply.parts.push((300, serde_json::to_vec(&old).expect("JSON").into()));
            reply
        }
        _ => Reply::problem(common::problem::Code::NotFound),
    }
}

async fn gateways(count: usize, settings: &[(&str, &str)]) -> Vec<Gateway> {
    let orders = Fake::start(with_old_sale).await;
    let mut gateways = Vec::new();
    for _ in 0..count {
        let stock = stock(vec![catalogue_item(ItemState::Active)], ReserveOutcome::Accepted);
        let gateway = behind(settings, Fake::start(stock).await, orders.clone()).await;
        testkit::eventually("unknown ids are known to be unknown", async || {
            let before = gateway.orders.asked();
            let path = format!("/api/v1/sales/{}", Uuid::from_u128(1));
            let answer = gateway.get(&path).send().await.expect("answered");
            (answer.status() == 404 && gateway.orders.asked() == before).then_some(())
        })
        .await;
        gateways.push(gateway);
    }
    gateways
}

async fn unknown_ids(count: u128) {
    let gateway = gateways(1, &[]).await.remove(0);
    let token = gateway.token("u1", "customer").await;
    let before = (gateway.orders.asked(), gateway.stock.asked());
    let lane = async |lane: u128| {
        for n in 0..count / 16 {
            // By the birthday of nothing: no two are the same, none is known; one in a hundred thousand looks so.
            let id = Uuid::from_u128((lane << 64) | ((n + 2) << 8) | 3);
            let shown = gateway.get(&format!("/api/v1/sales/{id}")).send().await.expect("answered");
            assert_eq!(shown.status(), 404);
            let order = gateway.post(&order_path(ItemId(id))).bearer_auth(&token);
            let order = order.json(&json!({ "quantity": 1 })).send().await.expect("answered");
            assert_eq!(order.status(), 404);
        }
    };
    join_all((1..=16).map(lane)).await;
    assert_eq!((gateway.orders.asked(), gateway.stock.asked()), before, "calls behind the gateway");
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_ids_cost_no_call() {
    unknown_ids(2_000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: ./dev test --release -p gateway a_million_unknown -- --ignored"]
async fn a_million_unknown_ids_cost_no_call() {
    unknown_ids(1_000_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_readers_of_two_replicas_cause_one_rebuild() {
    let redis = Redis::start().await;
    let url = redis.url();
    let gateways = gateways(2, &[("REDIS__URL", &url), ("REDIS__TIMEOUT_MS", "5000")]).await;
    let path = format!("/api/v1/sales/{OLD}");
    let read = (0..1_000).map(|n| gateways[n % 2].get(&path).send());
    for answer in join_all(read).await {
        let answer = answer.expect("answered");
        assert_eq!(answer.status(), 200);
        let shown: serde_json::Value = answer.json().await.expect("JSON");
        assert_eq!(shown["id"], json!(OLD));
    }
    assert_eq!(gateways[0].orders.calls(&OLD.to_string()).len(), 1, "rebuilds");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_each_replica_rebuilds_once() {
    let gateways = gateways(2, &[]).await;
    let path = format!("/api/v1/sales/{OLD}");
    let read = (0..200).map(|n| gateways[n % 2].get(&path).send());
    assert!(join_all(read).await.into_iter().all(|answer| answer.expect("answered").status() == 200));
    assert_eq!(gateways[0].orders.calls(&OLD.to_string()).len(), 2, "rebuilds");
}

#[tokio::test(flavor = "multi_thread")]
async fn that_there_is_none_is_remembered_too() {
    // This order-service does not say which ids there are, so the first reader has to ask.
    let stock = stock(vec![catalogue_item(ItemState::Active)], ReserveOutcome::Accepted);
    let gateway = start(&[], stock).await;
    let path = format!("/api/v1/sales/{OLD}");
    let read = (0..200).map(|_| gateway.get(&path).send());
    assert!(join_all(read).await.into_iter().all(|answer| answer.expect("answered").status() == 404));
    let calls = gateway.orders.calls(&OLD.to_string()).len();
    assert!((1..=3).contains(&calls), "{calls} calls for 200 readers");
}
