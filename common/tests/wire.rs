//! Messages that were released once stay readable and stay what they were on the wire.
//!
//! One golden file per message version. A file is never edited: a new optional field gets a new file beside the old
//! one, a new shape a new version (see `common::messages`).

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

use common::api::OrderStatus;
use common::ids::{Currency, IdempotencyKey, ItemId, OrderId, Quantity, UserId};
use common::messages::Envelope;
use common::messages::order::{self, OrderV1};
use common::messages::sale::{self, ChangedV1};
use common::messages::stock::{self, FenceV1, ReservedV1};
use common::topology::{PARTITIONS, Queue, stock_routing_key};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

fn golden(kind: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{kind}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn assert_frozen<E: Serialize + DeserializeOwned>(kind: &str) -> Envelope<E> {
    let json = golden(kind);
    let message: Envelope<E> =
        serde_json::from_value(json.clone()).unwrap_or_else(|error| panic!("{kind}: {error}"));
    assert_eq!(message.kind, kind);
    assert_eq!(serde_json::to_value(&message).unwrap(), json, "{kind} changed on the wire");
    message
}

#[test]
fn every_released_version_still_decodes_and_encodes_the_same() {
    assert_frozen::<ReservedV1>(stock::RESERVED_V1);
    assert_frozen::<FenceV1>(stock::FENCE_V1);
    assert_frozen::<ChangedV1>(sale::CHANGED_V1);
    for kind in order::ALL_V1 {
        assert_frozen::<OrderV1>(kind);
    }
}

#[test]
fn every_golden_file_is_checked() {
    let files =
        std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")).unwrap().count();
    assert_eq!(
        files,
        3 + order::ALL_V1.len(),
        "a golden file without a test, or a type without a golden file"
    );
}

/// The golden files of the last release, by kind.
fn released() -> Vec<(String, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/released/golden");
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let files = files.map(|file| {
        let path = file.unwrap().path();
        let kind = path.file_stem().unwrap().to_str().unwrap().to_owned();
        (kind, serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap())
    });
    files.collect()
}

/// What today's program makes of a message: decoded and encoded again.
fn today(kind: &str, message: Value) -> Value {
    fn again<E: Serialize + DeserializeOwned>(message: Value) -> Value {
        serde_json::to_value(serde_json::from_value::<Envelope<E>>(message).unwrap()).unwrap()
    }
    match kind {
        stock::RESERVED_V1 => again::<ReservedV1>(message),
        stock::FENCE_V1 => again::<FenceV1>(message),
        sale::CHANGED_V1 => again::<ChangedV1>(message),
        kind if order::ALL_V1.contains(&kind) => again::<OrderV1>(message),
        other => panic!("{other} was released, and nobody decodes it any more"),
    }
}

/// Whether who needs everything in `old` finds it in `new`, in the same form.
fn missing(place: &str, old: &Value, new: &Value) -> Vec<String> {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => old
            .iter()
            .flat_map(|(field, value)| {
                let place = format!("{place}.{field}");
                new.get(field).map_or_else(|| vec![place.clone()], |now| missing(&place, value, now))
            })
            .collect(),
        (Value::Array(old), Value::Array(new)) => {
            old.iter().zip(new).flat_map(|(old, new)| missing(place, old, new)).collect()
        }
        _ if std::mem::discriminant(old) == std::mem::discriminant(new) => Vec::new(),
        _ => vec![format!("{place}: {old} became {new}")],
    }
}

/// Services are released on their own, so the queues hold messages of both releases at once.
#[test]
fn this_release_and_the_last_understand_each_others_messages() {
    let released = released();
    assert!(released.len() >= 9, "the last release had more messages");
    for (kind, message) in released {
        let ours = today(&kind, message.clone()); // Its message, our decoder.
        assert_eq!(missing(&kind, &message, &ours), Vec::<String>::new(), "our message, its decoder");
        assert_eq!(missing(&kind, &message, &golden(&kind)), Vec::<String>::new());
    }
}

