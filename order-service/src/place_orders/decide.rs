//! The decision about a batch, in memory, while the items' rows are locked.

use std::collections::HashMap;

use chrono::{DateTime, Datelike as _, Utc};
use common::api::Reason;
use common::ids::{ItemId, OrderId, UserId};
use common::messages::order::OrderV1;
use common::messages::stock::{FenceV1, ReservedV1};

use super::StockEvent;

/// Years that a reservation may be of; others do not fit into the database.
const YEARS: std::ops::RangeInclusive<i32> = 2000..=9999;
const OTHER_ORDER: &str = "the order id belongs to another order";

/// What is known of the items, orders and buyers of a batch; changed by the decisions.
#[derive(Debug, Default)]
pub struct Books {
    /// The transaction's time by the database's clock.
    pub now: DateTime<Utc>,
    /// The locked items.
    pub items: HashMap<ItemId, Item>,
    /// Orders of the batch that exist already.
    pub known: HashMap<OrderId, OrderV1>,
    /// Units that a user holds or owns of an item.
    pub usage: HashMap<(ItemId, UserId), i64>,
}

/// An item whose row is locked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its sale.
    pub sale_id: common::ids::SaleId,
    /// Price of one unit, minor units.
    pub price_cents: i64,
    /// Currency of the price.
    pub currency: common::ids::Currency,
    /// Units in the sale.
    pub total: i64,
    /// Units held or sold, the batch's included.
    pub taken: i64,
    /// Most units that one user may hold or own.
    pub per_user_limit: i64,
    /// Seconds that a buyer has to pay.
    pub payment_window_seconds: i64,
    /// The newest epoch handed out.
    pub epoch: i64,
}

/// What is done about one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It becomes an order.
    Place,
    /// It becomes a rejected order.
    Reject(Reason),
    /// Its order exists: tell its present state again.
    Known,
    /// The same reservation came earlier in this batch.
    Repeated,
    /// A fence.
    Fence,
    /// It can never work; why.
    Park(String),
}

impl Books {
    /// Whether a reservation was granted by an inventory that has been replaced since.
    pub fn is_late(&self, event: &StockEvent) -> bool {
        match event {
            StockEvent::Fence(_) => false,
            StockEvent::Reserved(reserved) => {
                self.items.get(&reserved.item_id).is_some_and(|item| reserved.epoch < item.epoch)
            }
        }
    }
}

/// One decision per event, in order of arrival; `books` is afterwards as if they had been written.
pub fn decide(books: &mut Books, events: &[StockEvent]) -> Vec<Decision> {
    let mut seen: HashMap<OrderId, &ReservedV1> = HashMap::new();
    let decisions = events.iter().map(|event| match event {
        StockEvent::Fence(fence) => decide_fence(books, fence),
        StockEvent::Reserved(reserved) => match seen.get(&reserved.order_id) {
            Some(first) if same_order(first, reserved) => Decision::Repeated,
            Some(_) => Decision::Park(OTHER_ORDER.to_owned()),
            None => {
                let decision = decide_reserved(books, reserved);
                if !matches!(decision, Decision::Park(_)) {
                    seen.insert(reserved.order_id, reserved);
                }
                decision
            }
        },
    });
    decisions.collect()
}

fn same_order(first: &ReservedV1, second: &ReservedV1) -> bool {
    (first.item_id, &first.user_id) == (second.item_id, &second.user_id)
}

fn decide_fence(books: &Books, fence: &FenceV1) -> Decision {
    if books.items.contains_key(&fence.item_id) {
        Decision::Fence
    } else {
        Decision::Park("there is no such item".to_owned())
    }
}

fn decide_reserved(books: &mut Books, reserved: &ReservedV1) -> Decision {
    let park = |reason: &str| Decision::Park(reason.to_owned());
    if let Some(order) = books.known.get(&reserved.order_id) {
        let same = order.order.item_id == reserved.item_id && order.user_id == reserved.user_id;
        return if same { Decision::Known } else { park(OTHER_ORDER) };
    }
    let Some(item) = books.items.get_mut(&reserved.item_id) else { return park("there is no such item") };
    if item.sale_id != reserved.sale_id {
        return park("the item belongs to another sale");
    }
    // The price of a published item cannot change: whoever names another one is mistaken, and nobody can say which
    // one the buyer saw.
    if (item.price_cents, &item.currency) != (reserved.unit_price_cents, &reserved.currency) {
        return park("the price is not the item's");
    }
    if !YEARS.contains(&reserved.reserved_at.year()) {
        return park("reserved_at is not a time of this system");
    }

    let units = i64::from(reserved.quantity.get());
    let used = books.usage.entry((reserved.item_id, reserved.user_id.clone())).or_default();
    // The total first: units of an order that it refuses must not return to the inventory, which has none.
    if item.taken + units > item.total {
        return Decision::Reject(Reason::SoldOut);
    }
    if *used + units > item.per_user_limit {
        return Decision::Reject(Reason::LimitExceeded);
    }
    item.taken += units;
    *used += units;
    Decision::Place
}

