//! Every metric of this service; its README has the same list, and a test compares them.

use common::telemetry::metrics::{AMQP, BATCHER, COMMON, Label, Metric, a_counter, a_gauge, a_histogram};

/// What `/metrics` may show.
pub static METRICS: &[&[Metric]] = &[COMMON, BATCHER, AMQP, OWN];

static OWN: &[Metric] = &[
    a_counter(
        "stock_reservations_total",
        &[Label::OneOf(
            "outcome",
            &[
                "accepted",
                "sold_out",
                "limit_exceeded",
                "not_started",
                "ended",
                "paused",
                "place_required",
                "unknown_item",
                "idempotency_mismatch",
                "deadline_passed",
                "too_busy",
                "unavailable",
                "unknown",
            ],
        )],
        "answers to requests for units",
    ),
    a_counter(
        "stock_refusals_total",
        &[Label::OneOf(
            "reason",
            &[
                "sold_out",
                "limit_exceeded",
                "not_started",
                "ended",
                "paused",
                "idempotency_mismatch",
                "deadline_passed",
                "too_many_attempts",
                "reopening",
                "place_required",
            ],
        )],
        "what the script refused, by reason",
    ),
    a_counter("stock_grants_total", &[], "reservations granted and announced, repetitions included"),
    a_histogram(
        "redis_script_seconds",
        &[Label::UpTo("script", 18), Label::OneOf("outcome", &["ok", "error"])],
        "time of a script call",
    ),
    a_counter("stock_loads_total", &[Label::UpTo("outcome", 6)], "loads of items"),
    a_gauge("stock_items", &[], "items known"),
    a_gauge("stock_gates_closed", &[], "items that nothing can be sold of now"),
    a_gauge("stock_gates_kept_closed", &[], "items kept closed until somebody has looked"),
    a_gauge("stock_unsettled", &[], "reservations that order-service has not reported yet"),
    a_gauge("stock_unsettled_age_seconds", &[], "age of the oldest of them"),
    a_gauge("stock_withheld_units", &[], "units that Redis and Postgres disagree about"),
    a_gauge("stock_item_units_available", &[Label::UpTo("item", 200)], "units left of an item on sale"),
    a_gauge("stock_item_units_total", &[Label::UpTo("item", 200)], "units in the sale of an item"),
    a_gauge("stock_item_holds", &[Label::UpTo("item", 200)], "orders of an item that the inventory knows"),
    a_counter("stock_republished_total", &[], "reservations published again"),
    a_counter(
        "stock_orders_applied_total",
        &[Label::OneOf(
            "outcome",
            &[
                "unchanged",
                "noted",
                "gave_back",
                "adopted",
                "tombstone",
                "withheld",
                "kept",
                "dropped",
                "contradicts",
            ],
        )],
        "orders that the books followed",
    ),
    a_counter(
        "stock_books_checked_total",
        &[Label::OneOf("outcome", &["sound", "wrong", "moving", "shut"])],
        "checks of the books of an item",
    ),
    a_counter(
        "stock_books_wrong_total",
        &[Label::OneOf("kind", &["garbled", "negative", "sum", "buyers", "no_hold", "transition"])],
        "books that contradicted themselves",
    ),
    a_counter(
        "stock_drift_total",
        &[Label::OneOf("kind", &["missing_here", "lost_there", "behind"])],
        "orders that Redis and order-service did not agree about",
    ),
    a_counter(
        "stock_source_behind_total",
        &[Label::OneOf("kind", &["epoch_behind", "version_behind", "item_unknown", "order_lost"])],
        "items of which order-service knows less than it once did",
    ),
    a_histogram("stock_load_seconds", &[Label::UpTo("step", 12)], "time of a step of a load"),
    a_counter("stock_reclaims_total", &[], "withdrawn units taken back because nobody lowered the total"),
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
