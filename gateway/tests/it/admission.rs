//! The queue of an item: what waits travels together, refusals do not wait, and what does not fit is told so.

use common::api::ItemState;
use common::api::inventory::{ReserveAnswer, ReserveBatch, ReserveLine, ReserveOutcome};
use futures_util::future::join_all;

use crate::support::*;

/// Test machines stall: nobody shall run out of time there.
const PATIENT: (&str, &str) = ("UPSTREAM__TIMEOUT_MS", "25000");

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_travels_together() {
    let many = ("LIMITS__USER__ORDER__PER_SECOND", "1000");
    let gateway = start(&[("ADMISSION__FLIGHTS_MAX", "2"), PATIENT, many], |call| match call.path.as_str() {
        "/internal/v1/catalogue" => Reply::json(200, &catalogue(vec![catalogue_item(ItemState::Active)])),
        _ => {
            let batch: ReserveBatch = serde_json::from_slice(&call.body).expect("a batch");
            let answer = |index| ReserveAnswer { index, outcome: ReserveOutcome::Accepted };
            lines(vec![(100, ReserveLine { answers: (0..batch.requests.len()).map(answer).collect() })])
        }
    })
    .await;
    let mut tokens = Vec::new();
    for user in 0..10 {
        tokens.push(gateway.token(&format!("u{user}"), "customer").await);
    }
    let orders = (0..300).map(|n| gateway.order_request(&tokens[n % 10], &format!("k{n}")).send());
    let answers = join_all(orders).await;
    assert!(answers.into_iter().all(|answer| answer.expect("answered").status() == 202));

    let calls = gateway.stock.calls("/reservations");
    let sizes: Vec<usize> = calls
        .iter()
        .map(|call| serde_json::from_slice::<ReserveBatch>(&call.body).expect("a batch").requests.len())
        .collect();
    assert_eq!(sizes.iter().sum::<usize>(), 300, "each exactly once: {sizes:?}");
    assert!(calls.len() <= 60, "{sizes:?}");
    assert!(sizes.iter().all(|size| *size <= 256));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_does_not_wait_for_the_confirmation_of_a_neighbour() {
    let gateway = start(&[("ADMISSION__FLIGHTS_MAX", "1"), PATIENT], |call| match call.path.as_str() {
        "/internal/v1/catalogue" => Reply::json(200, &catalogue(vec![catalogue_item(ItemState::Active)])),
        _ => {
            let batch: ReserveBatch = serde_json::from_slice(&call.body).expect("a batch");
            let granted = order_id("u1", "granted");
            let (yes, no): (Vec<_>, Vec<_>) =
                (0..batch.requests.len()).partition(|index| batch.requests[*index].order_id == granted);
            let answers = |indexes: Vec<usize>, outcome: ReserveOutcome| ReserveLine {
                answers: indexes
                    .into_iter()
                    .map(|index| ReserveAnswer { index, outcome: outcome.clone() })
                    .collect(),
            };
            let confirmed = (!yes.is_empty()).then(|| (1500, answers(yes, ReserveOutcome::Accepted)));
            lines([(300, answers(no, ReserveOutcome::SoldOut))].into_iter().chain(confirmed).collect())
        }
    })
    .await;
    let token = gateway.token("u1", "customer").await;
    let first = tokio::spawn(gateway.order_request(&token, "before").send());
    testkit::eventually("a flight is up", async || {
        (gateway.stock.calls("/reservations").len() == 1).then_some(())
    })
    .await;
    let granted = tokio::spawn(gateway.order_request(&token, "granted").send());
    let refused = gateway.order(&token, "refused").await;
    problem(refused, 409, "sold_out").await;
    assert!(!granted.is_finished(), "the grant is not confirmed yet");
    assert_eq!(granted.await.expect("ran").expect("answered").status(), 202);
    assert_eq!(first.await.expect("ran").expect("answered").status(), 409);
    assert_eq!(gateway.stock.calls("/reservations").len(), 2, "the two were in one batch");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_more_order_than_may_be_under_way_is_refused_at_once_whatever_its_item() {
    let gateway = start(&[("ADMISSION__ORDERS_MAX", "2")], |call| match call.path.as_str() {
        "/internal/v1/catalogue" => Reply::json(200, &catalogue(vec![catalogue_item(ItemState::Active)])),
        _ => Reply::new(200).endless(),
    })
    .await;
    let token = gateway.token("u1", "customer").await;
    let orders: Vec<_> =
        (0..10).map(|n| tokio::spawn(gateway.order_request(&token, &format!("k{n}")).send())).collect();
    let mut codes = Vec::new();
    for order in orders {
        let response = order.await.expect("ran").expect("answered");
        assert!(response.status() != 429 || response.headers().contains_key("retry-after"));
        let body: serde_json::Value = response.json().await.expect("JSON");
        codes.push(body["code"].as_str().expect("a code").to_owned());
    }
    assert_eq!(codes.iter().filter(|code| *code == "too_busy").count(), 8, "{codes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_orders_cannot_be_taken_no_token_is_looked_at_for_one_and_everything_else_is_served() {
    let gateway = start(&[("ADMISSION__ORDERS_MAX", "1")], |call| match call.path.as_str() {
        "/internal/v1/catalogue" => Reply::json(200, &catalogue(vec![catalogue_item(ItemState::Active)])),
        _ => Reply::new(200).endless(),
    })
    .await;
    let token = gateway.token("u1", "customer").await;
    let _under_way = tokio::spawn(gateway.order_request(&token, "first").send());
    testkit::eventually("the only turn is taken", async || {
        (gateway.stock.calls("/reservations").len() == 1).then_some(())
    })
    .await;
    problem(gateway.order("no token at all", "second").await, 429, "too_busy").await;
    let question = gateway.get("/api/v1/orders").bearer_auth("no token at all").send().await;
    problem(question.expect("answered"), 401, "unauthenticated").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_says_so_at_once() {
    let settings =
        [("ADMISSION__FLIGHTS_MAX", "1"), ("ADMISSION__BATCH_MAX", "1"), ("ADMISSION__QUEUE_MAX", "2")];
    let gateway = start(&settings, |call| match call.path.as_str() {
        "/internal/v1/catalogue" => Reply::json(200, &catalogue(vec![catalogue_item(ItemState::Active)])),
        _ => Reply::new(200).endless(),
    })
    .await;
    let token = gateway.token("u1", "customer").await;
    let orders: Vec<_> =
        (0..10).map(|n| tokio::spawn(gateway.order_request(&token, &format!("k{n}")).send())).collect();
    let (mut busy, mut others) = (0, Vec::new());
    for order in orders {
        let response = order.await.expect("ran").expect("answered");
        if response.status() == 429 {
            problem(response, 429, "too_busy").await;
            busy += 1;
        } else {
            let body: serde_json::Value = response.json().await.expect("JSON");
            others.push(body["code"].as_str().expect("a code").to_owned());
        }
    }
    // Two waiting, and none, one or two that the dispatcher had taken before; all others were refused.
    assert!((6..=8).contains(&busy), "{busy} {others:?}");
    // What was in flight is unknown; what never left the queue had no effect.
    assert!(others.iter().any(|code| code == "outcome_unknown"), "{others:?}");
    assert!(others.iter().all(|code| code == "outcome_unknown" || code == "unavailable"), "{others:?}");
}
