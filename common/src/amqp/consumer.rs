//! Consuming: batches in order, acknowledged when handled, from a connection that is opened anew when it is lost.

mod batches;
mod feed;
mod parking;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use self::batches::Batches;
use self::feed::Feed;
use super::decode::{Accepts, AsTheyAre, Decode, Incoming, Raw, Verdict};
use super::{AmqpSettings, Publisher};
use crate::health::HealthCheck;
use crate::shutdown::Tasks;
use crate::topology::{Exchange, Queue};

/// Where messages come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A queue of [`crate::topology`].
    Work(Queue),
    /// The dead-letter queue of one; what is parked from it goes to its end.
    Dead(Queue),
    /// A queue that lives and dies with this connection: hints that may be lost; nothing is parked.
    Wakeup {
        /// The exchange to listen to.
        exchange: Exchange,
        /// The topic pattern of what to hear.
        pattern: String,
    },
}

/// How to consume.
#[derive(Clone)]
pub struct Subscription {
    /// Where messages come from.
    pub source: Source,
    /// Most messages that the broker hands out ahead of their acknowledgement.
    pub prefetch: u16,
    /// A batch takes no further message once it has so many events.
    pub batch_max: usize,
    /// Least time between the starts of two batches, unless the batch is full.
    pub min_interval: Duration,
    /// Parks what can never work.
    pub publisher: Publisher,
    /// Told to: subscribes anew, after the batch in hand. Of a queue with a single active consumer, that is to go to the end of
    /// the line.
    pub line_up: Arc<Notify>,
    /// Ready while consuming; not while disconnected or waiting to retry. One of its own per subscription.
    pub health: HealthCheck,
}

/// The handler's store is away or the like: the same batch shall come again. The cause is logged.
#[derive(Debug)]
pub struct RetryLater(pub anyhow::Error);

impl From<anyhow::Error> for RetryLater {
    fn from(cause: anyhow::Error) -> Self {
        Self(cause)
    }
}

/// Feeds the events of `subscription` to `handler`, in batches and in order, as one of `tasks`.
///
/// Delivery is at least once. `handler` answers one [`Verdict`] per event, in their order; only then are the messages
/// acknowledged. With [`RetryLater`] it gets the same events again after a pause, and nothing newer meanwhile. If it
/// panics, the connection is dropped, and the broker delivers the messages again until its delivery limit.
pub fn consume<E, H, Fut>(
    settings: &AmqpSettings,
    subscription: Subscription,
    accepts: Accepts<E>,
    tasks: &Tasks,
    handler: H,
) where
    E: Send + 'static,
    H: Fn(Vec<Incoming<E>>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Vec<Verdict>, RetryLater>> + Send + 'static,
{
    start(settings, subscription, accepts, tasks, handler);
}

/// As [`consume`], for messages as they are, such as parked ones.
pub fn consume_raw<H, Fut>(settings: &AmqpSettings, subscription: Subscription, tasks: &Tasks, handler: H)
where
    H: Fn(Vec<Raw>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Vec<Verdict>, RetryLater>> + Send + 'static,
{
    start(settings, subscription, AsTheyAre, tasks, handler);
}

fn start<D, H, Fut>(settings: &AmqpSettings, subscription: Subscription, decode: D, tasks: &Tasks, handler: H)
where
    D: Decode,
    H: Fn(Vec<D::Item>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Vec<Verdict>, RetryLater>> + Send + 'static,
{
    let batches = Batches::new(settings, &subscription, decode, handler);
    let feed = Feed::new(settings.clone(), subscription);
    tasks.spawn("amqp-consumer", feed.run(batches, tasks.stop_token()));
}
