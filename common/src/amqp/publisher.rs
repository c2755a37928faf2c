//! Publishing: persistent, mandatory, confirmed, with an outcome that says what is known.
//!
//! Each publish has a channel to itself until its confirm is in; idle channels are used again. With several
//! unconfirmed publishes on one channel, lapin hands a returned message to whichever confirm comes next, so that a
//! routed message would be reported as returned and the returned one as delivered.

mod supervisor;

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ErrorKind};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::supervisor::Supervisor;
use super::connection::declare_marker;
use super::{AmqpSettings, Topology, trace};
use crate::health::HealthCheck;
use crate::shutdown::Tasks;
use crate::telemetry::trace::{self as telemetry, Context};

/// AMQP's mark of a message that survives a restart of the broker.
const PERSISTENT: u8 = 2;

/// One message.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The exchange's name; empty: straight to the queue that `routing_key` names.
    pub exchange: &'static str,
    /// Which queues get it.
    pub routing_key: String,
    /// The envelope's id.
    pub message_id: Uuid,
    /// The envelope's type.
    pub kind: String,
    /// The envelope as JSON.
    pub body: Vec<u8>,
}

/// Why a publish is not known to have worked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// No connection, or the broker is in alarm, or too many publishes wait: nothing was sent.
    #[error("the broker cannot be reached")]
    NotReady,
    /// No queue takes such a message: it is on no queue. The topology is being declared again.
    #[error("no queue takes this message")]
    Unroutable,
    /// The queue is full, or failed: take it as not stored, though one of several queues may have it.
    #[error("the broker refused the message")]
    Refused,
    /// It was sent and no confirm came: it may or may not be on its queue.
    #[error("the broker did not confirm the message")]
    Unknown,
}

/// Publishes over a connection of its own, which it keeps alive. Cheap to clone.
///
/// Publishes in flight at the same time have no order among themselves; who needs one waits for the confirm.
#[derive(Clone)]
pub struct Publisher {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    settings: AmqpSettings,
    runtime: Handle,
    window: Arc<Semaphore>,
    window_size: u32,
    live: RwLock<Option<Arc<Live>>>,
    unroutable: Notify,
}

/// A connection while it works.
struct Live {
    connection: Arc<Connection>,
    idle: Mutex<Vec<Channel>>,
    /// A confirm did not come: the connection is to be given up.
    suspect: Notify,
    /// It has been given up: nobody waits for a confirm any more.
    lost: CancellationToken,
}

impl Publisher {
    /// Connects in the background, as one of the last tasks to stop; `topology` is declared at each connect.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(
        settings: &AmqpSettings,
        name: &str,
        topology: Topology,
        health: HealthCheck,
        tasks: &Tasks,
    ) -> Self {
        let window_size = u32::try_from(settings.publish_window).unwrap_or(u32::MAX);
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            settings: settings.clone(),
            runtime: Handle::current(),
            window: Arc::new(Semaphore::new(settings.publish_window)),
            window_size,
            live: RwLock::new(None),
            unroutable: Notify::new(),
        });
        let tasks = tasks.last();
        let supervisor = Supervisor { shared: shared.clone(), topology, health };
        tasks.spawn("amqp-publisher", supervisor.run(tasks.stop_token()));
        Self { shared }
    }

    /// Whether a publish would be tried: connected, and the broker is not in alarm.
    pub fn is_ready(&self) -> bool {
        self.shared.ready().is_some()
    }

    /// Publishes one message and waits for its confirm, until `deadline` or the publish time-out.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub async fn publish(&self, message: Outgoing, deadline: Instant) -> Result<(), PublishError> {
        let work = trace::publishing(message.exchange, &message.kind);
        let publishing = async { self.publish_with(message, trace::headers(), deadline).await };
        telemetry::within(work, publishing).await
    }

    /// As [`Publisher::publish`], with headers of the caller's choice.
    pub(super) async fn publish_with(
        &self,
        message: Outgoing,
        headers: FieldTable,
        deadline: Instant,
    ) -> Result<(), PublishError> {
        let began = Instant::now();
        let result = self.shared.publish(message, headers, deadline).await;
        let outcome = match result {
            Ok(()) => "confirmed",
            Err(PublishError::NotReady) => "not_ready",
            Err(PublishError::Unroutable) => "unroutable",
            Err(PublishError::Refused) => "refused",
            Err(PublishError::Unknown) => "unknown",
        };
        metrics::histogram!("amqp_publish_seconds", "outcome" => outcome).record(began.elapsed());
        if outcome != "confirmed" {
            telemetry::fail(&Context::current(), outcome);
        }
        result
    }

    /// Messages that wait in `queue`, those a consumer has in hand not counted; `None` if there is no such queue.
    ///
    /// # Errors
    /// [`PublishError::NotReady`]: the broker did not answer.
    pub async fn queue_length(&self, queue: &str, deadline: Instant) -> Result<Option<u32>, PublishError> {
        let live = self.shared.ready().ok_or(PublishError::NotReady)?;
        let asking = async {
            // A question about a missing queue closes its channel.
            let channel = live.connection.create_channel().await?;
            let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            channel.queue_declare(queue.into(), options, FieldTable::default()).await
        };
        match timeout_at(deadline, asking).await {
            Ok(Ok(queue)) => Ok(Some(queue.message_count())),
            Ok(Err(error)) if is_not_found(&error) => Ok(None),
            Ok(Err(_)) | Err(_) => Err(PublishError::NotReady),
        }
    }

    /// Makes an empty durable queue that stands for something by its name alone, if there is none.
    ///
    /// # Errors
    /// [`PublishError::NotReady`]: the broker did not answer; it may have made the queue.
    pub async fn create_marker(&self, name: &str, deadline: Instant) -> Result<(), PublishError> {
        let live = self.shared.ready().ok_or(PublishError::NotReady)?;
        let asking = async { declare_marker(&live.connection.create_channel().await?, name).await };
        match timeout_at(deadline, asking).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(PublishError::NotReady),
        }
    }
}

