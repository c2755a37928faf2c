//! Every metric of this service; its README has the same list, and a test compares them.

use common::telemetry::metrics::{BATCHER, COMMON, Label, Metric, a_counter, a_gauge};

/// What `/metrics` may show.
pub static METRICS: &[&[Metric]] = &[COMMON, BATCHER, OWN];

const UPSTREAM: Label = Label::OneOf("upstream", &["stock-service", "order-service", "notify-service"]);

static OWN: &[Metric] = &[
    a_gauge("gateway_catalogue_age_seconds", &[], "age of the snapshot that refusals are made from"),
    a_counter("gateway_refusals_total", &[Label::UpTo("code", 40)], "refusals, by the code of the problem"),
    a_counter("gateway_orders_accepted_total", &[], "orders answered with 202, repetitions included"),
    a_gauge(
        "gateway_orders_under_way",
        &[],
        "orders that are tried or waited for, of `admission.orders_max`",
    ),
    a_gauge("gateway_breaker_state", &[UPSTREAM], "circuit breaker of a service: 0 closed, 1 trying, 2 open"),
    a_counter("gateway_breaker_opened_total", &[UPSTREAM], "how often a circuit breaker opened"),
    a_gauge("gateway_concurrency_limit", &[UPSTREAM], "calls at a time that a service is found to take"),
    a_gauge("gateway_calls_in_flight", &[UPSTREAM], "calls that are under way"),
    a_counter(
        "gateway_calls_refused_total",
        &[UPSTREAM, Label::OneOf("reason", &["open", "busy"])],
        "calls that were not made",
    ),
    a_counter("gateway_retries_total", &[UPSTREAM], "questions asked a second time"),
    a_counter("gateway_limit_refusals_total", &[Label::UpTo("limit", 20)], "requests over a rate limit"),
    a_counter(
        "gateway_limit_alone_total",
        &[],
        "orders limited by this replica alone because Redis gave no answer",
    ),
    a_counter(
        "gateway_store_calls_total",
        &[
            Label::OneOf("script", &["limit", "line_open", "line_close", "line_places", "velocity"]),
            Label::OneOf("outcome", &["ok", "error"]),
        ],
        "calls of Redis",
    ),
    a_gauge("gateway_line_waiting", &[Label::UpTo("item", 1000)], "people in the line of an item"),
    a_counter(
        "gateway_challenges_total",
        &[Label::OneOf("outcome", &["set", "solved"])],
        "challenges set and solved",
    ),
    a_gauge("gateway_event_streams", &[], "event streams passed through"),
    a_counter("gateway_sale_cache_rebuilds_total", &[], "sales read anew for the listing"),
    a_gauge("gateway_block_list_age_seconds", &[], "age of the list of blocked users and addresses"),
    a_counter(
        "gateway_velocity_refusals_total",
        &[Label::UpTo("rule", 20)],
        "requests refused by a rule about how fast somebody goes",
    ),
    a_counter(
        "gateway_velocity_unknown_total",
        &[],
        "requests that such rules could not judge because Redis gave no answer",
    ),
    a_counter(
        "gateway_retries_looked_up_total",
        &[Label::OneOf("outcome", &["found", "none", "unknown", "refused"])],
        "refused orders looked up because they may repeat an accepted one",
    ),
    a_gauge("auth_jwks_keys", &[], "keys of the identity provider that are known"),
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
