//! Messages that can never be handled, sent to the work queues.

use std::time::Duration;

use anyhow::Context as _;
use common::ids::ItemId;
use common::topology::stock_routing_key;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::{Instant, sleep_until, timeout};
use uuid::Uuid;

use crate::schedule::{Poison, PoisonKind};

/// Most time for one message to be sent and confirmed.
const PATIENCE: Duration = Duration::from_secs(2);

/// A poison whose arrival the broker confirmed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Injected {
    /// What is found in its body.
    pub marker: String,
    /// Into how many work queues it went.
    pub queues: usize,
}

/// Sends every poison at its time; those that the broker did not confirm are left out (and may have arrived).
///
/// Reservations go where those of `item` go.
pub async fn run(
    url: String,
    item: ItemId,
    poison: Vec<Poison>,
    began: Instant,
) -> (Vec<Injected>, Vec<String>) {
    let (mut injected, mut unsure) = (Vec::new(), Vec::new());
    for poison in poison {
        sleep_until(began + Duration::from_millis(poison.at_ms)).await;
        match timeout(PATIENCE, send(&url, item, &poison)).await {
            Ok(Ok(queues)) => injected.push(Injected { marker: poison.marker, queues }),
            Ok(Err(_)) | Err(_) => unsure.push(poison.marker),
        }
    }
    (injected, unsure)
}

async fn send(url: &str, item: ItemId, poison: &Poison) -> anyhow::Result<usize> {
    let marker = &poison.marker;
    let (exchange, key, kind, body, queues) = match poison.kind {
        PoisonKind::GarbageOrder => {
            ("order", "order.created.v1".to_owned(), "order.created.v1", format!("not JSON {marker}"), 2)
        }
        PoisonKind::GarbageReservation => {
            ("stock", "stock.reserved.v1.3".to_owned(), "stock.reserved.v1", format!("not JSON {marker}"), 1)
        }
        PoisonKind::UnknownVersion => {
            let body = envelope("sale.changed.v99", json!({ "marker": marker }));
            ("sale", "sale.changed.v99".to_owned(), "sale.changed.v99", body, 1)
        }
        PoisonKind::NoUnits | PoisonKind::UnknownItem => {
            let quantity = if poison.kind == PoisonKind::NoUnits { 0 } else { 1 };
            let event = json!({
                "event_id": Uuid::new_v4(), "order_id": Uuid::new_v4(), "item_id": Uuid::new_v4(),
                "sale_id": Uuid::new_v4(), "user_id": marker, "quantity": quantity, "unit_price_cents": 1,
                "currency": "CNY", "epoch": 1, "reserved_at": "2026-01-01T00:00:00Z",
            });
            let body = envelope("stock.reserved.v1", event);
            ("stock", stock_routing_key("stock.reserved.v1", item), "stock.reserved.v1", body, 1)
        }
    };
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let properties = BasicProperties::default()
        .with_type(ShortString::from(kind))
        .with_message_id(ShortString::from(Uuid::new_v4().to_string()))
        .with_content_type(ShortString::from("application/json"))
        .with_delivery_mode(2);
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let confirm = channel
        .basic_publish(exchange.into(), key.as_str().into(), options, body.as_bytes(), properties)
        .await?
        .await?;
    connection.close(200, "done".into()).await.ok();
    anyhow::ensure!(confirm.is_ack(), "not confirmed");
    confirm.take_message().is_none().then_some(queues).context("no queue was bound")
}

fn envelope(kind: &str, event: serde_json::Value) -> String {
    json!({
        "id": Uuid::new_v4(),
        "type": kind,
        "occurred_at": "2026-01-01T00:00:00Z",
        "producer": "chaos",
        "events": [event],
    })
    .to_string()
}
