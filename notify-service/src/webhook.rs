//! Webhooks: what is sent, to whom, and how.
//!
//! Deliveries are rows ([`crate::db::queue`]), written with the event that they tell of. Every replica runs a
//! [`dispatcher`] that takes due ones for a time, sends them ([`sender`]), and records what came of it. A replica that
//! dies in between loses its lease, and the delivery is repeated with the same `webhook-id` and the same body.

pub mod circuit;
pub mod dispatcher;
pub mod resolver;
pub mod sender;
pub mod signature;
pub mod target;

use chrono::{DateTime, Utc};
use common::api::admin::AdminOrder;
use common::messages::order::{ALL_V1, OrderV1};
use serde::Serialize;
use uuid::Uuid;

/// The type that stands for all of them.
pub const ALL_TYPES: &str = "order.*";

/// The `webhook-id` of an event: the same for every attempt and every webhook.
pub fn message_id(event_id: Uuid) -> String {
    format!("msg_{}", event_id.simple())
}

/// Whether a webhook can ask for `kind`.
pub fn is_type(kind: &str) -> bool {
    kind == ALL_TYPES || ALL_V1.contains(&kind)
}

/// Whether a webhook that asked for `types` gets an event of type `kind`.
pub fn wants(types: &[String], kind: &str) -> bool {
    types.iter().any(|wanted| wanted == ALL_TYPES || wanted == kind)
}

/// The body of a delivery, as Standard Webhooks has it: the order with its owner, under the event's type and time.
///
/// # Errors
/// The order cannot be written as JSON.
pub fn body(kind: &str, occurred_at: DateTime<Utc>, event: &OrderV1) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Body<'a> {
        #[serde(rename = "type")]
        kind: &'a str,
        timestamp: DateTime<Utc>,
        data: AdminOrder,
    }
    let data = AdminOrder { order: event.order.clone(), user_id: event.user_id.clone() };
    serde_json::to_string(&Body { kind, timestamp: occurred_at, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_gets_what_it_asked_for() {
        let paid = vec!["order.paid.v1".to_owned()];
        assert!(wants(&paid, "order.paid.v1"));
        assert!(!wants(&paid, "order.created.v1"));
        assert!(ALL_V1.iter().all(|kind| wants(&[ALL_TYPES.to_owned()], kind)));
    }
}
