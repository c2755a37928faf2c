//! Token buckets: per user and per address, independent of each other, and not to be got around.

use common::api::ItemState;
use common::api::filter::IdFilter;
use common::api::inventory::ReserveOutcome;
use reqwest::Response;
use testkit::Redis;

use crate::support::*;

const FEW: [(&str, &str); 4] = [
    ("LIMITS__USER__ORDER__PER_SECOND", "1"),
    ("LIMITS__USER__ORDER__BURST", "5"),
    ("LIMITS__IP__READ__PER_SECOND", "1"),
    ("LIMITS__IP__READ__BURST", "5"),
];

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers()[name].to_str().expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_has_its_own_bucket_and_is_told_of_it() {
    let redis = Redis::start().await;
    let url = redis.url();
    let settings = [FEW.as_slice(), &[("REDIS__URL", &url), ("REDIS__TIMEOUT_MS", "5000")]].concat();
    let gateway =
        start(&settings, stock(vec![catalogue_item(ItemState::Active)], ReserveOutcome::Accepted)).await;
    let (first, second) = (gateway.token("u1", "customer").await, gateway.token("u2", "customer").await);
    let mut accepted = 0;
    let refused = loop {
        let response = gateway.order(&first, &format!("k{accepted}")).await;
        assert_eq!(header(&response, "ratelimit-policy"), "\"user-order\";q=5;w=5");
        if response.status() != 202 {
            break response;
        }
        assert!(header(&response, "ratelimit").starts_with("\"user-order\";r="), "{response:?}");
        accepted += 1;
        assert!(accepted < 100, "no end of the bucket");
    };
    assert!(accepted >= 5, "the burst is there");
    assert!(header(&refused, "retry-after").parse::<u64>().expect("seconds") >= 1);
    assert_eq!(header(&refused, "ratelimit"), "\"user-order\";r=0;t=1");
    problem(refused, 429, "rate_limited").await;
    // A repetition of what was accepted is no new order and needs no token.
    assert_eq!(gateway.order(&first, "k0").await.status(), 202);
    assert_eq!(gateway.order(&second, "k1").await.status(), 202);
    assert_eq!(gateway.stock.calls("/reservations").len(), accepted + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_a_replica_of_its_own_gives_the_rate_and_no_burst() {
    let slow = [("LIMITS__USER__ORDER__PER_SECOND", "1"), ("LIMITS__USER__ORDER__BURST", "1000")];
    let gateway =
        start(&slow, stock(vec![catalogue_item(ItemState::Active)], ReserveOutcome::Accepted)).await;
    let token = gateway.token("u1", "customer").await;
    let began = std::time::Instant::now();
    let mut accepted = 0;
    for n in 0..50 {
        accepted += u64::from(gateway.order(&token, &format!("k{n}")).await.status() == 202);
    }
    // One second's worth at the start, and the rate since the process began: not the 50 of a full bucket.
    assert!(accepted <= began.elapsed().as_secs() + 20, "{accepted}");
    assert!(accepted >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_snapshot_refuses_takes_nothing_from_the_users_bucket() {
    let mut item = catalogue_item(ItemState::SoldOut);
    item.granted = Some(IdFilter::of(&[order_id("u1", "granted")]));
    let gateway = start(&FEW, stock(vec![item], ReserveOutcome::Accepted)).await;
    let token = gateway.token("u1", "customer").await;
    for n in 0..20 {
        problem(gateway.order(&token, &format!("k{n}")).await, 409, "sold_out").await;
    }
    assert_eq!(gateway.order(&token, "granted").await.status(), 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_behind_a_trusted_proxy_has_its_own_bucket() {
    let settings = [FEW.as_slice(), &[("LIMITS__TRUSTED_PROXIES", "127.0.0.0/8")]].concat();
    let gateway =
        start(&settings, stock(vec![catalogue_item(ItemState::Active)], ReserveOutcome::Accepted)).await;
    let from = async |lines: &[&str]| {
        let request = gateway.get("/api/v1/sales");
        let request = lines.iter().fold(request, |request, line| request.header("x-forwarded-for", *line));
        request.send().await.expect("answered").status().as_u16()
    };
    // One token a second comes back: whoever hammers meets the end of the bucket.
    let emptied = async |lines: &[&str]| {
        for _ in 0..100 {
            if from(lines).await == 429 {
                return true;
            }
        }
        false
    };
    // What the client writes itself changes nothing.
    assert!(emptied(&["203.0.113.1, 198.51.100.7"]).await);
    for lines in
        [["198.51.100.7"].as_slice(), &["1.2.3.4", "198.51.100.7"], &["127.0.0.1, 198.51.100.7, 127.0.0.2"]]
    {
        assert!(emptied(lines).await);
    }
    assert_eq!(from(&["198.51.100.8"]).await, 200);
    // One subscriber has a whole /64.
    let mut n = 0;
    testkit::eventually("a subscriber is limited", async || {
        n += 1;
        (from(&[&format!("2001:db8:1:2:{n:x}::1")]).await == 429).then_some(())
    })
    .await;
    assert_eq!(from(&["2001:db8:1:3::1"]).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dev_profile_does_not_count_this_machine() {
    let gateway = start(&FEW, stock(vec![catalogue_item(ItemState::Active)], ReserveOutcome::Accepted)).await;
    for n in 0..20 {
        // Nobody is trusted here, so the header changes nothing.
        let request = gateway.get("/api/v1/sales").header("x-forwarded-for", format!("203.0.113.{}", n % 2));
        assert_eq!(request.send().await.expect("answered").status(), 200);
    }
}
