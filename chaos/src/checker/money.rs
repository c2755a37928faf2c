//! P: money.

use std::collections::BTreeMap;

use common::api::OrderStatus;
use common::ids::{OrderId, PaymentId};

use crate::client_log::{Function, Outcome};
use crate::evidence::{Evidence, OrderRow, PaymentRow};

fn payments_of(evidence: &Evidence) -> BTreeMap<OrderId, Vec<&PaymentRow>> {
    let mut payments: BTreeMap<OrderId, Vec<&PaymentRow>> = BTreeMap::new();
    for payment in &evidence.books.payments {
        payments.entry(payment.order_id).or_default().push(payment);
    }
    payments
}

/// A paid order has exactly one kept payment of `price * units`, and only paid orders have one.
pub fn p1_one_kept(evidence: &Evidence) -> Vec<String> {
    let payments = payments_of(evidence);
    let mut found = Vec::new();
    for order in &evidence.books.orders {
        let of_order = payments.get(&order.id).map_or(&[][..], Vec::as_slice);
        let kept: Vec<_> = of_order.iter().filter(|payment| payment.status == "kept").collect();
        let wanted = usize::from(order.status == OrderStatus::Paid);
        if kept.len() != wanted {
            found.push(format!("order {} is {:?} with {} kept payments", order.id, order.status, kept.len()));
        }
        let amount_cents = order.unit_price_cents * order.quantity;
        for payment in of_order.iter().filter(|payment| payment.amount_cents != amount_cents) {
            found.push(format!("order {} costs {amount_cents}: {payment:?}", order.id));
        }
    }
    found
}

/// What the provider captured is kept for a paid order or given back; what is kept was captured.
pub fn p2_conserved(evidence: &Evidence) -> Vec<String> {
    let payments: BTreeMap<PaymentId, &PaymentRow> =
        evidence.books.payments.iter().map(|payment| (payment.id, payment)).collect();
    let mut found = Vec::new();
    for entry in &evidence.books.provider {
        let ours = payments.get(&entry.payment_id).map(|payment| payment.status.as_str());
        let consistent = match (entry.captured_at.is_some(), entry.refunded_at.is_some()) {
            (true, false) => ours == Some("kept"),
            (true, true) => ours == Some("refunded"),
            (false, false) => matches!(ours, Some("started" | "failed")),
            (false, true) => false,
        };
        // What is still under way when the patience was over is L1's to tell, not a contradiction of the books.
        let under_way =
            evidence.facts.not_quiet.is_some() && matches!(ours, Some("started" | "refund_pending"));
        if !consistent && !under_way {
            found.push(format!("the provider has {entry:?}, we {ours:?}"));
        }
    }
    let known: std::collections::BTreeSet<_> =
        evidence.books.provider.iter().map(|entry| entry.payment_id).collect();
    // One whose beginning was committed and not answered may never have got to the provider: no money has moved.
    let moved = |payment: &&PaymentRow| !matches!(payment.status.as_str(), "started" | "failed");
    for payment in evidence.books.payments.iter().filter(moved).filter(|payment| !known.contains(&payment.id))
    {
        found.push(format!("the provider does not know {payment:?}"));
    }
    found
}

/// A capture whose order is not paid has exactly one refund, and shows it. Each attempt at it has the number of the
/// payment: under two numbers a provider gives money back twice.
pub fn p3_refunded_once(evidence: &Evidence) -> Vec<String> {
    let orders: BTreeMap<OrderId, &OrderRow> =
        evidence.books.orders.iter().map(|order| (order.id, order)).collect();
    let mut found = Vec::new();
    for entry in evidence.books.provider.iter().filter(|entry| entry.captured_at.is_some()) {
        let Some(order) = orders.get(&entry.order_id) else {
            found.push(format!("captured for an order that does not exist: {entry:?}"));
            continue;
        };
        let paid = order.status == OrderStatus::Paid;
        if !paid && entry.refunded_at.is_none() && evidence.facts.not_quiet.is_none() {
            found
                .push(format!("order {} is {:?}, and the money was kept: {entry:?}", order.id, order.status));
        }
        if entry.refund_no.is_some_and(|number| number != entry.payment_id.0) {
            found.push(format!("the refund has a number that its next attempt would not have: {entry:?}"));
        }
        let shown = order.refund.as_deref() == Some("done") || order.status == OrderStatus::Refunded;
        if entry.refunded_at.is_some() && !shown && !paid && evidence.facts.not_quiet.is_none() {
            found.push(format!("order {} does not show its refund: {:?}", order.id, order.refund));
        }
    }
    found
}

/// A genuine notice is answered with success, or put off; however often it comes it is one row.
pub fn p4_repeated_notices(evidence: &Evidence) -> Vec<String> {
    let mut found = Vec::new();
    let genuine = |op: &&crate::client_log::Op| op.f == Function::Callback && op.forgery.is_none();
    for op in evidence.history.ops.iter().filter(genuine) {
        if op.kind == Outcome::Fail && !matches!(op.http, Some(408 | 429 | 503)) {
            found.push(format!("op {}: a genuine notice was answered {:?} {:?}", op.op, op.http, op.code));
        }
    }
    let mut seen = BTreeMap::new();
    for notice in &evidence.books.notices {
        if let Some(other) = seen.insert(&notice.event_id, notice.payment_id) {
            found
                .push(format!("notice {} counts for {other:?} and {:?}", notice.event_id, notice.payment_id));
        }
    }
    found
}

/// A forged notice is refused, or put off, and its id is nowhere in the books.
pub fn p5_forged_notices(evidence: &Evidence) -> Vec<String> {
    let mut found = Vec::new();
    for op in evidence.history.ops.iter().filter(|op| op.forgery.is_some()) {
        if op.kind == Outcome::Ok {
            found.push(format!("op {}: a notice with {:?} was answered {:?}", op.op, op.forgery, op.http));
        }
    }
    for notice in evidence.books.notices.iter().filter(|notice| notice.event_id.starts_with("forged-")) {
        found.push(format!("a forged notice was believed: {notice:?}"));
    }
    found
}
