//! `lua/apply_order.lua` and `lua/late.lua`.

use common::ids::{OrderId, Quantity, UserId};
use uuid::Uuid;

use super::check::calm_ms;
use super::reply::Reply;
use super::{Inventory, Lane, StoreError};
use crate::crash_points::SETTLE;
use crate::keys::ItemKeys;
use crate::stock::{Applied, ORDERS_PER_CALL_MAX, OrderState, Shut, units_from, units_text};

/// The gate while orders were applied, and what became of each.
pub type Kept = (Option<Shut>, Vec<Applied>);

impl Inventory {
    /// Makes the books follow up to [`ORDERS_PER_CALL_MAX`] orders of one item, if their epoch is not below `epoch_min`.
    ///
    /// # Errors
    /// See [`StoreError`]. Repeating is always safe.
    pub async fn apply_orders(
        &self,
        keys: &ItemKeys,
        epoch_min: i64,
        lease_ms: u64,
        orders: &[OrderState],
    ) -> Result<Kept, StoreError> {
        let script = &self.shared.scripts.apply_order;
        let item_keys = [&keys.all()[..7], &[&*keys.alarm]].concat();
        self.begins(SETTLE).await?;
        let value = self
            .run(Lane::Bulk, script, &item_keys, |call| {
                call.arg(epoch_min).arg(lease_ms).arg(calm_ms());
                for order in orders {
                    call.arg(order.order_id.to_string())
                        .arg(order.user_id.as_str())
                        .arg(order.quantity.get())
                        .arg(units_text(order.units))
                        .arg(order.version)
                        .arg(order.created_ms)
                        .arg(i32::from(order.refused_by_total));
                }
            })
            .await?;
        self.ended(SETTLE).await?;
        let mut reply = Reply::of(value, script.name)?;
        let gate = reply.gate()?;
        let _now_ms = reply.int()?;
        let mut applied = Vec::with_capacity(orders.len());
        while !reply.is_empty() {
            applied.push(Applied::from_code(reply.int()?).ok_or_else(|| reply.garbled())?);
        }
        for (order, outcome) in orders.iter().zip(&applied) {
            if *outcome == Applied::Contradicts {
                tracing::error!(order.id = %order.order_id, keys.item, "an order contradicts the books: gate closed");
                metrics::counter!("stock_books_wrong_total", "kind" => "transition").increment(1);
            }
            metrics::counter!("stock_orders_applied_total", "outcome" => outcome.label()).increment(1);
        }
        Ok((gate, applied))
    }

    /// Orders that were kept for after a load, at most [`ORDERS_PER_CALL_MAX`].
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn late_orders(&self, keys: &ItemKeys) -> Result<Vec<OrderState>, StoreError> {
        let script = &self.shared.scripts.late;
        let value = self
            .run(Lane::Bulk, script, &[&keys.late], |call| {
                call.arg(ORDERS_PER_CALL_MAX);
            })
            .await?;
        let mut reply = Reply::of(value, script.name)?;
        let mut orders = Vec::with_capacity(reply.len() / 2);
        while !reply.is_empty() {
            let (id, kept) = (reply.text()?, reply.text()?);
            match parse_late(&id, &kept) {
                Some(order) => orders.push(order),
                None => tracing::error!(order_id = id, "a kept order makes no sense and is passed over"),
            }
        }
        Ok(orders)
    }
}

/// `version:quantity:units:created_ms:refused:user`.
fn parse_late(id: &str, text: &str) -> Option<OrderState> {
    let mut parts = text.splitn(6, ':');
    let version = parts.next()?.parse().ok()?;
    let quantity = Quantity::try_from(parts.next()?.parse::<u32>().ok()?).ok()?;
    let units = units_from(parts.next()?)?;
    let created_ms = parts.next()?.parse().ok()?;
    let refused_by_total = parts.next()? == "1";
    let user_id = UserId::try_from(parts.next()?.to_owned()).ok()?;
    let order_id = OrderId(Uuid::parse_str(id).ok()?);
    Some(OrderState { order_id, user_id, quantity, units, version, created_ms, refused_by_total })
}
