//! Token buckets: per user and per address, independent of each other, and not to be got around.

use common::api::ItemState;
use common::api::filter::IdFilter;
use common::api::inventory::ReserveOutcome;

use crate::support::*;

const FEW: [(&str, &str); 4] = [
    ("LIMITS__USER__ORDER__PER_SECOND", "1"),
    ("LIMITS__USER__ORDER__BURST", "5"),
    ("LIMITS__IP__READ__PER_SECOND", "1"),
    ("LIMITS__IP__READ__BURST", "5"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_user_has_its_own_bucket() {
    let gateway = start(&FEW, stock(vec![catalogue_item(ItemState::Active)], ReserveOutcome::Accepted)).await;
    let (first, second) = (gateway.token("u1", "customer").await, gateway.token("u2", "customer").await);
    for n in 0..5 {
        assert_eq!(gateway.order(&first, &format!("k{n}")).await.status(), 202);
    }
    let refused = gateway.order(&first, "k6").await;
    assert!(refused.headers()["retry-after"].to_str().expect("text").parse::<u64>().expect("seconds") >= 1);
    problem(refused, 429, "rate_limited").await;
    assert_eq!(gateway.order(&second, "k1").await.status(), 202);
    assert_eq!(gateway.stock.calls("/reservations").len(), 6);
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
    for n in 0..5 {
        // What the client writes itself changes nothing.
        assert_eq!(from(&[&format!("203.0.113.{n}, 198.51.100.7")]).await, 200);
    }
    assert_eq!(from(&["198.51.100.7"]).await, 429);
    assert_eq!(from(&["1.2.3.4", "198.51.100.7"]).await, 429);
    assert_eq!(from(&["127.0.0.1, 198.51.100.7, 127.0.0.2"]).await, 429);
    assert_eq!(from(&["198.51.100.8"]).await, 200);
    // One subscriber has a whole /64.
    for n in 0..5 {
        assert_eq!(from(&[&format!("2001:db8:1:2::{n}")]).await, 200);
    }
    assert_eq!(from(&["2001:db8:1:2:ffff::1"]).await, 429);
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
