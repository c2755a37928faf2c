//! The lives of orders.

use std::collections::{BTreeMap, BTreeSet};

use common::api::OrderStatus;
use common::ids::{ItemId, OrderId};
use common::messages::order::Units;

use crate::client_log::{Function, Op, Outcome};
use crate::evidence::{Evidence, OrderRow, TransitionRow};

/// Longest that an order may be late in lapsing, after the campaign's faults have been healed for a while.
const LATE_S_MAX: i64 = 10;

fn by_order(evidence: &Evidence) -> BTreeMap<OrderId, Vec<&TransitionRow>> {
    let mut lives: BTreeMap<OrderId, Vec<&TransitionRow>> = BTreeMap::new();
    for transition in &evidence.books.transitions {
        lives.entry(transition.order_id).or_default().push(transition);
    }
    lives
}

/// `held` to `sold` or `returned`, `sold` to `returned`, each at most once.
pub fn s5_released_once(evidence: &Evidence) -> Vec<String> {
    let mut found = Vec::new();
    for (id, life) in by_order(evidence) {
        let path: Vec<Units> = life.iter().map(|transition| transition.units).collect();
        let legal = path.windows(2).all(|pair| {
            matches!(
                (pair[0], pair[1]),
                (Units::Held, Units::Held | Units::Sold | Units::Returned)
                    | (Units::Sold, Units::Sold | Units::Returned)
                    | (Units::Returned, Units::Returned)
            )
        });
        if !legal {
            found.push(format!("order {id}: units went {path:?}"));
        }
    }
    found.extend(forgotten_versions(evidence));
    found
}

/// As long as an item is not loaded anew, what Redis knows of its orders only grows, version by version.
fn forgotten_versions(evidence: &Evidence) -> Vec<String> {
    let mut found = Vec::new();
    let mut last: BTreeMap<ItemId, (i64, i64)> = BTreeMap::new();
    for sample in &evidence.samples {
        for item in sample.inventory.iter().flatten() {
            let (epoch, versions) = last.insert(item.item, (item.epoch, item.versions)).unwrap_or_default();
            if epoch == item.epoch && versions > item.versions {
                found.push(format!(
                    "at {} ms, {}: the versions of its orders went from {versions} in all to {}",
                    sample.from / 1_000_000,
                    item.item,
                    item.versions
                ));
            }
        }
    }
    found
}

/// Reads that do not overlap show versions that never fall; one version is always the same state; after an acceptance
/// an order is never unknown. `queued` (version 0) is no step back: it is what the inventory says while the database cannot
/// be asked, and the inventory hears later of what the buyer has seen already.
pub fn a6_monotonic(evidence: &Evidence) -> Vec<String> {
    let mut found = Vec::new();
    let mut reads: BTreeMap<OrderId, Vec<&Op>> = BTreeMap::new();
    let owners: BTreeMap<OrderId, &str> =
        evidence.history.reserves().filter_map(|op| Some((op.rid?, op.user.as_str()))).collect();
    let own = |op: &&Op| op.rid.and_then(|rid| owners.get(&rid)).is_some_and(|owner| *owner == op.user);
    for op in evidence.history.ops.iter().filter(|op| op.f == Function::Get).filter(own) {
        if let Some(rid) = op.rid {
            reads.entry(rid).or_default().push(op);
        }
    }
    let mut accepted: BTreeMap<OrderId, u64> = BTreeMap::new();
    for op in evidence.history.reserves().filter(|op| op.kind == Outcome::Ok) {
        if let Some(rid) = op.answered {
            let first = accepted.entry(rid).or_insert(op.t1);
            *first = op.t1.min(*first);
        }
    }
    for (rid, reads) in reads {
        let mut by_start = reads.clone();
        by_start.sort_by_key(|op| op.t0);
        // Reads that had ended before this one began, by their end.
        let mut ended = reads.iter().filter(|op| op.version.is_some()).copied().collect::<Vec<_>>();
        ended.sort_by_key(|op| op.t1);
        let (mut next, mut newest) = (0, None::<&Op>);
        for op in by_start {
            while let Some(earlier) = ended.get(next).filter(|earlier| earlier.t1 < op.t0) {
                if newest.is_none_or(|newest| newest.version < earlier.version) {
                    newest = Some(earlier);
                }
                next += 1;
            }
            if let (Some(newest), Some(version)) = (newest, op.version)
                && version > 0
                && newest.version > Some(version)
            {
                found.push(format!(
                    "order {rid}: op {} saw {:?}, op {} {version}",
                    newest.op, newest.version, op.op
                ));
            }
            let known = newest.is_some() || accepted.get(&rid).is_some_and(|at| *at < op.t0);
            if known && op.http == Some(404) {
                found.push(format!("order {rid}: op {} was told that there is none", op.op));
            }
        }
    }
    found.extend(one_version_one_state(evidence));
    found
}

