//! Refunds: asked for once, sent until the provider confirms, made once whatever happens.

use common::api::{OrderStatus, RefundState};
use common::ids::OrderId;
use common::messages::order::Units;
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;
use testkit::eventually;

use crate::desk::Desk;

async fn paid(desk: &Desk, sale: &common::api::Sale, user: &str) -> OrderId {
    let order = desk.order(sale, user, 2).await;
    let payment = desk.pay(user, order).await;
    assert_eq!(desk.deliver(&desk.notice(payment, "success").await).await, 204);
    order
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_takes_a_paid_order_back_once() {
    let desk = Desk::open("refund").await;
    let _second = desk.another().await;
    let sale = desk.open_sale(10).await;
    let heard = desk.world.listen();
    let order = paid(&desk, &sale, "ann").await;
    let path = format!("/admin/orders/{order}/refund");

    let answers = join_all((0..6).map(|_| desk.admin(Method::POST, &path, json!({})))).await;
    let accepted: Vec<_> = answers.iter().filter(|(status, _)| *status == 200).collect();
    assert_eq!(accepted.len(), 1);
    assert!(answers.iter().all(|(status, _)| *status == 200 || *status == 409), "{answers:?}");
    assert_eq!(
        (&accepted[0].1["status"], &accepted[0].1["refund"]),
        (&json!("refund_pending"), &json!("pending"))
    );

    let refunded = desk.instance.order_becomes(order, "ann", OrderStatus::Refunded).await;
    // Made, paid, refund pending, refunded.
    assert_eq!((refunded.refund, refunded.version), (Some(RefundState::Done), 4));
    assert_eq!(desk.world.number("SELECT taken FROM items").await, 0, "the units are back, once");
    assert_eq!(desk.world.words("SELECT units FROM orders").await, ["returned"]);
    assert_eq!(desk.world.words("SELECT status FROM payments").await, ["refunded"]);
    assert_eq!(
        desk.world.number("SELECT count(*) FROM sandbox_payments WHERE refund_no = payment_id").await,
        1
    );
    let told = eventually("it is told", async || {
        heard.all().into_iter().find(|(kind, ..)| *kind == "order.refunded.v1")
    })
    .await;
    assert_eq!((told.2.order.status, told.2.units), (OrderStatus::Refunded, Units::Returned));

    let (_, log) = desk.admin_get("/admin/audit-log?limit=1").await;
    let entry = &log["items"][0];
    assert_eq!((&entry["action"], &entry["subject"]), (&json!("order.refund"), &json!(order)));
    assert_eq!(
        (&entry["before"]["status"], &entry["after"]["status"]),
        (&json!("paid"), &json!("refund_pending"))
    );
    assert_eq!(desk.admin(Method::POST, &path, json!({})).await.0, 409);
    let unpaid = desk.order(&sale, "bob", 1).await;
    assert_eq!(desk.admin(Method::POST, &format!("/admin/orders/{unpaid}/refund"), json!({})).await.0, 409);
    let unknown = format!("/admin/orders/{}/refund", sale.id);
    assert_eq!(desk.admin(Method::POST, &unknown, json!({})).await.0, 404);
}

/// The provider is away for a while: the refund waits, is tried again, and is made once.
#[tokio::test(flavor = "multi_thread")]
async fn a_refund_is_tried_until_the_provider_makes_it() {
    let desk = Desk::open("refund_retry").await;
    let _second = desk.another().await;
    let sale = desk.open_sale(10).await;
    let order = paid(&desk, &sale, "ann").await;
    desk.world
        .execute(
            "CREATE FUNCTION away() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'the provider is away'; END $$;
             CREATE TRIGGER away BEFORE UPDATE OF refund_no ON sandbox_payments FOR EACH ROW EXECUTE FUNCTION away()",
        )
        .await;
    desk.admin_does(&format!("/admin/orders/{order}/refund"), json!({})).await;
    eventually("it is tried again", async || {
        (desk.world.number("SELECT refund_attempts FROM payments").await >= 3).then_some(())
    })
    .await;
    let waiting = desk.shown("ann", order).await;
    assert_eq!((waiting.status, waiting.refund), (OrderStatus::RefundPending, Some(RefundState::Pending)));
    assert_eq!(desk.world.number("SELECT taken FROM items").await, 2, "units return with the money");

    desk.world.execute("DROP TRIGGER away ON sandbox_payments").await;
    desk.instance.order_becomes(order, "ann", OrderStatus::Refunded).await;
    assert_eq!(desk.world.number("SELECT count(*) FROM outbox WHERE kind = 'order.refunded.v1'").await, 1);
    assert_eq!(desk.world.number("SELECT taken FROM items").await, 0);
}

/// The provider made the refund and the answer was lost: the same number again is the same refund.
#[tokio::test(flavor = "multi_thread")]
async fn a_refund_whose_answer_was_lost_is_not_made_twice() {
    let desk = Desk::open("refund_lost").await;
    let sale = desk.open_sale(10).await;
    let order = paid(&desk, &sale, "ann").await;
    desk.world
        .execute(
            "UPDATE sandbox_payments SET refund_no = payment_id, refunded_at = '2020-01-01T00:00:00Z';
             CREATE FUNCTION twice() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'given back twice'; END $$;
             CREATE TRIGGER twice BEFORE UPDATE OF refunded_at ON sandbox_payments
             FOR EACH ROW EXECUTE FUNCTION twice()",
        )
        .await;
    desk.admin_does(&format!("/admin/orders/{order}/refund"), json!({})).await;
    desk.instance.order_becomes(order, "ann", OrderStatus::Refunded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_refunds_on_several_instances_are_made_once_each() {
    let desk = Desk::open("refunds").await;
    let (_second, _third) = (desk.another().await, desk.another().await);
    let sale = desk.open_sale(1_000).await;
    let mut orders = Vec::new();
    for index in 0..40 {
        orders.push(paid(&desk, &sale, &format!("u{index}")).await);
    }
    desk.world
        .execute(
            "CREATE TABLE given_back (payment_id uuid);
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO given_back VALUES (NEW.payment_id); RETURN NEW; END $$;
             CREATE TRIGGER note AFTER UPDATE OF refunded_at ON sandbox_payments
             FOR EACH ROW EXECUTE FUNCTION note()",
        )
        .await;
    let paths: Vec<String> = orders.iter().map(|order| format!("/admin/orders/{order}/refund")).collect();
    join_all(paths.iter().map(|path| desk.admin_does(path, json!({})))).await;
    desk.world.number_becomes("SELECT count(*) FROM orders WHERE status = 'refunded'", 40).await;
    assert_eq!(desk.world.number("SELECT count(*) FROM given_back").await, 40);
    assert_eq!(desk.world.number("SELECT count(DISTINCT payment_id) FROM given_back").await, 40);
    assert_eq!(desk.world.number("SELECT max(version) FROM orders").await, 4);
    assert_eq!(desk.world.number("SELECT taken FROM items").await, 0);
}
