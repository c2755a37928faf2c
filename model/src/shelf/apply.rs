//! `apply_order.lua`

use std::cmp::Ordering;

use common::messages::order::Units;
use stock_service::stock::{Applied, units_text};

use super::{Hold, Item, OrderNo, ReopenAs, Server, Shelf, UserNo};
use crate::guard::Guard;

/// What the source of truth says of one order, as an event or as an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct News {
    /// The order.
    pub order: OrderNo,
    /// Whose it is.
    pub user: UserNo,
    /// Its units.
    pub quantity: i64,
    /// Where they are.
    pub units: Units,
    /// The order's version, from 1.
    pub version: i64,
    /// When the order was made.
    pub created_ms: i64,
    /// Rejected because nothing was left in the source of truth.
    pub refused: bool,
}

impl News {
    fn key(&self) -> (OrderNo, i64, &'static str, bool, UserNo, i64, i64) {
        let Self { order, user, quantity, units, version, created_ms, refused } = *self;
        (order, version, units_text(units), refused, user, quantity, created_ms)
    }
}

impl Ord for News {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for News {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Shelf {
    /// Makes the books follow orders.
    pub fn apply(&mut self, server: Server, epoch_min: i64, lease_ms: i64, orders: &[News]) -> Vec<Applied> {
        let Ok(mut item) = self.gate(server, epoch_min) else {
            return orders.iter().map(|order| self.keep(server, order)).collect();
        };
        let contradicts =
            |order: &News| self.holds.get(&order.order).is_some_and(|hold| contradicts(hold, order));
        let contradicting: Vec<bool> = orders.iter().map(contradicts).collect();
        if contradicting.contains(&true) {
            self.alarm += 1;
            self.item = Some(Item { run: None, ..item });
            let kept = orders.iter().zip(contradicting).map(|(order, contradicts)| {
                let kept = self.keep(server, order);
                if contradicts { Applied::Contradicts } else { kept }
            });
            return kept.collect();
        }
        let offered_before = item.available > 0;
        let mut applied = Vec::with_capacity(orders.len());
        for order in orders {
            applied.push(self.apply_one(server, &mut item, order));
            self.unsettled.remove(&order.order);
            if self.late.get(&order.order).is_some_and(|late| late.version <= order.version) {
                self.late.remove(&order.order);
            }
        }
        if item.available > 0 && !offered_before {
            item.reopen = Some((server.now_ms + lease_ms, ReopenAs::SoldOut));
        }
        self.item = Some(item);
        applied
    }

    /// For after the load that is in progress, if one is.
    fn keep(&mut self, server: Server, order: &News) -> Applied {
        if self.loading.is_none_or(|loading| loading.run != server.run) {
            return Applied::Dropped;
        }
        if self.late.get(&order.order).is_none_or(|late| late.version < order.version) {
            self.late.insert(order.order, *order);
        }
        Applied::Kept
    }

    fn apply_one(&mut self, server: Server, item: &mut Item, order: &News) -> Applied {
        let hold = self.holds.get(&order.order).copied();
        let active = if order.units == Units::Returned { 0 } else { order.quantity };
        if hold.is_some_and(|hold| hold.version >= order.version && server.rules.hold(Guard::Versions)) {
            return Applied::Unchanged;
        }
        if hold.is_none() && active == 0 && !server.rules.hold(Guard::Tombstones) {
            return Applied::Unchanged;
        }
        let before = hold.filter(|hold| hold.units != Units::Returned).map_or(0, |hold| hold.quantity);
        let reserved_ms = hold.map_or(order.created_ms, |hold| hold.reserved_ms);
        let News { quantity, units, version, user, .. } = *order;
        self.holds.insert(order.order, Hold { quantity, units, version, reserved_ms, user });
        if active != before {
            self.count_buyer(user, active - before);
        }
        if hold.is_none() {
            *self.attempts.entry(user).or_default() += 1;
        }
        if active > before {
            take(item, active - before);
            Applied::Adopted
        } else if active < before {
            give_back(item, before - active, order.refused);
            if order.refused { Applied::Withheld } else { Applied::GaveBack }
        } else if hold.is_some() {
            Applied::Noted
        } else {
            Applied::Tombstone
        }
    }

    fn count_buyer(&mut self, user: UserNo, taken: i64) {
        let bought = (self.buyers.get(&user).copied().unwrap_or(0) + taken).max(0);
        if bought == 0 {
            self.buyers.remove(&user);
        } else {
            self.buyers.insert(user, bought);
        }
    }
}

/// Units only go from held to sold to returned, an order's user and quantity never change, one version says one thing.
fn contradicts(hold: &Hold, order: &News) -> bool {
    let stage = |units| match units {
        Units::Held => 1,
        Units::Sold => 2,
        Units::Returned => 3,
    };
    if (hold.user, hold.quantity) != (order.user, order.quantity) {
        return true;
    }
    match order.version.cmp(&hold.version) {
        Ordering::Greater => stage(order.units) < stage(hold.units),
        Ordering::Equal => order.units != hold.units,
        Ordering::Less => false,
    }
}

fn take(item: &mut Item, quantity: i64) {
    let paid = item.withheld.min(quantity);
    item.withheld -= paid;
    item.available -= quantity - paid;
}

fn give_back(item: &mut Item, quantity: i64, refused: bool) {
    if !refused {
        item.available += quantity;
        return;
    }
    let paid = quantity.min((-item.available).max(0));
    item.available += paid;
    item.withheld += quantity - paid;
}
