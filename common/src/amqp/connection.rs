//! One connection from opening to loss, and what is declared on it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties, Event, ExchangeKind};
use rand::seq::SliceRandom as _;
use secrecy::ExposeSecret as _;
use tokio::time::timeout;

use super::socket::{self, Lifeline};
use super::{AmqpSettings, Topology};
use crate::settings::SettingsError;
use crate::topology::{DELIVERY_LIMIT, Exchange, Queue};

/// Most messages in a queue; beyond it the broker refuses, so that nothing is dropped. A message holds up to 256 events.
const QUEUE_LENGTH_MAX: i64 = 1_000_000;
/// Most hints in a wake-up queue.
const WAKEUP_LENGTH_MAX: i64 = 10_000;
/// Longest frame, in bytes; a longer message takes several. lapin keeps room for 64 frames per connection, which at the
/// broker's default of 128 KiB is 8 MiB for each of a process's consumers.
const FRAME_MAX_BYTES: u32 = 16 * 1024;
/// How often the state of a connection is looked at, should its loss not be told.
const WATCHDOG_INTERVAL: Duration = Duration::from_secs(1);
/// Most time for a polite goodbye.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Where to connect to.
pub(super) fn uri(settings: &AmqpSettings) -> Result<AMQPUri, SettingsError> {
    // The parser's error is not shown: it repeats the address, which holds a password.
    let uri = settings.url.expose_secret().parse::<AMQPUri>();
    let mut uri = uri.map_err(|_| SettingsError::invalid("amqp.url", "is not an AMQP address"))?;
    uri.query.heartbeat = Some(settings.heartbeat_s);
    uri.query.frame_max = Some(FRAME_MAX_BYTES);
    Ok(uri)
}

/// The broker's nodes, with the same user and virtual host.
fn nodes(settings: &AmqpSettings) -> Result<Vec<AMQPUri>, SettingsError> {
    let first = uri(settings)?;
    let further = settings.addresses.0.iter().map(|(host, port)| {
        let mut node = first.clone();
        node.authority.host.clone_from(host);
        node.authority.port = *port;
        node
    });
    Ok(std::iter::once(first.clone()).chain(further).collect())
}

/// A connection and what is heard about it.
pub(super) struct Link {
    pub(super) connection: Arc<Connection>,
    events: BoxStream<'static, Event>,
    /// Cuts the connection when this is dropped, whoever else holds it.
    _lifeline: Lifeline,
}

/// What happened to a connection.
#[derive(Debug)]
pub(super) enum Change {
    /// It is of no use any more, for this reason.
    Lost(String),
    /// The broker takes no messages: an alarm.
    Blocked(String),
    /// It takes them again.
    Unblocked,
}

impl Link {
    pub(super) async fn open(settings: &AmqpSettings, name: &str) -> anyhow::Result<Self> {
        let mut nodes = nodes(settings)?;
        // So that connections spread over the nodes, and a lost one is not asked first by everybody.
        nodes.shuffle(&mut rand::rng());
        let mut failed = anyhow::anyhow!("no node to connect to");
        for uri in nodes {
            let (host, port) = (uri.authority.host.clone(), uri.authority.port);
            let properties = ConnectionProperties::default().with_connection_name(name.into());
            match socket::connect(uri, properties, settings.connect_timeout()).await {
                Ok((connection, lifeline)) => return Ok(Self::of(connection, lifeline)),
                Err(error) => failed = error.context(format!("connecting to {host}:{port}")),
            }
        }
        Err(failed)
    }

    fn of(connection: Connection, lifeline: Lifeline) -> Self {
        let events = connection.events_listener().boxed();
        Self { connection: Arc::new(connection), events, _lifeline: lifeline }
    }

    /// Waits for the next change; cancel-safe.
    pub(super) async fn change(&mut self) -> Change {
        loop {
            match timeout(WATCHDOG_INTERVAL, self.events.next()).await {
                Ok(Some(Event::Error(error))) if !self.connection.status().connected() => {
                    return Change::Lost(error.to_string());
                }
                Ok(Some(Event::ConnectionBlocked(reason))) => return Change::Blocked(reason),
                Ok(Some(Event::ConnectionUnblocked)) => return Change::Unblocked,
                // A channel's error is seen by whoever uses the channel.
                Ok(Some(_)) => {}
                Ok(None) => return Change::Lost("closed".to_owned()),
                Err(_) if !self.connection.status().connected() => return Change::Lost("closed".to_owned()),
                Err(_) => {}
            }
        }
    }

    /// Waits until the connection is of no use any more, and says why; cancel-safe.
    pub(super) async fn lost(&mut self) -> String {
        loop {
            if let Change::Lost(reason) = self.change().await {
                return reason;
            }
        }
    }

