//! Settings of the services under test: the same as everywhere, with shorter intervals.

use crate::schedule::Schedule;
use crate::world::Plan;

/// For how long a refusal may be given after units came back.
pub const LEASE_MS: u64 = 400;

/// Times to connect are left as they are: on a busy machine a shorter one means that nobody ever connects.
const SETTINGS: [(&str, &str); 42] = [
    ("GATEWAY__UPSTREAM__TIMEOUT_MS", "2500"),
    ("GATEWAY__CATALOGUE__POLL_MS", "100"),
    ("GATEWAY__CATALOGUE__SALES_POLL_MS", "300"),
    ("STOCK_SERVICE__AMQP__HEARTBEAT_S", "2"),
    ("STOCK_SERVICE__AMQP__PUBLISH_TIMEOUT_MS", "700"),
    ("STOCK_SERVICE__ORDERS__CONNECT_TIMEOUT_MS", "500"),
    ("STOCK_SERVICE__ORDERS__TIMEOUT_MS", "1500"),
    ("STOCK_SERVICE__ORDERS__STOCK_TIMEOUT_MS", "3000"),
    ("STOCK_SERVICE__REDIS__BULK_TIMEOUT_MS", "1500"),
    ("STOCK_SERVICE__CATALOGUE__CACHE_MS", "50"),
    ("STOCK_SERVICE__LOAD__INTERVAL_MS", "100"),
    ("STOCK_SERVICE__LOAD__RETRY_MAX_MS", "500"),
    ("STOCK_SERVICE__LOAD__SYNC_INTERVAL_MS", "700"),
    ("STOCK_SERVICE__RELAY__INTERVAL_MS", "150"),
    ("STOCK_SERVICE__RELAY__AGE_MS", "500"),
    ("STOCK_SERVICE__RELAY__LOOKUP_AGE_MS", "1500"),
    ("ORDER_SERVICE__DATABASE__STATEMENT_TIMEOUT_MS", "1500"),
    ("ORDER_SERVICE__DATABASE__LOCK_TIMEOUT_MS", "1000"),
    ("ORDER_SERVICE__DATABASE__IDLE_IN_TRANSACTION_TIMEOUT_MS", "2500"),
    ("ORDER_SERVICE__AMQP__HEARTBEAT_S", "2"),
    ("ORDER_SERVICE__AMQP__PUBLISH_TIMEOUT_MS", "1500"),
    ("ORDER_SERVICE__EXPIRY__INTERVAL_MS", "100"),
    ("ORDER_SERVICE__OUTBOX__POLL_INTERVAL_MS", "100"),
    ("ORDER_SERVICE__OUTBOX__PUBLISH_TIMEOUT_MS", "1500"),
    ("ORDER_SERVICE__DEAD_LETTERS__INTERVAL_MS", "200"),
    ("ORDER_SERVICE__PAYMENTS__CALLBACK_TIMEOUT_MS", "1500"),
    ("ORDER_SERVICE__ASKING__INTERVAL_MS", "150"),
    ("ORDER_SERVICE__ASKING__FIRST_MS", "600"),
    ("ORDER_SERVICE__ASKING__LAST_MS", "2000"),
    ("ORDER_SERVICE__ASKING__PROVIDER_TIMEOUT_MS", "1500"),
    ("ORDER_SERVICE__ASKING__RETRY_MIN_MS", "100"),
    ("ORDER_SERVICE__ASKING__RETRY_MAX_MS", "500"),
    ("ORDER_SERVICE__REFUNDS__INTERVAL_MS", "150"),
    ("ORDER_SERVICE__REFUNDS__PROVIDER_TIMEOUT_MS", "1500"),
    ("ORDER_SERVICE__REFUNDS__RETRY_MIN_MS", "100"),
    ("ORDER_SERVICE__REFUNDS__RETRY_MAX_MS", "500"),
    ("NOTIFY_SERVICE__DATABASE__STATEMENT_TIMEOUT_MS", "1500"),
    ("NOTIFY_SERVICE__AMQP__HEARTBEAT_S", "2"),
    ("NOTIFY_SERVICE__SSE__SWEEP_MS", "300"),
    ("NOTIFY_SERVICE__WEBHOOKS__TIMEOUT_MS", "700"),
    ("NOTIFY_SERVICE__WEBHOOKS__LEASE_MS", "1500"),
    ("NOTIFY_SERVICE__WEBHOOKS__CIRCUIT_PAUSE_MAX_MS", "1000"),
];

/// The world of a schedule; `failpoints` are in every process' environment.
pub fn plan(schedule: &Schedule, failpoints: &str) -> Plan {
    let mut settings: Vec<(String, String)> =
        SETTINGS.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let mut set = |key: &str, value: String| settings.push((key.to_owned(), value));
    set("STOCK_SERVICE__CATALOGUE__LEASE_MS", LEASE_MS.to_string());
    set("STOCK_SERVICE__RECONCILE__INTERVAL_MS", schedule.reconcile_ms.to_string());
    // Somebody may die between a withdrawal and the lower total: the books are at rest only when it has come back.
    set("STOCK_SERVICE__RECONCILE__WITHDRAWN_MS", "3000".to_owned());
    set(
        "NOTIFY_SERVICE__WEBHOOKS__RETRY_MS",
        "200, 300, 400, 500, 500, 500, 1000, 1000, 1000, 1000".to_owned(),
    );
    set("NOTIFY_SERVICE__WEBHOOKS__POLL_MS", "100".to_owned());
    Plan { replicas: schedule.replicas, settings, failpoints: failpoints.to_owned() }
}