fn one_version_one_state(evidence: &Evidence) -> Vec<String> {
    let truth: BTreeMap<(OrderId, i64), OrderStatus> = evidence
        .books
        .transitions
        .iter()
        .map(|transition| ((transition.order_id, transition.version), transition.to_status))
        .collect();
    let reads = evidence.history.ops.iter().filter_map(|op| Some((op.answered?, op.version?, op.state?)));
    let events = evidence.history.events.iter().map(|event| (event.rid, event.version, event.state));
    let mut found = BTreeSet::new();
    for (rid, version, state) in reads.chain(events) {
        let expected = if version == 0 { Some(&OrderStatus::Queued) } else { truth.get(&(rid, version)) };
        if expected != Some(&state) {
            found.insert(format!("order {rid}: version {version} was seen as {state:?}, is {expected:?}"));
        }
    }
    found.into_iter().collect()
}

/// Versions from 1 without a gap, each step in the table, the last one is the order's state.
pub fn a7_legal(evidence: &Evidence) -> Vec<String> {
    let mut found = Vec::new();
    let mut lives = by_order(evidence);
    for order in &evidence.books.orders {
        let life = lives.remove(&order.id).unwrap_or_default();
        if let Some(problem) = illegal(order, &life) {
            found.push(format!("order {}: {problem}", order.id));
        }
    }
    found.extend(lives.keys().map(|id| format!("order {id} has a life and does not exist")));
    found
}

fn illegal(order: &OrderRow, life: &[&TransitionRow]) -> Option<String> {
    let (first, last) = (life.first()?, life.last()?);
    let begins = first.from_status.is_none_or(|from| from == OrderStatus::Queued)
        && matches!(first.to_status, OrderStatus::PendingPayment | OrderStatus::Rejected);
    if !begins {
        return Some(format!("begins with {first:?}"));
    }
    for (version, transition) in (1..).zip(life) {
        if transition.version != version {
            return Some(format!("version {} where {version} is due", transition.version));
        }
    }
    for pair in life.windows(2) {
        let (from, to) = (pair[0].to_status, pair[1].to_status);
        // A step to itself shows what became of a late payment.
        let listed =
            from == to || order_service::machine::ORDER.iter().any(|step| (step.from, step.to) == (from, to));
        if !listed || pair[1].from_status != Some(from) {
            return Some(format!("no step leads from {from:?} to {to:?} ({:?})", pair[1]));
        }
    }
    let ends = last.to_status == order.status && last.units == order.units && last.version == order.version;
    (!ends).then(|| format!("ends with {last:?}, is {:?} version {}", order.status, order.version))
}

/// Nothing lapses before its time, nobody gets less time than promised, and at the end nothing is overdue.
pub fn a8_bounded(evidence: &Evidence) -> Vec<String> {
    let mut found = Vec::new();
    let orders: BTreeMap<OrderId, &OrderRow> =
        evidence.books.orders.iter().map(|order| (order.id, order)).collect();
    let window = chrono::Duration::seconds(i64::from(evidence.facts.window_s));
    for order in orders.values().filter(|order| order.status != OrderStatus::Rejected) {
        if order.expires_at != Some(order.created_at + window) {
            found
                .push(format!("order {}: made {}, until {:?}", order.id, order.created_at, order.expires_at));
        }
    }
    for transition in &evidence.books.transitions {
        let lapsed = transition.to_status == OrderStatus::Expired
            && transition.from_status == Some(OrderStatus::PendingPayment);
        let expires_at = orders.get(&transition.order_id).and_then(|order| order.expires_at);
        if lapsed && expires_at.is_some_and(|expires_at| transition.at < expires_at) {
            found.push(format!(
                "order {} lapsed at {} before {expires_at:?}",
                transition.order_id, transition.at
            ));
        }
    }
    let end = evidence.samples.last().map(|sample| evidence.history.wall(sample.until));
    for order in orders.values().filter(|order| order.status == OrderStatus::PendingPayment) {
        let late = chrono::Duration::seconds(LATE_S_MAX);
        if order.expires_at.zip(end).is_some_and(|(expires_at, end)| expires_at + late < end) {
            found.push(format!("order {} still waits, due {:?}", order.id, order.expires_at));
        }
    }
    found
}
