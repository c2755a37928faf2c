//! Every metric of this service; its README has the same list, and a test compares them.

use common::telemetry::metrics::{AMQP, COMMON, Label, Metric, a_counter, a_gauge, a_histogram};

/// What `/metrics` may show.
pub static METRICS: &[&[Metric]] = &[COMMON, AMQP, OWN];

const POOL: Label = Label::OneOf("pool", &["requests", "background"]);

static OWN: &[Metric] = &[
    a_counter("orders_placed_total", &[], "orders made"),
    a_counter(
        "order_batches_total",
        &[Label::UpTo("partition", 8)],
        "batches that this replica took from a partition",
    ),
    a_counter(
        "orders_rejected_total",
        &[Label::OneOf("reason", &["sold_out", "limit_exceeded"])],
        "orders stored as rejected",
    ),
    a_counter("order_transitions_total", &[Label::UpTo("to", 8)], "orders that changed, by their new status"),
    a_counter(
        "invariant_violations_total",
        &[],
        "transactions refused because the books would not have balanced",
    ),
    a_histogram("place_orders_batch_size", &[], "events in a transaction"),
    a_histogram("place_orders_transaction_seconds", &[], "time of a transaction that makes orders"),
    a_counter(
        "place_orders_looked_up_total",
        &[],
        "batches done again, as some of their orders seemed to exist",
    ),
    a_histogram("reservation_oldest_seconds", &[], "from the grant to the order, for the oldest of a batch"),
    a_counter("reservations_known_total", &[], "reservations that were orders already"),
    a_counter("reservations_late_epoch_total", &[], "reservations of an inventory that was replaced"),
    a_gauge(
        "reservations_waiting",
        &[Label::UpTo("partition", 8)],
        "messages in a partition queue that nobody has taken",
    ),
    a_gauge("outbox_depth", &[], "messages that wait to be published"),
    a_gauge("outbox_oldest_seconds", &[], "age of the oldest of them"),
    a_histogram("outbox_batch_size", &[], "messages published together"),
    a_counter("outbox_told_again_total", &[], "messages published again because the broker lost its data"),
    a_gauge("dead_letters", &[], "parked messages of all services"),
    a_counter("dead_letters_total", &[Label::UpTo("queue", 24)], "messages drained from dead-letter queues"),
    a_counter("expiry_brakes_total", &[], "how often far too many orders were late at once"),
    a_gauge("expiry_brake", &[], "1 while late orders end slowly"),
    a_gauge("expiry_late_orders", &[], "orders whose time is over"),
    a_gauge("expiry_lag_seconds", &[], "how late the oldest of them is"),
    a_counter(
        "payment_notices_total",
        &[Label::OneOf(
            "verdict",
            &[
                "kept",
                "refund",
                "failed",
                "known",
                "stale",
                "unknown_payment",
                "mismatch",
                "forged",
                "malformed",
            ],
        )],
        "notices of payment providers",
    ),
    a_counter(
        "payments_asked_total",
        &[Label::UpTo("result", 8)],
        "payments that a provider was asked about",
    ),
    a_gauge(
        "payments_unsettled",
        &[],
        "payments of orders whose time is over that the provider has not closed",
    ),
    a_gauge("payments_unsettled_oldest_seconds", &[], "how long the oldest of them has waited"),
    a_counter(
        "refund_attempts_total",
        &[Label::OneOf("result", &["refunded", "failed", "error"])],
        "attempts to give money back",
    ),
    a_gauge("refunds_pending", &[], "refunds that are not done"),
    a_gauge("refunds_pending_oldest_seconds", &[], "age of the oldest of them"),
    a_counter(
        "sandbox_notices_total",
        &[Label::OneOf("result", &["delivered", "failed"])],
        "notices of the sandbox provider",
    ),
    a_counter(
        "database_clashes_total",
        &[Label::OneOf("reason", &["serialization", "deadlock"])],
        "transactions tried again",
    ),
    a_counter(
        "reports_read_total",
        &[Label::OneOf("from", &["primary", "replica"])],
        "what admins list, by where it was read",
    ),
    a_gauge("database_pool_connections", &[POOL], "connections open"),
    a_gauge("database_pool_available", &[POOL], "connections that nobody uses"),
    a_gauge("database_pool_waiting", &[POOL], "tasks that wait for a connection"),
    a_gauge("database_pool_size_max", &[POOL], "most connections"),
    a_gauge("watched_orders", &[], "orders that somebody waits for"),
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
