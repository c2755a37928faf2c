//! Notices that are lost, and payments that nobody made: the provider is asked before an order ends.

use common::api::OrderStatus;
use common::ids::OrderId;
use diesel_async::SimpleAsyncConnection as _;
use reqwest::Method;
use serde_json::{Value, json};
use testkit::eventually;
use uuid::Uuid;

use crate::desk::Desk;
use crate::support::answer;

const SILENT: (&str, &str) = ("PAYMENTS__SANDBOX_FAULTS", "silent");
const SOON: (&str, &str) = ("ASKING__INTERVAL_MS", "50");

async fn press(desk: &Desk, payment: Uuid, outcome: &str) -> (u16, Value) {
    let path = format!("/sandbox/payments/{payment}");
    answer(desk.instance.call(Method::POST, &path, "ann").json(&json!({"outcome": outcome}))).await
}

/// As if the time to pay were over.
async fn let_time_pass(desk: &Desk, order: OrderId) {
    desk.world
        .execute(&format!(
            "UPDATE orders SET expires_at = now() - interval '1 second' WHERE id = '{order}';
             UPDATE payments SET next_ask_at = now() WHERE order_id = '{order}'"
        ))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_notice_is_learnt_while_the_order_can_be_paid() {
    let desk = Desk::open_with("asked", &[SILENT, SOON, ("ASKING__FIRST_MS", "100")]).await;
    let sale = desk.open_sale(10).await;
    let order = desk.order(&sale, "ann", 1).await;
    let payment = desk.pay("ann", order).await;
    eventually("it is asked for more than once", async || {
        (desk.world.number("SELECT asked FROM payments").await > 1).then_some(())
    })
    .await;
    assert_eq!(desk.shown("ann", order).await.status, OrderStatus::PendingPayment);

    let (status, chosen) = press(&desk, payment, "success").await;
    assert_eq!((status, &chosen["delivered"]), (200, &json!(false)), "{chosen}");
    desk.instance.order_becomes(order, "ann", OrderStatus::Paid).await;
    assert_eq!(desk.world.words("SELECT status FROM payments").await, ["kept"]);
    assert_eq!(desk.deliver(&desk.notice(payment, "success").await).await, 204, "the notice comes after all");
    assert_eq!(desk.shown("ann", order).await.version, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_time_is_over_is_paid_if_the_provider_says_so() {
    let desk = Desk::open_with("overdue", &[SILENT, SOON]).await;
    let _second = desk.another().await;
    let sale = desk.open_sale(10).await;
    let order = desk.order(&sale, "ann", 2).await;
    let payment = desk.pay("ann", order).await;
    press(&desk, payment, "success").await;
    let_time_pass(&desk, order).await;

    desk.instance.order_becomes(order, "ann", OrderStatus::Paid).await;
    assert_eq!(desk.world.number("SELECT taken FROM items").await, 2);
    assert_eq!(desk.world.number("SELECT count(*) FROM order_transitions").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_expires_only_after_its_payment_is_closed() {
    let desk = Desk::open_with("closed", &[SOON]).await;
    let sale = desk.open_sale(10).await;
    let order = desk.order(&sale, "ann", 1).await;
    let payment = desk.pay("ann", order).await;
    desk.world
        .execute(
            "CREATE FUNCTION away() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'the provider is away'; END $$;
             CREATE TRIGGER away BEFORE UPDATE ON sandbox_payments FOR EACH ROW EXECUTE FUNCTION away()",
        )
        .await;
    let_time_pass(&desk, order).await;
    eventually("it is asked for again and again", async || {
        (desk.world.number("SELECT asked FROM payments").await >= 3).then_some(())
    })
    .await;
    assert_eq!(desk.shown("ann", order).await.status, OrderStatus::PendingPayment);
    assert_eq!(desk.world.number("SELECT taken FROM items").await, 1, "nothing is given away");

    desk.world.execute("DROP TRIGGER away ON sandbox_payments").await;
    desk.instance.order_becomes(order, "ann", OrderStatus::Expired).await;
    assert_eq!(desk.world.number("SELECT taken FROM items").await, 0);
    assert_eq!(desk.world.words("SELECT status FROM payments").await, ["failed"]);
    assert_eq!(press(&desk, payment, "success").await.0, 409, "a closed payment captures nothing");
}

/// The next regular question would come a minute later, and the units would be held until then.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_time_runs_out_during_a_question_expires_right_after_it() {
    let patient =
        ["DATABASE__LOCK_TIMEOUT_MS", "DATABASE__STATEMENT_TIMEOUT_MS", "ASKING__PROVIDER_TIMEOUT_MS"];
    let settings = patient.map(|setting| (setting, "30000")).into_iter().chain([SOON]);
    let desk = Desk::open_with("during", &settings.collect::<Vec<_>>()).await;
    let sale = desk.open_sale(10).await;
    let order = desk.order(&sale, "ann", 1).await;
    desk.pay("ann", order).await;

    let mut provider = desk.world.connection().await;
    provider.batch_execute("BEGIN; LOCK TABLE sandbox_payments IN ACCESS EXCLUSIVE MODE").await.unwrap();
    desk.world.execute("UPDATE payments SET next_ask_at = now()").await;
    desk.world.number_becomes("SELECT asked FROM payments", 1).await;
    desk.world.execute("UPDATE orders SET expires_at = now() - interval '1 second'").await;
    provider.batch_execute("COMMIT").await.unwrap();

    desk.instance.order_becomes(order, "ann", OrderStatus::Expired).await;
}

/// Its notice is lost too: money of an order that its buyer has cancelled goes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_capture_for_a_cancelled_order_is_found_and_refunded() {
    let desk = Desk::open_with("cancelled", &[SILENT, SOON]).await;
    let sale = desk.open_sale(10).await;
    let order = desk.order(&sale, "ann", 1).await;
    let payment = desk.pay("ann", order).await;
    assert_eq!(desk.instance.post(&format!("/orders/{order}/cancel"), "ann").await.0, 200);
    press(&desk, payment, "success").await;
    let_time_pass(&desk, order).await;

    desk.world.number_becomes("SELECT count(*) FROM payments WHERE status = 'refunded'", 1).await;
    assert_eq!(
        desk.world.number("SELECT count(*) FROM sandbox_payments WHERE refund_no = payment_id").await,
        1
    );
    assert_eq!(desk.shown("ann", order).await.status, OrderStatus::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_provider_is_down_nobody_pays_and_nothing_expires_that_might_be_paid() {
    let down = ("PAYMENTS__SANDBOX_FAULTS", "down");
    let desk = Desk::open_with("down", &[down, SOON, ("ASKING__RETRY_MAX_MS", "100")]).await;
    let sale = desk.open_sale(10).await;
    let order = desk.order(&sale, "ann", 1).await;
    let call = desk.instance.call(Method::POST, &format!("/orders/{order}/pay"), "ann");
    let refusal = call.json(&json!({"provider": "sandbox"})).send().await.unwrap();
    assert_eq!((refusal.status().as_u16(), &refusal.headers()["x-outcome"]), (503, &"none".parse().unwrap()));
    assert!(refusal.headers().contains_key("retry-after"));
    let_time_pass(&desk, order).await;
    eventually("it is asked for again and again", async || {
        (desk.world.number("SELECT asked FROM payments").await >= 3).then_some(())
    })
    .await;
    assert_eq!(desk.shown("ann", order).await.status, OrderStatus::PendingPayment);

    let _up = desk.another().await;
    desk.instance.order_becomes(order, "ann", OrderStatus::Expired).await;
    assert_eq!(desk.world.number("SELECT taken FROM items").await, 0);
}
