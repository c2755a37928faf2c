//! Reservations become orders: one transaction per batch.
//!
//! Lock the items, look at what is known, decide in memory in order of arrival, write every table once. Orders that a
//! guard refuses are stored as rejected, never dropped. An event that can never work is parked alone.

pub mod consumer;
pub mod decide;
mod read;
pub mod share;
mod write;

use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, Utc};
use common::amqp::Verdict;
use common::failpoint;
use common::messages::stock::{FenceV1, ReservedV1};
use diesel_async::AsyncPgConnection;

use self::decide::{Decision, decide};
use crate::db::{Db, DbError};
use crate::{crash_points, planted};

/// What a partition's queue carries, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StockEvent {
    /// `stock.reserved.v1`
    Reserved(ReservedV1),
    /// `stock.fence.v1`
    Fence(FenceV1),
}

/// Whether orders that exist are looked up before the decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// All are taken to be new, as nearly always they are. One that is not fails the transaction.
    Not,
    /// They are.
    Up,
}

/// Handles a batch of one partition, in order, and says what became of each event.
///
/// First as if all of it were new; if that fails, once more with a look at what is known. If the batch is refused as a
/// whole then, its events are tried one by one: the culprit is parked, its neighbours become orders.
///
/// # Errors
/// The database is away or busy: nothing was done, or it is not known; the same batch may be handled again.
pub async fn place_orders(db: &Db, events: Vec<StockEvent>) -> Result<Vec<Verdict>, DbError> {
    let events = Arc::new(events);
    match place_together(db, events.clone(), Look::Not).await {
        Err(DbError::Raced) => {}
        Err(error) if error.is_permanent() => {}
        result => return result,
    }
    metrics::counter!("place_orders_looked_up_total").increment(1);
    match place_together(db, events.clone(), Look::Up).await {
        Err(error) if error.is_permanent() => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "batch refused, trying its events alone"
            );
        }
        result => return result,
    }
    let mut verdicts = Vec::with_capacity(events.len());
    for event in &*events {
        match place_together(db, Arc::new(vec![event.clone()]), Look::Up).await {
            Ok(verdict) => verdicts.extend(verdict),
            Err(error) if error.is_permanent() => verdicts.push(Verdict::Park(reason(&error))),
            Err(error) => return Err(error),
        }
    }
    Ok(verdicts)
}

async fn place_together(db: &Db, events: Arc<Vec<StockEvent>>, look: Look) -> Result<Vec<Verdict>, DbError> {
    let (began, size) = (Instant::now(), events.len());
    failpoint::reach(crash_points::ORDER_BEGIN_BEFORE).await?;
    let verdicts =
        db.transaction(move |conn| Box::pin(async move { place(conn, &events, look).await })).await?;
    failpoint::reach(crash_points::ORDER_COMMIT_AFTER).await?;
    metrics::histogram!("place_orders_batch_size").record(u32::try_from(size).unwrap_or(u32::MAX));
    metrics::histogram!("place_orders_transaction_seconds").record(began.elapsed());
    Ok(verdicts)
}

async fn place(
    conn: &mut AsyncPgConnection,
    events: &[StockEvent],
    look: Look,
) -> Result<Vec<Verdict>, DbError> {
    failpoint::reach(crash_points::ORDER_BEGIN_AFTER).await?;
    let mut books = read::books(conn, events, look).await?;
    let mut decisions = decide(&mut books, events);
    // Every other decision that a known order changes is an insert, which fails: only what is parked would go unnoticed.
    if look == Look::Not && decisions.iter().any(|decision| matches!(decision, Decision::Park(_))) {
        return Err(DbError::Raced);
    }
    park_neighbours(&mut decisions);
    failpoint::reach(crash_points::ORDER_WRITE_BEFORE).await?;
    write::decisions(conn, &books, events, &decisions).await?;
    write::fences(conn, events).await?;
    failpoint::reach(crash_points::ORDER_WRITE_AFTER).await?;
    count(&books, events, &decisions);
    failpoint::reach(crash_points::ORDER_COMMIT_BEFORE).await?;
    Ok(decisions.into_iter().map(verdict).collect())
}

/// A planted mistake; else it does nothing.
fn park_neighbours(decisions: &mut [Decision]) {
    let poison = decisions.iter().find(|decision| matches!(decision, Decision::Park(_))).cloned();
    if let Some(poison) = poison.filter(|_| failpoint::planted(planted::POISON_PARKS_NEIGHBOURS)) {
        decisions.fill(poison);
    }
}

fn verdict(decision: Decision) -> Verdict {
    match decision {
        Decision::Park(_) if failpoint::planted(planted::POISON_SWALLOWED) => Verdict::Done,
        Decision::Park(reason) => Verdict::Park(reason),
        Decision::Place | Decision::Reject(_) | Decision::Known | Decision::Repeated | Decision::Fence => {
            Verdict::Done
        }
    }
}

fn count(books: &decide::Books, events: &[StockEvent], decisions: &[Decision]) {
    let (mut placed, mut known, mut late) = (0, 0, 0);
    for (event, decision) in events.iter().zip(decisions) {
        match decision {
            Decision::Place => placed += 1,
            Decision::Known | Decision::Repeated => known += 1,
            Decision::Reject(reason) => {
                let reason = match reason {
                    common::api::Reason::SoldOut => "sold_out",
                    common::api::Reason::LimitExceeded => "limit_exceeded",
                };
                metrics::counter!("orders_rejected_total", "reason" => reason).increment(1);
            }
            Decision::Park(_) | Decision::Fence => {}
        }
        late += u64::from(books.is_late(event));
    }
    // From the grant, by Redis' clock, to the order, by Postgres'.
    if let (Some(reserved_at), true) = (events.iter().filter_map(reserved_at).min(), placed > 0) {
        let age = (books.now - reserved_at).to_std().unwrap_or_default();
        metrics::histogram!("reservation_oldest_seconds").record(age);
    }
    metrics::counter!("orders_placed_total").increment(placed);
    metrics::counter!("reservations_known_total").increment(known);
    metrics::counter!("reservations_late_epoch_total").increment(late);
}

fn reserved_at(event: &StockEvent) -> Option<DateTime<Utc>> {
    match event {
        StockEvent::Reserved(reserved) => Some(reserved.reserved_at),
        StockEvent::Fence(_) => None,
    }
}

/// Why an event is parked, for the operator.
fn reason(error: &DbError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
