//! Every metric of this service; its README has the same list, and a test compares them.

use common::telemetry::metrics::{AMQP, BATCHER, COMMON, Label, Metric, a_counter, a_gauge, a_histogram};

/// What `/metrics` may show.
pub static METRICS: &[&[Metric]] = &[COMMON, BATCHER, AMQP, OWN];

static OWN: &[Metric] = &[
    a_counter("events_stored_total", &[], "events stored"),
    a_counter("events_known_total", &[], "events that were stored already"),
    a_histogram(
        "event_lag_seconds",
        &[],
        "from the writing of an event to its commit here, for the oldest of a batch",
    ),
    a_gauge(
        "webhook_deliveries",
        &[Label::OneOf("state", &["pending", "parked"])],
        "deliveries that wait, and that were given up",
    ),
    a_gauge("webhook_overdue_seconds", &[], "how late the latest delivery is"),
    a_counter(
        "webhook_attempts_total",
        &[Label::OneOf("outcome", &["delivered", "failed", "parked"])],
        "attempts to deliver",
    ),
    a_histogram("webhook_attempt_seconds", &[], "time of an attempt"),
    a_gauge("webhook_circuits_open", &[], "webhooks that get one delivery at a time"),
    a_gauge("sse_streams", &[], "streams open"),
    a_counter(
        "sse_streams_ended_total",
        &[Label::OneOf("reason", &["slow", "replaced"])],
        "streams ended by us",
    ),
    a_gauge("database_pool_connections", &[], "connections open"),
    a_gauge("database_pool_available", &[], "connections that nobody uses"),
    a_gauge("database_pool_waiting", &[], "tasks that wait for a connection"),
    a_gauge("database_pool_size_max", &[], "most connections"),
];

#[cfg(test)]
mod tests {
    use common::telemetry::metrics::markdown;

    use super::*;

    #[test]
    fn the_readme_lists_every_metric() {
        let table = markdown(METRICS);
        let readme = include_str!("../README.md");
        assert!(readme.contains(&table), "README.md must have this list:\n{table}");
    }
}
