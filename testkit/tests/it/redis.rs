//! A private Redis: what survives, what does not, and that nothing stays behind.

use redis::AsyncCommands as _;
use testkit::{Redis, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn data_survives_a_kill() {
    let mut redis = Redis::start().await;
    let port = redis.port();
    set(&redis, "dish", "mapo tofu").await;

    redis.kill_and_restart().await;

    assert_eq!(redis.port(), port);
    assert_eq!(get(&redis, "dish").await.as_deref(), Some("mapo tofu"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_survives_a_wipe() {
    let mut redis = Redis::start().await;
    set(&redis, "dish", "mapo tofu").await;
    let before = run_id(&redis).await;

    redis.wipe().await;

    assert_eq!(get(&redis, "dish").await, None);
    assert_ne!(run_id(&redis).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn flush_all_loses_the_data_but_not_the_process() {
    let redis = Redis::start().await;
    set(&redis, "dish", "mapo tofu").await;
    let before = run_id(&redis).await;

    redis.flush_all().await;

    assert_eq!(get(&redis, "dish").await, None);
    assert_eq!(run_id(&redis).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_server_refuses_and_resumes_with_its_data() {
    let mut redis = Redis::start().await;
    set(&redis, "dish", "mapo tofu").await;

    redis.stop();
    assert!(connect(&redis).await.is_err());

    redis.resume().await;
    assert_eq!(get(&redis, "dish").await.as_deref(), Some("mapo tofu"));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_know_nothing_of_each_other() {
    let (one, other) = (Redis::start().await, Redis::start().await);
    set(&one, "dish", "mapo tofu").await;
    assert_eq!(get(&other, "dish").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_server_is_gone() {
    let redis = Redis::start().await;
    let url = redis.url();
    drop(redis);
    let client = redis::Client::open(url).expect("a Redis URL");
    assert!(client.get_multiplexed_async_connection().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_replica_has_what_it_heard_and_nothing_later() {
    let redis = Redis::start().await;
    set(&redis, "dish", "mapo tofu").await;
    let mut replica = redis.start_replica().await;

    replica.promote().await;
    set(&redis, "dish", "twice-cooked pork").await;

    assert_eq!(get(&replica, "dish").await.as_deref(), Some("mapo tofu"));
    set(&replica, "soup", "hot and sour").await;
    assert_ne!(run_id(&replica).await, run_id(&redis).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_from_a_copy_forgets_what_came_after_it() {
    let mut redis = Redis::start().await;
    set(&redis, "dish", "mapo tofu").await;
    let copy = redis.copy();
    set(&redis, "dish", "twice-cooked pork").await;

    redis.restart_from(&copy).await;

    assert_eq!(get(&redis, "dish").await.as_deref(), Some("mapo tofu"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_file_loses_its_last_write_alone() {
    let mut redis = Redis::start().await;
    set(&redis, "dish", "mapo tofu").await;
    set(&redis, "soup", "hot and sour").await;

    redis.restart_truncated(1).await;

    assert_eq!(get(&redis, "dish").await.as_deref(), Some("mapo tofu"));
    assert_eq!(get(&redis, "soup").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_answers_when_it_goes_on() {
    let redis = Redis::start().await;
    let mut connection = connect(&redis).await.expect("Redis answers");
    redis.freeze();
    let asked: Result<(), _> = connection.set("dish", "mapo tofu").await;
    assert!(asked.is_err(), "a frozen server answered");

    redis.unfreeze();

    eventually("the server answers", async || {
        let mut connection = connect(&redis).await.ok()?;
        connection.get::<_, String>("dish").await.ok()
    })
    .await;
}

/// The kernel kills a child when the thread that started it ends; a test's helper threads do end.
#[test]
fn the_server_outlives_the_runtime_that_started_it() {
    let start = || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async { tokio::spawn(Redis::start()).await.expect("Redis starts") })
    };
    let redis = std::thread::spawn(start).join().expect("the thread ends");

    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(eventually("Redis answers", async || connect(&redis).await.ok()));
}

async fn connect(redis: &Redis) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
    redis::Client::open(redis.url())?.get_multiplexed_async_connection().await
}

async fn set(redis: &Redis, key: &str, value: &str) {
    let mut connection = connect(redis).await.expect("Redis answers");
    connection.set::<_, _, ()>(key, value).await.expect("Redis stores a value");
}

async fn get(redis: &Redis, key: &str) -> Option<String> {
    let mut connection = connect(redis).await.expect("Redis answers");
    connection.get(key).await.expect("Redis returns a value")
}

/// Changes when the process does.
async fn run_id(redis: &Redis) -> String {
    let mut connection = connect(redis).await.expect("Redis answers");
    let info: String =
        redis::cmd("INFO").arg("server").query_async(&mut connection).await.expect("Redis answers");
    info.lines().find(|line| line.starts_with("run_id:")).expect("Redis has a run_id").to_owned()
}
