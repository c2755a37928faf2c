//! Trace context in AMQP headers.

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable};

use crate::telemetry::trace::{self, Context, Describe, Origin, SpanKind, TRACEPARENT_HEADER};

/// The span of one publish; see [`trace::child`].
pub(super) fn publishing(exchange: &'static str, kind: &str) -> Context {
    trace::child(|| {
        Describe::new(format!("publish {kind}"), SpanKind::Producer)
            .with("messaging.system", "rabbitmq")
            .with("messaging.operation.type", "send")
            .with("messaging.destination.name", exchange)
    })
}

/// Headers with the trace context of the current work.
pub(super) fn headers() -> FieldTable {
    let mut headers = FieldTable::default();
    if let Some(traceparent) = trace::current_traceparent() {
        headers.insert(TRACEPARENT_HEADER.into(), AMQPValue::LongString(traceparent.into()));
    }
    headers
}

/// A text header of a message.
pub(super) fn header(properties: &BasicProperties, name: &str) -> Option<String> {
    let value = properties.headers().as_ref()?.inner().get(name)?.as_long_string()?;
    Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// The work on one batch, in the name of those who published its messages; see [`trace::batch`].
pub(super) fn handling<'a>(queue: &str, deliveries: impl ExactSizeIterator<Item = &'a Delivery>) -> Context {
    let messages = deliveries.len();
    let publishers = deliveries
        .map(|delivery| header(&delivery.properties, TRACEPARENT_HEADER))
        .map(|traceparent| traceparent.map_or(Origin::NONE, |traceparent| Origin::parse(&traceparent)));
    trace::batch(publishers, || {
        Describe::new(format!("process {queue}"), SpanKind::Consumer)
            .with("messaging.system", "rabbitmq")
            .with("messaging.operation.type", "process")
            .with("messaging.destination.name", queue.to_owned())
            .with("messaging.batch.message_count", i64::try_from(messages).unwrap_or(i64::MAX))
    })
}
