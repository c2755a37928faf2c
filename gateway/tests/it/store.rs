//! What replicas share in Redis, and what happens without it.

use common::api::ItemState;
use common::api::inventory::ReserveOutcome;
use gateway::settings::RedisSettings;
use gateway::store::{Script, Store, StoreError};
use redis::Value;
use testkit::Redis;

use crate::support::*;

fn store(redis: &Redis) -> Store {
    let settings = RedisSettings {
        mode: redis_route::Mode::Single,
        url: redis.url().into(),
        addresses: redis_route::AddressList::default(),
        master_name: String::new(),
        sentinel_password: secrecy::SecretString::default(),
        connect_timeout_ms: 2000,
        timeout_ms: 2000,
    };
    Store::new(&settings).expect("an address").expect("set up")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_redis_has_forgotten_is_loaded_and_run() {
    let redis = Redis::start().await;
    let store = store(&redis);
    let script = Script::new("test", "return {KEYS[1], ARGV[1]}");
    for _ in 0..2 {
        let answer = store.run(&script, &["limit:k"], |call| _ = call.arg("a")).await.expect("answered");
        assert_eq!(answer, Value::Array(["limit:k", "a"].map(text).to_vec()));
        redis.flush_all().await;
        store.command("limit:k", redis::cmd("SCRIPT").arg("FLUSH")).await.expect("flushed");
    }
}

fn text(text: &str) -> Value {
    Value::BulkString(text.as_bytes().to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_redis_is_left_alone_until_it_is_back_and_takes_nobody_out_of_service() {
    let mut redis = Redis::start().await;
    let gateway = start(
        &[("REDIS__URL", &redis.url())],
        stock(vec![catalogue_item(ItemState::Active)], ReserveOutcome::Accepted),
    )
    .await;
    let shown = async |expected: &'static str| {
        testkit::eventually("the dependency is shown", async || {
            let ready = gateway.client.get(format!("http://{}/readyz", gateway.ops)).send().await.ok()?;
            assert_eq!(ready.status(), 200, "in service with and without Redis");
            let body: serde_json::Value = ready.json().await.ok()?;
            (body["checks"]["redis"].as_str()?.contains(expected)).then_some(())
        })
        .await;
    };
    shown("ok").await;
    redis.stop();
    shown("Redis").await;
    redis.resume().await;
    shown("ok").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_end_at_once_while_redis_is_known_to_be_away() {
    let mut redis = Redis::start().await;
    let store = store(&redis);
    store.command("limit:k", &redis::cmd("PING")).await.expect("answered");
    redis.stop();
    testkit::eventually("the outage is noticed", async || {
        store.command("limit:k", &redis::cmd("PING")).await.is_err().then_some(())
    })
    .await;
    testkit::eventually("calls are not sent", async || {
        matches!(store.command("limit:k", &redis::cmd("PING")).await, Err(StoreError::Away)).then_some(())
    })
    .await;
    assert!(!store.reaches("k"));
}
