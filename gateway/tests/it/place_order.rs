//! Placing an order: what is sent on, what comes back, and what is said when nothing comes back.

use std::time::Duration;

use chrono::TimeDelta;
use common::api::inventory::{ReserveAnswer, ReserveBatch, ReserveLine, ReserveOutcome};
use common::api::{ItemState, SaleState};
use common::problem::Code;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_order_says_where_it_is() {
    let gateway = open().await;
    let token = gateway.token("u1", "customer").await;
    let response = gateway.order(&token, "k1").await;

    let id = order_id("u1", "k1");
    assert_eq!(response.status(), 202);
    assert_eq!(response.headers()["location"], format!("/api/v1/orders/{id}").as_str());
    assert_eq!(response.headers()["idempotency-key"], "k1");
    assert_eq!(response.headers()["cache-control"], "no-store");
    let body: Value = response.json().await.expect("JSON");
    assert_eq!(body, json!({ "order_id": id, "status": "queued" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_service_is_told_who_buys_by_the_token_alone() {
    let gateway = open().await;
    let token = gateway.token("u1", "customer").await;
    let request = gateway.order_request(&token, "k1");
    let forged =
        request.header("x-user-id", "u2").header("x-internal-token", "guess").header("x-deadline-ms", "1");
    assert_eq!(forged.send().await.expect("answered").status(), 202);

    let calls = gateway.stock.calls("/reservations");
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].path, format!("/internal/v1/items/{ITEM}/reservations"));
    assert_eq!(calls[0].headers["x-internal-token"], INTERNAL);
    let batch: ReserveBatch = serde_json::from_slice(&calls[0].body).expect("a batch");
    let request = &batch.requests[0];
    assert_eq!((request.user_id.as_str(), request.quantity.get()), ("u1", 1));
    assert_eq!(request.order_id, order_id("u1", "k1"));
    assert!((100..=3000).contains(&request.deadline_ms), "{}", request.deadline_ms);
    let deadline_ms: u64 = calls[0].headers["x-deadline-ms"].parse().expect("a number");
    assert!((100..=3000).contains(&deadline_ms), "{deadline_ms}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_one_is_made_that_names_the_same_order_again() {
    let gateway = open().await;
    let token = gateway.token("u1", "customer").await;
    let order = || gateway.post(&order_path(ITEM)).bearer_auth(&token).json(&json!({ "quantity": 1 }));
    let first = order().send().await.expect("answered");
    let second = order().send().await.expect("answered");
    let key = first.headers()["idempotency-key"].to_str().expect("text").to_owned();
    assert_ne!(second.headers()["idempotency-key"], key.as_str());

    let again = gateway.order(&token, &key).await;
    assert_eq!(again.headers()["location"], first.headers()["location"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_decision_has_its_answer() {
    let starts_at = now() + TimeDelta::seconds(90);
    let table = [
        (ReserveOutcome::SoldOut, 409, "sold_out"),
        (ReserveOutcome::LimitExceeded, 409, "limit_exceeded"),
        (ReserveOutcome::NotStarted { starts_at }, 409, "not_started"),
        (ReserveOutcome::Ended, 409, "ended"),
        (ReserveOutcome::Paused, 409, "paused"),
        (ReserveOutcome::IdempotencyMismatch, 422, "idempotency_mismatch"),
        (ReserveOutcome::TooBusy, 429, "too_busy"),
        (ReserveOutcome::DeadlinePassed, 503, "unavailable"),
        (ReserveOutcome::Unavailable, 503, "unavailable"),
        (ReserveOutcome::UnknownItem, 503, "unavailable"),
        (ReserveOutcome::Unknown, 503, "outcome_unknown"),
    ];
    let gateway = open().await;
    let token = gateway.token("u1", "customer").await;
    for (outcome, status, code) in table {
        gateway.stock.answer(stock(vec![catalogue_item(ItemState::Active)], outcome.clone()));
        let response = gateway.order(&token, "k1").await;
        assert_eq!(response.headers()["idempotency-key"], "k1");
        let location = response.headers().get("location").cloned();
        let body = problem(response, status, code).await;
        if code == "not_started" {
            assert_eq!(body["starts_at"], json!(starts_at));
        }
        let expected = format!("/api/v1/orders/{}", order_id("u1", "k1"));
        assert_eq!(location.is_some_and(|location| location == *expected), code == "outcome_unknown");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_and_not_answered_is_unknown() {
    let gateway = start(
        &[("UPSTREAM__TIMEOUT_MS", "800")],
        stock(vec![catalogue_item(ItemState::Active)], ReserveOutcome::Accepted),
    )
    .await;
    let token = gateway.token("u1", "customer").await;
    let silence: [fn() -> Reply; 6] = [
        || Reply::new(200).endless(),
        || Reply::new(200),
        || Reply::new(200).part(0, "{\"answers\":[{\"index\":0,\"outco"),
        || Reply::new(200).part(0, "{\"answers\":[{\"index\":7,\"outcome\":{\"outcome\":\"accepted\"}}]}\n"),
        || Reply::new(500),
        || Reply::json(503, &json!({ "code": "outcome_unknown" })).header("x-outcome", "unknown"),
    ];
    for (case, silence) in silence.into_iter().enumerate() {
        gateway.stock.answer(move |_| silence());
        let response = gateway.order(&token, "k1").await;
        assert!(response.headers().contains_key("location"), "case {case}");
        problem(response, 503, "outcome_unknown").await;
    }
    // What stock-service itself calls without effect is so.
    gateway.stock.answer(|_| Reply::problem(Code::Unavailable));
    problem(gateway.order(&token, "k1").await, 503, "unavailable").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_sent_had_no_effect() {
    // The catalogue comes from one address; for reservations the second one is tried as well, and both are closed.
    let orders = Fake::start(orders(vec![sale(SaleState::Active)])).await;
    let stock = Fake::start(stock(vec![catalogue_item(ItemState::Active)], ReserveOutcome::Accepted)).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let nowhere = format!("http://{closed},http://{closed}");
    let gateway = behind(&[("STOCK__URLS", &nowhere)], stock, orders).await;
    testkit::eventually("the sales are known", async || {
        (gateway.get("/api/v1/sales").send().await.ok()?.status() == 200).then_some(())
    })
    .await;
    let token = gateway.token("u1", "customer").await;
    problem(gateway.order(&token, "k1").await, 503, "unavailable").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_instance_is_tried_when_the_first_cannot_be_reached() {
    let orders = Fake::start(orders(vec![sale(SaleState::Active)])).await;
    let stock = Fake::start(stock(vec![catalogue_item(ItemState::Active)], ReserveOutcome::Accepted)).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let both = format!("http://{closed},http://{}", stock.address);
    let gateway = behind(&[("STOCK__URLS", &both)], stock, orders).await;
    gateway.polled().await;
    let token = gateway.token("u1", "customer").await;
    for key in ["k1", "k2", "k3", "k4"] {
        assert_eq!(gateway.order(&token, key).await.status(), 202);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_up_does_not_take_the_others_along() {
    let gateway = start(&[("ADMISSION__FLIGHTS_MAX", "1")], |call| match call.path.as_str() {
        "/internal/v1/catalogue" => Reply::json(200, &catalogue(vec![catalogue_item(ItemState::Active)])),
        _ => {
            let batch: ReserveBatch = serde_json::from_slice(&call.body).expect("a batch");
            let answer = |index| ReserveAnswer { index, outcome: ReserveOutcome::Accepted };
            lines(vec![(700, ReserveLine { answers: (0..batch.requests.len()).map(answer).collect() })])
        }
    })
    .await;
    let token = gateway.token("u1", "customer").await;
    let first = tokio::spawn(gateway.order_request(&token, "k0").send());
    testkit::eventually("the first flight is up", async || {
        (gateway.stock.calls("/reservations").len() == 1).then_some(())
    })
    .await;
    // These two wait for the next flight, together.
    let impatient = gateway.order_request(&token, "k1").timeout(Duration::from_millis(1000)).send();
    let patient = gateway.order_request(&token, "k2").send();
    let (impatient, patient) = tokio::join!(impatient, patient);
    assert!(impatient.is_err(), "hung up");
    assert_eq!(patient.expect("answered").status(), 202);
    assert_eq!(first.await.expect("ran").expect("answered").status(), 202);
    assert_eq!(gateway.stock.calls("/reservations").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_item_is_not_found_at_the_price_of_one_bounded_question() {
    let limits = [("LIMITS__USER__ORDER__PER_SECOND", "1"), ("LIMITS__USER__ORDER__BURST", "3")];
    let stock = stock(vec![catalogue_item(ItemState::Active)], ReserveOutcome::Accepted);
    let gateway = start(&limits, stock).await;
    let token = gateway.token("u1", "customer").await;
    let mut statuses = Vec::new();
    for n in 1000..1020 {
        let path = order_path(common::ids::ItemId(Uuid::from_u128(n)));
        let response = gateway.post(&path).bearer_auth(&token).json(&json!({ "quantity": 1 })).send().await;
        statuses.push(response.expect("answered").status().as_u16());
    }
    let not_found = statuses.iter().filter(|status| **status == 404).count();
    assert_eq!(statuses[0], 404);
    assert!(statuses.contains(&429) && statuses.iter().all(|status| [404, 429].contains(status)));
    assert_eq!((gateway.stock.asked(), gateway.orders.asked()), (0, not_found));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_accepted_though_neither_listing_has_its_item_any_more() {
    let gateway = start(&[], stock(vec![], ReserveOutcome::UnknownItem)).await;
    let known = format!("/internal/v1/orders/{}", order_id("u1", "k1"));
    gateway.orders.answer(move |call| match call.path.as_str() {
        "/internal/v1/sales" => Reply::json(200, &json!({ "items": [] })),
        path if path == known => Reply::json(200, &order_json("paid", 2)),
        _ => Reply::problem(Code::NotFound),
    });
    gateway.polled().await;
    let token = gateway.token("u1", "customer").await;
    assert_eq!(gateway.order(&token, "k1").await.status(), 202);
    problem(gateway.order(&token, "k2").await, 404, "not_found").await;
    gateway.orders.answer(|call| match call.path.as_str() {
        "/internal/v1/sales" => Reply::json(200, &json!({ "items": [] })),
        _ => Reply::problem(Code::Unavailable),
    });
    problem(gateway.order(&token, "k3").await, 503, "unavailable").await;
    assert_eq!(gateway.stock.asked(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_the_inventory_lost_is_asked_for_there_and_ended_only_when_order_service_says_so() {
    let gateway = start(&[], stock(vec![], ReserveOutcome::Unavailable)).await;
    gateway.orders.answer(orders(vec![sale(SaleState::Ended)]));
    gateway.polled().await;
    let token = gateway.token("u1", "customer").await;
    problem(gateway.order(&token, "k1").await, 503, "unavailable").await;

    // By this machine's clock it is over; order-service has not said so.
    let mut open = sale(SaleState::Active);
    open.ends_at = now() - TimeDelta::seconds(1);
    gateway.stock.answer(stock(vec![], ReserveOutcome::UnknownItem));
    gateway.orders.answer(orders(vec![open]));
    gateway.polled().await;
    problem(gateway.order(&token, "k1").await, 503, "unavailable").await;
    assert_eq!(gateway.stock.asked(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_of_a_retired_item_is_still_accepted() {
    let gateway = start(&[], stock(vec![], ReserveOutcome::UnknownItem)).await;
    let known = format!("/internal/v1/orders/{}", order_id("u1", "k1"));
    gateway.orders.answer(move |call| match call.path.as_str() {
        "/internal/v1/sales" => Reply::json(200, &json!({ "items": [sale(SaleState::Ended)] })),
        path if path == known && call.headers["x-user-id"] == "u1" => {
            Reply::json(200, &order_json("paid", 2))
        }
        _ => Reply::problem(Code::NotFound),
    });
    gateway.polled().await;
    let token = gateway.token("u1", "customer").await;
    assert_eq!(gateway.order(&token, "k1").await.status(), 202);
    problem(gateway.order(&token, "k2").await, 409, "ended").await;
    assert_eq!(gateway.stock.asked(), 2, "the inventory decides whether it has the item");

    // A published item that the inventory has not loaded yet is asked for there, and is only unavailable.
    gateway.orders.answer(orders(vec![sale(SaleState::Active)]));
    gateway.polled().await;
    problem(gateway.order(&token, "k3").await, 503, "unavailable").await;
    assert_eq!(gateway.stock.asked(), 3);
}

pub fn order_json(status: &str, version: i64) -> Value {
    json!({
        "id": order_id("u1", "k1"), "item_id": ITEM, "sale_id": SALE, "quantity": 1, "unit_price_cents": 100,
        "total_cents": 100, "currency": "CNY", "status": status, "reason": null, "refund": null,
        "version": version, "created_at": now(), "expires_at": null,
    })
}
