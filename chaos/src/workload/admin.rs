//! The admin of a sale.

use std::time::Duration;

use common::ids::SaleId;
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};

use super::buyer::Market;
use super::caller::Caller;
use crate::schedule::{AdminAction, AdminStep};

/// Attempts at a step that is put off.
const TRIES_MAX: u32 = 20;
const PAUSE: Duration = Duration::from_millis(200);

/// Does the steps in their order, each at its time or as soon as the one before is done.
pub async fn run(caller: Caller, sale: SaleId, steps: Vec<AdminStep>, market: Market, began: Instant) {
    for step in steps {
        sleep_until(began + Duration::from_millis(step.at_ms)).await;
        match step.what {
            AdminAction::Pause => repeatedly(&caller, &format!("/api/v1/admin/sales/{sale}/pause")).await,
            AdminAction::Resume => repeatedly(&caller, &format!("/api/v1/admin/sales/{sale}/resume")).await,
            AdminAction::Restock { item, units } => {
                // Once: a repetition would be another change.
                let path = format!("/api/v1/admin/items/{}/restock", market.goods[item].0);
                caller.admin(&path, &json!({ "units": units })).await;
            }
            AdminAction::Replay => {
                let letters = caller.admin_get("/api/v1/admin/dead-letters").await.body;
                for letter in letters["items"].as_array().into_iter().flatten() {
                    let id = letter["id"].as_str().unwrap_or_default();
                    repeatedly(&caller, &format!("/api/v1/admin/dead-letters/{id}/replay")).await;
                }
            }
            AdminAction::Refund => {
                let order = market.paid.lock().pop();
                if let Some(order) = order {
                    repeatedly(&caller, &format!("/api/v1/admin/orders/{order}/refund")).await;
                }
            }
        }
    }
}

/// A step that may be repeated: a second time it is refused, and changes nothing.
async fn repeatedly(caller: &Caller, path: &str) {
    for _ in 0..TRIES_MAX {
        if !caller.admin(path, &json!({})).await.passing() {
            return;
        }
        sleep(PAUSE).await;
    }
}