#[cfg(test)]
mod tests {
    use common::ids::{Currency, EventId, Quantity, SaleId};
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const ITEM: ItemId = ItemId(Uuid::from_u128(1));
    const SALE: SaleId = SaleId(Uuid::from_u128(2));

    fn books(total: i64, taken: i64, per_user_limit: i64) -> Books {
        let currency = Currency::try_from("CNY".to_owned()).unwrap();
        let item = Item {
            sale_id: SALE,
            price_cents: 5,
            currency,
            total,
            taken,
            per_user_limit,
            payment_window_seconds: 60,
            epoch: 3,
        };
        Books { items: HashMap::from([(ITEM, item)]), ..Books::default() }
    }

    fn reserved(order: u128, user: u8, units: u32) -> StockEvent {
        StockEvent::Reserved(ReservedV1 {
            order_id: OrderId(Uuid::from_u128(order)),
            item_id: ITEM,
            sale_id: SALE,
            user_id: format!("u{user}").parse().unwrap(),
            quantity: Quantity::try_from(units).unwrap(),
            unit_price_cents: 5,
            currency: Currency::try_from("CNY".to_owned()).unwrap(),
            epoch: 2,
            reserved_at: DateTime::from_timestamp(1_790_000_000, 0).unwrap(),
        })
    }

    /// The inventory has none to offer when the total refuses, so its units must not be taken for the user's.
    #[test]
    fn an_order_that_both_guards_refuse_is_sold_out() {
        let decisions = decide(&mut books(5, 5, 1), &[reserved(1, 1, 2)]);
        assert_eq!(decisions, [Decision::Reject(Reason::SoldOut)]);
    }

    #[test]
    fn a_small_order_fits_where_a_large_one_did_not() {
        let decisions =
            decide(&mut books(5, 3, 100), &[reserved(1, 1, 3), reserved(2, 2, 2), reserved(3, 3, 1)]);
        let sold_out = Decision::Reject(Reason::SoldOut);
        assert_eq!(decisions, [sold_out.clone(), Decision::Place, sold_out]);
    }

    #[test]
    fn a_message_of_an_older_epoch_is_late_and_decided_like_any_other() {
        let mut books = books(5, 0, 1);
        let event = reserved(1, 1, 1);
        assert!(books.is_late(&event));
        assert_eq!(decide(&mut books, &[event]), [Decision::Place]);
    }

    #[test]
    fn a_fence_needs_an_item() {
        let fence =
            |item| StockEvent::Fence(FenceV1 { item_id: item, epoch: 3, token: EventId(Uuid::nil()).0 });
        let decisions = decide(&mut books(1, 0, 1), &[fence(ITEM), fence(ItemId(Uuid::nil()))]);
        assert_eq!(decisions[0], Decision::Fence);
        assert!(matches!(decisions[1], Decision::Park(_)));
    }

    proptest! {
        /// Whatever an inventory grants: not one unit above the total, nobody above the limit, nobody refused who fits.
        #[test]
        fn guards_hold_for_every_batch(
            total in 0_i64..40,
            limit in 1_i64..6,
            wishes in prop::collection::vec((0_u128..60, 0_u8..8, 1_u32..5), 0..80),
        ) {
            let mut books = books(total, 0, limit);
            let events: Vec<_> = wishes.iter().map(|(order, user, units)| reserved(*order, *user, *units)).collect();
            let decisions = decide(&mut books, &events);
            prop_assert_eq!(decisions.len(), events.len());

            let (mut taken, mut used, mut seen) = (0, HashMap::<u8, i64>::new(), HashMap::new());
            for ((order, user, units), decision) in wishes.into_iter().zip(decisions) {
                let units = i64::from(units);
                let used = used.entry(user).or_default();
                let expected = match seen.get(&order) {
                    Some(first) if *first == user => Decision::Repeated,
                    Some(_) => Decision::Park(OTHER_ORDER.to_owned()),
                    None if taken + units > total => Decision::Reject(Reason::SoldOut),
                    None if *used + units > limit => Decision::Reject(Reason::LimitExceeded),
                    None => Decision::Place,
                };
                seen.entry(order).or_insert(user);
                if expected == Decision::Place {
                    taken += units;
                    *used += units;
                }
                prop_assert_eq!(decision, expected);
            }
            prop_assert!(taken <= total);
            prop_assert_eq!(books.items[&ITEM].taken, taken);
        }
    }
}
