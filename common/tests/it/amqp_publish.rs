//! What a publisher knows about a message, it knows about that very message.

use common::amqp::{AmqpSettings, Outgoing, PublishError, Publisher, Topology};
use common::topology::Exchange;
use futures_util::future::join_all;
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties};
use tokio::time::Instant;

use crate::support::{Broker, KIND, envelope, eventually_true, far, message};

/// A channel beside the publisher, for what only an operator would do.
async fn operator(broker: &Broker) -> (Connection, Channel) {
    let connection = Connection::connect(&broker.vhost.url(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmed_message_is_on_its_queue() {
    let broker = Broker::start().await;
    broker.publisher.publish(message(envelope([1])), far()).await.unwrap();
    assert_eq!(broker.length(&broker.queue.name).await, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn unroutable_is_said_of_the_message_that_no_queue_took_and_of_no_other() {
    let broker = Broker::start().await;
    let messages = (0..400).map(|number| Outgoing {
        exchange: if number % 3 == 0 { "sale" } else { "" },
        routing_key: if number % 3 == 0 { KIND.to_owned() } else { "nowhere".to_owned() },
        ..message(envelope([number]))
    });
    let outcomes = join_all(messages.map(|message| broker.publisher.publish(message, far()))).await;

    for (number, outcome) in outcomes.iter().enumerate() {
        let expected = if number % 3 == 0 { Ok(()) } else { Err(PublishError::Unroutable) };
        assert_eq!(*outcome, expected, "{number}");
    }
    assert_eq!(broker.length(&broker.queue.name).await, Some(134));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_was_deleted_is_declared_again() {
    let broker = Broker::start().await;
    let (_connection, channel) = operator(&broker).await;
    channel.queue_delete(broker.queue.name.as_str().into(), QueueDeleteOptions::default()).await.unwrap();

    let first = broker.publisher.publish(message(envelope([1])), far()).await;
    assert_eq!(first, Err(PublishError::Unroutable));
    testkit::eventually("published", async || {
        broker.publisher.publish(message(envelope([2])), far()).await.ok()
    })
    .await;
    assert_eq!(broker.length(&broker.queue.name).await, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_does_not_exist_takes_nothing() {
    let broker = Broker::start().await;
    let lost = Outgoing { exchange: "nobody's", ..message(envelope([1])) };
    assert_eq!(broker.publisher.publish(lost, far()).await, Err(PublishError::Unroutable));
    assert_eq!(broker.publisher.publish(message(envelope([2])), far()).await, Ok(()), "others go on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses() {
    let broker = Broker::start().await;
    let (_connection, channel) = operator(&broker).await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    channel.queue_declare("narrow".into(), QueueDeclareOptions::default(), arguments).await.unwrap();

    let narrow = || Outgoing { exchange: "", routing_key: "narrow".to_owned(), ..message(envelope([1])) };
    assert_eq!(broker.publisher.publish(narrow(), far()).await, Ok(()));
    assert_eq!(broker.publisher.publish(narrow(), far()).await, Err(PublishError::Refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_takes_messages_again_as_soon_as_its_bound_is_raised() {
    let broker = Broker::start().await;
    let publish = async || broker.publisher.publish(message(envelope([1])), far()).await;
    broker.vhost.limit_queues(".*", 0).await;
    testkit::eventually("a message is refused", async || {
        (publish().await == Err(PublishError::Refused)).then_some(())
    })
    .await;

    broker.vhost.unlimit_queues().await;
    testkit::eventually("a message is taken", async || publish().await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_after_the_deadline() {
    let broker = Broker::start().await;
    let late = broker.publisher.publish(message(envelope([1])), Instant::now()).await;
    assert_eq!(late, Err(PublishError::NotReady));
    assert_eq!(broker.length(&broker.queue.name).await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_can_be_asked_for_and_a_marker_be_left() {
    let broker = Broker::start().await;
    assert_eq!(broker.length("generation.1").await, None);
    for _ in 0..2 {
        broker.publisher.create_marker("generation.1", far()).await.unwrap();
    }
    assert_eq!(broker.length("generation.1").await, Some(0));
    broker.vhost.wipe().await;
    testkit::eventually("the marker is gone with the data", async || {
        let length = broker.publisher.queue_length("generation.1", far()).await;
        (length == Ok(None)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publishers_with_the_same_topology_share_it() {
    let broker = Broker::start().await;
    let topology =
        Topology { exchanges: vec![Exchange::Stock, Exchange::Order], queues: vec![broker.queue.clone()] };
    let health = broker.health.check("second");
    let second = Publisher::start(&broker.settings, "second", topology, health, &broker.tasks);
    eventually_true("the second is ready", || second.is_ready()).await;
    second.publish(message(envelope([1])), far()).await.unwrap();
    assert_eq!(broker.length(&broker.queue.name).await, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn more_publishes_than_the_window_wait_their_turn() {
    let mut broker = Broker::start().await;
    broker.settings = AmqpSettings { publish_window: 2, ..broker.settings };
    let health = broker.health.check("narrow");
    let narrow = Publisher::start(&broker.settings, "narrow", Topology::default(), health, &broker.tasks);
    eventually_true("ready", || narrow.is_ready()).await;
    let outcomes = join_all((0..50).map(|number| narrow.publish(message(envelope([number])), far()))).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(broker.length(&broker.queue.name).await, Some(50));
}
