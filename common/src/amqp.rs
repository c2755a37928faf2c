//! AMQP: publish with a confirm, consume in batches, survive the broker.
//!
//! lapin's own recovery is not used: it can hang after the broker was killed. Instead any error or time-out drops
//! the connection; a supervisor opens another one after a jittered back-off, declares the topology again and goes on.
//! Publishing and consuming have connections of their own, because a broker in alarm stops reading from publishers.

mod connection;
mod consumer;
mod decode;
mod publisher;
mod socket;
mod trace;

use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;

use crate::settings::SettingsError;
use crate::topology::{Exchange, Queue};

pub use consumer::{RetryLater, Source, Subscription, consume, consume_raw};
pub use decode::{Accepts, Incoming, Raw, Verdict};
pub use publisher::{Outgoing, PublishError, Publisher};

/// The header of a parked message that says why it was parked.
pub const REASON_HEADER: &str = "x-stampede-reason";
/// The header of a parked message that names the queue it was parked from.
pub const QUEUE_HEADER: &str = "x-stampede-queue";

/// Most publishes that may wait for their confirm at a time.
const PUBLISH_WINDOW_MAX: usize = 1024;

/// How to reach the broker, and how long to wait for it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AmqpSettings {
    /// `amqp://user:password@host:port/vhost`.
    pub url: SecretString,
    /// Further nodes of the broker's cluster; each attempt to connect takes all of them, `url`'s too, in random order.
    pub addresses: NodeList,
    /// Seconds between heartbeats; a connection is given up after two without one.
    pub heartbeat_s: u16,
    /// Most time to connect and to declare, in milliseconds.
    pub connect_timeout_ms: u64,
    /// Most time for a confirm, in milliseconds; after it the connection is given up too.
    pub publish_timeout_ms: u64,
    /// Most publishes that wait for their confirm; each has a channel of its own meanwhile.
    pub publish_window: usize,
}

/// Nodes of a broker, `host:port` with commas between; may be empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct NodeList(Vec<(String, u16)>);

impl TryFrom<String> for NodeList {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let nodes = parts.map(|part| {
            let (host, port) = part.rsplit_once(':').filter(|(host, _)| !host.is_empty())?;
            Some((host.to_owned(), port.parse().ok()?))
        });
        let nodes: Option<_> = nodes.collect();
        nodes.map(Self).ok_or_else(|| "must be host:port with commas between".to_owned())
    }
}

impl AmqpSettings {
    /// Refuses values that could never work.
    ///
    /// # Errors
    /// Names the key below `amqp`.
    pub fn validate(&self) -> Result<(), SettingsError> {
        connection::uri(self)?;
        let durations = [
            ("amqp.heartbeat_s", u64::from(self.heartbeat_s)),
            ("amqp.connect_timeout_ms", self.connect_timeout_ms),
            ("amqp.publish_timeout_ms", self.publish_timeout_ms),
        ];
        for (key, value) in durations {
            if value == 0 {
                return Err(SettingsError::invalid(key, "must not be 0"));
            }
        }
        // Each publish in the window has a channel, and a connection has 2,047 of them by default.
        if !(1..=PUBLISH_WINDOW_MAX).contains(&self.publish_window) {
            let reason = format!("must be between 1 and {PUBLISH_WINDOW_MAX}");
            return Err(SettingsError::invalid("amqp.publish_window", reason));
        }
        Ok(())
    }

    fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    fn publish_timeout(&self) -> Duration {
        Duration::from_millis(self.publish_timeout_ms)
    }
}

/// What a connection declares each time it is opened.
#[derive(Debug, Clone, Default)]
pub struct Topology {
    /// The exchanges that are published to.
    pub exchanges: Vec<Exchange>,
    /// Queues with their exchange, binding and dead-letter queue.
    pub queues: Vec<Queue>,
}
