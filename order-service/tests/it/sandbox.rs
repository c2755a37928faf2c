//! The sandbox provider: its page, its decision, and notices that it repeats until they are taken.

use std::sync::atomic::Ordering;

use common::api::OrderStatus;
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use testkit::eventually;
use uuid::Uuid;

use crate::desk::{Desk, sale};
use crate::support::answer;

async fn press(desk: &Desk, payment: Uuid, outcome: &str) -> (u16, Value) {
    let path = format!("/sandbox/payments/{payment}");
    answer(desk.instance.call(Method::POST, &path, "ann").json(&json!({"outcome": outcome}))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_what_is_to_be_paid_and_never_markup_of_others() {
    let desk = Desk::open("page").await;
    let mut evil = sale(10);
    evil["items"][0]["name"] = json!("<script>alert(1)</script>");
    let draft = desk.admin_does("/admin/sales", evil).await;
    let id = draft["id"].as_str().unwrap();
    let sale = desk.admin_does(&format!("/admin/sales/{id}/publish"), json!({})).await;
    let sale = serde_json::from_value(sale).unwrap();
    let order = desk.order(&sale, "ann", 2).await;
    let payment = desk.pay("ann", order).await;

    let path = format!("/sandbox/payments/{payment}");
    let response = desk.instance.call(Method::GET, &path, "ann").send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/html; charset=utf-8");
    let policy = response.headers()["content-security-policy"].to_str().unwrap().to_owned();
    let page = response.text().await.unwrap();
    assert!(policy.contains("default-src 'none'"));
    assert!(page.contains("19.80 CNY") && page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    assert_eq!(page.matches("<script").count(), 1);
    let nonce = page.split("nonce=\"").nth(1).unwrap().split('"').next().unwrap();
    assert!(policy.contains(&format!("'nonce-{nonce}'")));
    let chinese = desk.instance.call(Method::GET, &path, "ann").header("accept-language", "zh-CN,zh;q=0.9");
    let by_link = desk.instance.call(Method::GET, &format!("{path}?lang=zh-CN"), "ann");
    assert!(by_link.send().await.unwrap().text().await.unwrap().contains("确认支付"));
    assert!(chinese.send().await.unwrap().text().await.unwrap().contains("确认支付"));

    assert_eq!(desk.instance.get(&format!("/sandbox/payments/{}", Uuid::new_v4()), "ann").await.0, 404);
    assert_eq!(desk.instance.get("/sandbox/payments/x", "ann").await.0, 400);
    for body in [json!({}), json!({"outcome": "maybe"}), json!({"outcome": "success", "amount_cents": 1})] {
        let call = desk.instance.call(Method::POST, &path, "ann").json(&body);
        assert_eq!(answer(call).await.0, 400, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_press_pays_and_the_first_decision_stands() {
    let desk = Desk::open("press").await;
    let sale = desk.open_sale(10).await;
    let order = desk.order(&sale, "ann", 1).await;
    let payment = desk.pay("ann", order).await;
    let answers = join_all((0..10).map(|_| press(&desk, payment, "success"))).await;
    assert!(answers.iter().all(|(status, body)| *status == 200 && body["delivered"] == true), "{answers:?}");
    assert!(answers.iter().any(|(_, body)| body["callback_status"] == 204));
    assert_eq!(desk.shown("ann", order).await.status, OrderStatus::Paid);
    assert_eq!(press(&desk, payment, "failure").await.0, 409);
    assert_eq!(
        desk.world.number("SELECT count(*) FROM payment_notices").await,
        1,
        "one notice, however often"
    );
    assert_eq!(
        desk.world.number("SELECT count(*) FROM sandbox_payments WHERE captured_at IS NOT NULL").await,
        1
    );

    let other = desk.order(&sale, "bob", 1).await;
    let failed = desk.pay("bob", other).await;
    let path = format!("/sandbox/payments/{failed}");
    let form = desk.instance.call(Method::POST, &path, "bob");
    let form = form.header("content-type", "application/x-www-form-urlencoded").body("outcome=failure");
    let (status, page) = answer(form).await;
    assert_eq!(status, 200);
    assert!(page.as_str().unwrap().contains("The payment failed"));
    assert_eq!(desk.shown("bob", other).await.status, OrderStatus::PendingPayment);
    assert_ne!(desk.pay("bob", other).await, failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_is_repeated_until_it_is_taken_also_after_a_restart() {
    let desk = Desk::open("repeat").await;
    let sale = desk.open_sale(10).await;
    let order = desk.order(&sale, "ann", 1).await;
    let payment = desk.pay("ann", order).await;
    desk.outside.down.store(true, Ordering::SeqCst);
    let (status, chosen) = press(&desk, payment, "success").await;
    assert_eq!((status, &chosen["delivered"], &chosen["callback_status"]), (200, &json!(false), &json!(503)));
    eventually("it is repeated", async || (desk.outside.callbacks.load(Ordering::SeqCst) >= 2).then_some(()))
        .await;
    assert_eq!(desk.shown("ann", order).await.status, OrderStatus::PendingPayment);

    // The one that took the decision goes away; another one goes on.
    let Desk { instance, outside, world } = desk;
    instance.stop().await;
    let url = format!("http://{}", outside.address);
    let successor = world.instance_with(&[("PAYMENTS__PUBLIC_URL", url.as_str())]).await;
    outside.pass_on_to(successor.address);
    outside.down.store(false, Ordering::SeqCst);
    successor.order_becomes(order, "ann", OrderStatus::Paid).await;
    world.number_becomes("SELECT count(*) FROM sandbox_payments WHERE delivered_at IS NOT NULL", 1).await;
    assert_eq!(world.number("SELECT count(*) FROM payments WHERE status = 'kept'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn outside_the_dev_profile_there_is_no_sandbox() {
    const STRONG: &str = "q7Zp4Xw9Lk2Vt6Rn8Bc3Hs5Jd1Fg0MyA";
    let production = [("PROFILE", "production"), ("INTERNAL__TOKEN", STRONG)];
    let desk = Desk::open_with("production", &production).await;
    let call = |method: Method, path: &str| {
        let call = desk.world.client.request(method, desk.instance.url(path));
        call.header("x-internal-token", STRONG).header("x-user-id", "ann").header("x-user-role", "admin")
    };
    let path = format!("/sandbox/payments/{}", Uuid::new_v4());
    assert_eq!(answer(call(Method::GET, &path)).await.0, 404);
    assert_eq!(answer(call(Method::POST, &path).json(&json!({"outcome": "success"}))).await.0, 404);
    assert_eq!(answer(call(Method::POST, "/payments/sandbox/callback").body("{}")).await.0, 404);
    let pay =
        call(Method::POST, &format!("/orders/{}/pay", Uuid::new_v4())).json(&json!({"provider": "sandbox"}));
    let (status, problem) = answer(pay).await;
    assert_eq!((status, &problem["field"]), (400, &json!("provider")));
}
