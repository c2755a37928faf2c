//! M: messages, and telling people.

use std::collections::{BTreeMap, BTreeSet};

use common::api::OrderStatus;
use common::ids::OrderId;
use serde_json::Value;

use crate::evidence::{Evidence, ToldRow};

/// Queues, outbox and `unsettled` are empty.
pub fn m1_drained(evidence: &Evidence) -> Vec<String> {
    let books = &evidence.books;
    let mut found = Vec::new();
    if books.outbox_unpublished > 0 {
        found.push(format!("{} messages in the outbox", books.outbox_unpublished));
    }
    for (queue, depth) in books.queues.iter().filter(|(_, depth)| **depth > 0) {
        found.push(format!("{depth} messages in {queue}"));
    }
    for (item, inventory) in books.inventory.iter().filter(|(_, inventory)| !inventory.unsettled.is_empty()) {
        found.push(format!("{item}: {} unsettled", inventory.unsettled.len()));
    }
    found
}

/// Each injected poison is parked once for each queue that it went to, and nothing else is parked.
pub fn m2_poison(evidence: &Evidence) -> Vec<String> {
    let mut found = Vec::new();
    let mut parked: BTreeMap<&str, usize> = BTreeMap::new();
    let markers: Vec<&str> = evidence
        .facts
        .poison
        .iter()
        .map(|poison| poison.marker.as_str())
        .chain(evidence.facts.poison_unsure.iter().map(String::as_str))
        .collect();
    for letter in &evidence.books.dead_letters {
        match markers.iter().find(|marker| letter.body.contains(**marker)) {
            Some(marker) => *parked.entry(marker).or_default() += 1,
            None => found.push(format!("a good message was parked: {letter:?}")),
        }
    }
    for poison in &evidence.facts.poison {
        let count = parked.get(poison.marker.as_str()).copied().unwrap_or(0);
        if count > poison.queues || (count < poison.queues && !evidence.facts.broker_lost) {
            found.push(format!("{poison:?} was parked {count} times"));
        }
    }
    found
}

/// Every event was taken by the receiver, or given up; all attempts of one event have one id and one body, and are
/// signed.
pub fn m3_webhooks(evidence: &Evidence) -> Vec<String> {
    let mut found = Vec::new();
    let mut ids: BTreeMap<String, (&str, &str)> = BTreeMap::new();
    let mut taken: BTreeSet<&str> = BTreeSet::new();
    for attempt in &evidence.facts.received {
        if !attempt.genuine {
            found.push(format!("delivery {} is not signed by its secret", attempt.id));
        }
        if (200..300).contains(&attempt.answered) {
            taken.insert(&attempt.id);
        }
        // One event is one order in one version.
        let body: Value = serde_json::from_str(&attempt.body).unwrap_or_default();
        let event = format!("{} {} {}", body["type"], body["data"]["id"], body["data"]["version"]);
        let (id, text) = ids.entry(event).or_insert((&attempt.id, &attempt.body));
        if *id != attempt.id || *text != attempt.body {
            found.push(format!("one event was sent as {id} and as {}", attempt.id));
        }
    }
    for delivery in &evidence.books.deliveries {
        let received = taken.iter().any(|id| id.contains(&delivery.event_id.to_string()))
            || taken.iter().any(|id| id.contains(&delivery.event_id.simple().to_string()));
        if delivery.state == "delivered" && !received {
            found.push(format!("{delivery:?} never arrived"));
        }
    }
    found
}

/// Each connection goes on right after the number that it asked for, without a gap, with orders of its user only; in
/// the end everything that is stored was heard.
pub fn m4_streams(evidence: &Evidence) -> Vec<String> {
    let mut found = Vec::new();
    let told: BTreeMap<(&str, i64), &ToldRow> =
        evidence.books.told.iter().map(|row| ((row.user_id.as_str(), row.seq), row)).collect();
    let mut last: BTreeMap<(&str, u32), i64> = BTreeMap::new();
    let mut heard: BTreeMap<&str, BTreeSet<i64>> = BTreeMap::new();
    for event in &evidence.history.events {
        let position = last.entry((&event.user, event.connection)).or_insert(event.after);
        if event.seq != *position + 1 {
            found.push(format!("{}: {} follows on {position}", event.user, event.seq));
        }
        *position = event.seq;
        heard.entry(&event.user).or_default().insert(event.seq);
        match told.get(&(event.user.as_str(), event.seq)) {
            Some(row)
                if (row.order_id, row.version, row.status) == (event.rid, event.version, event.state) => {}
            row => found.push(format!("{}: heard {event:?}, stored is {row:?}", event.user)),
        }
    }
    for listener in &evidence.facts.listeners {
        let stored = evidence.books.told.iter().filter(|row| row.user_id == *listener);
        let empty = BTreeSet::new();
        let heard = heard.get(listener.as_str()).unwrap_or(&empty);
        for row in stored.filter(|row| !heard.contains(&row.seq)) {
            found.push(format!("{listener} never heard {row:?}"));
        }
    }
    found
}

/// Each change of an order that is to be told was told to its user, once; numbers have no gap.
pub fn m5_told(evidence: &Evidence) -> Vec<String> {
    let mut found = Vec::new();
    let owners: BTreeMap<OrderId, &str> =
        evidence.books.orders.iter().map(|order| (order.id, order.user_id.as_str())).collect();
    let mut told: BTreeMap<(OrderId, i64), usize> = BTreeMap::new();
    let mut last: BTreeMap<&str, i64> = BTreeMap::new();
    for row in &evidence.books.told {
        *told.entry((row.order_id, row.version)).or_default() += 1;
        if owners.get(&row.order_id) != Some(&row.user_id.as_str()) {
            found.push(format!("{} was told of somebody else's order: {row:?}", row.user_id));
        }
        let position = last.entry(&row.user_id).or_insert(0);
        if row.seq != *position + 1 {
            found.push(format!("{}: number {} follows on {position}", row.user_id, row.seq));
        }
        *position = row.seq;
    }
    for transition in &evidence.books.transitions {
        let same = transition.from_status == Some(transition.to_status);
        // Not told by themselves: the way to a refund, and that a late payment is on its way back.
        let silent = transition.to_status == OrderStatus::RefundPending || same;
        let times = told.remove(&(transition.order_id, transition.version)).unwrap_or(0);
        if times == 0 && !silent {
            found.push(format!("nobody was told of {transition:?}"));
        }
        if times > 1 {
            found.push(format!("{times} times told of {transition:?}"));
        }
    }
    found.extend(
        told.keys().map(|(id, version)| format!("told of order {id} version {version}, which is none")),
    );
    found
}
