//! The block list at the gateway: in force without a call, for new places and orders, and for whole networks.

use common::api::ItemState;
use common::api::inventory::ReserveOutcome;
use serde_json::json;
use testkit::eventually;

use crate::support::*;

/// An order-service with this block list.
fn listing(items: serde_json::Value) -> impl Fn(&Recorded) -> Reply + Send + Sync {
    let others = orders(vec![sale(common::api::SaleState::Active)]);
    move |call| match call.path.as_str() {
        "/internal/v1/blocks" if call.headers.contains_key("if-none-match") => Reply::new(304),
        "/internal/v1/blocks" => Reply::json(200, &json!({ "items": items })).header("etag", "\"1\""),
        _ => others(call),
    }
}

async fn blocking(settings: &[(&str, &str)], items: serde_json::Value) -> Gateway {
    let accepting = stock(vec![catalogue_item(ItemState::Active)], ReserveOutcome::Accepted);
    let gateway = start(settings, accepting).await;
    let before = gateway.orders.calls("/blocks").len();
    gateway.orders.answer(listing(items));
    let read = async || (gateway.orders.calls("/blocks").len() >= before + 3).then_some(());
    eventually("the list was read", read).await;
    gateway
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_account_or_device_costs_no_reservation_and_no_token() {
    let list = json!([
        { "kind": "user", "value": "mei", "expires_in_ms": null },
        { "kind": "user", "value": "li", "expires_in_ms": 1 },
        { "kind": "device", "value": "device-4711", "expires_in_ms": 3_600_000 },
        { "kind": "user", "value": "not a user", "expires_in_ms": null },
    ]);
    let gateway = blocking(&[], list).await;
    let (mei, li) = (gateway.token("mei", "customer").await, gateway.token("li", "customer").await);
    for n in 0..5 {
        let refused = gateway.order(&mei, &format!("k{n}")).await;
        assert!(!refused.headers().contains_key("ratelimit"), "no token was taken");
        problem(refused, 403, "blocked").await;
    }
    for method in [reqwest::Method::POST, reqwest::Method::GET] {
        let place = gateway.client.request(method, format!("{}/api/v1/items/{ITEM}/place", gateway.url));
        problem(place.bearer_auth(&mei).send().await.expect("answered"), 403, "blocked").await;
    }
    let from = |device: &'static str| gateway.order_request(&li, device).header("Device-Id", device).send();
    problem(from("device-4711").await.expect("answered"), 403, "blocked").await;
    assert_eq!(gateway.stock.calls("/items/").len(), 0, "nothing was reserved");
    assert_eq!(from("device-4712").await.expect("answered").status(), 202, "li's block is over");
    let odd = gateway.order_request(&li, "k").header("Device-Id", "short").send().await.expect("answered");
    assert_eq!(problem(odd, 400, "invalid_request").await["field"], "Device-Id");
    let mine = gateway.get("/api/v1/orders").bearer_auth(&mei).send().await.expect("answered");
    assert_ne!(mine.status(), 403, "what is there may be seen");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_network_gets_nothing_but_its_admins_and_callbacks_get_through() {
    let list = json!([{ "kind": "network", "value": "203.0.113.0/24", "expires_in_ms": null }]);
    let gateway = blocking(&[("LIMITS__TRUSTED_PROXIES", "127.0.0.0/8")], list).await;
    let (mei, admin) = (gateway.token("mei", "customer").await, gateway.token("boss", "admin").await);
    let from = |address: &'static str, path: &str, token: &str| {
        gateway.get(path).bearer_auth(token).header("X-Forwarded-For", address).send()
    };
    for path in ["/api/v1/sales", "/api/v1/orders", "/docs", "/openapi.json"] {
        problem(from("203.0.113.77", path, &mei).await.expect("answered"), 403, "blocked").await;
        assert_ne!(from("203.0.114.77", path, &mei).await.expect("answered").status(), 403, "{path}");
    }
    let blocks = from("203.0.113.77", "/api/v1/admin/blocks", &admin).await.expect("answered");
    assert_ne!(blocks.status(), 403, "who blocked it by mistake can lift it from there");
    let callback =
        gateway.post("/api/v1/payments/sandbox/callback").header("X-Forwarded-For", "203.0.113.77");
    let callback = callback.body("{}").send().await.expect("answered");
    assert_ne!(callback.status(), 403, "money that was paid must be heard of");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_last_stays_in_force_while_order_service_is_away() {
    let list = json!([{ "kind": "user", "value": "mei", "expires_in_ms": null }]);
    let gateway = blocking(&[], list).await;
    let mei = gateway.token("mei", "customer").await;
    gateway.orders.answer(|_| Reply::problem(common::problem::Code::Unavailable));
    let before = gateway.orders.calls("/blocks").len();
    eventually("it was asked again", async || {
        (gateway.orders.calls("/blocks").len() > before + 1).then_some(())
    })
    .await;
    problem(gateway.order(&mei, "k").await, 403, "blocked").await;
}
