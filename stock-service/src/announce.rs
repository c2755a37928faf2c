//! What this service says: `stock.reserved.v1` and `stock.fence.v1`.

use std::collections::HashSet;
use std::time::Duration;

use chrono::DateTime;
use common::amqp::{Outgoing, PublishError, Publisher};
use common::failpoint::planted;
use common::ids::{EventId, ItemId, OrderId, Quantity, UserId};
use common::messages::stock::{FENCE_V1, FenceV1, RESERVED_V1, ReservedV1};
use common::messages::{Envelope, Event};
use common::topology::{Exchange, PARTITIONS, Queue, stock_routing_key};
use serde::Serialize;
use tokio::time::Instant;
use uuid::Uuid;

use crate::crash_points::Step;
use crate::planted::{FENCE_ELSEWHERE, RETURNED_IS_DELIVERED};
use crate::stock::{Hold, Offer};

const PRODUCER: &str = "stock-service";

/// One reservation to be announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The order to be.
    pub order_id: OrderId,
    /// Who bought.
    pub user_id: UserId,
    /// How many units.
    pub quantity: Quantity,
    /// When, in ms of Redis' clock.
    pub reserved_ms: i64,
}

impl Grant {
    /// The reservation that a hold stands for.
    pub fn of(order_id: OrderId, hold: Hold) -> Self {
        Self { order_id, user_id: hold.user_id, quantity: hold.quantity, reserved_ms: hold.reserved_ms }
    }
}

/// The moment at which Redis was asked for what is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// By this process's clock, before the question was sent.
    pub at: Instant,
    /// By Redis' clock, in ms.
    pub redis_ms: i64,
}

/// Publishes, confirmed. Cheap to clone.
#[derive(Clone)]
pub struct Announcer {
    publisher: Publisher,
    timeout: Duration,
    reply_timeout: Duration,
    points: Option<PublishPoints>,
}

/// Where a campaign can let a publish go wrong, see [`crate::crash_points`].
#[derive(Debug, Clone, Copy)]
pub struct PublishPoints {
    /// Around handing the message to the broker.
    pub publish: Step,
    /// Around its confirm.
    pub confirm: Step,
}

impl Announcer {
    /// Through `publisher`; a confirm that takes longer than `timeout_ms` counts as missing. Redis has `reply_timeout_ms`
    /// for the answer that is announced.
    pub fn new(publisher: Publisher, timeout_ms: u64, reply_timeout_ms: u64) -> Self {
        let (timeout, reply_timeout) =
            (Duration::from_millis(timeout_ms), Duration::from_millis(reply_timeout_ms));
        Self { publisher, timeout, reply_timeout, points: None }
    }

    /// The same, by the way of these crash points.
    pub fn passing(&self, points: PublishPoints) -> Self {
        Self { points: Some(points), ..self.clone() }
    }

    /// Whether a publish would be tried now.
    pub fn is_ready(&self) -> bool {
        self.publisher.is_ready()
    }

    /// The longest time between the question to Redis and the end of the publish of what it answered. A load waits as
    /// long for whoever asked before it; then it counts on nobody.
    pub fn longest(&self) -> Duration {
        self.reply_timeout + self.timeout
    }

    /// Announces reservations of one item in one message; the same order is in it once.
    ///
    /// Not if [`Announcer::longest`] is over since Redis was `asked`: this process may have stood still, and a load may
    /// have sold these units to others since. What still holds stays in `unsettled` for the next one who looks.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub async fn reserved(
        &self,
        item_id: ItemId,
        offer: &Offer,
        asked: Asked,
        grants: Vec<Grant>,
    ) -> Result<(), PublishError> {
        let mut seen = HashSet::with_capacity(grants.len());
        let grants = grants.into_iter().filter(|grant| seen.insert(grant.order_id));
        let events = grants.map(|grant| Event {
            // A reservation is announced as the same event however often.
            event_id: EventId(grant.order_id.0),
            data: ReservedV1 {
                order_id: grant.order_id,
                item_id,
                sale_id: offer.sale_id,
                user_id: grant.user_id,
                quantity: grant.quantity,
                unit_price_cents: offer.unit_price_cents,
                currency: offer.currency.clone(),
                epoch: offer.epoch,
                reserved_at: DateTime::from_timestamp_millis(grant.reserved_ms).unwrap_or_default(),
            },
        });
        let deadline = asked.at + self.longest();
        self.publish((RESERVED_V1, deadline), item_id, asked.redis_ms, events.collect()).await
    }

    /// Sends a fence through the item's partition.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub async fn fence(&self, fence: FenceV1, now_ms: i64) -> Result<(), PublishError> {
        let item_id = fence.item_id;
        let event = Event { event_id: EventId(fence.token), data: fence };
        self.publish((FENCE_V1, Instant::now() + self.timeout), item_id, now_ms, vec![event]).await
    }

    /// Whether the work queue of an item's partition has nothing in it that nobody has taken yet. A queue that does
    /// not exist is empty.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub async fn partition_is_empty(&self, item: ItemId) -> Result<bool, PublishError> {
        let queue = Queue::reservations(item.partition());
        let length = self.publisher.queue_length(&queue.name, Instant::now() + self.timeout).await?;
        Ok(length.unwrap_or(0) == 0)
    }

    async fn publish<E: Serialize>(
        &self,
        (kind, deadline): (&str, Instant),
        item: ItemId,
        now_ms: i64,
        events: Vec<Event<E>>,
    ) -> Result<(), PublishError> {
        let id = Uuid::now_v7();
        let occurred_at = DateTime::from_timestamp_millis(now_ms).unwrap_or_default();
        let producer = PRODUCER.to_owned();
        let envelope = Envelope { id, kind: kind.to_owned(), occurred_at, producer, events };
        // Nothing in these types can fail to become JSON.
        let body = serde_json::to_vec(&envelope).map_err(|error| {
            tracing::error!(%error, kind, "an event cannot be written as JSON");
            PublishError::NotReady
        })?;
        let outgoing = Outgoing {
            exchange: Exchange::Stock.name(),
            routing_key: routing_key(kind, item),
            message_id: id,
            kind: kind.to_owned(),
            body,
        };
        match self.send(outgoing, deadline).await {
            Err(PublishError::Unroutable) if planted(RETURNED_IS_DELIVERED) => Ok(()),
            result => result,
        }
    }

    async fn send(&self, outgoing: Outgoing, deadline: Instant) -> Result<(), PublishError> {
        let confirmed = self.publisher.publish(outgoing, deadline);
        let Some(PublishPoints { publish, confirm }) = self.points else { return confirmed.await };
        publish.begins().await.map_err(|_| PublishError::NotReady)?;
        // The message is handed over by the first poll; what comes after that is the confirm.
        let (confirmed, handed_over) = tokio::join!(confirmed, publish.ended());
        handed_over.and(confirm.begins().await).map_err(|_| PublishError::Unknown)?;
        confirm.ended().await.map_err(|_| PublishError::Unknown)?;
        confirmed
    }
}

fn routing_key(kind: &str, item: ItemId) -> String {
    if kind == FENCE_V1 && planted(FENCE_ELSEWHERE) {
        return format!("{kind}.{}", (item.partition() + 1) % PARTITIONS);
    }
    stock_routing_key(kind, item)
}
