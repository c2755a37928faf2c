//! What the tests share.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::amqp::{
    Accepts, AmqpSettings, Incoming, Outgoing, Publisher, Raw, RetryLater, Source, Subscription, Topology,
    Verdict, consume, consume_raw,
};
use common::health::Health;
use common::shutdown::Tasks;
use common::topology::Queue;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use testkit::Vhost;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Long enough for something to have happened on a calm machine; only used where being late cannot fail a test.
pub const SOON: Duration = Duration::from_millis(30);

/// A deadline that does not come.
pub fn far() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Waits until `holds`.
pub async fn eventually_true(what: &str, mut holds: impl FnMut() -> bool) {
    testkit::eventually(what, async || holds().then_some(())).await;
}

/// A broker of its own with one work queue, and a publisher on it.
pub struct Broker {
    pub vhost: Vhost,
    pub settings: AmqpSettings,
    pub queue: Queue,
    pub health: Health,
    pub tasks: Tasks,
    pub publisher: Publisher,
}

impl Broker {
    pub async fn start() -> Self {
        let vhost = Vhost::create().await;
        let settings = AmqpSettings {
            addresses: common::amqp::NodeList::default(),
            url: SecretString::from(vhost.url()),
            heartbeat_s: 10,
            connect_timeout_ms: 20_000,
            publish_timeout_ms: 20_000,
            publish_window: 16,
        };
        let (health, tasks) = (Health::default(), Tasks::new(CancellationToken::new()));
        let queue = Queue::stock_sales();
        let topology = Topology { queues: vec![queue.clone()], ..Topology::default() };
        let publisher = Publisher::start(&settings, "test", topology, health.check("publisher"), &tasks);
        eventually_true("the publisher is ready", || publisher.is_ready()).await;
        Self { vhost, settings, queue, health, tasks, publisher }
    }

    /// Publishes an envelope with one event per number to the work queue.
    pub async fn publish(&self, numbers: impl IntoIterator<Item = i64>) {
        let message = message(envelope(numbers));
        self.publisher.publish(message, far()).await.unwrap();
    }

    pub fn subscription(&self, source: Source) -> Subscription {
        Subscription {
            source,
            prefetch: 100,
            batch_max: 100,
            min_interval: Duration::ZERO,
            line_up: std::sync::Arc::default(),
            publisher: self.publisher.clone(),
            health: self.health.check("consumer"),
        }
    }

    /// Consumes numbers from the work queue.
    pub fn consume<H, Fut>(&self, handler: H)
    where
        H: Fn(Vec<Incoming<i64>>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<Verdict>, RetryLater>> + Send + 'static,
    {
        let subscription = self.subscription(Source::Work(self.queue.clone()));
        consume(&self.settings, subscription, numbers(), &self.tasks, handler);
    }

    /// Messages on a queue that nobody has in hand.
    pub async fn length(&self, queue: &str) -> Option<u32> {
        self.publisher.queue_length(queue, far()).await.unwrap()
    }

    /// Waits until the work queue is empty, with nothing unacknowledged.
    pub async fn eventually_empty(&self) {
        let name = self.queue.name.as_str();
        testkit::eventually("everything is acknowledged", async || {
            (self.vhost.queue_depths().await.get(name) == Some(&0)).then_some(())
        })
        .await;
    }

    /// Waits for `count` parked messages and takes them.
    pub async fn parked(&self, count: usize) -> Vec<Raw> {
        let parked = Arc::new(Mutex::new(Vec::new()));
        let taken = parked.clone();
        let subscription = self.subscription(Source::Dead(self.queue.clone()));
        consume_raw(&self.settings, subscription, &self.tasks, move |mut messages| {
            let verdicts = vec![Verdict::Done; messages.len()];
            taken.lock().unwrap().append(&mut messages);
            async move { Ok(verdicts) }
        });
        eventually_true("parked messages", || parked.lock().unwrap().len() >= count).await;
        let mut parked = parked.lock().unwrap();
        assert_eq!(parked.len(), count);
        std::mem::take(&mut *parked)
    }
}

/// The one type of these tests: an event is a number.
pub const KIND: &str = "sale.tested.v1";

#[derive(Debug, Serialize, Deserialize)]
pub struct Number {
    pub number: i64,
}

pub fn numbers() -> Accepts<i64> {
    Accepts::new().kind(KIND, |event: Number| event.number)
}

pub fn envelope(numbers: impl IntoIterator<Item = i64>) -> Value {
    let events = numbers.into_iter().map(|number| json!({ "event_id": Uuid::new_v4(), "number": number }));
    json!({
        "id": Uuid::new_v4(),
        "type": KIND,
        "occurred_at": "2026-11-22T12:00:00Z",
        "producer": "test",
        "events": events.collect::<Vec<_>>(),
    })
}

/// To the work queue.
pub fn message(envelope: Value) -> Outgoing {
    Outgoing {
        exchange: "sale",
        routing_key: KIND.to_owned(),
        message_id: Uuid::new_v4(),
        kind: KIND.to_owned(),
        body: envelope.to_string().into_bytes(),
    }
}

/// What a handler was given, in order.
#[derive(Clone, Default)]
pub struct Seen(Arc<Mutex<Vec<i64>>>);

impl Seen {
    pub fn add(&self, batch: &[Incoming<i64>]) {
        self.0.lock().unwrap().extend(batch.iter().map(|incoming| incoming.event.data));
    }

    pub fn numbers(&self) -> Vec<i64> {
        self.0.lock().unwrap().clone()
    }

    pub async fn eventually(&self, numbers: impl IntoIterator<Item = i64>) {
        let expected: Vec<i64> = numbers.into_iter().collect();
        let mut seen = Vec::new();
        testkit::eventually(&format!("{expected:?} are handled"), async || {
            seen = self.numbers();
            (seen.len() >= expected.len()).then_some(())
        })
        .await;
        assert_eq!(seen, expected);
    }
}