    /// Opens a channel and declares `topology` on it; all that exists already stays as it is.
    pub(super) async fn declare(
        &mut self,
        settings: &AmqpSettings,
        topology: &Topology,
    ) -> anyhow::Result<Channel> {
        let declaring = async {
            let channel = self.connection.create_channel().await?;
            for exchange in &topology.exchanges {
                declare_exchange(&channel, *exchange).await?;
            }
            for queue in &topology.queues {
                declare_queue(&channel, queue).await?;
            }
            anyhow::Ok(channel)
        };
        timeout(settings.connect_timeout(), declaring).await.context("declaring took too long")?
    }

    pub(super) async fn close(self) {
        // A goodbye that fails or takes too long changes nothing: dropping closes too.
        let _unheard = timeout(CLOSE_TIMEOUT, self.connection.close(200, "stopping".into())).await;
    }
}

pub(super) async fn declare_exchange(channel: &Channel, exchange: Exchange) -> anyhow::Result<()> {
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel
        .exchange_declare(exchange.name().into(), ExchangeKind::Topic, options, FieldTable::default())
        .await
        .with_context(|| format!("declaring exchange {}", exchange.name()))
}

async fn declare_queue(channel: &Channel, queue: &Queue) -> anyhow::Result<()> {
    declare_exchange(channel, queue.exchange).await?;
    let dead = queue.dead_name();
    declare_quorum(channel, &dead, bounds()).await?;

    let mut arguments = bounds();
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(DELIVERY_LIMIT));
    arguments.insert("x-dead-letter-exchange".into(), text(""));
    arguments.insert("x-dead-letter-routing-key".into(), text(&dead));
    arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
    if queue.single_active_consumer {
        arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    }
    declare_quorum(channel, &queue.name, arguments).await?;
    channel
        .queue_bind(
            queue.name.as_str().into(),
            queue.exchange.name().into(),
            queue.pattern.as_str().into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .with_context(|| format!("binding queue {}", queue.name))
}

/// A queue that holds nothing and is known by its name.
pub(super) async fn declare_marker(channel: &Channel, name: &str) -> anyhow::Result<()> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    declare_quorum(channel, name, arguments).await
}

async fn declare_quorum(channel: &Channel, name: &str, arguments: FieldTable) -> anyhow::Result<()> {
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(name.into(), options, arguments).await;
    declared.with_context(|| format!("declaring queue {name}"))?;
    Ok(())
}

/// A queue of this connection alone, bound to what `pattern` says; gives its name. When it is full, old hints go.
pub(super) async fn declare_wakeup(
    channel: &Channel,
    exchange: Exchange,
    pattern: &str,
) -> anyhow::Result<String> {
    let options =
        QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(WAKEUP_LENGTH_MAX));
    arguments.insert("x-overflow".into(), text("drop-head"));
    let queue = channel.queue_declare("".into(), options, arguments).await.context("declaring a queue")?;
    let name = queue.name().to_string();
    let (exchange, bind) = (exchange.name().into(), QueueBindOptions::default());
    channel.queue_bind(name.as_str().into(), exchange, pattern.into(), bind, FieldTable::default()).await?;
    Ok(name)
}

/// What work queues and dead-letter queues have in common.
fn bounds() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    arguments.insert("x-overflow".into(), text("reject-publish"));
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(QUEUE_LENGTH_MAX));
    arguments
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// Growing pauses with full jitter, so that replicas do not come back in step.
pub(super) struct Backoff {
    cap: Duration,
    cap_max: Duration,
    pauses: u32,
}

/// A connection that lived so long was good: the next one is not waited for as after a failure.
pub(super) const GOOD_CONNECTION: Duration = Duration::from_secs(10);

impl Backoff {
    const CAP_FIRST: Duration = Duration::from_millis(100);
    const PAUSE_MIN: Duration = Duration::from_millis(20);
    const SPEAKS_EVERY: u32 = 30;

    pub(super) fn up_to(cap_max: Duration) -> Self {
        Self { cap: Self::CAP_FIRST, cap_max, pauses: 0 }
    }

    pub(super) fn next_pause(&mut self) -> Duration {
        let pause = self.cap.mul_f64(rand::random()).max(Self::PAUSE_MIN);
        self.cap = (self.cap * 2).min(self.cap_max);
        self.pauses = self.pauses.saturating_add(1);
        pause
    }

    pub(super) fn reset(&mut self) {
        *self = Self::up_to(self.cap_max);
    }

    /// Whether a failure now is worth a line in the log: the first one is, and one of many after it.
    pub(super) fn speaks(&self) -> bool {
        self.pauses.is_multiple_of(Self::SPEAKS_EVERY)
    }
}
