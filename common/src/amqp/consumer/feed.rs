//! Gets deliveries from the broker, batch by batch, over one connection after the other.

use std::future::Future;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::batches::{Batches, Flow, Message};
use super::{RetryLater, Source, Subscription};
use crate::amqp::connection::{self, Backoff, GOOD_CONNECTION, Link};
use crate::amqp::decode::{Decode, Verdict};
use crate::amqp::{AmqpSettings, Topology};
use crate::topology::Exchange;

/// Longest pause between attempts to connect.
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(2);

/// How often the queue and its binding are declared again while nothing comes, and whether it feeds anybody is asked.
const REDECLARE_INTERVAL: Duration = Duration::from_secs(5);

/// One subscription and how to get at it.
pub(super) struct Feed {
    settings: AmqpSettings,
    subscription: Subscription,
    topology: Topology,
}

/// Why a connection was closed.
enum Ended {
    Stopped,
    LinesUp,
}

/// A subscription that works.
struct Open {
    link: Link,
    channel: Channel,
    deliveries: Consumer,
}

/// Whether a queue has been found without subscribers twice in a row. Once may mean "not known": a quorum queue whose
/// leader does not answer within 250 ms, as in an election, is said to have none.
#[derive(Default)]
struct Unfed {
    once: bool,
}

impl Unfed {
    fn twice(&mut self, consumers: u32) -> bool {
        let before = std::mem::replace(&mut self.once, consumers == 0);
        before && self.once
    }
}

impl Source {
    /// The queue's name, in logs and metrics.
    pub(super) fn label(&self) -> String {
        self.queue_name().unwrap_or_else(|| format!("wake-up on {}", self.hears().0.name()))
    }

    /// The queue's name, unless the broker chooses it.
    fn queue_name(&self) -> Option<String> {
        match self {
            Self::Work(queue) => Some(queue.name.clone()),
            Self::Dead(queue) => Some(queue.dead_name()),
            Self::Wakeup { .. } => None,
        }
    }

    /// The exchange that its messages come from, and their pattern.
    fn hears(&self) -> (Exchange, &str) {
        match self {
            Self::Work(queue) | Self::Dead(queue) => (queue.exchange, &queue.pattern),
            Self::Wakeup { exchange, pattern } => (*exchange, pattern),
        }
    }

    pub(super) fn topology(&self) -> Topology {
        match self {
            Self::Work(queue) | Self::Dead(queue) => {
                Topology { queues: vec![queue.clone()], ..Topology::default() }
            }
            Self::Wakeup { exchange, .. } => Topology { exchanges: vec![*exchange], ..Topology::default() },
        }
    }
}

impl Feed {
    pub(super) fn new(settings: AmqpSettings, subscription: Subscription) -> Self {
        let topology = subscription.source.topology();
        Self { settings, subscription, topology }
    }

