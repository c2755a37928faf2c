//! Challenges: work before a place, or before an order where there is no line.

use common::api::ItemState;
use common::api::inventory::{CatalogueItem, ReserveOutcome};
use reqwest::{RequestBuilder, Response};
use ring::digest::{SHA256, digest};
use serde_json::Value;
use testkit::Redis;

use crate::support::*;

const EASY: (&str, &str) = ("CHALLENGE__DIFFICULTY_BITS", "8");

fn guarded() -> CatalogueItem {
    CatalogueItem { challenge: true, ..catalogue_item(ItemState::Active) }
}

/// Sends it, gets a challenge, and does the work: what to send as `Challenge-Answer`.
async fn answer_to(request: RequestBuilder) -> String {
    let refused = problem(request.send().await.expect("answered"), 403, "challenge_required").await;
    let challenge = &refused["challenge"];
    assert_eq!(challenge["kind"], "proof_of_work");
    let puzzle = challenge["puzzle"].as_str().expect("a puzzle");
    let bits = challenge["difficulty_bits"].as_u64().expect("a number");
    let mut answers = (0_u64..).map(|counter| format!("{puzzle}.{counter}"));
    answers.find(|answer| zero_bits(answer) >= bits).expect("there is one")
}

fn zero_bits(text: &str) -> u64 {
    let hash = digest(&SHA256, text.as_bytes());
    let bits = hash.as_ref().iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1));
    bits.take_while(|bit| *bit == 0).count() as u64
}

