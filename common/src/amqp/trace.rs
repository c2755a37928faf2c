//! Trace context in AMQP headers.

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable};
use opentelemetry::trace::TraceContextExt as _;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::telemetry::{TRACEPARENT_HEADER, current_traceparent, remote_context};

/// Most publishers that one batch is linked to.
const LINKS_MAX: usize = 32;

/// Headers with the trace context of the current span.
pub(super) fn headers() -> FieldTable {
    let mut headers = FieldTable::default();
    if let Some(traceparent) = current_traceparent() {
        headers.insert(TRACEPARENT_HEADER.into(), AMQPValue::LongString(traceparent.into()));
    }
    headers
}

/// A text header of a message.
pub(super) fn header(properties: &BasicProperties, name: &str) -> Option<String> {
    let value = properties.headers().as_ref()?.inner().get(name)?.as_long_string()?;
    Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// The span of one batch: a child of the first message's publisher, linked to those of the others.
pub(super) fn batch_span<'a>(queue: &str, deliveries: impl Iterator<Item = &'a Delivery>) -> Span {
    let span = tracing::info_span!("consume", queue, otel.kind = "consumer");
    let publishers = deliveries.filter_map(|delivery| header(&delivery.properties, TRACEPARENT_HEADER));
    for (index, traceparent) in publishers.take(LINKS_MAX).enumerate() {
        let context = remote_context(&traceparent);
        if index == 0 {
            // Fails only where tracing is off.
            let _not_traced = span.set_parent(context);
        } else {
            span.add_link(context.span().span_context().clone());
        }
    }
    span
}
