//! What it costs to write and to read one message, by the number of events in it.

use common::api::{Order, OrderStatus};
use common::ids::{Currency, EventId, IdempotencyKey, ItemId, OrderId, Quantity, SaleId, UserId};
use common::messages::order::{CREATED_V1, OrderV1, Units};
use common::messages::{Envelope, Event};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use serde::Deserialize;
use uuid::Uuid;

const SIZES: [usize; 5] = [1, 8, 64, 128, 256];

/// Identities and bodies, each in a reading of its own.
#[derive(Deserialize)]
struct Body<T> {
    events: Vec<T>,
}

#[derive(Deserialize)]
struct Identity {
    #[expect(dead_code, reason = "only read")]
    event_id: EventId,
}

fn event(number: usize) -> Event<OrderV1> {
    let user = UserId::try_from(format!("user-{number}")).expect("a user");
    let item = ItemId(Uuid::from_u128(7));
    let key = IdempotencyKey::try_from(format!("key-{number}")).expect("a key");
    let at = chrono::DateTime::from_timestamp(1_800_000_000, 0).expect("a time");
    let order = Order {
        id: OrderId::derive(&user, item, &key),
        item_id: item,
        sale_id: SaleId(Uuid::from_u128(8)),
        quantity: Quantity::try_from(1).expect("a quantity"),
        unit_price_cents: 1_990,
        total_cents: 1_990,
        currency: Currency::try_from("CNY".to_owned()).expect("a currency"),
        status: OrderStatus::PendingPayment,
        reason: None,
        refund: None,
        version: 1,
        created_at: at,
        expires_at: Some(at),
    };
    let data = OrderV1 { order, user_id: user, units: Units::Held, epoch: 1 };
    Event { event_id: EventId(Uuid::from_u128(number as u128)), data }
}

fn envelope(events: usize) -> Envelope<OrderV1> {
    Envelope {
        id: Uuid::from_u128(1),
        kind: CREATED_V1.to_owned(),
        occurred_at: chrono::DateTime::from_timestamp(1_800_000_000, 0).expect("a time"),
        producer: "bench".to_owned(),
        events: (0..events).map(event).collect(),
    }
}

fn envelopes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("envelope");
    for size in SIZES {
        group.throughput(Throughput::Elements(size as u64));
        let envelope = envelope(size);
        group.bench_with_input(BenchmarkId::new("write", size), &envelope, |bencher, envelope| {
            bencher.iter(|| serde_json::to_vec(envelope).expect("JSON"));
        });
        let bytes = serde_json::to_vec(&envelope).expect("JSON");
        group.bench_with_input(BenchmarkId::new("read", size), &bytes, |bencher, bytes| {
            bencher.iter(|| serde_json::from_slice::<Envelope<OrderV1>>(bytes).expect("an envelope").events);
        });
        group.bench_with_input(BenchmarkId::new("read twice", size), &bytes, |bencher, bytes| {
            bencher.iter(|| {
                let identities: Body<Identity> = serde_json::from_slice(bytes).expect("an envelope");
                let orders: Body<OrderV1> = serde_json::from_slice(bytes).expect("an envelope");
                (identities.events.len(), orders.events.len())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, envelopes);
criterion_main!(benches);
