//! What answers look like, and what processes leave behind.

use std::collections::BTreeMap;

use common::ids::OrderId;

use crate::client_log::{Function, Op, Outcome};
use crate::evidence::Evidence;

/// Every answer is documented; whoever is put off is told for how long, and whether something happened.
pub fn c1_documented(evidence: &Evidence) -> Vec<String> {
    evidence
        .history
        .ops
        .iter()
        .filter_map(|op| Some(format!("op {} ({:?}): {}", op.op, op.f, strange(op)?)))
        .collect()
}

fn strange(op: &Op) -> Option<String> {
    let status = op.http?;
    let allowed: &[u16] = match op.f {
        Function::Reserve => &[202, 400, 401, 403, 404, 409, 413, 415, 422, 429, 503],
        Function::Get => &[200, 400, 401, 404, 429, 503],
        Function::Cancel => &[200, 400, 401, 404, 409, 429, 503],
        Function::Pay => &[201, 400, 401, 404, 409, 429, 503],
        Function::Checkout => &[200, 202, 204, 400, 404, 409, 415, 429, 502, 503],
        Function::Callback => &[200, 204, 400, 401, 404, 409, 413, 415, 422, 429, 503],
        Function::Sse => &[200, 401, 429, 503],
        Function::Admin => &[200, 201, 204, 400, 401, 403, 404, 409, 422, 429, 503],
    };
    // 408: the request did not come in time, whatever it was.
    if !allowed.contains(&status) && status != 408 {
        return Some(format!("answered {status} {:?}", op.code));
    }
    let has = |name: &str| op.hdr.contains_key(name);
    if matches!(status, 429 | 503) && !has("retry-after") {
        return Some(format!("{status} without Retry-After"));
    }
    if status >= 400 && op.f != Function::Checkout {
        if !has("x-outcome") {
            return Some(format!("{status} without X-Outcome"));
        }
        let problem = op.hdr.get("content-type").is_some_and(|kind| kind == "application/problem+json");
        if !problem || op.code.is_none() {
            return Some(format!("{status} is not a problem document"));
        }
    }
    None
}

/// Nobody sees somebody else's order.
pub fn p8_own_orders_only(evidence: &Evidence) -> Vec<String> {
    let owners: BTreeMap<OrderId, &str> =
        evidence.history.reserves().filter_map(|op| Some((op.rid?, op.user.as_str()))).collect();
    let mut found = Vec::new();
    let personal = |op: &&Op| matches!(op.f, Function::Get | Function::Cancel | Function::Pay);
    for op in evidence.history.ops.iter().filter(personal) {
        let owner = op.rid.and_then(|rid| owners.get(&rid));
        if op.kind == Outcome::Ok && owner.is_some_and(|owner| *owner != op.user) {
            found.push(format!("op {}: {} saw the order of {owner:?}", op.op, op.user));
        }
    }
    found
}

/// No panic, no secret in a log, no process that ended by itself.
pub fn h1_hygiene(evidence: &Evidence) -> Vec<String> {
    evidence.facts.deaths.iter().chain(&evidence.facts.log_findings).cloned().collect()
}

/// The system came to rest.
pub fn l1_quiet(evidence: &Evidence) -> Vec<String> {
    evidence.facts.not_quiet.iter().cloned().collect()
}

/// The last answer about an order that exists, in a system at rest, was not that it cannot be had.
pub fn l2_status(evidence: &Evidence) -> Vec<String> {
    let mut last: BTreeMap<OrderId, &Op> = BTreeMap::new();
    for op in evidence.history.ops.iter().filter(|op| op.note.as_deref() == Some("at rest")) {
        if let Some(rid) = op.rid {
            last.insert(rid, op);
        }
    }
    let strange = last.values().filter(|op| op.kind != Outcome::Ok);
    strange.map(|op| format!("op {}: {:?} {:?} in a system at rest", op.op, op.http, op.code)).collect()
}
