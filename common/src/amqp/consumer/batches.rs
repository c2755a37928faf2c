//! Takes one batch from its deliveries to its acknowledgement.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::FutureExt as _;
use lapin::message::Delivery;
use lapin::options::BasicAckOptions;
use metrics::{Counter, Histogram};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::parking::Parking;
use super::{RetryLater, Subscription};
use crate::amqp::connection::{Backoff, Link};
use crate::amqp::decode::{At, Decode, Decoded, Park, Verdict};
use crate::amqp::{AmqpSettings, Topology, trace};
use crate::failpoint;
use crate::health::HealthCheck;
use crate::telemetry::trace::within;

/// Longest pause before a batch is handed out again.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(1);

/// A delivery and what is in it.
pub(super) struct Message<T> {
    delivery: Delivery,
    content: Decoded<T>,
}

impl<T> Message<T> {
    pub(super) fn events(&self) -> usize {
        self.content.items.len() + self.content.parked.len()
    }
}

/// Whether to go on after a batch.
pub(super) enum Flow {
    Continue,
    Stop,
}

/// What is done with every batch of a subscription.
pub(super) struct Batches<D, H> {
    decode: D,
    handler: H,
    parking: Parking,
    settings: AmqpSettings,
    topology: Topology,
    queue: String,
    health: HealthCheck,
    sizes: Histogram,
    retries: Counter,
}

impl<D, H, Fut> Batches<D, H>
where
    D: Decode,
    H: Fn(Vec<D::Item>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Vec<Verdict>, RetryLater>> + Send,
{
    pub(super) fn new(settings: &AmqpSettings, subscription: &Subscription, decode: D, handler: H) -> Self {
        let source = &subscription.source;
        let queue = source.label();
        Self {
            decode,
            handler,
            parking: Parking::new(settings, source, subscription.publisher.clone()),
            settings: settings.clone(),
            topology: source.topology(),
            health: subscription.health.clone(),
            sizes: metrics::histogram!("amqp_batch_size", "queue" => queue.clone()),
            retries: metrics::counter!("amqp_retries_total", "queue" => queue.clone()),
            queue,
        }
    }

    pub(super) fn open(&self, delivery: Delivery) -> Message<D::Item> {
        let content = self.decode.decode(&delivery);
        Message { delivery, content }
    }

    /// Hands the batch out until it is handled, parks what cannot work, then acknowledges all of it.
    ///
    /// # Errors
    /// The connection must be dropped, so that the broker delivers the batch again.
    pub(super) async fn handle(
        &self,
        batch: Vec<Message<D::Item>>,
        link: &mut Link,
        stop: &CancellationToken,
    ) -> anyhow::Result<Flow> {
        let work = trace::handling(&self.queue, batch.iter().map(|message| &message.delivery));
        self.sizes.record(batch.iter().map(Message::events).sum::<usize>() as f64);
        within(work, self.settle(batch, link, stop)).await
    }

    async fn settle(
        &self,
        mut batch: Vec<Message<D::Item>>,
        link: &mut Link,
        stop: &CancellationToken,
    ) -> anyhow::Result<Flow> {
        let mut backoff = Backoff::up_to(RETRY_PAUSE_MAX);
        let mut parks = loop {
            match self.attempt(&mut batch).await? {
                Ok(parks) => break parks,
                Err(RetryLater(cause)) => {
                    if backoff.speaks() {
                        tracing::warn!(queue = self.queue, error = format!("{cause:#}"), "will be retried");
                    }
                    self.retries.increment(1);
                    self.health.not_ready("waiting to retry");
                }
            }
            if let Flow::Stop = pause(&mut backoff, link, stop).await? {
                return Ok(Flow::Stop);
            }
            for message in &mut batch {
                message.content = self.decode.decode(&message.delivery);
            }
        };
        loop {
            parks = self.parking.park(parks).await;
            if parks.is_empty() {
                break;
            }
            self.health.not_ready("waiting to park a message");
            // Perhaps the dead-letter queue is gone.
            link.declare(&self.settings, &self.topology).await?;
            if let Flow::Stop = pause(&mut backoff, link, stop).await? {
                return Ok(Flow::Stop);
            }
        }
        self.health.ready();
        let crash_points = self.decode.acknowledging();
        if let Some([before, _]) = crash_points {
            failpoint::reach(before).await?;
        }
        if let Some(last) = batch.last() {
            self.acknowledge(&last.delivery).await?;
        }
        if let Some([_, after]) = crash_points {
            failpoint::reach(after).await?;
        }
        Ok(Flow::Continue)
    }

    /// One call of the handler; what it says is to be parked, in the order of the batch.
    async fn attempt(&self, batch: &mut [Message<D::Item>]) -> anyhow::Result<Result<Vec<Park>, RetryLater>> {
        let (mut items, mut origins, mut parks) = (Vec::new(), Vec::new(), Vec::new());
        for (index, message) in batch.iter_mut().enumerate() {
            parks.append(&mut message.content.parked);
            for At { position, item } in message.content.items.drain(..) {
                origins.push((index, position));
                items.push(item);
            }
        }
        if items.is_empty() {
            return Ok(Ok(parks));
        }
        let handled = AssertUnwindSafe(async { (self.handler)(items).await }).catch_unwind().await;
        let verdicts = match handled {
            Ok(Ok(verdicts)) => verdicts,
            Ok(Err(later)) => return Ok(Err(later)),
            Err(_) => anyhow::bail!("the handler panicked"),
        };
        let (events, given) = (origins.len(), verdicts.len());
        anyhow::ensure!(events == given, "the handler gave {given} verdicts on {events} events");
        for (verdict, (index, position)) in verdicts.into_iter().zip(origins) {
            if let Verdict::Park(reason) = verdict {
                parks.push(self.decode.single(&batch[index].delivery, position, reason));
            }
        }
        Ok(Ok(parks))
    }

    /// The whole batch at once: deliveries have ascending tags, and nothing older is open.
    async fn acknowledge(&self, last: &Delivery) -> anyhow::Result<()> {
        let options = BasicAckOptions { multiple: true };
        let acknowledged = timeout(self.settings.publish_timeout(), last.ack(options)).await;
        let sent = acknowledged.context("acknowledging took too long")?.context("acknowledging")?;
        anyhow::ensure!(sent, "the connection was lost before the batch was acknowledged");
        Ok(())
    }
}

/// Waits before another try. An error: the connection is gone, and the batch with it.
async fn pause(backoff: &mut Backoff, link: &mut Link, stop: &CancellationToken) -> anyhow::Result<Flow> {
    tokio::select! {
        () = sleep(backoff.next_pause()) => Ok(Flow::Continue),
        () = stop.cancelled() => Ok(Flow::Stop),
        reason = link.lost() => anyhow::bail!("connection lost: {reason}"),
    }
}
