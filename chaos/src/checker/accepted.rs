//! A: what a 202 promises.

use std::collections::{BTreeMap, BTreeSet};

use common::api::OrderStatus;
use common::ids::OrderId;

use crate::client_log::{Op, Outcome};
use crate::evidence::{Evidence, OrderRow};

/// Every accepted order is a row with the same user, item, units and price.
pub fn a1_not_lost(evidence: &Evidence) -> Vec<String> {
    let rows: BTreeMap<OrderId, &OrderRow> =
        evidence.books.orders.iter().map(|order| (order.id, order)).collect();
    let prices: BTreeMap<_, i64> =
        evidence.facts.items.iter().map(|item| (item.id, item.price_cents)).collect();
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for op in evidence.history.reserves().filter(|op| op.kind == Outcome::Ok) {
        let Some(id) = op.answered else {
            found.push(format!("op {}: accepted without an order id", op.op));
            continue;
        };
        if !seen.insert((id, op.qty)) {
            continue;
        }
        let Some(row) = rows.get(&id) else {
            found.push(format!("op {}: accepted order {id} of {} does not exist", op.op, op.user));
            continue;
        };
        let as_asked =
            row.user_id == op.user && Some(row.item_id) == op.item && row.quantity == i64::from(op.qty);
        if !as_asked || prices.get(&row.item_id).is_some_and(|price| *price != row.unit_price_cents) {
            found.push(format!("op {}: order {id} is not what {} asked for: {row:?}", op.op, op.user));
        }
    }
    found
}

/// Every row was asked for, by an attempt that was not refused for sure.
pub fn a2_no_phantom(evidence: &Evidence) -> Vec<String> {
    let asked: BTreeSet<OrderId> = evidence.history.reserves().filter_map(|op| op.rid).collect();
    let orders = evidence.books.orders.iter().filter(|order| !asked.contains(&order.id));
    orders.map(|order| format!("nobody asked for order {} of {}", order.id, order.user_id)).collect()
}

/// All answers for one key name the same order, the one that user, item and key stand for; another quantity with the
/// key of an accepted order is refused as such.
pub fn a4_idempotent(evidence: &Evidence) -> Vec<String> {
    let mut found = Vec::new();
    let mut accepted: BTreeMap<OrderId, &Op> = BTreeMap::new();
    for op in evidence.history.reserves().filter(|op| op.kind == Outcome::Ok) {
        if op.answered != op.rid {
            found.push(format!("op {}: the key of {:?} got {:?}", op.op, op.rid, op.answered));
        }
        let Some(rid) = op.rid else { continue };
        match accepted.get(&rid) {
            Some(first) if first.qty != op.qty => {
                found.push(format!("ops {} and {}: {rid} with two quantities", first.op, op.op));
            }
            Some(_) => {}
            None => {
                accepted.insert(rid, op);
            }
        }
    }
    // What comes after an acceptance, with another quantity, is a mismatch or put off.
    for op in evidence.history.reserves().filter(|op| op.kind == Outcome::Fail) {
        let Some(first) = op.rid.and_then(|rid| accepted.get(&rid)) else { continue };
        let other = first.qty != op.qty && first.t1 < op.t0;
        if other && !matches!(op.http, Some(422 | 429 | 503)) {
            found.push(format!("op {}: another quantity was answered {:?} {:?}", op.op, op.http, op.code));
        }
    }
    found
}

/// No order that was accepted is rejected.
pub fn a5_no_broken_promise(evidence: &Evidence) -> Vec<String> {
    let accepted: BTreeSet<OrderId> = evidence
        .history
        .reserves()
        .filter(|op| op.kind == Outcome::Ok)
        .filter_map(|op| op.answered)
        .collect();
    let rejected = evidence.books.orders.iter().filter(|order| order.status == OrderStatus::Rejected);
    let broken = rejected.filter(|order| accepted.contains(&order.id));
    broken
        .map(|order| format!("order {} was accepted, then rejected: {:?}", order.id, order.reason))
        .collect()
}
