//! A user's own orders: the status from two services, long polls, commands, callbacks, and passing things on.

use common::api::ItemState;
use common::api::inventory::{Reservation, ReserveOutcome};
use common::ids::{Currency, Quantity, UserId};
use common::messages::order::Units;
use common::problem::Code;
use serde_json::{Value, json};

use crate::place_order::order_json;
use crate::support::*;

fn hold(user: &str, version: i64) -> Reservation {
    Reservation {
        order_id: order_id("u1", "k1"),
        item_id: ITEM,
        sale_id: SALE,
        user_id: UserId::try_from(user.to_owned()).expect("valid"),
        quantity: Quantity::try_from(2).expect("valid"),
        units: Units::Held,
        version,
        unit_price_cents: 150,
        currency: Currency::try_from("CNY".to_owned()).expect("valid"),
        reserved_at: now(),
    }
}

/// A stock-service that answers like this when it is asked for a hold.
fn holding(reply: impl Fn() -> Reply + Send + Sync) -> impl Fn(&Recorded) -> Reply + Send + Sync {
    let other = stock(vec![catalogue_item(ItemState::Active)], ReserveOutcome::Accepted);
    move |call| if call.path.contains("/reservations/") { reply() } else { other(call) }
}

fn path() -> String {
    format!("/api/v1/orders/{}", order_id("u1", "k1"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_comes_from_whoever_has_the_order() {
    let gateway = open().await;
    let token = gateway.token("u1", "customer").await;
    let get = async || gateway.get(&path()).bearer_auth(&token).send().await.expect("answered");

    problem(get().await, 404, "not_found").await;

    gateway.stock.answer(holding(|| Reply::json(200, &hold("u1", 0))));
    let queued: Value = get().await.json().await.expect("JSON");
    assert_eq!((&queued["status"], &queued["version"]), (&json!("queued"), &json!(0)));
    assert_eq!((&queued["total_cents"], &queued["expires_at"]), (&json!(300), &Value::Null));

    gateway.stock.answer(holding(|| Reply::json(200, &hold("u2", 0))));
    problem(get().await, 404, "not_found").await;

    gateway.stock.answer(holding(|| Reply::problem(Code::Unavailable)));
    problem(get().await, 503, "unavailable").await;

    // The inventory has seen an order that the database does not have: nothing can be said.
    gateway.stock.answer(holding(|| Reply::json(200, &hold("u1", 3))));
    problem(get().await, 503, "unavailable").await;

    gateway.orders.answer(|call| {
        assert_eq!(call.headers["x-user-id"], "u1");
        assert_eq!(call.headers["x-user-role"], "customer");
        Reply::json(200, &order_json("paid", 2))
    });
    let paid: Value = get().await.json().await.expect("JSON");
    assert_eq!((&paid["status"], &paid["version"]), (&json!("paid"), &json!(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_database_only_a_fresh_hold_says_something() {
    let gateway = open().await;
    let token = gateway.token("u1", "customer").await;
    gateway.orders.answer(|_| Reply::problem(Code::Unavailable));
    let get = async || gateway.get(&path()).bearer_auth(&token).send().await.expect("answered");

    problem(get().await, 503, "unavailable").await;
    gateway.stock.answer(holding(|| Reply::json(200, &hold("u1", 1))));
    problem(get().await, 503, "unavailable").await;
    gateway.stock.answer(holding(|| Reply::json(200, &hold("u1", 0))));
    assert_eq!(get().await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_ends_with_the_queue_and_with_the_next_change() {
    let gateway = open().await;
    let token = gateway.token("u1", "customer").await;
    gateway.stock.answer(holding(|| Reply::json(200, &hold("u1", 0))));
    let waiting = tokio::spawn(gateway.get(&format!("{}?wait=25", path())).bearer_auth(&token).send());
    testkit::eventually("it is waiting", async || {
        (gateway.orders.calls("/orders/").len() >= 3).then_some(())
    })
    .await;
    assert!(!waiting.is_finished());

    gateway.orders.answer(|call| {
        let newer = call.query.contains("wait=");
        assert!(!newer || call.query.contains("version=1"), "{}", call.query);
        let reply = Reply::new(200).header("content-type", "application/json");
        let order = if newer { order_json("paid", 2) } else { order_json("pending_payment", 1) };
        reply.part(if newer { 300 } else { 0 }, serde_json::to_vec(&order).expect("JSON"))
    });
    let made: Value = waiting.await.expect("ran").expect("answered").json().await.expect("JSON");
    assert_eq!(made["status"], "pending_payment");

    let next = gateway.get(&format!("{}?wait=25&version=1", path())).bearer_auth(&token).send().await;
    let paid: Value = next.expect("answered").json().await.expect("JSON");
    assert_eq!(paid["status"], "paid");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_without_news_answers_with_what_is_known() {
    let gateway = open().await;
    let token = gateway.token("u1", "customer").await;
    gateway.stock.answer(holding(|| Reply::json(200, &hold("u1", 0))));
    let response =
        gateway.get(&format!("{}?wait=1", path())).bearer_auth(&token).send().await.expect("answered");
    let queued: Value = response.json().await.expect("JSON");
    assert_eq!(queued["status"], "queued");
    for (wait, field) in
        [("wait=0", "wait"), ("wait=31", "wait"), ("wait=x", "wait"), ("wait=1&version=-1", "version")]
    {
        let response = gateway.get(&format!("{}?{wait}", path())).bearer_auth(&token).send().await;
        assert_eq!(problem(response.expect("answered"), 400, "invalid_request").await["field"], field);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_passed_on_and_wait_for_the_queue() {
    let gateway = open().await;
    let token = gateway.token("u1", "customer").await;
    let pay = async || {
        let request = gateway.post(&format!("{}/pay", path())).bearer_auth(&token);
        request.json(&json!({ "provider": "sandbox" })).send().await.expect("answered")
    };
    let cancel = async || {
        gateway.post(&format!("{}/cancel", path())).bearer_auth(&token).send().await.expect("answered")
    };

    problem(pay().await, 404, "not_found").await;
    gateway.stock.answer(holding(|| Reply::json(200, &hold("u1", 0))));
    problem(pay().await, 503, "unavailable").await;
    problem(cancel().await, 503, "unavailable").await;
    gateway.stock.answer(holding(|| Reply::json(200, &hold("u2", 0))));
    problem(cancel().await, 404, "not_found").await;

    gateway.orders.answer(|call| match call.path.rsplit('/').next() {
        Some("pay") => {
            assert_eq!(call.body, "{\"provider\":\"sandbox\"}");
            Reply::json(
                201,
                &json!({ "payment_id": ITEM, "provider": "sandbox", "checkout_url": "http://x/y" }),
            )
        }
        _ => Reply::problem(Code::InvalidTransition),
    });
    let paying = pay().await;
    assert_eq!(paying.status(), 201);
    assert_eq!(paying.json::<Value>().await.expect("JSON")["checkout_url"], "http://x/y");
    problem(cancel().await, 409, "invalid_transition").await;

    // An answer that breaks off is none.
    gateway.orders.answer(|_| {
        let reply = Reply::new(200).header("content-type", "application/json").part(0, "{\"id\":");
        reply.header("content-length", "500")
    });
    problem(cancel().await, 503, "outcome_unknown").await;

    // Whatever a service does wrong, nobody is told that nothing happened.
    for status in [500, 502, 504, 301, 409] {
        gateway.orders.answer(move |_| Reply::new(status));
        let response = cancel().await;
        assert_eq!(response.headers()["location"], path().as_str());
        problem(response, 503, "outcome_unknown").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn problems_are_told_in_the_clients_language_wherever_they_come_from() {
    let gateway = open().await;
    let token = gateway.token("u1", "customer").await;
    gateway.orders.answer(|_| Reply::problem(Code::InvalidTransition));
    let cancel = gateway.post(&format!("{}/cancel", path())).bearer_auth(&token);
    let response =
        cancel.header("accept-language", "zh-CN,zh;q=0.9,en;q=0.1").send().await.expect("answered");
    assert_eq!(response.headers()["content-language"], "zh-CN");
    assert_eq!(problem(response, 409, "invalid_transition").await["detail"], "当前状态不允许此操作。");

    let own = gateway.get("/nowhere").header("accept-language", "zh").send().await.expect("answered");
    assert_eq!(problem(own, 404, "not_found").await["detail"], "资源不存在。");
    let english = gateway.get("/nowhere").send().await.expect("answered");
    assert_eq!(problem(english, 404, "not_found").await["detail"], "There is no such resource.");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_arrives_byte_for_byte_with_its_signature() {
    let gateway = open().await;
    gateway.orders.answer(|call| match call.path.as_str() {
        "/internal/v1/payments/sandbox/callback" => {
            if call.headers.get("sandbox-signature").is_some_and(|signature| signature == "t=1,v1=good") {
                Reply::new(204)
            } else {
                Reply::problem(Code::Unauthenticated)
            }
        }
        _ => Reply::problem(Code::NotFound),
    });
    let body = "{ \"event_id\" :\t1 ,\"x\":\"\u{00e9}\\u0000\"}\n";
    let callback = || gateway.post("/api/v1/payments/sandbox/callback").body(body);
    let good = callback().header("Sandbox-Signature", "t=1,v1=good").header("x-user-id", "u1").send().await;
    assert_eq!(good.expect("answered").status(), 204);
    problem(callback().send().await.expect("answered"), 401, "unauthenticated").await;

    let calls = gateway.orders.calls("/callback");
    assert_eq!(calls[0].body, body.as_bytes());
    assert!(!calls[0].headers.contains_key("x-user-id"));
    for provider in ["..%2Fsales", "Sandbox", "%2e%2e"] {
        let response = gateway.post(&format!("/api/v1/payments/{provider}/callback")).body(body).send().await;
        problem(response.expect("answered"), 404, "not_found").await;
    }
    assert_eq!(gateway.orders.calls("/callback").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_and_a_location_pass_through() {
    let gateway = open().await;
    let admin = gateway.token("boss", "admin").await;
    gateway.orders.answer(|call| match (call.method.as_str(), call.path.as_str()) {
        ("GET", "/internal/v1/admin/orders") => {
            assert_eq!(
                (call.headers["accept"].as_str(), call.query.as_str()),
                ("text/csv", "status=paid&limit=2")
            );
            Reply::new(200).header("content-type", "text/csv").part(0, "id,status\n").part(50, "1,paid\n")
        }
        ("POST", "/internal/v1/admin/sales") => {
            Reply::json(201, &json!({})).header("location", "/internal/v1/admin/sales/1")
        }
        _ => Reply::new(204),
    });
    let export = gateway.get("/api/v1/admin/orders?status=paid&limit=2").bearer_auth(&admin);
    let export = export.header("accept", "text/csv").send().await.expect("answered");
    assert_eq!(export.headers()["content-type"], "text/csv");
    assert_eq!(export.text().await.expect("text"), "id,status\n1,paid\n");
    let created = gateway.post("/api/v1/admin/sales").bearer_auth(&admin).json(&json!({})).send().await;
    assert_eq!(created.expect("answered").headers()["location"], "/api/v1/admin/sales/1");
    let gone = gateway.client.delete(format!("{}/api/v1/admin/dead-letters/{}", gateway.url, SALE));
    assert_eq!(gone.bearer_auth(&admin).send().await.expect("answered").status(), 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_may_take_longer_than_a_question() {
    let stock = stock(vec![catalogue_item(ItemState::Active)], ReserveOutcome::Accepted);
    let gateway = start(&[("UPSTREAM__ADMIN_TIMEOUT_MS", "1000")], stock).await;
    let admin = gateway.token("boss", "admin").await;
    gateway.orders.answer(|_| {
        let reply = Reply::new(200).header("content-type", "text/csv");
        reply.part(0, "id\n").part(900, "1\n").part(900, "2\n")
    });
    let export = gateway.get("/api/v1/admin/orders").bearer_auth(&admin).header("accept", "text/csv");
    assert_eq!(export.send().await.expect("answered").text().await.expect("whole"), "id\n1\n2\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_token_being_refused_is_no_fault_of_the_user() {
    let gateway = open().await;
    let token = gateway.token("u1", "customer").await;
    gateway.orders.answer(|_| Reply::problem(Code::Unauthenticated));
    let response = gateway.get("/api/v1/orders").bearer_auth(&token).send().await.expect("answered");
    problem(response, 503, "unavailable").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_version_a_long_poll_waits_for_the_end_of_a_payment_and_not_for_what_is_final() {
    let gateway = open().await;
    let token = gateway.token("u1", "customer").await;
    let shown = |status: &'static str, version: i64, age_s: i64| {
        let mut order = order_json(status, version);
        order["created_at"] = json!(now() - chrono::TimeDelta::seconds(age_s));
        serde_json::to_vec(&order).expect("JSON")
    };
    let poll = async || -> Value {
        let response = gateway.get(&format!("{}?wait=25", path())).bearer_auth(&token).send().await;
        response.expect("answered").json().await.expect("JSON")
    };
    // Long in the database: the client knows that it waits for payment.
    gateway.orders.answer(move |call| {
        let waits = call.query.contains("version=3");
        let reply = Reply::new(200).header("content-type", "application/json");
        let order = if waits { shown("paid", 4, 60) } else { shown("pending_payment", 3, 60) };
        reply.part(if waits { 300 } else { 0 }, order)
    });
    assert_eq!(poll().await["status"], "paid");
    assert_eq!(gateway.orders.calls("/v1/orders/").len(), 2);

    // Made a moment ago: it may be news. And what is final will not change.
    for (status, age_s) in [("pending_payment", 0), ("paid", 60), ("cancelled", 60)] {
        gateway.orders.answer(move |_| {
            Reply::new(200).header("content-type", "application/json").part(0, shown(status, 2, age_s))
        });
        assert_eq!(poll().await["status"], status);
    }
    assert!(
        gateway.orders.calls("/v1/orders/").iter().filter(|call| call.query.contains("wait")).count() <= 1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_at_a_stop_is_finished() {
    let gateway = start(&[], |call| match call.path.as_str() {
        "/internal/v1/catalogue" => Reply::json(200, &catalogue(vec![catalogue_item(ItemState::Active)])),
        _ => {
            let answer =
                common::api::inventory::ReserveAnswer { index: 0, outcome: ReserveOutcome::Accepted };
            lines(vec![(700, common::api::inventory::ReserveLine { answers: vec![answer] })])
        }
    })
    .await;
    let token = gateway.token("u1", "customer").await;
    let order = tokio::spawn(gateway.order_request(&token, "k1").send());
    testkit::eventually("it is in flight", async || {
        (gateway.stock.calls("/reservations").len() == 1).then_some(())
    })
    .await;
    gateway.stop.cancel();
    assert_eq!(order.await.expect("ran").expect("answered").status(), 202);
    let ended =
        tokio::time::timeout(std::time::Duration::from_secs(20), gateway.ended).await.expect("in time");
    ended.expect("no panic").expect("a clean stop");
}
