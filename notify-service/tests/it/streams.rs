//! Streams: complete, in order, and one's own.

use std::time::Duration;

use common::api::OrderStatus;
use common::messages::order::CREATED_V1;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use testkit::eventually;

use crate::support::{World, order_event};

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_back_hears_what_it_missed_also_after_a_restart_and_from_another_replica() {
    let world = World::start().await;
    let one = world.replica().await;
    let two = world.replica().await;
    let mut stream = one.stream("ann", None).await;
    world.tell("ann").await;
    assert_eq!(stream.next().await.unwrap().id, 1);

    // Gone while two more happen; back on the other replica.
    let last_event_id = stream.last_event_id.clone();
    drop(stream);
    world.tell("ann").await;
    world.tell("ann").await;
    let mut stream = two.stream("ann", Some(&last_event_id)).await;
    assert_eq!(stream.take(2).await.iter().map(|told| told.id).collect::<Vec<_>>(), [2, 3]);

    // All stopped while two more happen; back after a restart.
    let last_event_id = stream.last_event_id.clone();
    drop(stream);
    one.stop().await;
    two.stop().await;
    world.tell("ann").await;
    world.tell("ann").await;
    let three = world.replica().await;
    let mut stream = three.stream("ann", Some(&last_event_id)).await;
    assert_eq!(stream.take(2).await.iter().map(|told| told.id).collect::<Vec<_>>(), [4, 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_replica_tells_its_own_clients() {
    let world = World::start().await;
    let mut settings = world.settings();
    settings.sse.sweep_ms = 60_000; // The wake-ups do it, not the sweep.
    let one = world.replica_with(settings.clone()).await;
    let two = world.replica_with(settings).await;
    let mut streams =
        [one.stream("ann", None).await, two.stream("ann", None).await, two.stream("bob", None).await];
    for _ in 0..20 {
        world.tell("ann").await;
        world.tell("bob").await;
    }
    for stream in &mut streams {
        let ids: Vec<_> = stream.take(20).await.iter().map(|told| told.id).collect();
        assert_eq!(ids, (1..=20).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_wake_up_costs_time_but_no_event() {
    let world = World::start().await;
    let replica = world.replica().await;
    let mut stream = replica.stream("ann", None).await;
    world.tell("ann").await;
    stream.take(1).await;
    // A row that nobody was woken for.
    let mut connection = world.connection().await;
    let statement = "WITH next AS (UPDATE user_sequences SET last_seq = last_seq + 1 WHERE user_id = 'ann' RETURNING *)
        INSERT INTO events (user_id, seq, event_id, data) SELECT user_id, last_seq, gen_random_uuid(), '{}' FROM next";
    diesel_async::RunQueryDsl::execute(diesel::sql_query(statement), &mut connection).await.unwrap();
    assert_eq!(stream.next().await.unwrap().id, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_hears_of_somebody_elses_orders() {
    let world = World::start().await;
    let replica = world.replica().await;
    let mut ann = replica.stream("ann", None).await;
    // A name that begins alike, one that differs in case, and ann's number as a position of bob's.
    let mut others = Vec::new();
    for user in ["anna", "ANN", "an", "bob"] {
        others.push(replica.stream(user, None).await);
    }
    world.publish(CREATED_V1, (1..=3).map(|v| order_event("ann", v, OrderStatus::Paid)).collect()).await;
    ann.take(3).await;
    others.push(replica.stream("bob", Some("0")).await);
    others.push(replica.stream("bob", Some("2")).await);
    for other in &mut others {
        assert!(other.is_silent().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_id_a_stream_begins_at_the_present_and_says_where_that_is() {
    let world = World::start().await;
    let replica = world.replica().await;
    let mut first = replica.stream("ann", None).await;
    assert_eq!(first.last_event_id, "0");
    assert!((1_000..=5_000).contains(&first.retry_ms), "{}", first.retry_ms);
    world.tell("ann").await;
    world.tell("ann").await;
    first.take(2).await;

    let mut second = replica.stream("ann", None).await;
    assert_eq!(second.last_event_id, "2");
    let idle = replica.stream("ann", None).await;
    drop(idle);
    world.tell("ann").await;
    assert_eq!(second.next().await.unwrap().id, 3);
    // The one that had heard nothing resumes from where it began.
    let mut back = replica.stream("ann", Some("2")).await;
    assert_eq!(back.next().await.unwrap().id, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_was_never_given_out_is_told_everything() {
    let world = World::start().await;
    let replica = world.replica().await;
    let mut stream = replica.stream("ann", Some("")).await;
    world.tell("ann").await;
    world.tell("ann").await;
    stream.take(2).await;
    for id in ["3", "9223372036854775807", "99999999999999999999999999"] {
        let mut stream = replica.stream("ann", Some(id)).await;
        assert_eq!(stream.take(2).await.iter().map(|told| told.id).collect::<Vec<_>>(), [1, 2], "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_no_number_is_refused_by_name() {
    let world = World::start().await;
    let replica = world.replica().await;
    for id in ["-1", "abc", "1.5", "0x1", "1;drop table events", "1\t2"] {
        let request = replica.request(Method::GET, "/internal/v1/events").header("x-user-id", "ann");
        assert_refused(request.header("last-event-id", id), "Last-Event-ID").await;
    }
    let request =
        replica.request(Method::GET, "/internal/v1/events?last_event_id=-1").header("x-user-id", "ann");
    assert_refused(request, "last_event_id").await;
}

async fn assert_refused(request: reqwest::RequestBuilder, field: &str) {
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    let problem: Value = answer.json().await.unwrap();
    assert_eq!((problem["code"].as_str(), problem["field"].as_str()), (Some("invalid_request"), Some(field)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_query_names_a_position_too_and_the_header_counts_more() {
    let world = World::start().await;
    let replica = world.replica().await;
    let mut stream = replica.stream("ann", None).await;
    for _ in 0..3 {
        world.tell("ann").await;
    }
    stream.take(3).await;
    let request =
        || replica.request(Method::GET, "/internal/v1/events?last_event_id=1").header("x-user-id", "ann");
    let mut by_query = crate::sse_client::SseClient::open(request()).await;
    assert_eq!(by_query.take(2).await[0].id, 2);
    let mut by_header = crate::sse_client::SseClient::open(request().header("last-event-id", "2")).await;
    assert_eq!(by_header.next().await.unwrap().id, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fourth_stream_of_a_user_ends_the_oldest() {
    let world = World::start().await;
    let replica = world.replica().await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(replica.stream("ann", None).await);
    }
    assert_eq!(streams[0].next().await, None);
    world.tell("ann").await;
    for stream in &mut streams[1..] {
        assert_eq!(stream.next().await.unwrap().id, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_beyond_the_bound_are_refused_until_one_ends() {
    let world = World::start().await;
    let mut settings = world.settings();
    settings.sse.streams_max = 2;
    settings.sse.ping_ms = 100; // A connection that was dropped is noticed when something is sent.
    let replica = world.replica_with(settings).await;
    let ann = replica.stream("ann", None).await;
    let _bob = replica.stream("bob", None).await;
    let open = || replica.request(Method::GET, "/internal/v1/events").header("x-user-id", "eve").send();

    let refused = open().await.unwrap();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.headers().contains_key("retry-after"));
    drop(ann);
    eventually("there is room again", async || {
        (open().await.unwrap().status() == StatusCode::OK).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_stream_is_kept_alive_by_comments() {
    let world = World::start().await;
    let mut settings = world.settings();
    settings.sse.ping_ms = 100;
    let replica = world.replica_with(settings).await;
    let mut stream = replica.stream("ann", None).await;
    assert_eq!(stream.block().await.unwrap(), ": ping");
    assert_eq!(stream.block().await.unwrap(), ": ping");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_longer_than_the_buffer_comes_whole_and_in_order() {
    let world = World::start().await;
    let mut settings = world.settings();
    settings.sse.buffer_max = 3;
    let replica = world.replica_with(settings).await;
    let mut live = replica.stream("ann", None).await;
    for _ in 0..4 {
        let events = (1..=50).map(|version| order_event("ann", version, OrderStatus::Paid)).collect();
        world.publish(CREATED_V1, events).await;
    }
    let expected: Vec<i64> = (1..=200).collect();
    assert_eq!(live.take(200).await.iter().map(|told| told.id).collect::<Vec<_>>(), expected);
    let mut late = replica.stream("ann", Some("0")).await;
    assert_eq!(late.take(200).await.iter().map(|told| told.id).collect::<Vec<_>>(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_dropped_and_does_not_hold_up_others() {
    let world = World::start().await;
    let mut settings = world.settings();
    settings.sse.buffer_max = 128;
    settings.sse.stall_ms = 300;
    let replica = world.replica_with(settings).await;
    let mut deaf = replica.stream("ann", None).await;
    let mut live = replica.stream("ann", None).await;

    // More than the sockets' buffers hold.
    let mut told = 0;
    for _ in 0..80 {
        let events = (1..=250).map(|version| order_event("ann", version, OrderStatus::Paid)).collect();
        world.publish(CREATED_V1, events).await;
        live.take(250).await;
        told += 250;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    // It was cut off somewhere before the end, without a gap up to there, and resumes.
    let mut heard = Vec::new();
    while let Some(told) = deaf.next().await {
        heard.push(told.id);
        assert!(heard.len() < told_max(told.id), "a gap before {}", told.id);
    }
    assert!(i64::try_from(heard.len()).unwrap() < told, "it was not dropped");
    let mut back = replica.stream("ann", Some(&deaf.last_event_id)).await;
    assert_eq!(back.next().await.unwrap().id, heard.last().unwrap() + 1);
}

fn told_max(id: i64) -> usize {
    usize::try_from(id).unwrap() + 1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_streams_and_the_process() {
    let world = World::start().await;
    let mut settings = world.settings();
    settings.drain.timeout_ms = 60_000; // The streams end by themselves, not because the time is up.
    let replica = world.replica_with(settings).await;
    let mut streams = Vec::new();
    for user in ["ann", "bob", "eve"] {
        streams.push(replica.stream(user, None).await);
    }
    tokio::time::timeout(Duration::from_secs(20), replica.stop()).await.expect("streams do not hold it up");
    for stream in &mut streams {
        assert_eq!(stream.next().await, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_our_own_services_come_in_and_only_for_somebody() {
    let world = World::start().await;
    let replica = world.replica().await;
    let path = "/internal/v1/events";
    let no_user = replica.request(Method::GET, path).send().await.unwrap();
    assert_eq!(no_user.status(), StatusCode::UNAUTHORIZED);
    let bad_user = replica.request(Method::GET, path).header("x-user-id", "a b").send().await.unwrap();
    assert_eq!(bad_user.status(), StatusCode::UNAUTHORIZED);
    for token in ["", "another", "0123456789abcdef0123456789abcde"] {
        let stranger = replica.stranger(Method::GET, path).header("x-user-id", "ann");
        let answer = stranger.header("x-internal-token", token).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{token}");
    }
}
