//! Buckets that replicas share: together they admit what one would, with Redis and without.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::api::ItemState;
use common::api::inventory::ReserveOutcome;
use futures_util::future::join_all;
use testkit::Redis;
use tokio::time::Instant;

use crate::support::*;

const RATE: u64 = 20;
const BURST: u64 = 40;
const PROXIED: (&str, &str) = ("LIMITS__TRUSTED_PROXIES", "127.0.0.0/8");

/// Gateways with one Redis and these further settings.
async fn replicas(count: usize, redis: &str, more: &[(&str, &str)]) -> Vec<Gateway> {
    let (rate, burst, count_text) = (RATE.to_string(), BURST.to_string(), count.to_string());
    let settings = [
        ("REDIS__URL", redis),
        ("REDIS__TIMEOUT_MS", "5000"),
        ("LIMITS__REPLICAS", &count_text),
        ("LIMITS__USER__ORDER__PER_SECOND", &rate),
        ("LIMITS__USER__ORDER__BURST", &burst),
    ];
    let settings = [settings.as_slice(), more].concat();
    let accepting = || stock(vec![catalogue_item(ItemState::Active)], ReserveOutcome::Accepted);
    join_all((0..count).map(|_| start(&settings, accepting()))).await
}

/// Orders as fast as the gateways answer for `span`, by one user; how many were admitted, and how long it took.
async fn hammer(gateways: &[Gateway], span: Duration) -> (u64, Duration) {
    let mut tokens = Vec::new();
    for gateway in gateways {
        tokens.push(gateway.token("u1", "customer").await);
    }
    let (admitted, began) = (AtomicU64::new(0), Instant::now());
    let one = async |gateway: &Gateway, token: &str, lane: usize| {
        for n in 0.. {
            let response = gateway.order(token, &format!("{}-{lane}-{n}", gateway.address)).await;
            match response.status().as_u16() {
                202 => _ = admitted.fetch_add(1, Ordering::Relaxed),
                429 => {}
                status => panic!("{status}: {:?}", response.text().await),
            }
            if began.elapsed() >= span {
                return;
            }
        }
    };
    let lanes =
        gateways.iter().zip(&tokens).flat_map(|(gateway, token)| (0..4).map(move |n| (gateway, token, n)));
    join_all(lanes.map(|(gateway, token, lane)| one(gateway, token, lane))).await;
    (admitted.into_inner(), began.elapsed())
}

/// What is allowed in `took`: the burst, and the rate with the five per cent of the contract.
fn allowed(took: Duration) -> u64 {
    BURST + (RATE * 105 * u64::try_from(took.as_millis()).expect("fits")).div_ceil(100 * 1000)
}

async fn two_gateways_one_user(span: Duration) {
    let redis = Redis::start().await;
    let gateways = replicas(2, &redis.url(), &[]).await;
    let (admitted, took) = hammer(&gateways, span).await;
    eprintln!("admitted {admitted} in {took:?}, allowed {}", allowed(took));
    assert!(admitted <= allowed(took), "{admitted} in {took:?}");
    assert!(admitted >= BURST, "{admitted}: the burst is there for those who need it");
    assert!(gateways.iter().all(|gateway| !gateway.stock.calls("/reservations").is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_admit_together_what_one_user_may() {
    two_gateways_one_user(Duration::from_secs(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes half a minute: ./dev test -p gateway for_thirty_seconds -- --ignored --nocapture"]
async fn two_gateways_admit_together_what_one_user_may_for_thirty_seconds() {
    two_gateways_one_user(Duration::from_secs(30)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_each_replica_gives_away_its_share() {
    let mut redis = Redis::start().await;
    let gateways = replicas(2, &redis.url(), &[]).await;
    redis.stop();
    let (admitted, took) = hammer(&gateways, Duration::from_secs(3)).await;
    assert!(admitted <= allowed(took), "not open: {admitted} in {took:?}");
    assert!(admitted >= RATE, "not closed: {admitted}");
    redis.resume().await;
    // The common count is back, and with it the whole rate for whoever comes to one replica alone.
    testkit::eventually("the replicas share again", async || {
        let token = gateways[0].token("u2", "customer").await;
        let orders = (0..BURST).map(|n| gateways[0].order_request(&token, &format!("{n}-{RATE}")).send());
        let answers = join_all(orders).await;
        answers.into_iter().all(|answer| answer.is_ok_and(|answer| answer.status() == 202)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_limited_over_all_replicas_and_users() {
    let redis = Redis::start().await;
    let limit = [("LIMITS__IP__ORDER__PER_SECOND", "1"), ("LIMITS__IP__ORDER__BURST", "4"), PROXIED];
    let gateways = replicas(2, &redis.url(), &limit).await;
    let began = Instant::now();
    let mut admitted = 0;
    for n in 0..40 {
        let gateway = &gateways[n % 2];
        let token = gateway.token(&format!("user-{n}"), "customer").await;
        let request = gateway.order_request(&token, "k").header("x-forwarded-for", "2001:db8:7:7::1");
        let response = request.send().await.expect("answered");
        if response.status() == 202 {
            admitted += 1;
        } else {
            assert!(
                response.headers()["ratelimit-policy"]
                    .to_str()
                    .expect("text")
                    .contains("\"ip-order\";q=4;w=4")
            );
            problem(response, 429, "rate_limited").await;
        }
    }
    assert!(admitted <= 4 + began.elapsed().as_secs() + 1, "{admitted}");
    let token = gateways[0].token("user-0", "customer").await;
    let other = gateways[0].order_request(&token, "k2").header("x-forwarded-for", "2001:db8:7:8::1");
    assert_eq!(other.send().await.expect("answered").status(), 202, "its neighbour is not");
}

async fn spoofed(requests: usize) {
    let limit = [("LIMITS__IP__READ__PER_SECOND", "50"), ("LIMITS__IP__READ__BURST", "50"), PROXIED];
    let gateway =
        start(&limit, stock(vec![catalogue_item(ItemState::Active)], ReserveOutcome::Accepted)).await;
    let (admitted, began) = (AtomicU64::new(0), Instant::now());
    let lane = async |lane: usize| {
        for n in 0..requests / 16 {
            let spoof =
                format!("{}.{}.{}.{lane}, 198.51.100.7", n % 223 + 1, n / 223 % 256, n / 57_088 % 256);
            let request = gateway.get("/api/v1/sales").header("x-forwarded-for", spoof);
            let request = request.header("x-real-ip", format!("203.0.113.{}", n % 256));
            let request = request.header("forwarded", format!("for=192.0.2.{}", n % 256));
            if request.send().await.expect("answered").status() == 200 {
                admitted.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    join_all((0..16).map(lane)).await;
    let (admitted, took) = (admitted.into_inner(), began.elapsed());
    let allowed = 50 + (50 * 105 * u64::try_from(took.as_millis()).expect("fits")).div_ceil(100 * 1000);
    eprintln!("{requests} requests with spoofed headers: admitted {admitted} in {took:?}, allowed {allowed}");
    assert!(admitted <= allowed, "{admitted} in {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn spoofed_forwarding_headers_gain_nothing() {
    spoofed(2_000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: ./dev test --release -p gateway a_million_spoofed -- --ignored --nocapture"]
async fn a_million_spoofed_forwarding_headers_gain_nothing() {
    spoofed(1_000_000).await;
}
