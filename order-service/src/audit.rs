//! The two stores' books of one item, laid side by side.

use std::collections::HashMap;

use common::api::OrderStatus;
use common::api::admin::ItemAudit;
use common::api::inventory::Books;
use common::ids::{ItemId, OrderId};
use common::messages::order::Units;
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use crate::db::DbError;
use crate::db::schema::{items, orders};
use crate::orders::parse;

/// An order as Postgres has it, as far as the audit looks at it.
#[derive(Debug, Clone)]
pub struct AuditedOrder {
    /// The order.
    pub order_id: OrderId,
    /// Its units.
    pub quantity: i64,
    /// Where they are.
    pub units: Units,
    /// Where the order is in its life.
    pub status: OrderStatus,
}

/// An item as Postgres has it, with all its orders.
#[derive(Debug, Clone)]
pub struct AuditedItem {
    /// The item.
    pub item_id: ItemId,
    /// Units in the sale.
    pub total: i64,
    /// Units held or sold, as the item's own counter says.
    pub taken: i64,
    /// Every order of the item.
    pub orders: Vec<AuditedOrder>,
}

/// The items `ids` as Postgres has them, in this order, with all their orders.
///
/// # Errors
/// The database.
pub async fn items(conn: &mut AsyncPgConnection, ids: &[Uuid]) -> Result<Vec<AuditedItem>, DbError> {
    /// Total, taken, and an order with its units and status.
    type Row = (i64, i64, Option<(Uuid, i32, String, String)>);
    let mut audited = Vec::with_capacity(ids.len());
    for id in ids {
        // The counter and what it counts, as of one moment.
        let rows: Vec<Row> = items::table
            .left_join(orders::table)
            .filter(items::id.eq(id))
            .select((
                items::total,
                items::taken,
                (orders::id, orders::quantity, orders::units, orders::status).nullable(),
            ))
            .load(conn)
            .await?;
        let [(total, taken, _), ..] = rows.as_slice() else {
            return Err(DbError::Broken(format!("item {id} is gone")));
        };
        let (item_id, total, taken) = (ItemId(*id), *total, *taken);
        let orders = rows.into_iter().filter_map(|(_, _, order)| order).map(audited_order);
        audited.push(AuditedItem { item_id, total, taken, orders: orders.collect::<Result<_, _>>()? });
    }
    Ok(audited)
}

fn audited_order(
    (id, quantity, units, status): (Uuid, i32, String, String),
) -> Result<AuditedOrder, DbError> {
    Ok(AuditedOrder {
        order_id: OrderId(id),
        quantity: quantity.into(),
        units: parse("orders.units", &units)?,
        status: parse("orders.status", &status)?,
    })
}

/// What the comparison came to.
#[derive(Debug)]
pub struct Compared {
    /// The figures.
    pub audit: ItemAudit,
    /// Whether both stores say the same, and the sums add up.
    pub consistent: bool,
}

/// Compares Postgres' item with the inventory's books.
///
/// `books` is `None` for an item that does not belong into the inventory (a draft, or over and retired): then the
/// inventory's figures are what Postgres says, since there is nobody else to disagree.
pub fn compare(item: &AuditedItem, books: Option<&Books>) -> Compared {
    let in_status = |wanted: &[OrderStatus]| -> i64 {
        item.orders.iter().filter(|order| wanted.contains(&order.status)).map(|order| order.quantity).sum()
    };
    let with_units = |wanted: Units| -> i64 {
        item.orders.iter().filter(|order| order.units == wanted).map(|order| order.quantity).sum()
    };
    let (held, sold) = (with_units(Units::Held), with_units(Units::Sold));
    let audit = ItemAudit {
        item_id: item.item_id,
        total: item.total,
        available: books.map_or(item.total - item.taken, |books| books.available),
        held: books.map_or(held, |books| books.held),
        sold: books.map_or(sold, |books| books.sold),
        unsettled: books.map_or(0, |books| books.unsettled),
        pending_payment: in_status(&[OrderStatus::PendingPayment]),
        paid: in_status(&[OrderStatus::Paid]),
        cancelled: in_status(&[OrderStatus::Cancelled]),
        expired: in_status(&[OrderStatus::Expired]),
        rejected: in_status(&[OrderStatus::Rejected]),
        refunded: in_status(&[OrderStatus::RefundPending, OrderStatus::Refunded]),
        drift: books.map_or(0, |books| drift(&item.orders, books)),
    };
    let adds_up = audit.available + audit.held + audit.sold == audit.total;
    let same_total = books.is_none_or(|books| books.total == item.total);
    let counted = held + sold == item.taken;
    Compared { consistent: adds_up && same_total && counted && audit.drift == 0, audit }
}

