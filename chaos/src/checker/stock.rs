//! S: units.

use std::collections::BTreeMap;

use common::ids::ItemId;
use common::messages::order::Units;

use crate::evidence::{Evidence, InventorySample};

/// `0 <= held + sold = taken <= total` in every sample, and recomputed at the end.
pub fn s1_no_oversell(evidence: &Evidence) -> Vec<String> {
    let mut found = Vec::new();
    for sample in &evidence.samples {
        for item in sample.ledger.iter().flatten() {
            if item.taken < 0 || item.taken > item.total || item.held + item.sold != item.taken {
                found.push(format!("at {} ms: {item:?}", sample.from / 1_000_000));
            }
        }
    }
    for item in &evidence.books.items {
        let orders = evidence.books.orders.iter().filter(|order| order.item_id == item.id);
        let units: i64 =
            orders.filter(|order| order.units != Units::Returned).map(|order| order.quantity).sum();
        if units != item.taken || item.taken > item.total || item.taken < 0 {
            found.push(format!("at the end: orders have {units} units, {item:?}"));
        }
    }
    found
}

/// At the end the same orders with the same units on both sides, and `available + active = total`.
pub fn s2_conservation(evidence: &Evidence) -> Vec<String> {
    let mut found = Vec::new();
    for item in &evidence.books.items {
        let Some(inventory) = evidence.books.inventory.get(&item.id) else { continue };
        if !inventory.open {
            found.push(format!("the gate of {} is closed", item.id));
            continue;
        }
        let active: i64 =
            inventory.holds.values().filter(|(_, units)| *units != Units::Returned).map(|(n, _)| n).sum();
        if inventory.available + inventory.withheld + active != item.total || inventory.total != item.total {
            found.push(format!(
                "{}: {} available, {} withheld, {active} active, {} in Redis, {} in Postgres",
                item.id, inventory.available, inventory.withheld, inventory.total, item.total
            ));
        }
        let mut ledger = BTreeMap::new();
        for order in evidence.books.orders.iter().filter(|order| order.item_id == item.id) {
            ledger.insert(order.id, (order.quantity, order.units));
        }
        for (id, there) in &ledger {
            match inventory.holds.get(id) {
                Some(here) if here == there => {}
                // Only what still counts must be known; tombstones are checked by asking again (A9).
                None if there.1 == Units::Returned => {}
                here => found.push(format!("order {id}: Postgres {there:?}, Redis {here:?}")),
            }
        }
        for (id, here) in inventory.holds.iter().filter(|(id, _)| !ledger.contains_key(id)) {
            found.push(format!("order {id}: Redis {here:?}, unknown to Postgres"));
        }
    }
    found
}

/// `available + withheld + active = total` and the counts per user, in each snapshot of Redis; and stock-service, which
/// adds them up itself, found nothing.
pub fn s3_own_books(evidence: &Evidence) -> Vec<String> {
    let mut found = evidence.facts.books_wrong.clone();
    for sample in &evidence.samples {
        for item in sample.inventory.iter().flatten() {
            let adds_up = item.available + item.withheld + item.active == item.total;
            if !adds_up || item.buyers != item.active || item.withheld < 0 {
                let InventorySample { available, withheld, active, total, buyers, epoch, .. } = item;
                found.push(format!(
                    "at {} ms, {}: available {available} + withheld {withheld} + active {active} of {total}, \
                     users {buyers}, epoch {epoch}",
                    sample.from / 1_000_000,
                    item.item
                ));
            }
        }
    }
    found
}

/// What an epoch granted after it was first seen came from what was available then, or came back, or was added.
pub fn s4_epoch_budget(evidence: &Evidence) -> Vec<String> {
    let mut first: BTreeMap<(ItemId, i64), &InventorySample> = BTreeMap::new();
    let mut highest_total: BTreeMap<ItemId, i64> = BTreeMap::new();
    for item in evidence.samples.iter().filter_map(|sample| sample.inventory.as_ref()).flatten() {
        if item.orders.is_some() {
            first.entry((item.item, item.epoch)).or_insert(item);
        }
        let total = highest_total.entry(item.item).or_insert(item.total);
        *total = item.total.max(*total);
    }
    let mut found = Vec::new();
    for ((item, epoch), opened) in first {
        let Some(known) = &opened.orders else { continue };
        let of_item = || evidence.books.orders.iter().filter(|order| order.item_id == item);
        let granted: i64 = of_item()
            .filter(|order| order.epoch == epoch && !known.contains(&order.id))
            .map(|order| order.quantity)
            .sum();
        let returned: i64 =
            of_item().filter(|order| order.units == Units::Returned).map(|order| order.quantity).sum();
        // Restocking up, down and up again adds at most the sum of the rises.
        let added = highest_total.get(&item).map_or(0, |total| total - opened.total) + rises(evidence, item);
        let budget = opened.available.max(0) + opened.withheld + returned + added;
        if granted > budget {
            found.push(format!("{item}, epoch {epoch}: granted {granted} of {budget}: {opened:?}"));
        }
    }
    found
}

/// Units that were added to an item, as far as samples saw it.
fn rises(evidence: &Evidence, item: ItemId) -> i64 {
    let mut rises = 0;
    let mut last: Option<i64> = None;
    for sample in evidence.samples.iter().filter_map(|sample| sample.inventory.as_ref()).flatten() {
        if sample.item == item {
            rises += last.map_or(0, |last| (sample.total - last).max(0));
            last = Some(sample.total);
        }
    }
    rises
}

/// Nobody has more than the limit: in every sample, and at the end.
pub fn s6_user_limit(evidence: &Evidence) -> Vec<String> {
    let limits: BTreeMap<ItemId, i64> =
        evidence.facts.items.iter().map(|item| (item.id, item.limit)).collect();
    let mut found = Vec::new();
    for sample in &evidence.samples {
        for item in sample.ledger.iter().flatten() {
            if limits.get(&item.item).is_some_and(|limit| item.most_of_one_user > *limit) {
                found.push(format!("at {} ms: {item:?}", sample.from / 1_000_000));
            }
        }
    }
    // In Redis, too: what it grants above the limit becomes a rejected order, which breaks a promise only later.
    for (item, inventory) in &evidence.books.inventory {
        for (user, units) in &inventory.buyers {
            if limits.get(item).is_some_and(|limit| units > limit) {
                found.push(format!("{user} has {units} of {item} in Redis"));
            }
        }
    }
    found
}

/// Units that are left over although buyers who got nothing asked until the end.
pub fn s8_nothing_leaks(evidence: &Evidence) -> Vec<String> {
    let mut found = Vec::new();
    for (item, unserved) in &evidence.facts.unserved {
        let Some(inventory) = evidence.books.inventory.get(item) else { continue };
        let left = inventory.available + inventory.withheld;
        if inventory.open && left > 0 && i64::try_from(*unserved).unwrap_or(i64::MAX) >= left {
            found.push(format!("{left} units of {item} are left, {unserved} buyers asked until the end"));
        }
    }
    found
}