async fn with(request: RequestBuilder, answer: &str) -> Response {
    request.header("Challenge-Answer", answer).send().await.expect("answered")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_good_for_one_order_at_every_replica_and_its_retries() {
    let redis = Redis::start().await;
    let url = redis.url();
    let settings = [EASY, ("REDIS__URL", url.as_str()), ("REDIS__TIMEOUT_MS", "5000")];
    let one = start(&settings, stock(vec![guarded()], ReserveOutcome::Accepted)).await;
    let other = behind(&settings, one.stock.clone(), one.orders.clone()).await;
    other.polled().await;
    let token = one.token("mei", "customer").await;

    let answer = answer_to(one.order_request(&token, "k1")).await;
    assert_eq!(one.stock.calls("/items/").len(), 0, "nothing was reserved");
    for gateway in [&one, &other] {
        let retry = with(gateway.order_request(&token, "k1"), &answer).await;
        assert_eq!(retry.status(), 202, "the same order, at either replica");
        problem(with(gateway.order_request(&token, "k2"), &answer).await, 403, "challenge_required").await;
    }
    let stranger = one.token("li", "customer").await;
    problem(with(one.order_request(&stranger, "k1"), &answer).await, 403, "challenge_required").await;
    problem(with(one.order_request(&token, "k2"), "1.2.3.4.5").await, 403, "challenge_required").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_asks_once_and_its_order_not_again() {
    let redis = Redis::start().await;
    let url = redis.url();
    let item = CatalogueItem { waiting_room: true, ..guarded() };
    let settings = [EASY, ("REDIS__URL", url.as_str()), ("REDIS__TIMEOUT_MS", "5000")];
    let gateway = start(&settings, stock(vec![item], ReserveOutcome::Accepted)).await;
    let token = gateway.token("mei", "customer").await;
    let join = || gateway.post(&format!("/api/v1/items/{ITEM}/place")).bearer_auth(&token);

    let answer = answer_to(join()).await;
    assert_eq!(with(join(), &answer).await.status(), 200);
    let place: Value = testkit::eventually("let in", async || {
        let place: Value = join().send().await.ok()?.json().await.ok()?;
        place["purchase_token"].is_string().then_some(place)
    })
    .await;
    let ordered = gateway
        .order_request(&token, "k")
        .header("Purchase-Token", place["purchase_token"].as_str().expect("a token"))
        .send()
        .await
        .expect("answered");
    assert_eq!(ordered.status(), 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn above_a_rate_everybody_is_asked_and_it_is_harder() {
    let settings = [
        EASY,
        ("CHALLENGE__HARD_BITS", "9"),
        ("CHALLENGE__REQUIRED_ABOVE_PER_SECOND", "5"),
        ("CHALLENGE__HARD_ABOVE_PER_SECOND", "10"),
    ];
    let gateway =
        start(&settings, stock(vec![catalogue_item(ItemState::Active)], ReserveOutcome::Accepted)).await;
    let token = gateway.token("mei", "customer").await;
    assert_eq!(gateway.order(&token, "first").await.status(), 202);
    // Until a second has seen so many: the machine may be slow.
    let hard = testkit::eventually("a hard challenge", async || {
        let requests = (0..30).map(|n| {
            let (gateway, token) = (&gateway, token.clone());
            async move { gateway.order(&token, &format!("k{n}-{}", uuid::Uuid::new_v4())).await }
        });
        for response in futures_util::future::join_all(requests).await {
            if response.status() == 403 {
                let body: Value = response.json().await.ok()?;
                if body["challenge"]["difficulty_bits"] == 9 {
                    return Some(body);
                }
            }
        }
        None
    })
    .await;
    assert_eq!(hard["code"], "challenge_required");
}

/// The hold of mei's order `k1` of one unit, as stock-service tells of it.
fn holding(item: CatalogueItem) -> impl Fn(&Recorded) -> Reply + Send + Sync {
    let catalogued = stock(vec![item], ReserveOutcome::Accepted);
    let path = format!("/internal/v1/reservations/{}", order_id("mei", "k1"));
    move |call| {
        if call.path != path {
            return catalogued(call);
        }
        Reply::json(
            200,
            &serde_json::json!({ "order_id": order_id("mei", "k1"), "item_id": ITEM, "sale_id": SALE,
                "user_id": "mei", "quantity": 1, "units": "held", "version": 1, "unit_price_cents": 100,
                "currency": "CNY", "reserved_at": now() }),
        )
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_another_replica_gets_is_told_of_its_order_before_it_solves_anything() {
    let gateway = start(&[EASY], holding(guarded())).await;
    let (mei, li) = (gateway.token("mei", "customer").await, gateway.token("li", "customer").await);
    let retry = gateway.order(&mei, "k1").await;
    assert_eq!(retry.status(), 202);
    assert!(
        retry.headers()["location"].to_str().expect("text").ends_with(&order_id("mei", "k1").to_string())
    );
    assert_eq!(gateway.stock.calls("/items/").len(), 0, "nothing was reserved");
    problem(gateway.order(&li, "k1").await, 403, "challenge_required").await;

    // Nothing is learnt of it by another quantity, and a gateway that has never heard of it finds that out, too.
    let other = behind(&[EASY], gateway.stock.clone(), gateway.orders.clone()).await;
    other.polled().await;
    let two = other.order_request(&mei, "k1").json(&serde_json::json!({ "quantity": 2 }));
    problem(two.send().await.expect("answered"), 422, "idempotency_mismatch").await;
    assert_eq!(other.order(&mei, "k1").await.status(), 202);

    // The question is no way around the challenge, and costs a bounded number of calls.
    let looked_up = || gateway.stock.calls("/v1/reservations/").len();
    let began = std::time::Instant::now();
    let before = looked_up();
    let mut told_to_wait = 0;
    for n in 0..40 {
        let refused = gateway.order(&li, &format!("new-{n}")).await;
        if refused.status() == 429 {
            assert!(refused.headers().contains_key("retry-after"));
            let refused = problem(refused, 429, "rate_limited").await;
            assert_eq!(refused["challenge"]["kind"], "proof_of_work", "a new buyer can get on with it");
            told_to_wait += 1;
        } else {
            problem(refused, 403, "challenge_required").await;
        }
    }
    let asked = looked_up() - before;
    assert_eq!(asked + told_to_wait, 40, "no refusal without having looked");
    assert!(asked <= 6 + usize::try_from(began.elapsed().as_secs()).expect("fits"), "{asked} calls");
    let without_key = gateway.post(&order_path(ITEM)).bearer_auth(&mei);
    let before = looked_up();
    let without_key = without_key.json(&serde_json::json!({ "quantity": 1 })).send().await.expect("answered");
    problem(without_key, 403, "challenge_required").await;
    assert_eq!(looked_up(), before, "a key that is made here names nothing yet");
}
