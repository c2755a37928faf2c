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

/// The hold of mei's order `k` of one unit, where stock-service tells of it; for all else it has `otherwise`.
fn holding(otherwise: u16) -> impl Fn(&Recorded) -> Reply + Send + Sync {
    let catalogued = stock(vec![catalogue_item(ItemState::Active)], ReserveOutcome::Accepted);
    let mine = format!("/internal/v1/reservations/{}", order_id("mei", "k"));
    move |call| {
        if call.path == mine {
            return Reply::json(
                200,
                &json!({ "order_id": order_id("mei", "k"), "item_id": ITEM, "sale_id": SALE,
                    "user_id": "mei", "quantity": 1, "units": "held", "version": 1, "unit_price_cents": 100,
                    "currency": "CNY", "reserved_at": now() }),
            );
        }
        if call.path.starts_with("/internal/v1/reservations/") {
            Reply::new(otherwise)
        } else {
            catalogued(call)
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_buyers_retry_is_never_refused_for_good_without_having_looked() {
    let list =
        json!(["mei", "li"].map(|user| json!({ "kind": "user", "value": user, "expires_in_ms": null })));
    let settings =
        [("RETRIES__USER__BURST", "2"), ("RETRIES__ALL__PER_SECOND", "1"), ("RETRIES__ALL__BURST", "3")];
    let gateway = blocking(&settings, list).await;
    gateway.stock.answer(holding(404));
    let (mei, li) = (gateway.token("mei", "customer").await, gateway.token("li", "customer").await);
    let looked_up = || gateway.stock.calls("/v1/reservations/").len();
    let mut codes = Vec::new();
    for n in 0..10 {
        for user in [&mei, &li] {
            let (before, refused) = (looked_up(), gateway.order(user, &format!("new-{n}")).await);
            if looked_up() > before {
                problem(refused, 403, "blocked").await;
                continue;
            }
            assert_eq!(
                (refused.status().as_u16(), refused.headers().contains_key("retry-after")),
                (429, true)
            );
            let body: serde_json::Value = refused.json().await.expect("JSON");
            codes.push(body["code"].as_str().expect("a code").to_owned());
        }
    }
    assert!(codes.contains(&"rate_limited".to_owned()), "of the user: {codes:?}");
    // She is told of her order by whichever of her retries is looked up, and by none that she has no order.
    let told = async || match gateway.order(&mei, "k").await.status().as_u16() {
        202 => Some(()),
        status => {
            assert_eq!(status, 429);
            None
        }
    };
    eventually("her order", told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_buyer_is_told_to_ask_again_while_stock_service_cannot_say() {
    let list = json!([{ "kind": "user", "value": "mei", "expires_in_ms": null }]);
    let gateway = blocking(&[], list).await;
    let mei = gateway.token("mei", "customer").await;
    gateway.stock.answer(holding(503));
    let refused = gateway.order(&mei, "other").await;
    assert!(refused.headers().contains_key("retry-after"));
    problem(refused, 503, "unavailable").await;
    assert_eq!(gateway.order(&mei, "k").await.status(), 202);
}
