//! Payments: only genuine notices count, each capture counts once, and exactly one of pay, cancel and expiry wins.

use common::api::{OrderStatus, RefundState};
use common::ids::OrderId;
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use order_service::transitions::transition;
use reqwest::Method;
use serde_json::json;
use testkit::eventually;
use uuid::Uuid;

use crate::desk::{Desk, item_of, signature};
use crate::support::{TOKEN, answer};

#[tokio::test(flavor = "multi_thread")]
async fn only_the_owner_pays_and_only_while_it_is_time() {
    let desk = Desk::open("pay").await;
    let sale = desk.open_sale(10).await;
    let order = desk.order(&sale, "ann", 2).await;
    let (status, problem) = desk.try_pay("eve", order).await;
    assert_eq!((status, &problem["code"]), (404, &json!("not_found")));
    assert_eq!(desk.try_pay("ann", OrderId(Uuid::new_v4())).await.0, 404);
    for (body, field) in [
        (json!({}), "provider"),
        (json!({"provider": "alipay"}), "provider"),
        (json!({"provider": "sandbox", "amount_cents": 1}), "amount_cents"),
    ] {
        let call = desk.instance.call(Method::POST, &format!("/orders/{order}/pay"), "ann").json(&body);
        let (status, problem) = answer(call).await;
        assert_eq!((status, &problem["field"]), (400, &json!(field)), "{body}");
    }
    assert_eq!(desk.world.number("SELECT count(*) FROM payments").await, 0);

    let (status, started) = desk.try_pay("ann", order).await;
    assert_eq!((status, &started["provider"]), (201, &json!("sandbox")));
    let payment = started["payment_id"].as_str().unwrap();
    let expected = format!("http://{}/sandbox/payments/{payment}", desk.outside.address);
    assert_eq!(started["checkout_url"], expected);
    let again = join_all((0..8).map(|_| desk.try_pay("ann", order))).await;
    assert!(
        again.iter().all(|(status, body)| *status == 201 && *body == started),
        "one payment is under way"
    );
    assert_eq!(desk.world.number("SELECT amount_cents FROM payments").await, 1_980);

    desk.world.execute(&format!("UPDATE orders SET expires_at = now() WHERE id = '{order}'")).await;
    let (status, problem) = desk.try_pay("ann", order).await;
    assert_eq!((status, &problem["code"]), (409, &json!("invalid_transition")));
    for status in ["paid", "cancelled", "rejected", "refunded"] {
        desk.world
            .execute(&format!("UPDATE orders SET status = '{status}', expires_at = now() + '1 h'"))
            .await;
        assert_eq!(desk.try_pay("ann", order).await.0, 409, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_deliveries_at_once_pay_once() {
    let desk = Desk::open("twenty").await;
    let sale = desk.open_sale(10).await;
    let order = desk.order(&sale, "ann", 2).await;
    let payment = desk.pay("ann", order).await;
    let notice = desk.notice(payment, "success").await;
    // The same notice, and others about the same capture.
    let mut notices = vec![notice; 20];
    for other in notices.iter_mut().skip(15) {
        other["event_id"] = json!(Uuid::new_v4());
    }
    let answers = join_all(notices.iter().map(|notice| desk.deliver(notice))).await;
    assert_eq!(answers, [204; 20]);
    assert_eq!(desk.deliver(&notices[0]).await, 204);
    let late_failure = desk.notice(payment, "failure").await;
    assert_eq!(desk.deliver(&late_failure).await, 204, "a late failure takes nothing back");

    let paid = desk.shown("ann", order).await;
    assert_eq!((paid.status, paid.version, paid.refund), (OrderStatus::Paid, 2, None));
    assert_eq!(desk.world.number("SELECT count(*) FROM payments WHERE status = 'kept'").await, 1);
    assert_eq!(desk.world.number("SELECT count(*) FROM payments").await, 1);
    assert_eq!(desk.world.number("SELECT count(*) FROM order_transitions").await, 2);
    assert_eq!(desk.world.number("SELECT count(*) FROM outbox WHERE kind = 'order.paid.v1'").await, 1);
    assert_eq!(desk.world.words("SELECT units FROM orders").await, ["sold"]);
    assert_eq!(desk.world.number("SELECT taken FROM items").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_genuine_changes_nothing() {
    let desk = Desk::open("forged").await;
    let sale = desk.open_sale(10).await;
    let order = desk.order(&sale, "ann", 1).await;
    let payment = desk.pay("ann", order).await;
    let before = desk.money_rows().await;
    let notice = desk.notice(payment, "success").await;
    let body = notice.to_string();
    let now = desk.world.number("SELECT extract(epoch FROM now())").await;
    let good = signature(now, &body);

    let forged = [
        (body.clone(), vec![]),
        (body.clone(), vec![String::new()]),
        (body.clone(), vec!["t=1,v1=00".to_owned()]),
        (body.clone(), vec![good.clone(), good.clone()]),
        (body.clone(), vec![good.replace("v1=", "v2=")]),
        (body.replace("990", "991"), vec![good.clone()]),
        (format!("{body} "), vec![good.clone()]),
        (body.clone(), vec![signature(now - 310, &body)]),
        (body.clone(), vec![signature(now + 310, &body)]),
        (body.clone(), vec![good.replacen(&now.to_string(), &(now + 1).to_string(), 1)]),
        ("not JSON".to_owned(), vec![good.clone()]),
    ];
    for (body, signatures) in forged {
        assert_eq!(desk.deliver_raw(&body, &signatures).await, 401, "{signatures:?}");
    }
    let without_token = desk.world.client.post(desk.instance.url("/payments/sandbox/callback"));
    assert_eq!(answer(without_token.header("Sandbox-Signature", &good).body(body.clone())).await.0, 401);
    let elsewhere = desk.world.client.post(desk.instance.url("/payments/wechat/callback"));
    assert_eq!(answer(elsewhere.header("x-internal-token", TOKEN).body(body.clone())).await.0, 404);

    assert_eq!(desk.money_rows().await, before);

    // Genuine, but not about this payment.
    let other = desk.order(&sale, "bob", 1).await;
    let before = desk.money_rows().await;
    let mismatches = [
        ("amount_cents", json!(989)),
        ("amount_cents", json!(1_980)),
        ("currency", json!("USD")),
        ("order_id", json!(other)),
    ];
    for (field, value) in mismatches {
        let mut wrong = notice.clone();
        wrong[field] = value;
        assert_eq!(desk.deliver(&wrong).await, 400, "{field}");
    }
    for (field, value) in
        [("outcome", json!("maybe")), ("event_id", json!("")), ("amount_cents", json!("990"))]
    {
        let mut wrong = notice.clone();
        wrong[field] = value;
        assert_eq!(desk.deliver(&wrong).await, 400, "{field}");
    }
    let mut unknown = notice.clone();
    unknown["payment_id"] = json!(Uuid::new_v4());
    assert_eq!(desk.deliver(&unknown).await, 404);
    assert_eq!(desk.money_rows().await, before);

    // And the good one still counts.
    assert_eq!(desk.deliver_raw(&body, &[good]).await, 204);
    assert_eq!(desk.shown("ann", order).await.status, OrderStatus::Paid);
    let of_another = desk.pay("bob", other).await;
    let mut reused = desk.notice(of_another, "success").await;
    reused["event_id"] = notice["event_id"].clone();
    assert_eq!(desk.deliver(&reused).await, 400, "an id of another payment's notice");
    assert_eq!(desk.shown("bob", other).await.status, OrderStatus::PendingPayment);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failure_the_buyer_tries_again() {
    let desk = Desk::open("failure").await;
    let sale = desk.open_sale(10).await;
    let order = desk.order(&sale, "ann", 1).await;
    let first = desk.pay("ann", order).await;
    assert_eq!(desk.deliver(&desk.notice(first, "failure").await).await, 204);
    let unpaid = desk.shown("ann", order).await;
    assert_eq!((unpaid.status, unpaid.version), (OrderStatus::PendingPayment, 1));

    let second = desk.pay("ann", order).await;
    assert_ne!(first, second);
    assert_eq!(desk.deliver(&desk.notice(second, "success").await).await, 204);
    assert_eq!(desk.shown("ann", order).await.status, OrderStatus::Paid);

    // The provider captures the first one after all: it goes back, and the order stays paid.
    assert_eq!(desk.deliver(&desk.notice(first, "success").await).await, 204);
    let refunded = eventually("the second capture is back", async || {
        Some(desk.shown("ann", order).await).filter(|order| order.refund == Some(RefundState::Done))
    })
    .await;
    assert_eq!((refunded.status, refunded.version), (OrderStatus::Paid, 4));
    let statuses = "SELECT status FROM payments ORDER BY 1";
    assert_eq!(desk.world.words(statuses).await, ["kept", "refunded"]);
    assert_eq!(desk.world.words("SELECT units FROM orders").await, ["sold"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_after_the_end_is_refunded_exactly_once() {
    let desk = Desk::open("late").await;
    let _second = desk.another().await;
    let sale = desk.open_sale(10).await;
    let heard = desk.world.listen();
    for (index, end) in [OrderStatus::Expired, OrderStatus::Cancelled].into_iter().enumerate() {
        let user = format!("u{index}");
        let order = desk.order(&sale, &user, 1).await;
        let payment = desk.pay(&user, order).await;
        let ended = desk
            .instance
            .db
            .transaction(move |conn| async move { transition(conn, &[order], end, None).await }.boxed())
            .await;
        assert_eq!(ended.unwrap().len(), 1);
        assert_eq!(desk.world.number("SELECT taken FROM items").await, 0, "its unit is back");

        let notice = desk.notice(payment, "success").await;
        assert_eq!(join_all((0..10).map(|_| desk.deliver(&notice))).await, [204; 10]);
        let refunded = eventually("the money is back", async || {
            Some(desk.shown(&user, order).await).filter(|order| order.refund == Some(RefundState::Done))
        })
        .await;
        // Made, ended, refund pending, refund done.
        assert_eq!((refunded.status, refunded.version), (end, 4));
        let log =
            format!("SELECT to_status FROM order_transitions WHERE order_id = '{order}' ORDER BY version");
        let name = serde_json::to_value(end).unwrap().as_str().unwrap().to_owned();
        assert_eq!(
            desk.world.words(&log).await,
            ["pending_payment".to_owned(), name.clone(), name.clone(), name]
        );
        let kinds =
            eventually("it is told", async || Some(heard.about(order)).filter(|kinds| kinds.len() == 2))
                .await;
        // Told by either instance, so that the second piece of news may come first.
        assert!(kinds.contains(&"order.refunded.v1"), "{kinds:?}");
    }
    assert_eq!(desk.world.number("SELECT count(*) FROM payments WHERE status = 'refunded'").await, 2);
    assert_eq!(
        desk.world.number("SELECT count(*) FROM sandbox_payments WHERE refund_no = payment_id").await,
        2
    );
    assert_eq!(desk.world.number("SELECT taken FROM items").await, 0);
}

/// Pay, cancel and expiry at the same moment, many times: each order has one end, the others see it, and money is
/// either kept with its goods or on its way back.
#[tokio::test(flavor = "multi_thread")]
async fn exactly_one_of_pay_cancel_and_expiry_wins() {
    const RACES: usize = 40;
    let desk = Desk::open("race").await;
    let sale = desk.open_sale(1_000).await;
    let mut races = Vec::new();
    for index in 0..RACES {
        let user = format!("u{index}");
        let order = desk.order(&sale, &user, 1).await;
        let payment = desk.pay(&user, order).await;
        races.push((user, order, desk.notice(payment, "success").await));
    }
    let run = |(user, order, notice): &(String, OrderId, serde_json::Value)| {
        let (order, path) = (*order, format!("/orders/{order}/cancel"));
        let (desk, user, notice) = (&desk, user.clone(), notice.clone());
        async move {
            let expire = desk.instance.db.transaction(move |conn| {
                async move { transition(conn, &[order], OrderStatus::Expired, None).await }.boxed()
            });
            let (paid, cancelled, expired) =
                tokio::join!(desk.deliver(&notice), desk.instance.post(&path, &user), expire);
            assert_eq!(paid, 204, "a notice is always taken");
            let by_others = usize::from(cancelled.0 == 200) + expired.unwrap().len();
            assert!(cancelled.0 == 200 || cancelled.0 == 409, "{cancelled:?}");
            let order = desk.shown(&user, order).await;
            assert_eq!(by_others, usize::from(order.status != OrderStatus::Paid), "{order:?}");
            order.status
        }
    };
    let mut ends = Vec::new();
    for round in races.chunks(8) {
        ends.extend(join_all(round.iter().map(run)).await);
    }
    let paid = i64::try_from(ends.iter().filter(|end| **end == OrderStatus::Paid).count()).unwrap();

    desk.world.number_becomes("SELECT count(*) FROM payments WHERE status = 'refund_pending'", 0).await;
    let kept = desk.world.number("SELECT count(*) FROM payments WHERE status = 'kept'").await;
    let refunded = desk.world.number("SELECT count(*) FROM payments WHERE status = 'refunded'").await;
    assert_eq!((kept, kept + refunded), (paid, i64::try_from(RACES).unwrap()), "captured = kept + refunded");
    let taken = format!("SELECT taken FROM items WHERE id = '{}'", item_of(&sale));
    assert_eq!(desk.world.number(&taken).await, paid);
    let contiguous = "SELECT count(*) FROM orders o WHERE o.version <>
                      (SELECT count(*) FROM order_transitions t WHERE t.order_id = o.id)";
    assert_eq!(desk.world.number(contiguous).await, 0);
}

/// Postgres away: the provider hears an error and repeats; nothing is lost or doubled.
#[tokio::test(flavor = "multi_thread")]
async fn a_notice_during_an_outage_is_taken_when_it_is_repeated() {
    let desk = Desk::open("outage").await;
    let sale = desk.open_sale(10).await;
    let order = desk.order(&sale, "ann", 1).await;
    let payment = desk.pay("ann", order).await;
    let notice = desk.notice(payment, "success").await;
    let body = notice.to_string();
    let signed = signature(desk.world.number("SELECT extract(epoch FROM now())").await, &body);
    desk.world.database.block().await;
    assert_eq!(desk.deliver_raw(&body, std::slice::from_ref(&signed)).await, 503);
    desk.world.database.unblock().await;
    eventually("the repetition is taken", async || {
        (desk.deliver_raw(&body, std::slice::from_ref(&signed)).await == 204).then_some(())
    })
    .await;
    assert_eq!(desk.shown("ann", order).await.status, OrderStatus::Paid);
    assert_eq!(desk.world.number("SELECT count(*) FROM order_transitions").await, 2);
}