impl Shared {
    fn ready(&self) -> Option<Arc<Live>> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner).clone()?;
        let status = live.connection.status();
        (status.connected() && !status.blocked()).then_some(live)
    }

    fn set_live(&self, live: Option<Arc<Live>>) {
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = live;
    }

    async fn publish(
        self: &Arc<Self>,
        message: Outgoing,
        headers: FieldTable,
        deadline: Instant,
    ) -> Result<(), PublishError> {
        if Instant::now() >= deadline || self.ready().is_none() {
            return Err(PublishError::NotReady);
        }
        let permit = timeout_at(deadline, self.window.clone().acquire_owned()).await;
        let Ok(Ok(permit)) = permit else { return Err(PublishError::NotReady) };
        // Asked again: that may have taken a while.
        let live = self.ready().ok_or(PublishError::NotReady)?;
        let channel = match timeout_at(deadline, live.channel()).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(_)) | Err(_) => return Err(PublishError::NotReady),
        };
        // In a task of its own, which waits for the confirm even if the caller does not, to know whether it comes.
        let shared = self.clone();
        let sent = self.runtime.spawn(async move {
            let _permit = permit;
            shared.confirmed(&live, channel, message, headers).await
        });
        match timeout_at(deadline, sent).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(PublishError::Unknown),
        }
    }

    /// Sends a message on `channel`, which nobody else uses until this ends, and waits for its confirm.
    async fn confirmed(
        &self,
        live: &Live,
        channel: Channel,
        message: Outgoing,
        headers: FieldTable,
    ) -> Result<(), PublishError> {
        let confirmation = tokio::select! {
            confirmation = timeout(self.settings.publish_timeout(), send(&channel, message, headers)) => confirmation,
            () = live.lost.cancelled() => return Err(PublishError::Unknown),
        };
        let result = match confirmation {
            Ok(Ok(Confirmation::Ack(None))) => Ok(()),
            Ok(Ok(Confirmation::Ack(Some(_)))) => Err(PublishError::Unroutable),
            Ok(Ok(Confirmation::Nack(_))) => Err(PublishError::Refused),
            Ok(Ok(Confirmation::NotRequested)) => Err(PublishError::Unknown),
            // The exchange is missing; the broker has closed the channel.
            Ok(Err(error)) if is_not_found(&error) => Err(PublishError::Unroutable),
            Ok(Err(_)) => Err(PublishError::Unknown),
            Err(_) => {
                // A broker in alarm confirms nothing and is not to be left for that.
                if !live.connection.status().blocked() {
                    live.suspect.notify_one();
                }
                return Err(PublishError::Unknown);
            }
        };
        if result == Err(PublishError::Unroutable) {
            self.unroutable.notify_one();
        }
        // A queue that was full goes on refusing the channels that it has refused until it has drained, even if its bound
        // was raised meanwhile. Dropping this one closes it.
        if result != Err(PublishError::Refused) {
            live.give_back(channel);
        }
        result
    }
}

impl Live {
    async fn channel(&self) -> lapin::Result<Channel> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        while let Some(channel) = idle() {
            if channel.status().connected() {
                return Ok(channel);
            }
        }
        let channel = self.connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(channel)
    }

    fn give_back(&self, channel: Channel) {
        if channel.status().connected() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(channel);
        }
    }
}

async fn send(channel: &Channel, message: Outgoing, headers: FieldTable) -> lapin::Result<Confirmation> {
    let properties = BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_content_type("application/json".into())
        .with_message_id(message.message_id.to_string().into())
        .with_type(message.kind.into())
        .with_headers(headers);
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let (exchange, routing_key) = (message.exchange.into(), message.routing_key.into());
    channel.basic_publish(exchange, routing_key, options, &message.body, properties).await?.await
}

fn is_not_found(error: &lapin::Error) -> bool {
    let ErrorKind::ProtocolError(error) = error.kind() else { return false };
    matches!(error.kind(), AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND))
}