#[test]
fn a_field_that_the_last_release_needs_is_missed() {
    let (kind, message) = released().remove(0);
    let mut ours = message.clone();
    ours["events"][0].as_object_mut().unwrap().remove("event_id");
    ours["occurred_at"] = Value::from(1);
    assert_eq!(missing(&kind, &message, &ours).len(), 2);
}

#[test]
fn fields_that_a_consumer_does_not_know_are_ignored() {
    let mut json = golden(order::PAID_V1);
    json["added_later"] = Value::from(1);
    json["events"][0]["added_later"] = Value::from("x");
    let message: Envelope<OrderV1> = serde_json::from_value(json).unwrap();
    assert_eq!(message.events[0].data.order.status, OrderStatus::Paid);
}

#[test]
fn values_outside_their_range_do_not_decode() {
    for (field, value) in [
        ("quantity", Value::from(0)),
        ("quantity", Value::from(-1)),
        ("quantity", Value::from(1_000_000_000)),
        ("user_id", Value::from("")),
        ("user_id", Value::from("a b")),
        ("currency", Value::from("cny")),
    ] {
        let mut json = golden(stock::RESERVED_V1);
        json["events"][0][field] = value.clone();
        assert!(serde_json::from_value::<Envelope<ReservedV1>>(json).is_err(), "{field} = {value} was taken");
    }
}

/// Clients and services of every version derive the same id, so the derivation is frozen like a message.
#[test]
fn the_order_id_of_an_attempt_never_changes() {
    let user = UserId::try_from("user_42".to_owned()).unwrap();
    let item = ItemId(Uuid::parse_str("00000000-0000-4000-8000-0000aabbccdd").unwrap());
    let key = |text: &str| IdempotencyKey::try_from(text.to_owned()).unwrap();

    let id = OrderId::derive(&user, item, &key("attempt-1"));
    assert_eq!(id, OrderId::derive(&user, item, &key("attempt-1")));
    assert_ne!(id, OrderId::derive(&user, item, &key("attempt-2")));
    assert_eq!(id.item_tag(), 0xAABB_CCDD);
    assert_eq!(id.item_tag(), item.tag());
    assert_eq!(id.0.get_version_num(), 8);
    assert_eq!(id.to_string(), "aabbccdd-944c-8264-ad70-80c74133fe56");
}

#[test]
fn a_reservation_reaches_exactly_the_queue_of_its_partition() {
    for n in 0..u128::from(PARTITIONS) {
        let item = ItemId(Uuid::from_u128(n));
        let key = stock_routing_key(stock::RESERVED_V1, item);
        let bound: Vec<Queue> =
            Queue::all().into_iter().filter(|queue| matches(&queue.pattern, &key)).collect();
        assert_eq!(bound, [Queue::reservations(item.partition())]);
    }
}

/// AMQP topic matching for the patterns in use: `*` is one word, a final `#` the rest.
fn matches(pattern: &str, key: &str) -> bool {
    let mut words = key.split('.');
    for part in pattern.split('.') {
        match (part, words.next()) {
            ("#", _) => return true,
            ("*", Some(_)) => {}
            (part, Some(word)) if part == word => {}
            _ => return false,
        }
    }
    words.next().is_none()
}

#[test]
fn ids_refuse_what_they_cannot_be() {
    for text in ["", "a b", "ü", "a/b", "a\0", &"x".repeat(65)] {
        assert!(UserId::try_from(text.to_owned()).is_err(), "user id {text:?}");
    }
    for text in ["", "a b", "ü", "a\n", &"x".repeat(129)] {
        assert!(IdempotencyKey::try_from(text.to_owned()).is_err(), "key {text:?}");
    }
    for code in ["", "cny", "CNYX", "C1Y"] {
        assert!(Currency::try_from(code.to_owned()).is_err(), "currency {code:?}");
    }
    for units in [0, 101, u32::MAX] {
        assert!(Quantity::try_from(units).is_err(), "quantity {units}");
    }
}
