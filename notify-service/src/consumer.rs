//! Events of orders from the broker into the database, once each: for streams and, where somebody asked, for webhooks.

use std::sync::Arc;
use std::time::Duration;

use common::amqp::{Accepts, AmqpSettings, Incoming, RetryLater, Source, Subscription, Verdict, consume};
use common::failpoint;
use common::ids::{EventId, UserId};
use common::messages::order::{ALL_V1, OrderV1};
use common::shutdown::Tasks;
use common::telemetry::trace::{self, Describe, SpanKind};
use common::topology::Exchange;
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use serde::Deserialize;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::db::events::{self, NewEvent};
use crate::db::queue::{self, Message};
use crate::db::{self, Db, DbError, Lock, webhooks};
use crate::sse::hub::Hub;
use crate::{crash_points, planted, webhook};

/// Wake-ups that are handled together, and least time between two handlings.
const WAKEUPS_MAX: usize = 1_000;
const WAKEUP_INTERVAL: Duration = Duration::from_millis(10);
/// Wake-up messages that the broker hands over ahead.
const WAKEUP_PREFETCH: u16 = 64;
/// Every type of the exchange.
const PATTERN: &str = "order.#";

/// Stores events and rings for those who wait for them. Cheap to clone.
#[derive(Clone)]
pub struct Ingest {
    db: Db,
    hub: Hub,
    /// Rung when there are new deliveries.
    due: Arc<Notify>,
}

/// What a wake-up needs of an event.
#[derive(Debug, Deserialize)]
struct Wakeup {
    user_id: UserId,
}

/// What one batch came to.
struct Stored {
    events: usize,
    deliveries: bool,
}

impl Ingest {
    /// Stores into `db`, and rings `hub` and `due`.
    pub fn new(db: Db, hub: Hub, due: Arc<Notify>) -> Self {
        Self { db, hub, due }
    }

    /// Consumes `notify-service.orders`: every event is stored before its message is acknowledged.
    pub fn consume(self, settings: &AmqpSettings, subscription: Subscription, tasks: &Tasks) {
        let accepts = ALL_V1
            .into_iter()
            .fold(Accepts::new(), |accepts, kind| accepts.kind(kind, |order: OrderV1| order))
            .acknowledging(crash_points::ACK_BEFORE, crash_points::ACK_AFTER);
        consume(settings, subscription, accepts, tasks, move |batch| {
            let ingest = self.clone();
            async move { ingest.handle(batch).await }
        });
    }

    async fn handle(&self, batch: Vec<Incoming<OrderV1>>) -> Result<Vec<Verdict>, RetryLater> {
        let stored = match self.store(&batch).await {
            Err(_) if failpoint::planted(planted::ACK_WITHOUT_STORE) => {
                return Ok(vec![Verdict::Done; batch.len()]);
            }
            stored => stored.map_err(|error| RetryLater(error.into()))?,
        };
        if stored.events > 0 {
            self.hub.wake(batch.iter().map(|incoming| &incoming.event.data.user_id), true);
        }
        if stored.deliveries {
            self.due.notify_one();
        }
        observe(&batch, stored.events);
        Ok(vec![Verdict::Done; batch.len()])
    }

    async fn store(&self, batch: &[Incoming<OrderV1>]) -> Result<Stored, DbError> {
        failpoint::reach(crash_points::RECEIVE_AFTER).await?;
        let mut connection = self.db.get().await?;
        let work = trace::child(|| {
            Describe::new("transaction notify", SpanKind::Client)
                .with("db.system.name", "postgresql")
                .with("db.namespace", "notify")
        });
        let storing = connection.transaction(async |connection| store(connection, batch).await);
        let stored = trace::within(work, storing).await?;
        failpoint::reach(crash_points::COMMIT_AFTER).await?;
        Ok(stored)
    }
}

async fn store(connection: &mut AsyncPgConnection, batch: &[Incoming<OrderV1>]) -> Result<Stored, DbError> {
    db::lock(connection, Lock::Ingest).await?;
    let events: Vec<NewEvent> = batch.iter().map(new_event).collect::<Result<_, _>>()?;
    let mut fresh = events::store(connection, &events).await?;
    let stored = fresh.len();

    let endpoints = webhooks::active(connection).await?;
    let mut messages = Vec::new();
    for incoming in batch {
        let wanting = endpoints.iter().filter(|endpoint| webhook::wants(&endpoint.types, incoming.kind));
        let webhooks: Vec<_> = wanting.map(|endpoint| endpoint.id).collect();
        // Removing: an event that is twice in the batch is told once.
        if !webhooks.is_empty() && fresh.remove(&incoming.event.event_id) {
            messages.push(Message {
                event_id: incoming.event.event_id,
                kind: incoming.kind.to_owned(),
                body: webhook::body(incoming.kind, incoming.occurred_at, &incoming.event.data)?,
                webhooks,
            });
        }
    }
    if !messages.is_empty() {
        queue::add(connection, &messages).await?;
    }
    failpoint::reach(crash_points::COMMIT_BEFORE).await?;
    Ok(Stored { events: stored, deliveries: !messages.is_empty() })
}

fn new_event(incoming: &Incoming<OrderV1>) -> Result<NewEvent, DbError> {
    let event = &incoming.event;
    let again = failpoint::planted(planted::NO_DEDUPE);
    Ok(NewEvent {
        event_id: if again { EventId(Uuid::new_v4()) } else { event.event_id },
        user_id: event.data.user_id.clone(),
        data: serde_json::to_string(&event.data.order)?,
    })
}

#[expect(clippy::disallowed_methods, reason = "only for a metric")]
fn observe(batch: &[Incoming<OrderV1>], stored: usize) {
    metrics::counter!("events_stored_total").increment(u64::try_from(stored).unwrap_or(u64::MAX));
    let known = batch.len() - stored;
    metrics::counter!("events_known_total").increment(u64::try_from(known).unwrap_or(u64::MAX));
    // The oldest of the batch: what waited longest.
    if let Some(oldest) = batch.iter().map(|incoming| incoming.occurred_at).min() {
        let lag = (chrono::Utc::now() - oldest).to_std().unwrap_or_default();
        metrics::histogram!("event_lag_seconds").record(lag);
    }
}

/// Listens on a queue of this replica alone, so that users who are connected here hear of what another replica
/// stores. Wake-ups may be lost; the sweep of [`crate::sse::reader`] makes up for it.
pub fn listen(settings: &AmqpSettings, subscription: Subscription, hub: Hub, tasks: &Tasks) {
    let accepts =
        ALL_V1.into_iter().fold(Accepts::new(), |accepts, kind| accepts.kind(kind, |wakeup: Wakeup| wakeup));
    let source = Source::Wakeup { exchange: Exchange::Order, pattern: PATTERN.to_owned() };
    let subscription = Subscription {
        source,
        prefetch: WAKEUP_PREFETCH,
        batch_max: WAKEUPS_MAX,
        min_interval: WAKEUP_INTERVAL,
        line_up: std::sync::Arc::default(),
        ..subscription
    };
    consume(settings, subscription, accepts, tasks, move |batch: Vec<Incoming<Wakeup>>| {
        hub.wake(batch.iter().map(|incoming| &incoming.event.data.user_id), false);
        std::future::ready(Ok(vec![Verdict::Done; batch.len()]))
    });
}
