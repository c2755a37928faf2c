//! The event stream: passed on as it comes, bounded, and ended by us when we stop.

use std::time::Duration;

use common::api::ItemState;
use common::api::inventory::ReserveOutcome;
use common::problem::Code;

use crate::support::*;

fn event(id: u32) -> String {
    format!("id: {id}\nevent: order\ndata: {{\"version\":{id}}}\n\n")
}

async fn streaming() -> Gateway {
    streaming_with(&[]).await
}

async fn streaming_with(settings: &[(&str, &str)]) -> Gateway {
    let gateway =
        start(settings, stock(vec![catalogue_item(ItemState::Active)], ReserveOutcome::Accepted)).await;
    gateway.notify.answer(|call| {
        if call.path != "/internal/v1/events" {
            return Reply::problem(Code::NotFound);
        }
        let reply = Reply::new(200).header("content-type", "text/event-stream");
        reply.part(0, event(1)).part(100, event(2)).endless()
    });
    gateway
}

async fn read(response: &mut reqwest::Response, until: &str) -> String {
    let mut text = String::new();
    while !text.contains(until) {
        let chunk = tokio::time::timeout(Duration::from_secs(20), response.chunk()).await.expect("in time");
        let Some(chunk) = chunk.expect("readable") else { break };
        text.push_str(&String::from_utf8_lossy(&chunk));
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn events_pass_as_they_come() {
    let gateway = streaming().await;
    let token = gateway.token("u1", "customer").await;
    let request = gateway.get("/api/v1/events").bearer_auth(&token).header("last-event-id", "41");
    let mut response = request.send().await.expect("answered");
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
    assert_eq!(response.headers()["cache-control"], "no-store");
    assert_eq!(read(&mut response, "id: 2").await, format!("{}{}", event(1), event(2)));
    let calls = gateway.notify.calls("/events");
    assert_eq!(
        (calls[0].headers["x-user-id"].as_str(), calls[0].headers["last-event-id"].as_str()),
        ("u1", "41")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_brings_its_token_in_the_query_and_it_goes_no_further() {
    let gateway = streaming().await;
    let token = gateway.token("u1", "customer").await;
    let request = gateway.get(&format!("/api/v1/events?access_token={token}&last_event_id=7"));
    let mut response = request.send().await.expect("answered");
    assert_eq!(response.status(), 200);
    read(&mut response, "id: 1").await;
    let call = &gateway.notify.calls("/events")[0];
    assert_eq!((call.query.as_str(), call.headers["last-event-id"].as_str()), ("", "7"));
    assert!(!format!("{call:?}").contains(&token));

    for query in [
        "access_token=x",
        "access_token=",
        "ACCESS_TOKEN=x",
        &format!("access_token={token}&access_token={token}"),
    ] {
        let response = gateway.get(&format!("/api/v1/events?{query}")).send().await.expect("answered");
        problem(response, 401, "unauthenticated").await;
    }
    for id in ["-1", "x", "1;2", "999999999999999999999999"] {
        let request = gateway.get("/api/v1/events").bearer_auth(&token).header("last-event-id", id);
        let response = request.send().await.expect("answered");
        assert_eq!(problem(response, 400, "invalid_request").await["field"], "Last-Event-ID");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_bounded_and_who_leaves_gives_a_place_back() {
    let gateway = streaming_with(&[("WAITS__STREAMS_MAX", "3")]).await;
    let token = gateway.token("u1", "customer").await;
    let open = async || gateway.get("/api/v1/events").bearer_auth(&token).send().await.expect("answered");
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = open().await;
        read(&mut stream, "id: 1").await;
        streams.push(stream);
    }
    problem(open().await, 429, "too_busy").await;

    streams.pop();
    testkit::eventually("a place is free", async || (open().await.status() == 200).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_away_is_said_so() {
    let gateway = open().await;
    let token = gateway.token("u1", "customer").await;
    for reply in [|| Reply::problem(Code::Unavailable), || Reply::new(500)] {
        gateway.notify.answer(move |_| reply());
        let response = gateway.get("/api/v1/events").bearer_auth(&token).send().await.expect("answered");
        problem(response, 503, "unavailable").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn open_streams_do_not_hold_up_a_stop() {
    let gateway = streaming().await;
    let token = gateway.token("u1", "customer").await;
    let mut stream = gateway.get("/api/v1/events").bearer_auth(&token).send().await.expect("answered");
    read(&mut stream, "id: 2").await;
    gateway.stop.cancel();
    let farewell = read(&mut stream, "nothing more").await;
    let wait_ms = farewell.trim().strip_prefix("retry: ").expect("told to come back").parse::<u64>();
    assert!((1000..=5000).contains(&wait_ms.expect("milliseconds")));
    let ended = tokio::time::timeout(Duration::from_secs(20), gateway.ended).await.expect("in time");
    ended.expect("no panic").expect("a clean stop");
}
