//! A private virtual host: true queue depths, and the ways to lose it.

use lapin::options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use testkit::{Vhost, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn depths_count_what_was_just_confirmed() {
    let vhost = Vhost::create().await;
    let channel = channel(&vhost).await;
    declare(&channel, "orders", "quorum").await;
    declare(&channel, "wake-ups", "classic").await;
    publish(&channel, "orders", 3).await;
    publish(&channel, "wake-ups", 2).await;

    let depths = vhost.queue_depths().await;

    assert_eq!(depths.get("orders"), Some(&3), "{depths:?}");
    assert_eq!(depths.get("wake-ups"), Some(&2), "{depths:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn depths_count_unacknowledged_messages_too() {
    let vhost = Vhost::create().await;
    let channel = channel(&vhost).await;
    declare(&channel, "orders", "quorum").await;
    publish(&channel, "orders", 3).await;
    let _consumer = channel
        .basic_consume("orders".into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
        .await
        .expect("the consumer is registered");

    assert_eq!(vhost.queue_depths().await.get("orders"), Some(&3));
}

#[tokio::test(flavor = "multi_thread")]
async fn depths_follow_an_acknowledgement_and_a_purge() {
    let vhost = Vhost::create().await;
    let channel = channel(&vhost).await;
    declare(&channel, "orders", "quorum").await;
    publish(&channel, "orders", 5).await;
    assert_eq!(vhost.queue_depths().await.get("orders"), Some(&5));

    let got = channel.basic_get("orders".into(), Default::default()).await.expect("the broker answers");
    got.expect("there is a message").acker.ack(Default::default()).await.expect("the broker answers");
    assert_eq!(vhost.queue_depths().await.get("orders"), Some(&4));

    channel.queue_purge("orders".into(), Default::default()).await.expect("the broker answers");
    assert_eq!(vhost.queue_depths().await.get("orders"), Some(&0));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_virtual_hosts_know_nothing_of_each_other() {
    let (one, other) = (Vhost::create().await, Vhost::create().await);
    declare(&channel(&one).await, "orders", "quorum").await;
    assert!(other.queue_depths().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_connections_leaves_others_alone() {
    let (one, other) = (Vhost::create().await, Vhost::create().await);
    let (lost, kept) = (connect(&one).await, connect(&other).await);

    one.close_all_connections().await;

    eventually("the connection is closed", async || (!lost.status().connected()).then_some(())).await;
    kept.create_channel().await.expect("the other connection works");
    connect(&one).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_virtual_host_refuses_until_it_is_unblocked_and_keeps_messages() {
    let vhost = Vhost::create().await;
    let open = channel(&vhost).await;
    declare(&open, "orders", "quorum").await;
    publish(&open, "orders", 1).await;

    vhost.block().await;
    eventually("the open connection is closed", async || (!open.status().connected()).then_some(())).await;
    assert!(try_connect(&vhost).await.is_err(), "a new connection was let in");

    vhost.unblock().await;
    connect(&vhost).await;
    assert_eq!(vhost.queue_depths().await.get("orders"), Some(&1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_queue_is_gone_and_deleting_it_again_is_no_error() {
    let vhost = Vhost::create().await;
    declare(&channel(&vhost).await, "orders", "quorum").await;
    vhost.delete_queue("orders").await;
    vhost.delete_queue("orders").await;
    assert!(vhost.queue_depths().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_binding_leads_nowhere() {
    let vhost = Vhost::create().await;
    let channel = channel(&vhost).await;
    declare(&channel, "orders", "quorum").await;
    // The system's own patterns: characters that a path of the API must encode.
    for pattern in ["order.#", "stock.*.*.3"] {
        let exchange = "amq.topic";
        channel
            .queue_bind(
                "orders".into(),
                exchange.into(),
                pattern.into(),
                Default::default(),
                FieldTable::default(),
            )
            .await
            .expect("the queue is bound");
    }
    vhost.delete_bindings("amq.topic", "orders").await;

    for key in ["order.paid", "stock.reserved.v1.3"] {
        let options = BasicPublishOptions::default();
        let publish =
            channel.basic_publish("amq.topic".into(), key.into(), options, b"x", BasicProperties::default());
        publish.await.expect("the broker answers").await.expect("the broker confirms");
    }
    assert_eq!(vhost.queue_depths().await.get("orders"), Some(&0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_until_it_is_not_limited_any_more() {
    let vhost = Vhost::create().await;
    declare(&channel(&vhost).await, "orders", "quorum").await;
    vhost.limit_queues("^orders$", 0).await;
    eventually("a message is refused", async || is_refused(&vhost).await.then_some(())).await;

    vhost.unlimit_queues().await;
    eventually("a message is taken", async || (!is_refused(&vhost).await).then_some(())).await;
}

/// On a channel of its own: a full quorum queue goes on refusing the channels that it has refused, until it has drained,
/// even if its bound was raised meanwhile.
async fn is_refused(vhost: &Vhost) -> bool {
    let options = BasicPublishOptions::default();
    let channel = channel(vhost).await;
    let publish =
        channel.basic_publish("".into(), "orders".into(), options, b"x", BasicProperties::default());
    publish.await.expect("the broker answers").await.expect("the broker confirms").is_nack()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wipe_loses_queues_and_connections() {
    let vhost = Vhost::create().await;
    let open = channel(&vhost).await;
    declare(&open, "orders", "quorum").await;

    vhost.wipe().await;

    eventually("the open connection is closed", async || (!open.status().connected()).then_some(())).await;
    connect(&vhost).await;
    assert!(vhost.queue_depths().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_virtual_host_is_gone() {
    let vhost = Vhost::create().await;
    let url = vhost.url();
    drop(vhost);
    assert!(Connection::connect(&url, ConnectionProperties::default()).await.is_err());
}

async fn try_connect(vhost: &Vhost) -> lapin::Result<Connection> {
    Connection::connect(&vhost.url(), ConnectionProperties::default()).await
}

async fn connect(vhost: &Vhost) -> Connection {
    try_connect(vhost).await.expect("RabbitMQ lets us in")
}

async fn channel(vhost: &Vhost) -> Channel {
    let channel = connect(vhost).await.create_channel().await.expect("RabbitMQ opens a channel");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("RabbitMQ confirms");
    channel
}

async fn declare(channel: &Channel, name: &str, kind: &str) {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.into(), options, arguments).await.expect("the queue is declared");
}

async fn publish(channel: &Channel, queue: &str, count: usize) {
    for _ in 0..count {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let publish =
            channel.basic_publish("".into(), queue.into(), options, b"{}", BasicProperties::default());
        let confirmation = publish.await.expect("published").await.expect("confirmed");
        assert!(confirmation.is_ack() && confirmation.take_message().is_none(), "not routed to {queue}");
    }
}
