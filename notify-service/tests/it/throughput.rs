//! A measurement, not a test: run it alone, with `--ignored --nocapture`.

use std::time::{Duration, Instant};

use common::api::OrderStatus;
use common::messages::ENVELOPE_EVENTS_MAX;
use common::messages::order::CREATED_V1;
use testkit::eventually;

use crate::faults::Process;
use crate::receiver::Receiver;
use crate::retention::count;
use crate::support::{World, order_event};

const MESSAGES: usize = 200;
const USERS: usize = 20_000;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn a_backlog_is_digested() {
    digest(World::start().await, "nobody asked for webhooks").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn a_backlog_is_digested_and_delivered() {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    let setup = world.replica().await;
    setup.register(&receiver.url("/hook"), &["order.*"]).await;
    setup.stop().await;
    let process = digest(world, "one webhook for every event").await;
    let delivered = receiver.received("/hook").len();
    let began = Instant::now();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let more = receiver.received("/hook").len() - delivered;
    println!("{delivered} delivered meanwhile, then {:.0}/s", more as f64 / began.elapsed().as_secs_f64());
    drop(process);
}

/// Digests a backlog in a process of its own, and leaves that running.
async fn digest(world: World, what: &str) -> (World, Process) {
    let events = MESSAGES * ENVELOPE_EVENTS_MAX;
    // The queue is there before anybody consumes it: the publisher has declared it.
    for message in 0..MESSAGES {
        let user = |number: usize| format!("u{}", (message * ENVELOPE_EVENTS_MAX + number) % USERS);
        let events = (0..ENVELOPE_EVENTS_MAX).map(|n| order_event(&user(n), 1, OrderStatus::PendingPayment));
        world.publish(CREATED_V1, events.collect()).await;
    }
    let began = Instant::now();
    let process = Process::start(&world);
    let expected = i64::try_from(events).unwrap();
    eventually("the program is up", async || {
        let mut connection = world.connection().await;
        let found = diesel::sql_query("SELECT 1 FROM pg_tables WHERE tablename = 'events'");
        (diesel_async::RunQueryDsl::execute(found, &mut connection).await.unwrap() > 0).then_some(())
    })
    .await;
    eventually("all are stored", async || (count(&world, "events").await == expected).then_some(())).await;
    let took_s = began.elapsed().as_secs_f64();
    let cpu_s = process.cpu_s();
    println!(
        "{what}: {events} events in {took_s:.1} s from its start: {:.0}/s; {:.3} ms of CPU per event in the process",
        events as f64 / took_s,
        cpu_s * 1_000.0 / events as f64,
    );
    (world, process)
}
