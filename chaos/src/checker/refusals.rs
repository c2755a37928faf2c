//! What a refusal may say.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use common::api::OrderStatus;
use common::ids::{ItemId, OrderId};

use crate::client_log::{Function, Op, Outcome};
use crate::evidence::{Evidence, InventorySample, OrderRow};

/// Between what one clock of this machine says to two processes.
const CLOCK_MS: i64 = 5;
/// On top of the lease: how long a look that began before may have been under way, and rounding.
const MARGIN_NS: u64 = 400_000_000;

/// An order, a hold, a cancellation that exists although every attempt at it was refused for sure, or that came to be
/// before any attempt that may have worked.
pub fn a3_definite(evidence: &Evidence) -> Vec<String> {
    let (reserved, cancelled) =
        (Attempts::of(evidence, Function::Reserve), Attempts::of(evidence, Function::Cancel));
    let mut found = Vec::new();
    for order in &evidence.books.orders {
        if reserved.refute(order.id, Some(order.reserved_at)) {
            found.push(format!(
                "order {} was granted at {}, but every attempt until then was refused for sure",
                order.id, order.reserved_at
            ));
        }
    }
    for transition in &evidence.books.transitions {
        let id = transition.order_id;
        if transition.to_status == OrderStatus::Cancelled && cancelled.refute(id, Some(transition.at)) {
            found.push(format!("order {id} is cancelled, but no attempt at that may have worked by then"));
        }
    }
    for (item, inventory) in &evidence.books.inventory {
        for id in inventory.holds.keys().filter(|id| reserved.refute(**id, None)) {
            found.push(format!("{item}: a hold {id}, but every attempt was refused for sure"));
        }
    }
    found
}

/// The attempts at one thing, by order.
struct Attempts {
    /// Whether there was any.
    tried: BTreeSet<OrderId>,
    /// When the first one began that may have worked.
    first: BTreeMap<OrderId, DateTime<Utc>>,
}

impl Attempts {
    fn of(evidence: &Evidence, f: Function) -> Self {
        let mut attempts = Self { tried: BTreeSet::new(), first: BTreeMap::new() };
        for op in evidence.history.ops.iter().filter(|op| op.f == f) {
            let Some(rid) = op.rid else { continue };
            attempts.tried.insert(rid);
            if op.kind != Outcome::Fail {
                let began = evidence.history.wall(op.t0);
                let first = attempts.first.entry(rid).or_insert(began);
                *first = began.min(*first);
            }
        }
        attempts
    }

    /// Whether none of the attempts can have done what was done, at that moment if it is known.
    fn refute(&self, id: OrderId, done_at: Option<DateTime<Utc>>) -> bool {
        let clock = chrono::Duration::milliseconds(CLOCK_MS);
        let too_early = |first: &DateTime<Utc>| done_at.is_some_and(|done_at| done_at + clock < *first);
        self.tried.contains(&id) && self.first.get(&id).is_none_or(too_early)
    }
}

/// An attempt that began after its order had been granted, and was told that there is none to be had.
pub fn a9_retry_not_refused(evidence: &Evidence) -> Vec<String> {
    let orders: BTreeMap<OrderId, &OrderRow> =
        evidence.books.orders.iter().map(|order| (order.id, order)).collect();
    let mut accepted: BTreeMap<OrderId, u64> = BTreeMap::new();
    for op in evidence.history.reserves().filter(|op| op.kind == Outcome::Ok) {
        if let Some(rid) = op.rid {
            let at = accepted.entry(rid).or_insert(op.t1);
            *at = op.t1.min(*at);
        }
    }
    let refusal = |op: &&Op| op.kind == Outcome::Fail && matches!(op.http, Some(404 | 409 | 403 | 410));
    let mut found = Vec::new();
    for op in evidence.history.reserves().filter(refusal) {
        let Some(rid) = op.rid else { continue };
        let granted = orders.get(&rid).is_some_and(|order| {
            order.reserved_at + chrono::Duration::milliseconds(CLOCK_MS) < evidence.history.wall(op.t0)
        });
        if granted || accepted.get(&rid).is_some_and(|at| *at < op.t0) {
            found.push(format!(
                "op {}: {} asked again for {rid} and was told {:?} {:?}",
                op.op, op.user, op.http, op.code
            ));
        }
    }
    found
}

/// `sold_out` although, from before the lease until the answer, the units that were there cannot all have been taken.
pub fn s7_no_false_sold_out(evidence: &Evidence) -> Vec<String> {
    let sold_out = |op: &&Op| op.kind == Outcome::Fail && op.code.as_deref() == Some("sold_out");
    let mut found = Vec::new();
    let takers = takers(evidence);
    for op in evidence.history.reserves().filter(sold_out) {
        let Some(item) = op.item else { continue };
        let lease_ns = evidence.facts.lease_ms * 1_000_000 + MARGIN_NS;
        let Some(before) = op.t0.checked_sub(lease_ns) else { continue };
        let Some((at, sample)) = undisturbed(evidence, item, before, op.t1) else { continue };
        let taken: i64 = takers
            .iter()
            .filter(|taker| taker.item == item && taker.first < op.t1 && taker.last > at)
            .filter(|taker| Some(taker.rid) != op.rid)
            .map(|taker| taker.units)
            .sum();
        if sample.available - taken >= i64::from(op.qty) {
            found.push(format!(
                "op {}: {} was told sold out; {} units were there, at most {taken} were taken meanwhile",
                op.op, op.user, sample.available
            ));
        }
    }
    found
}

/// An order that may have been granted between two moments.
struct Taker {
    rid: OrderId,
    item: ItemId,
    units: i64,
    first: u64,
    last: u64,
}

/// Every key with an attempt that may have worked, from its first to the end of its last such attempt. An attempt
/// without an answer may work later than it was given up.
fn takers(evidence: &Evidence) -> Vec<Taker> {
    let mut takers: BTreeMap<OrderId, Taker> = BTreeMap::new();
    for op in evidence.history.reserves().filter(|op| op.kind != Outcome::Fail) {
        let (Some(rid), Some(item)) = (op.rid, op.item) else { continue };
        let last = if op.kind == Outcome::Info { u64::MAX } else { op.t1 };
        let new = Taker { rid, item, units: i64::from(op.qty), first: op.t0, last };
        let taker = takers.entry(rid).or_insert(new);
        taker.first = taker.first.min(op.t0);
        taker.last = taker.last.max(last);
        taker.units = taker.units.max(i64::from(op.qty));
    }
    takers.into_values().collect()
}

/// The last sample of an item before `before`, if from there until after `until` the item was always open, in one epoch,
/// and its total was never lowered.
fn undisturbed(
    evidence: &Evidence,
    item: ItemId,
    before: u64,
    until: u64,
) -> Option<(u64, &InventorySample)> {
    let of_item = |inventory: &'_ Option<Vec<InventorySample>>| -> Option<usize> {
        inventory.as_ref()?.iter().position(|sample| sample.item == item)
    };
    let first = evidence.samples.partition_point(|sample| sample.until <= before).checked_sub(1)?;
    let start = &evidence.samples[first];
    let begun = &start.inventory.as_ref()?[of_item(&start.inventory)?];
    for sample in &evidence.samples[first..] {
        let here = &sample.inventory.as_ref()?[of_item(&sample.inventory)?];
        if here.epoch != begun.epoch || here.total < begun.total || here.withheld != begun.withheld {
            return None;
        }
        if sample.from >= until {
            return Some((start.from, begun));
        }
    }
    None
}
