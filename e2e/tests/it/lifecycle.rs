//! What becomes of an order: paid, lapsed, cancelled, refunded; always by exactly one of them.

use common::api::{OrderStatus, PaymentStarted, RefundState};
use common::problem::Code;
use futures_util::future::join_all;
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::Sha256;
use testkit::eventually;

use crate::support::World;

#[tokio::test(flavor = "multi_thread")]
async fn an_unpaid_order_expires_and_its_unit_is_sold_again_once() {
    let world = World::start().await;
    let sale = world.open_sale(1, 1, 2).await;
    let item = sale.items[0].id;
    let (first, second, third) =
        (world.customer("first").await, world.customer("second").await, world.customer("third").await);
    let lapsed = world.accepted(&first, item, "a").await;
    let order = world.reaches(&first, lapsed, OrderStatus::PendingPayment).await;
    assert_eq!(world.final_answer(&second, item, "b", 1).await.code(), Some(Code::SoldOut));

    let order_expired = world.reaches(&first, lapsed, OrderStatus::Expired).await;
    assert_eq!((order.version, order_expired.version), (1, 2));
    let resold = eventually("the unit is on sale again", async || {
        let answer = world.final_answer(&second, item, "b", 1).await;
        (answer.status == StatusCode::ACCEPTED)
            .then(|| answer.json::<common::api::Accepted>().unwrap().order_id)
    })
    .await;
    world.reaches(&second, resold, OrderStatus::PendingPayment).await;
    world.client.pay(&second, resold).await.unwrap();
    world.reaches(&second, resold, OrderStatus::Paid).await;

    assert_eq!(
        world.final_answer(&third, item, "c", 1).await.code(),
        Some(Code::SoldOut),
        "it came back once"
    );
    let books = world.quiet(sale.id).await;
    assert_eq!((books.items[0].sold, books.items[0].expired, books.items[0].available), (1, 1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paid_order_does_not_expire() {
    let world = World::start().await;
    let sale = world.open_sale(2, 1, 2).await;
    let item = sale.items[0].id;
    let (payer, idler) = (world.customer("payer").await, world.customer("idler").await);
    let paid = world.accepted(&payer, item, "a").await;
    world.reaches(&payer, paid, OrderStatus::PendingPayment).await;
    world.client.pay(&payer, paid).await.unwrap();
    let idle = world.accepted(&idler, item, "b").await;

    // The later hold has lapsed, so the earlier one would have too.
    world.reaches(&idler, idle, OrderStatus::Expired).await;
    assert_eq!(world.client.order_state(&payer, paid).await.unwrap().status, OrderStatus::Paid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_that_comes_twenty_times_pays_once() {
    let world = World::start().await;
    let sale = world.open_sale(1, 1, 3_600).await;
    let token = world.customer("payer").await;
    let order = world.accepted(&token, sale.items[0].id, "a").await;
    world.reaches(&token, order, OrderStatus::PendingPayment).await;
    let payment = start_payment(&world, &token, order).await;
    let notice = Notice::success(&world, &payment, &json!({ "order_id": order, "amount_cents": 1_990 }));

    let answers = join_all((0..20).map(|_| notice.deliver(&world))).await;

    assert!(answers.iter().all(StatusCode::is_success), "{answers:?}");
    let paid = world.reaches(&token, order, OrderStatus::Paid).await;
    assert_eq!((paid.version, paid.refund), (2, None));
    let books = world.quiet(sale.id).await;
    assert_eq!((books.items[0].sold, books.items[0].paid, books.items[0].held), (1, 1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_after_expiry_is_refunded() {
    let world = World::start().await;
    let sale = world.open_sale(1, 1, 2).await;
    let token = world.customer("late").await;
    let order = world.accepted(&token, sale.items[0].id, "a").await;
    world.reaches(&token, order, OrderStatus::PendingPayment).await;
    let payment = start_payment(&world, &token, order).await;
    world.reaches(&token, order, OrderStatus::Expired).await;

    let notice = Notice::success(&world, &payment, &json!({ "order_id": order, "amount_cents": 1_990 }));
    assert!(notice.deliver(&world).await.is_success());

    let refunded = eventually("the money is back", async || {
        let order = world.client.order_state(&token, order).await.ok()?;
        (order.refund == Some(RefundState::Done)).then_some(order)
    })
    .await;
    assert_eq!(refunded.status, OrderStatus::Expired, "the order stays as it was");
    assert_eq!(world.quiet(sale.id).await.items[0].available, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_or_altered_notice_changes_nothing() {
    let world = World::start().await;
    let sale = world.open_sale(1, 1, 3_600).await;
    let token = world.customer("payer").await;
    let order = world.accepted(&token, sale.items[0].id, "a").await;
    world.reaches(&token, order, OrderStatus::PendingPayment).await;
    let payment = start_payment(&world, &token, order).await;

    let cheap = Notice::success(&world, &payment, &json!({ "order_id": order, "amount_cents": 1 }));
    assert!(cheap.deliver(&world).await.is_client_error());
    let mut forged = Notice::success(&world, &payment, &json!({ "order_id": order, "amount_cents": 1_990 }));
    forged.signature = forged.signature.replace("v1=", "v1=00");
    assert_eq!(forged.deliver(&world).await, StatusCode::UNAUTHORIZED);
    let mut altered = Notice::success(&world, &payment, &json!({ "order_id": order, "amount_cents": 1_990 }));
    altered.body.push(' ');
    assert_eq!(altered.deliver(&world).await, StatusCode::UNAUTHORIZED);

    let order = world.client.order_state(&token, order).await.unwrap();
    assert_eq!((order.status, order.version), (OrderStatus::PendingPayment, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_order_does_not_exist() {
    let world = World::start().await;
    let sale = world.open_sale(1, 1, 3_600).await;
    let (owner, stranger) = (world.customer("owner").await, world.customer("stranger").await);
    let order = world.accepted(&owner, sale.items[0].id, "a").await;
    world.reaches(&owner, order, OrderStatus::PendingPayment).await;

    let path = format!("/api/v1/orders/{order}");
    assert_eq!(world.client.get(&path, &stranger).await.unwrap().status, StatusCode::NOT_FOUND);
    for (action, body) in [("cancel", json!({})), ("pay", json!({ "provider": "sandbox" }))] {
        let answer = world.client.post(&format!("{path}/{action}"), &stranger, &body).await.unwrap();
        assert_eq!((answer.status, answer.code()), (StatusCode::NOT_FOUND, Some(Code::NotFound)), "{action}");
    }
    let listed: Value = world.client.get("/api/v1/orders", &stranger).await.unwrap().json().unwrap();
    assert_eq!(listed["items"], json!([]));
    assert_eq!(world.client.order_state(&owner, order).await.unwrap().version, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_order_gives_its_unit_back_once_and_an_admin_can_refund_a_paid_one() {
    let world = World::start().await;
    let sale = world.open_sale(2, 2, 3_600).await;
    let item = sale.items[0].id;
    let token = world.customer("undecided").await;
    let (cancelled, refunded) =
        (world.accepted(&token, item, "a").await, world.accepted(&token, item, "b").await);
    world.reaches(&token, cancelled, OrderStatus::PendingPayment).await;
    world.reaches(&token, refunded, OrderStatus::PendingPayment).await;

    let cancel = format!("/api/v1/orders/{cancelled}/cancel");
    assert_eq!(world.client.post(&cancel, &token, &json!({})).await.unwrap().status, StatusCode::OK);
    let again = world.client.post(&cancel, &token, &json!({})).await.unwrap();
    assert_eq!((again.status, again.code()), (StatusCode::CONFLICT, Some(Code::InvalidTransition)));

    world.client.pay(&token, refunded).await.unwrap();
    world.reaches(&token, refunded, OrderStatus::Paid).await;
    let refund = format!("/api/v1/admin/orders/{refunded}/refund");
    assert_eq!(world.client.post(&refund, &world.admin, &json!({})).await.unwrap().status, StatusCode::OK);
    world.reaches(&token, refunded, OrderStatus::Refunded).await;

    let books = world.quiet(sale.id).await;
    assert_eq!((books.items[0].available, books.items[0].cancelled, books.items[0].refunded), (2, 1, 1));
}

async fn start_payment(world: &World, token: &str, order: common::ids::OrderId) -> PaymentStarted {
    let body = json!({ "provider": "sandbox" });
    let answer = world.client.post(&format!("/api/v1/orders/{order}/pay"), token, &body).await.unwrap();
    assert_eq!(answer.status, StatusCode::CREATED);
    answer.json().unwrap()
}

/// A notice of the sandbox provider, signed as it signs them, by code of our own.
struct Notice {
    body: String,
    signature: String,
}

impl Notice {
    fn success(world: &World, payment: &PaymentStarted, what: &Value) -> Self {
        #[expect(clippy::disallowed_methods, reason = "the provider signs by its own clock")]
        let now = chrono::Utc::now();
        let body = json!({
            "event_id": uuid::Uuid::new_v4(),
            "payment_id": payment.payment_id,
            "order_id": what["order_id"],
            "amount_cents": what["amount_cents"],
            "currency": "CNY",
            "outcome": "success",
            "paid_at": now,
        })
        .to_string();
        let time = now.timestamp();
        let mut mac = Hmac::<Sha256>::new_from_slice(world.services.sandbox_secret().as_bytes()).unwrap();
        mac.update(format!("{time}.{body}").as_bytes());
        let signature = format!("t={time},v1={}", hex::encode(mac.finalize().into_bytes()));
        Self { body, signature }
    }

    async fn deliver(&self, world: &World) -> StatusCode {
        let request = world.client.request(Method::POST, "/api/v1/payments/sandbox/callback");
        let request =
            request.header("Sandbox-Signature", &self.signature).header("Content-Type", "application/json");
        world.client.send(request.body(self.body.clone())).await.unwrap().status
    }
}