/// Units of orders that the two stores do not agree about: missing on one side, or with other units or quantity.
fn drift(orders: &[AuditedOrder], books: &Books) -> i64 {
    let mut booked: HashMap<OrderId, (i64, Units)> = books
        .orders
        .iter()
        .map(|order| (order.order_id, (i64::from(order.quantity.get()), order.units)))
        .collect();
    let mut drift = 0;
    for order in orders {
        match booked.remove(&order.order_id) {
            Some((quantity, units)) if quantity == order.quantity && units == order.units => {}
            Some((quantity, _)) => drift += quantity.max(order.quantity),
            None => drift += order.quantity,
        }
    }
    // What is left is known to the inventory alone.
    drift + booked.values().map(|(quantity, _)| quantity).sum::<i64>()
}

#[cfg(test)]
mod tests {
    use common::api::inventory::BookedOrder;
    use common::ids::Quantity;
    use uuid::Uuid;

    use super::*;

    fn order(number: u128, quantity: i64, units: Units, status: OrderStatus) -> AuditedOrder {
        AuditedOrder { order_id: OrderId(Uuid::from_u128(number)), quantity, units, status }
    }

    fn item() -> AuditedItem {
        AuditedItem {
            item_id: ItemId(Uuid::nil()),
            total: 10,
            taken: 3,
            orders: vec![
                order(1, 2, Units::Held, OrderStatus::PendingPayment),
                order(2, 1, Units::Sold, OrderStatus::Paid),
                order(3, 4, Units::Returned, OrderStatus::Expired),
            ],
        }
    }

    fn books() -> Books {
        let booked = |number: u128, quantity: u32, units: Units| BookedOrder {
            order_id: OrderId(Uuid::from_u128(number)),
            quantity: Quantity::try_from(quantity).expect("in range"),
            units,
        };
        Books {
            item_id: ItemId(Uuid::nil()),
            total: 10,
            available: 7,
            held: 2,
            sold: 1,
            unsettled: 0,
            buyers: 3,
            epoch: 1,
            orders: vec![booked(1, 2, Units::Held), booked(2, 1, Units::Sold), booked(3, 4, Units::Returned)],
        }
    }

    #[test]
    fn equal_books_are_consistent() {
        let compared = compare(&item(), Some(&books()));
        assert!(compared.consistent);
        assert_eq!((compared.audit.pending_payment, compared.audit.paid, compared.audit.expired), (2, 1, 4));
    }

    #[test]
    fn every_kind_of_disagreement_counts_in_units() {
        let mut missing_here = item();
        missing_here.orders.remove(2);
        assert_eq!(compare(&missing_here, Some(&books())).audit.drift, 4);

        let mut missing_there = books();
        missing_there.orders.remove(0);
        assert_eq!(compare(&item(), Some(&missing_there)).audit.drift, 2);

        let mut other_units = books();
        other_units.orders[1].units = Units::Held;
        assert_eq!(compare(&item(), Some(&other_units)).audit.drift, 1);

        let mut other_quantity = books();
        other_quantity.orders[0].quantity = Quantity::try_from(5).expect("in range");
        let compared = compare(&item(), Some(&other_quantity));
        assert_eq!(compared.audit.drift, 5);
        assert!(!compared.consistent);
    }

    #[test]
    fn sums_that_do_not_add_up_are_not_consistent() {
        for spoil in [|books: &mut Books| books.available -= 1, |books: &mut Books| books.total += 1] {
            let mut spoilt = books();
            spoil(&mut spoilt);
            assert!(!compare(&item(), Some(&spoilt)).consistent);
        }
        let leaked = AuditedItem { taken: 4, ..item() };
        assert!(!compare(&leaked, Some(&books())).consistent, "the counter disagrees with the orders");
    }

    #[test]
    fn an_item_outside_the_inventory_is_judged_by_postgres_alone() {
        let compared = compare(&item(), None);
        assert!(compared.consistent);
        assert_eq!((compared.audit.available, compared.audit.held, compared.audit.sold), (7, 2, 1));
    }
}
