//! The subscriptions: one per partition. The broker feeds one consumer of a partition at a time, so that every
//! replica subscribes to all of them and each item's events are still handled in order. See [`super::share`] for which
//! one is fed.

use std::sync::Arc;
use std::time::Duration;

use common::amqp::{
    Accepts, AmqpSettings, Incoming, Publisher, RetryLater, Source, Subscription, Verdict, consume,
};
use common::failpoint;
use common::health::Health;
use common::messages::stock::{FENCE_V1, RESERVED_V1};
use common::shutdown::Tasks;
use common::topology::{PARTITIONS, Queue};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::share::Share;
use super::{StockEvent, place_orders};
use crate::db::{Db, DbError};
use crate::settings::PlaceOrdersSettings;
use crate::{crash_points, planted};

/// The names of the health checks; as many as there are partitions.
const CHECKS: [&str; PARTITIONS as usize] = [
    "reservations.0",
    "reservations.1",
    "reservations.2",
    "reservations.3",
    "reservations.4",
    "reservations.5",
    "reservations.6",
    "reservations.7",
];

/// Starts the consumers of all partitions.
pub fn start(
    settings: &PlaceOrdersSettings,
    amqp: &AmqpSettings,
    publisher: &Publisher,
    (db, health): (&Db, &Health),
    tasks: &Tasks,
) {
    let share = Share::new();
    tasks.spawn("share", share.clone().keep(db.clone(), tasks.stop_token()));
    for (partition, check) in (0..PARTITIONS).zip(CHECKS) {
        let line_up = Arc::<Notify>::default();
        let place = Arc::new(share.place(partition, line_up.clone()));
        let subscription = Subscription {
            source: Source::Work(Queue::reservations(partition)),
            prefetch: settings.prefetch,
            batch_max: settings.batch_max,
            min_interval: Duration::from_millis(settings.min_interval_ms),
            line_up,
            publisher: publisher.clone(),
            health: health.dependency(check),
        };
        let accepts =
            Accepts::new().kind(RESERVED_V1, StockEvent::Reserved).kind(FENCE_V1, StockEvent::Fence);
        let accepts = accepts.acknowledging(crash_points::ORDER_ACK_BEFORE, crash_points::ORDER_ACK_AFTER);
        let db = db.clone();
        consume(amqp, subscription, accepts, tasks, move |batch| {
            let (db, place) = (db.clone(), place.clone());
            async move {
                let verdicts = handle(&db, batch).await.map_err(|error| RetryLater(error.into()))?;
                metrics::counter!("order_batches_total", "partition" => partition.to_string()).increment(1);
                place.fed();
                Ok(verdicts)
            }
        });
    }
}

async fn handle(db: &Db, batch: Vec<Incoming<StockEvent>>) -> Result<Vec<Verdict>, DbError> {
    failpoint::reach(crash_points::ORDER_RECEIVE_BEFORE).await?;
    let events: Vec<StockEvent> = batch.into_iter().map(|incoming| incoming.event.data).collect();
    failpoint::reach(crash_points::ORDER_RECEIVE_AFTER).await?;
    if failpoint::planted(planted::ACK_BEFORE_COMMIT) {
        let (db, done) = (db.clone(), vec![Verdict::Done; events.len()]);
        Handle::current().spawn(async move { place_orders(&db, events).await });
        return Ok(done);
    }
    place_orders(db, events).await
}
