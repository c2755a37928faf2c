//! Once means once (P3): a retry is the same order, and is never told less than the first attempt was.

use common::api::{Accepted, OrderStatus};
use common::problem::Code;
use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::json;

use crate::support::World;

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_requests_with_one_key_are_one_order() {
    let world = World::start().await;
    let sale = world.open_sale(100, 100, 3_600).await;
    let item = sale.items[0].id;
    let token = world.customer("eager").await;

    let answers = join_all((0..500).map(|_| world.final_answer(&token, item, "the-key", 2))).await;

    let bodies: Vec<Accepted> = answers.iter().map(|answer| answer.json().unwrap()).collect();
    assert!(answers.iter().all(|answer| answer.status == StatusCode::ACCEPTED));
    assert!(bodies.iter().all(|body| *body == bodies[0]), "500 equal answers");
    let books = world.quiet(sale.id).await;
    assert_eq!((books.items[0].available, books.items[0].pending_payment), (98, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_with_another_body_is_refused_and_changes_nothing() {
    let world = World::start().await;
    let sale = world.open_sale(100, 100, 3_600).await;
    let item = sale.items[0].id;
    let token = world.customer("fickle").await;
    let order = world.accepted(&token, item, "the-key").await;

    let answer = world.final_answer(&token, item, "the-key", 2).await;

    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(answer.code(), Some(Code::IdempotencyMismatch));
    assert_eq!(answer.header("x-outcome"), Some("none"));
    assert_eq!(world.accepted(&token, item, "the-key").await, order, "the first body still counts");
    assert_eq!(world.quiet(sale.id).await.items[0].available, 99);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_after_the_item_is_sold_out_learns_of_its_order() {
    let world = World::start().await;
    let sale = world.open_sale(1, 1, 3_600).await;
    let item = sale.items[0].id;
    let (winner, loser) = (world.customer("winner").await, world.customer("loser").await);
    let order = world.accepted(&winner, item, "mine").await;

    let refused = world.final_answer(&loser, item, "late", 1).await;
    assert_eq!((refused.status, refused.code()), (StatusCode::CONFLICT, Some(Code::SoldOut)));

    // Long enough for every snapshot to know that nothing is left.
    world.quiet(sale.id).await;
    for _ in 0..20 {
        assert_eq!(world.accepted(&winner, item, "mine").await, order);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_after_the_end_or_a_pause_of_the_sale_learns_of_its_order() {
    let world = World::start().await;
    let sale = world.open_sale(10_000, 1, 3_600).await;
    let item = sale.items[0].id;
    let early = world.customer("early").await;
    let order = world.accepted(&early, item, "mine").await;

    for (action, code) in [("pause", Code::Paused), ("resume", Code::Paused), ("end", Code::Ended)] {
        let path = format!("/api/v1/admin/sales/{}/{action}", sale.id);
        let answer = world.client.post(&path, &world.admin, &json!({})).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{action}");
        if action == "resume" {
            continue;
        }
        // The inventory learns of it a moment later; who is quicker gets an order, and is told of it from then on.
        let mut strangers = 0;
        testkit::eventually(&format!("strangers hear that the sale is {code:?}"), async || {
            strangers += 1;
            let stranger = world.customer(&format!("{action}-{strangers}")).await;
            let refused = world.final_answer(&stranger, item, "late", 1).await;
            (refused.code() == Some(code)).then_some(())
        })
        .await;
        assert_eq!(world.accepted(&early, item, "mine").await, order, "after {action}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_after_its_order_expired_learns_of_it_and_takes_no_second_unit() {
    let world = World::start().await;
    let sale = world.open_sale(1, 1, 1).await;
    let item = sale.items[0].id;
    let token = world.customer("slow").await;
    let order = world.accepted(&token, item, "mine").await;
    world.reaches(&token, order, OrderStatus::Expired).await;

    assert_eq!(world.accepted(&token, item, "mine").await, order);
    assert_eq!(world.reaches(&token, order, OrderStatus::Expired).await.version, 2);
    assert_eq!(world.quiet(sale.id).await.items[0].available, 1);
}
