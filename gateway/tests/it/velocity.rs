//! Rules of velocity: accounts of a device, devices of an account, orders of both, over all replicas.

use common::api::ItemState;
use common::api::inventory::ReserveOutcome;
use reqwest::Response;
use testkit::Redis;

use crate::support::*;

const RULES: [(&str, &str); 5] = [
    ("VELOCITY__ACCOUNTS_PER_DEVICE", "2"),
    ("VELOCITY__DEVICES_PER_ACCOUNT", "2"),
    ("VELOCITY__ORDERS_PER_DEVICE", "4"),
    ("VELOCITY__ORDERS_PER_ACCOUNT", "6"),
    ("REDIS__TIMEOUT_MS", "5000"),
];

async fn replicas(redis: &Redis) -> [Gateway; 2] {
    let url = redis.url();
    let settings = [RULES.as_slice(), &[("REDIS__URL", &url)]].concat();
    let accepting = || stock(vec![catalogue_item(ItemState::Active)], ReserveOutcome::Accepted);
    [start(&settings, accepting()).await, start(&settings, accepting()).await]
}

async fn order(gateway: &Gateway, user: &str, key: &str, device: Option<&str>) -> Response {
    let token = gateway.token(user, "customer").await;
    let request = gateway.order_request(&token, key);
    let request = device.into_iter().fold(request, |request, device| request.header("Device-Id", device));
    request.send().await.expect("answered")
}

async fn limited(response: Response) {
    let seconds: u64 = response.headers()["retry-after"].to_str().expect("text").parse().expect("seconds");
    assert!((1..700).contains(&seconds), "{seconds}: the window, and some chance");
    problem(response, 429, "rate_limited").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_device_with_many_accounts_and_one_account_with_many_devices_are_stopped() {
    let redis = Redis::start().await;
    let [one, other] = replicas(&redis).await;
    let accepted = [
        order(&one, "a", "1", Some("shared-tablet")).await,
        order(&other, "b", "1", Some("shared-tablet")).await,
        order(&one, "b", "1", Some("shared-tablet")).await,
        order(&other, "a", "1", Some("phone-of-a")).await,
    ];
    assert!(accepted.iter().all(|response| response.status() == 202), "{accepted:?}");
    for gateway in [&one, &other] {
        limited(order(gateway, "c", "1", Some("shared-tablet")).await).await;
        limited(order(gateway, "a", "2", Some("third-device")).await).await;
    }
    assert_eq!(order(&one, "a", "3", Some("shared-tablet")).await.status(), 202, "who was there goes on");
    assert_eq!(
        order(&one, "c", "2", None).await.status(),
        202,
        "an app that names no device is not counted by it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_counted_once_however_often_it_is_repeated() {
    let redis = Redis::start().await;
    let [one, other] = replicas(&redis).await;
    for n in 0..4 {
        assert_eq!(order(&one, "a", &format!("k{n}"), Some("busy-device")).await.status(), 202);
    }
    limited(order(&other, "a", "k4", Some("busy-device")).await).await;
    for n in 0..2 {
        assert_eq!(order(&one, "a", &format!("m{n}"), None).await.status(), 202);
    }
    limited(order(&other, "a", "m3", None).await).await;
    assert_eq!(order(&other, "a", "k1", None).await.status(), 202, "the repetition of one is no new order");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_the_rules_do_not_hold_and_nobody_is_kept_out_by_them() {
    let mut redis = Redis::start().await;
    let [one, _] = replicas(&redis).await;
    redis.stop();
    for user in ["a", "b", "c"] {
        assert_eq!(order(&one, user, "k", Some("shared-tablet")).await.status(), 202);
    }
}