    /// Consumes until `stop`, over one connection after the other.
    pub(super) async fn run<D, H, Fut>(
        self,
        batches: Batches<D, H>,
        stop: CancellationToken,
    ) -> anyhow::Result<()>
    where
        D: Decode,
        H: Fn(Vec<D::Item>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<Verdict>, RetryLater>> + Send,
    {
        let queue = self.subscription.source.label();
        let mut backoff = Backoff::up_to(RECONNECT_PAUSE_MAX);
        loop {
            let began = Instant::now();
            let Some(opened) = stop.run_until_cancelled(self.open(&queue)).await else { return Ok(()) };
            let ended = match opened {
                Ok(open) => {
                    self.subscription.health.ready();
                    self.consume(open, &batches, &stop).await
                }
                Err(error) => Err(error),
            };
            let error = match ended {
                Ok(Ended::Stopped) => return Ok(()),
                Ok(Ended::LinesUp) => continue,
                Err(error) => error,
            };
            if backoff.speaks() {
                tracing::warn!(queue, error = format!("{error:#}"), "not consuming");
            }
            self.subscription.health.not_ready("not consuming");
            // Not at each success to connect: a handler that panics at once must not be fed in a tight loop.
            if began.elapsed() > GOOD_CONNECTION {
                backoff.reset();
            }
            if stop.run_until_cancelled(sleep(backoff.next_pause())).await.is_none() {
                return Ok(());
            }
        }
    }

    async fn open(&self, queue: &str) -> anyhow::Result<Open> {
        let mut link = Link::open(&self.settings, queue).await?;
        let channel = link.declare(&self.settings, &self.topology).await?;
        let consuming = async {
            let name = match self.subscription.source.queue_name() {
                Some(name) => name,
                None => {
                    let (exchange, pattern) = self.subscription.source.hears();
                    connection::declare_wakeup(&channel, exchange, pattern).await?
                }
            };
            channel.basic_qos(self.subscription.prefetch, BasicQosOptions::default()).await?;
            let (tag, options) = ("".into(), BasicConsumeOptions::default());
            anyhow::Ok(channel.basic_consume(name.into(), tag, options, FieldTable::default()).await?)
        };
        let consuming = timeout(self.settings.connect_timeout(), consuming).await;
        let deliveries = consuming.context("subscribing took too long")?.context("subscribing")?;
        Ok(Open { link, channel, deliveries })
    }

    /// Consumes over one connection. `Ok` when told to stop, or to queue up again; an error means: drop the connection.
    async fn consume<D, H, Fut>(
        &self,
        open: Open,
        batches: &Batches<D, H>,
        stop: &CancellationToken,
    ) -> anyhow::Result<Ended>
    where
        D: Decode,
        H: Fn(Vec<D::Item>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<Verdict>, RetryLater>> + Send,
    {
        let Open { mut link, channel, mut deliveries } = open;
        let mut not_before = Instant::now();
        let mut declare_at = Instant::now() + REDECLARE_INTERVAL;
        let mut unfed = Unfed::default();
        let ended = loop {
            let first = tokio::select! {
                biased; // Stop first: a full queue must not keep the process alive.
                () = stop.cancelled() => break Ended::Stopped,
                () = self.subscription.line_up.notified() => break Ended::LinesUp,
                next = deliveries.next() => delivered(next)?,
                reason = link.lost() => anyhow::bail!("connection lost: {reason}"),
                // A binding that is gone tells nobody, and a queue that is gone not always.
                () = sleep_until(declare_at) => {
                    let counting = self.declare_and_count(&mut link);
                    let Some(consumers) = stop.run_until_cancelled(counting).await else { break Ended::Stopped };
                    let forgotten = consumers?.is_some_and(|consumers| unfed.twice(consumers));
                    anyhow::ensure!(!forgotten, "the queue has forgotten its subscriptions");
                    declare_at = Instant::now() + REDECLARE_INTERVAL;
                    continue;
                }
            };
            let mut batch = vec![batches.open(first)];
            self.fill(&mut batch, &mut deliveries, batches, not_before).await?;
            not_before = Instant::now() + self.subscription.min_interval;
            if let Flow::Stop = batches.handle(batch, &mut link, stop).await? {
                break Ended::Stopped;
            }
        };
        // Not cancelled first: of a queue with a single active consumer the next one would begin with what is in the queue,
        // and get what was handed out here, which is older, after it. A fence must not overtake a reservation.
        link.close().await;
        drop((channel, deliveries));
        Ok(ended)
    }

    /// Declares everything again, and gives the number of subscribers that the queue can feed. One that was deleted and
    /// declared again has none, and the broker's word that a subscription has ended may never come. `None` for a wake-up's
    /// queue: it goes with its connection, and nobody declares it again.
    async fn declare_and_count(&self, link: &mut Link) -> anyhow::Result<Option<u32>> {
        let channel = link.declare(&self.settings, &self.topology).await?;
        let Some(name) = self.subscription.source.queue_name() else { return Ok(None) };
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let asked = channel.queue_declare(name.into(), options, FieldTable::default());
        let queue =
            timeout(self.settings.connect_timeout(), asked).await.context("asking took too long")??;
        Ok(Some(queue.consumer_count()))
    }

    /// Takes what is there already, and what comes until `until`, as long as there is room.
    async fn fill<D, H, Fut>(
        &self,
        batch: &mut Vec<Message<D::Item>>,
        deliveries: &mut Consumer,
        batches: &Batches<D, H>,
        until: Instant,
    ) -> anyhow::Result<()>
    where
        D: Decode,
        H: Fn(Vec<D::Item>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<Verdict>, RetryLater>> + Send,
    {
        let mut events: usize = batch.iter().map(Message::events).sum();
        while events < self.subscription.batch_max {
            let next = match deliveries.next().now_or_never() {
                Some(next) => next,
                None => match timeout_at(until, deliveries.next()).await {
                    Ok(next) => next,
                    Err(_) => return Ok(()),
                },
            };
            let message = batches.open(delivered(next)?);
            events += message.events();
            batch.push(message);
        }
        Ok(())
    }
}

fn delivered(next: Option<lapin::Result<Delivery>>) -> anyhow::Result<Delivery> {
    next.context("the broker ended the subscription")?.context("channel failed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_without_subscribers_is_believed_the_second_time_in_a_row() {
        let mut unfed = Unfed::default();
        let answers = [0, 1, 0, 0, 0].map(|consumers| unfed.twice(consumers));
        assert_eq!(answers, [false, false, false, true, true]);
    }
}
