//! Starting and stopping.

use common::api::inventory::ReserveOutcome;
use futures_util::future::join_all;

use crate::support::app::{TOKEN, TestApp};

/// Strong enough for production.
const STRONG_TOKEN: &str = "q8Zr2Lw9Xc4Vb7Nm1Kj6Hg3Fd5Sa0PoIu";

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_evicts_keys_is_refused_in_production() {
    let app = TestApp::start().await;
    let user = ["ACL", "SETUSER", "stock", "on", ">q8Zr2Lw9Xc4Vb7Nm", "~*", "&*", "+@all"];
    let _: () = app.redis_command(&user).await;
    let redis_url = app.redis.url().replace("//", "//stock:q8Zr2Lw9Xc4Vb7Nm@");
    let production =
        [("PROFILE", "production"), ("INTERNAL__TOKEN", STRONG_TOKEN), ("REDIS__URL", redis_url.as_str())];
    assert!(app.build_replica(&production).await.is_ok());
    let _: () = app.redis_command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await;
    let error = app.build_replica(&production).await.err().expect("the start is refused");
    assert!(format!("{error:#}").contains("noeviction"), "{error:#}");
    assert!(app.build_replica(&[]).await.is_ok(), "the dev profile only warns");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_told_to_stop_answers_what_it_has_begun() {
    let app = TestApp::start().await;
    let item = app.open_item(200, 1).await;
    let second = app.replica(&[]).await;
    app.until_ready(&second.url).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}/internal/v1/items/{item}/reservations", second.url);
    testkit::eventually("the second replica knows the item", async || {
        let batch = serde_json::json!({ "requests": [app.request(item, "first", "k", 1)] });
        let call = client.post(&url).header("x-internal-token", TOKEN).json(&batch);
        call.send().await.unwrap().text().await.unwrap().contains("accepted").then_some(())
    })
    .await;

    let calls = (0..100).map(|n| {
        let batch = serde_json::json!({ "requests": [app.request(item, &format!("u{n}"), "k", 1)] });
        let call = client.post(&url).header("x-internal-token", TOKEN).json(&batch).send();
        async move { call.await.ok()?.text().await.ok() }
    });
    let (answers, ()) = tokio::join!(join_all(calls), second.stop());
    let answers: Vec<String> = answers.into_iter().flatten().collect();
    assert!(answers.iter().all(|answer| !answer.contains("unknown")), "{answers:?}");
    let accepted = answers.iter().filter(|answer| answer.contains("accepted")).count();
    let books = app.assert_quiet_and_equal(item).await;
    // Whoever got no answer, because the connection came too late, has no order either, or a retry finds it.
    assert!(books.orders.len() > accepted, "an accepted order is missing: {accepted} {}", books.orders.len());
    assert_eq!(app.reserve(item, "first", "k", 1).await, ReserveOutcome::Accepted);
}
