//! Connections come and go; messages do not.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::amqp::{AmqpSettings, PublishError, Publisher, Topology, Verdict};
use common::health::Health;
use common::shutdown::Tasks;
use common::topology::Queue;
use futures_util::future::join_all;
use lapin::options::QueueDeleteOptions;
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::io::AsyncReadExt as _;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::proxy::Proxy;
use crate::support::{Broker, Seen, envelope, eventually_true, far, message};

const PATIENCE: Duration = Duration::from_secs(30);

fn handle_into(broker: &Broker, seen: &Seen) {
    let noted = seen.clone();
    broker.consume(move |batch| {
        noted.add(&batch);
        let verdicts = vec![Verdict::Done; batch.len()];
        async move { Ok(verdicts) }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn publisher_and_consumer_come_back_after_every_connection_was_closed() {
    let broker = Broker::start().await;
    let seen = Seen::default();
    handle_into(&broker, &seen);
    for round in 0..3 {
        testkit::eventually("published", async || {
            broker.publisher.publish(message(envelope([round])), far()).await.ok()
        })
        .await;
        testkit::eventually("handled", async || seen.numbers().contains(&round).then_some(())).await;
        broker.vhost.close_all_connections().await;
    }
    eventually_true("healthy again", || broker.health.is_ready() && broker.publisher.is_ready()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_broker_nothing_is_sent_and_nothing_hangs() {
    let broker = Broker::start().await;
    broker.vhost.block().await;
    eventually_true("the loss is seen", || !broker.publisher.is_ready() && !broker.health.is_ready()).await;
    let began = Instant::now();
    assert_eq!(broker.publisher.publish(message(envelope([1])), far()).await, Err(PublishError::NotReady));
    assert_eq!(broker.publisher.queue_length("any", far()).await, Err(PublishError::NotReady));
    assert!(began.elapsed() < Duration::from_secs(10), "at once, not at the deadline");

    broker.vhost.unblock().await;
    eventually_true("back again", || broker.publisher.is_ready() && broker.health.is_ready()).await;
    broker.publish([2]).await;
    assert_eq!(broker.length(&broker.queue.name).await, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_broker_gets_its_topology_back() {
    let broker = Broker::start().await;
    let seen = Seen::default();
    handle_into(&broker, &seen);
    broker.publish([1]).await;
    seen.eventually([1]).await;
    broker.vhost.wipe().await;
    testkit::eventually("published again", async || {
        broker.publisher.publish(message(envelope([2])), far()).await.ok()
    })
    .await;
    testkit::eventually("handled again", async || seen.numbers().contains(&2).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_connection_was_lost_is_delivered_again() {
    let broker = Broker::start().await;
    broker.publish([1, 2]).await;
    let (started, gate, redelivered) =
        (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)), Arc::new(AtomicBool::new(false)));
    let seen = Seen::default();
    let shared = (started.clone(), gate.clone(), redelivered.clone(), seen.clone());
    broker.consume(move |batch| {
        let (started, gate, redelivered, seen) = shared.clone();
        async move {
            started.add_permits(1);
            gate.acquire().await.unwrap().forget();
            redelivered.store(batch.iter().all(|incoming| incoming.redelivered), Ordering::Relaxed);
            seen.add(&batch);
            Ok(vec![Verdict::Done; batch.len()])
        }
    });
    started.acquire().await.unwrap().forget();
    broker.vhost.close_all_connections().await;
    gate.add_permits(2);
    seen.eventually([1, 2, 1, 2]).await;
    assert!(redelivered.load(Ordering::Relaxed));
    broker.eventually_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_event_survives_a_broker_that_goes_away_meanwhile() {
    let broker = Broker::start().await;
    broker.publish([1]).await;
    let (started, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let shared = (started.clone(), gate.clone());
    broker.consume(move |batch| {
        let (started, gate) = shared.clone();
        async move {
            started.add_permits(1);
            gate.acquire().await.unwrap().forget();
            Ok(vec![Verdict::Park("never".to_owned()); batch.len()])
        }
    });
    started.acquire().await.unwrap().forget();
    broker.vhost.block().await;
    gate.add_permits(100);
    broker.vhost.unblock().await;
    broker.eventually_empty().await;
    let length = broker.length(&broker.queue.dead_name()).await;
    assert!(length >= Some(1), "parked at least once: {length:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_are_true_when_connections_break_in_the_middle() {
    let broker = Broker::start().await;
    let numbers: Vec<i64> = (0..2_000).collect();
    let publishes =
        numbers.iter().map(|number| broker.publisher.publish(message(envelope([*number])), far()));
    let breaking = async {
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(40)).await;
            broker.vhost.close_all_connections().await;
        }
    };
    let (outcomes, ()) = tokio::join!(join_all(publishes), breaking);

    let seen = Seen::default();
    handle_into(&broker, &seen);
    broker.eventually_empty().await;
    let arrived: BTreeSet<i64> = seen.numbers().into_iter().collect();
    let mut counts = [0_u32; 3];
    for (number, outcome) in numbers.iter().zip(outcomes) {
        match outcome {
            Ok(()) => {
                counts[0] += 1;
                assert!(arrived.contains(number), "{number} was confirmed and is lost");
            }
            Err(PublishError::NotReady) => {
                counts[1] += 1;
                assert!(!arrived.contains(number), "{number} was not sent and arrived");
            }
            Err(PublishError::Unknown) => counts[2] += 1,
            Err(error @ (PublishError::Unroutable | PublishError::Refused)) => panic!("{number}: {error}"),
        }
    }
    println!("confirmed, not sent, unknown: {counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_confirms() {
    let broker = Broker::start().await;
    let confirmed = Arc::new(AtomicU64::new(0));
    // As many as the window holds, one after the other, so that at any time some wait for their confirm.
    let publishers = (0..16).map(|number| {
        let (publisher, confirmed) = (broker.publisher.clone(), confirmed.clone());
        tokio::spawn(async move {
            loop {
                match publisher.publish(message(envelope([number])), far()).await {
                    Ok(()) => confirmed.fetch_add(1, Ordering::Relaxed),
                    Err(error) => return error,
                };
            }
        })
    });
    let publishers: Vec<_> = publishers.collect();
    eventually_true("publishing", || confirmed.load(Ordering::Relaxed) > 100).await;
    broker.tasks.finish(Duration::from_secs(30)).await.unwrap();
    assert!(!broker.publisher.is_ready());
    for last in join_all(publishers).await {
        assert_eq!(last.unwrap(), PublishError::NotReady, "never in doubt");
    }
    let confirmed = confirmed.load(Ordering::Relaxed);
    testkit::eventually("what was confirmed is there", async || {
        (broker.vhost.queue_depths().await.get(&broker.queue.name) == Some(&confirmed)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_accepts_and_says_nothing_is_left_and_tried_again() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = AmqpSettings {
        addresses: common::amqp::NodeList::default(),
        url: SecretString::from(format!("amqp://u:p@{}/v", listener.local_addr().unwrap())),
        heartbeat_s: 10,
        connect_timeout_ms: 300,
        publish_timeout_ms: 300,
        publish_window: 1,
    };
    let (health, tasks) = (Health::default(), Tasks::new(CancellationToken::new()));
    let check = health.check("publisher");
    let publisher = Publisher::start(&settings, "test", Topology::default(), check, &tasks);
    for _ in 0..3 {
        let (mut connection, _) = timeout(PATIENCE, listener.accept()).await.expect("another try").unwrap();
        let mut heard = Vec::new();
        // The end of the stream: nothing is left behind that waits for an answer.
        timeout(PATIENCE, connection.read_to_end(&mut heard)).await.expect("hung up").unwrap();
        assert!(heard.starts_with(b"AMQP"));
        assert!(!publisher.is_ready());
    }
    tasks.finish(PATIENCE).await.unwrap();
}

/// The broker's side of a half-open connection: it stays open and carries nothing.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_carry_nothing_any_more_are_left_by_their_heartbeats() {
    let mut broker = Broker::start().await;
    let proxy = Proxy::start(&broker.settings).await;
    broker.settings.url = proxy.url.clone();
    broker.settings.heartbeat_s = 1;
    let seen = Seen::default();
    handle_into(&broker, &seen);
    let topology = Topology { queues: vec![broker.queue.clone()], ..Topology::default() };
    let check = broker.health.check("through the proxy");
    let publisher = Publisher::start(&broker.settings, "through", topology, check, &broker.tasks);
    testkit::eventually("published", async || publisher.publish(message(envelope([1])), far()).await.ok())
        .await;
    seen.eventually([1]).await;

    proxy.mute(true);
    eventually_true("it is noticed", || !broker.health.is_ready() && !publisher.is_ready()).await;
    // From elsewhere.
    broker.publish([2]).await;
    proxy.mute(false);
    testkit::eventually("handled", async || seen.numbers().contains(&2).then_some(())).await;
    testkit::eventually("published", async || publisher.publish(message(envelope([3])), far()).await.ok())
        .await;
    testkit::eventually("handled", async || seen.numbers().contains(&3).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_that_was_deleted_is_made_again() {
    let broker = Broker::start().await;
    let seen = Seen::default();
    handle_into(&broker, &seen);
    broker.publish([1]).await;
    seen.eventually([1]).await;
    // Another queue takes the messages meanwhile, so that none is returned and no publisher notices.
    let other = Queue { name: "other".to_owned(), ..broker.queue.clone() };
    let topology = Topology { queues: vec![other], ..Topology::default() };
    let check = broker.health.check("other");
    let publisher = Publisher::start(&broker.settings, "other", topology, check, &broker.tasks);
    eventually_true("the other queue is there", || publisher.is_ready()).await;
    let connection =
        Connection::connect(broker.settings.url.expose_secret(), ConnectionProperties::default());
    let channel = connection.await.unwrap().create_channel().await.unwrap();
    let (queue, exchange) = (broker.queue.name.as_str(), broker.queue.exchange.name());
    let pattern = broker.queue.pattern.as_str();
    let unbound = channel.queue_unbind(queue.into(), exchange.into(), pattern.into(), FieldTable::default());
    unbound.await.unwrap();
    let mut number = 1;
    testkit::eventually("messages arrive again", async || {
        number += 1;
        broker.publish([number]).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        (seen.numbers().len() > 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_was_deleted_unheard_is_consumed_again() {
    let mut broker = Broker::start().await;
    let direct = broker.settings.url.clone();
    let proxy = Proxy::start(&broker.settings).await;
    broker.settings.url = proxy.url.clone();
    let seen = Seen::default();
    handle_into(&broker, &seen);
    broker.publish([1]).await;
    seen.eventually([1]).await;

    proxy.mute(true);
    let connection = Connection::connect(direct.expose_secret(), ConnectionProperties::default());
    let channel = connection.await.unwrap().create_channel().await.unwrap();
    let name = broker.queue.name.as_str();
    channel.queue_delete(name.into(), QueueDeleteOptions::default()).await.unwrap();
    // Time for the broker to say that the subscription has ended, which nobody hears.
    tokio::time::sleep(Duration::from_millis(500)).await;
    proxy.mute(false);
    testkit::eventually("published, to the queue that is declared again", async || {
        broker.publisher.publish(message(envelope([2])), far()).await.ok()
    })
    .await;
    testkit::eventually("handled", async || seen.numbers().contains(&2).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_does_not_answer_whom_a_queue_feeds_holds_up_no_stop() {
    let mut broker = Broker::start().await;
    let proxy = Proxy::start(&broker.settings).await;
    broker.settings.url = proxy.url.clone();
    // Longer than the test's patience.
    broker.settings.connect_timeout_ms = 600_000;
    broker.settings.heartbeat_s = 600;
    let seen = Seen::default();
    handle_into(&broker, &seen);
    broker.publish([1]).await;
    seen.eventually([1]).await;

    proxy.mute(true);
    // Until it asks.
    tokio::time::sleep(Duration::from_secs(7)).await;
    broker.tasks.finish(PATIENCE).await.unwrap();
}

/// Cut again and again: everything continues, every confirmed message is handled, and nothing is left behind.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_lost_again_and_again_leave_nothing_behind() {
    const CUTS: i64 = 25;
    let mut broker = Broker::start().await;
    let proxy = Proxy::start(&broker.settings).await;
    broker.settings.url = proxy.url.clone();
    let seen = Seen::default();
    handle_into(&broker, &seen);
    let topology = Topology { queues: vec![broker.queue.clone()], ..Topology::default() };
    let check = broker.health.check("through the proxy");
    let publisher = Publisher::start(&broker.settings, "through", topology, check, &broker.tasks);
    eventually_true("connected", || publisher.is_ready() && broker.health.is_ready()).await;
    let tasks = tokio::runtime::Handle::current().metrics();
    let before = tasks.num_alive_tasks();

    let mut confirmed = BTreeSet::new();
    for round in 0..CUTS {
        // The last of them are on their way when the connections are cut.
        let sending = (0..20).map(|n| publisher.publish(message(envelope([round * 100 + n])), far()));
        let cutting = async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            proxy.cut();
        };
        let (sent, ()) = tokio::join!(join_all(sending), cutting);
        confirmed.extend(sent.iter().zip(0..).filter(|(sent, _)| sent.is_ok()).map(|(_, n)| round * 100 + n));
        eventually_true("connected again", || publisher.is_ready() && broker.health.is_ready()).await;
    }

    testkit::eventually("what was confirmed is handled", async || {
        let handled: BTreeSet<i64> = seen.numbers().into_iter().collect();
        confirmed.is_subset(&handled).then_some(())
    })
    .await;
    broker.eventually_empty().await;
    let (left, allowed) = (|| tasks.num_alive_tasks(), before + 4);
    testkit::eventually("no task is left behind", async || (left() <= allowed).then_some(())).await;
}
