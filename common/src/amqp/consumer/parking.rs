//! Puts what can never work where an operator sees it.

use futures_util::StreamExt as _;
use futures_util::stream;
use lapin::types::AMQPValue;
use tokio::time::Instant;

use super::Source;
use crate::amqp::decode::Park;
use crate::amqp::{AmqpSettings, Outgoing, PublishError, Publisher, QUEUE_HEADER, REASON_HEADER, trace};

/// Messages that are parked at the same time.
const AT_ONCE: usize = 32;
/// Most bytes of a reason; the rest is cut off.
const REASON_BYTES_MAX: usize = 1024;

/// Parks messages of one queue.
pub(super) struct Parking {
    publisher: Publisher,
    timeout: std::time::Duration,
    queue: String,
    /// `None`: there is nowhere to park, and no need to.
    dead: Option<String>,
}

impl Parking {
    pub(super) fn new(settings: &AmqpSettings, source: &Source, publisher: Publisher) -> Self {
        let dead = match source {
            Source::Work(queue) | Source::Dead(queue) => Some(queue.dead_name()),
            Source::Wakeup { .. } => None,
        };
        Self { publisher, timeout: settings.publish_timeout(), queue: source.label(), dead }
    }

    /// Parks `messages`, and gives back those that could not be.
    pub(super) async fn park(&self, messages: Vec<Park>) -> Vec<Park> {
        let parked = stream::iter(messages).map(|message| async {
            match self.park_one(&message).await {
                Ok(()) => None,
                Err(error) => {
                    tracing::warn!(queue = self.queue, %error, "a message could not be parked yet");
                    Some(message)
                }
            }
        });
        let outcomes: Vec<Option<Park>> = parked.buffered(AT_ONCE).collect().await;
        outcomes.into_iter().flatten().collect()
    }

    async fn park_one(&self, message: &Park) -> Result<(), PublishError> {
        let reason = cut(&message.reason);
        if let Some(dead) = &self.dead {
            let outgoing = Outgoing {
                exchange: "",
                routing_key: dead.clone(),
                message_id: message.message_id,
                kind: message.kind.clone(),
                body: message.body.clone(),
            };
            let mut headers = trace::headers();
            headers.insert(REASON_HEADER.into(), AMQPValue::LongString(reason.into()));
            headers.insert(QUEUE_HEADER.into(), AMQPValue::LongString(self.queue.as_str().into()));
            self.publisher.publish_with(outgoing, headers, Instant::now() + self.timeout).await?;
        }
        metrics::counter!("amqp_parked_total", "queue" => self.queue.clone()).increment(1);
        tracing::error!(queue = self.queue, message_id = %message.message_id, reason, "a message was parked");
        Ok(())
    }
}

fn cut(reason: &str) -> &str {
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}
