//! Reserving: one queue per item, batches through the script, grants through the broker, then the answers.
//!
//! A batch that was begun runs in a task of its own to its end, whether or not somebody still waits.
//! What is known about a failure decides the answer: before the script was sent nothing has happened; once it was sent
//! without an answer, or a grant was not confirmed, the outcome is unknown, and the order id stays in `unsettled`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use common::amqp::PublishError;
use common::api::inventory::ReserveOutcome;
use common::batcher::{BatchError, Batcher, BatcherSettings, Pending};
use common::failpoint::planted;
use common::ids::{ItemId, OrderId, Quantity, UserId};
use common::messages::order::Units;
use common::shutdown::Tasks;
use common::telemetry::trace::{self, Describe, Origin, SpanKind};
use parking_lot::RwLock;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::announce::{Announcer, Asked, Grant, PublishPoints};
use crate::crash_points::{CONFIRM, PUBLISH, REPLY};
use crate::inventory::{Inventory, Reserved, StoreError};
use crate::items::{Item, Items};
use crate::planted::{ACCEPTED_UNPUBLISHED, SETTLED_AT_CONFIRM};
use crate::settings::ReserveSettings;
use crate::stock::{Decision, Offer, OrderState, REQUESTS_PER_CALL_MAX, Refusal, Wish};

/// One buyer's request; its deadline goes beside it.
#[derive(Debug)]
pub struct Request {
    /// The order to be.
    pub order_id: OrderId,
    /// Who buys.
    pub user_id: UserId,
    /// Units wanted.
    pub quantity: Quantity,
    /// When the waiting room admitted the buyer, if it did, in ms of its clock.
    pub admitted_ms: Option<i64>,
    /// The call that it came with.
    pub origin: Origin,
}

type Queue = Batcher<Request, ReserveOutcome>;
type Caller = Pending<(), ReserveOutcome>;

/// The way to a unit. Cheap to clone.
#[derive(Clone)]
pub struct Reservations {
    shared: Arc<Shared>,
    queues: Arc<RwLock<HashMap<ItemId, Queue>>>,
    tasks: Tasks,
}

struct Shared {
    inventory: Inventory,
    announcer: Announcer,
    items: Items,
    settings: ReserveSettings,
    scripts: Semaphore,
}

impl Reservations {
    /// Queues are started with the first request for an item, as some of `tasks`.
    pub fn new(
        inventory: Inventory,
        announcer: Announcer,
        items: Items,
        settings: ReserveSettings,
        tasks: &Tasks,
    ) -> Self {
        let scripts = Semaphore::new(settings.scripts_max);
        let announcer = announcer.passing(PublishPoints { publish: PUBLISH, confirm: CONFIRM });
        let shared = Shared { inventory, announcer, items, settings, scripts };
        Self { shared: Arc::new(shared), queues: Arc::default(), tasks: tasks.clone() }
    }

    /// The queue of one item.
    pub fn desk(&self, item: &Arc<Item>) -> Desk {
        if let Some(queue) = self.queues.read().get(&item.id) {
            return Desk { queue: queue.clone() };
        }
        let queue = self.queues.write().entry(item.id).or_insert_with(|| self.start(item.clone())).clone();
        Desk { queue }
    }

    /// Lets the queues of items go that are not known any more.
    pub fn forget_retired(&self) {
        self.queues.write().retain(|id, _| self.shared.items.get(*id).is_some());
    }

    fn start(&self, item: Arc<Item>) -> Queue {
        let settings = BatcherSettings {
            name: "reserve",
            queue_max: self.shared.settings.queue_max,
            batch_max: REQUESTS_PER_CALL_MAX,
            flights_max: self.shared.settings.flights_max,
            min_interval: Duration::from_millis(self.shared.settings.min_interval_ms),
        };
        let shared = self.shared.clone();
        Batcher::start(settings, &self.tasks, move |batch| {
            let work = trace::batch(
                batch.iter().map(|pending: &Pending<Request, _>| pending.request.origin),
                || {
                    Describe::new("reserve", SpanKind::Internal)
                        .with("stampede.item.id", item.id.to_string())
                        .with("stampede.batch.size", i64::try_from(batch.len()).unwrap_or(i64::MAX))
                },
            );
            trace::within(work, flush(shared.clone(), item.clone(), batch))
        })
    }
}

/// Where the requests for one item queue up.
#[derive(Clone)]
pub struct Desk {
    queue: Queue,
}

impl Desk {
    /// Waits for the decision, until `deadline` at most.
    pub async fn reserve(&self, request: Request, deadline: Instant) -> ReserveOutcome {
        match self.queue.submit(request, deadline).await {
            Ok(outcome) => outcome,
            Err(error) => {
                let outcome = match error {
                    BatchError::Overloaded => ReserveOutcome::TooBusy,
                    BatchError::Expired => ReserveOutcome::DeadlinePassed,
                    BatchError::Lost => ReserveOutcome::Unknown,
                    BatchError::Stopped => ReserveOutcome::Unavailable,
                };
                count(label(&outcome), 1);
                outcome
            }
        }
    }
}

async fn flush(shared: Arc<Shared>, item: Arc<Item>, batch: Vec<Pending<Request, ReserveOutcome>>) {
    // No unit may be held that cannot be ordered.
    if !item.is_open() || !shared.inventory.has(&item.keys) || !shared.announcer.is_ready() {
        answer_all(batch.into_iter().map(|pending| pending.split().1), &ReserveOutcome::Unavailable);
        return;
    }
    let (wishes, callers) = shared.wishes(&item, batch);
    let attempts_max = shared.settings.attempts_max;
    let (asked_at, reserved) = {
        let Ok(_permit) = shared.scripts.acquire().await else { return };
        (Instant::now(), shared.inventory.reserve(&item.keys, item.epoch(), attempts_max, &wishes).await)
    };
    match reserved {
        Ok(Reserved::Decided { now_ms, starts_ms, offer, decisions }) => {
            let asked = Asked { at: asked_at, redis_ms: now_ms };
            let decided = Decided { asked, starts_ms, offer };
            shared.settle(&item, decided, wishes.into_iter().zip(decisions).zip(callers)).await;
        }
        Ok(Reserved::Shut(shut)) => {
            tracing::debug!(item.id = %item.id, ?shut, "the gate is not open");
            shared.items.report_closed(&item);
            answer_all(callers, &ReserveOutcome::Unavailable);
        }
        Err(error) => {
            let outcome = match &error {
                StoreError::NotDone(_) => ReserveOutcome::Unavailable,
                StoreError::Unknown(_) | StoreError::Garbled(_) => ReserveOutcome::Unknown,
            };
            let cause = &error as &dyn std::error::Error;
            tracing::warn!(error = cause, item.id = %item.id, requests = wishes.len(), "a reserve script failed");
            answer_all(callers, &outcome);
        }
    }
}

/// What all decisions of a batch have in common.
struct Decided {
    asked: Asked,
    starts_ms: i64,
    offer: Offer,
}

impl Shared {
    /// The wishes with their deadlines by Redis' clock, and who waits for them.
    fn wishes(&self, item: &Item, batch: Vec<Pending<Request, ReserveOutcome>>) -> (Vec<Wish>, Vec<Caller>) {
        let split = batch.into_iter().map(|pending| {
            let deadline_ms = self.inventory.redis_ms(&item.keys, pending.deadline);
            let (Request { order_id, user_id, quantity, admitted_ms, origin: _ }, caller) = pending.split();
            (Wish { order_id, user_id, quantity, deadline_ms, admitted_ms }, caller)
        });
        split.unzip()
    }

    /// Answers refusals at once, and grants when one message with all of them is confirmed.
    async fn settle(
        &self,
        item: &Item,
        decided: Decided,
        decisions: impl Iterator<Item = ((Wish, Decision), Caller)>,
    ) {
        let (mut grants, mut waiting) = (Vec::new(), Vec::new());
        for ((wish, decision), caller) in decisions {
            let announce = |reserved_ms| {
                let Wish { order_id, user_id, quantity, .. } = wish;
                Grant { order_id, user_id, quantity, reserved_ms }
            };
            match decision {
                Decision::Granted { reserved_ms, .. } | Decision::Known { settled: false, reserved_ms } => {
                    grants.push(announce(reserved_ms));
                    waiting.push(caller);
                }
                Decision::Known { settled: true, .. } => answer_all([caller], &ReserveOutcome::Accepted),
                Decision::Refused(refusal) => {
                    metrics::counter!("stock_refusals_total", "reason" => refusal.label()).increment(1);
                    answer_all([caller], &outcome_of(refusal, decided.starts_ms));
                }
            }
        }
        if grants.is_empty() {
            return;
        }
        metrics::counter!("stock_grants_total").increment(grants.len() as u64);
        let outcome = match self.announce(item, &decided, grants).await {
            Ok(()) => ReserveOutcome::Accepted,
            Err(error) => {
                let cause = &error as &dyn std::error::Error;
                tracing::warn!(error = cause, item.id = %item.id, orders = waiting.len(), "grants were not confirmed");
                ReserveOutcome::Unknown
            }
        };
        // Callers that are dropped here learn that the outcome is unknown.
        if REPLY.begins().await.is_ok() {
            answer_all(waiting, &outcome);
        }
        // Nothing follows from the answers, so that nothing can fail after them.
        REPLY.ended().await.ok();
    }

    async fn announce(&self, item: &Item, decided: &Decided, grants: Vec<Grant>) -> Result<(), PublishError> {
        if planted(ACCEPTED_UNPUBLISHED) {
            return Ok(());
        }
        let settled = planted(SETTLED_AT_CONFIRM).then(|| settled_too_early(&grants));
        self.announcer.reserved(item.id, &decided.offer, decided.asked, grants).await?;
        if let Some(settled) = settled {
            self.inventory.apply_orders(&item.keys, item.epoch(), 0, &settled).await.ok();
        }
        Ok(())
    }
}

/// The mistake [`SETTLED_AT_CONFIRM`]: a version that tells nothing new takes ids out of `unsettled` and no more.
fn settled_too_early(grants: &[Grant]) -> Vec<OrderState> {
    let reported = grants.iter().cloned().map(|grant| OrderState {
        order_id: grant.order_id,
        user_id: grant.user_id,
        quantity: grant.quantity,
        units: Units::Held,
        version: 0,
        created_ms: grant.reserved_ms,
        refused_by_total: false,
    });
    reported.collect()
}

fn outcome_of(refusal: Refusal, starts_ms: i64) -> ReserveOutcome {
    match refusal {
        Refusal::NotEnough => ReserveOutcome::SoldOut,
        Refusal::OverLimit | Refusal::TooManyAttempts => ReserveOutcome::LimitExceeded,
        Refusal::NotStarted => ReserveOutcome::NotStarted {
            starts_at: DateTime::from_timestamp_millis(starts_ms).unwrap_or_default(),
        },
        Refusal::Ended => ReserveOutcome::Ended,
        Refusal::Paused => ReserveOutcome::Paused,
        Refusal::Mismatch => ReserveOutcome::IdempotencyMismatch,
        Refusal::DeadlinePassed => ReserveOutcome::DeadlinePassed,
        Refusal::Reopening => ReserveOutcome::Unavailable,
        Refusal::PlaceRequired => ReserveOutcome::PlaceRequired,
    }
}

fn answer_all(callers: impl IntoIterator<Item = Caller>, outcome: &ReserveOutcome) {
    let mut answered = 0;
    for caller in callers {
        caller.answer(outcome.clone());
        answered += 1;
    }
    count(label(outcome), answered);
}

fn count(outcome: &'static str, requests: u64) {
    metrics::counter!("stock_reservations_total", "outcome" => outcome).increment(requests);
}

fn label(outcome: &ReserveOutcome) -> &'static str {
    match outcome {
        ReserveOutcome::Accepted => "accepted",
        ReserveOutcome::SoldOut => "sold_out",
        ReserveOutcome::LimitExceeded => "limit_exceeded",
        ReserveOutcome::NotStarted { .. } => "not_started",
        ReserveOutcome::Ended => "ended",
        ReserveOutcome::Paused => "paused",
        ReserveOutcome::PlaceRequired => "place_required",
        ReserveOutcome::UnknownItem => "unknown_item",
        ReserveOutcome::IdempotencyMismatch => "idempotency_mismatch",
        ReserveOutcome::DeadlinePassed => "deadline_passed",
        ReserveOutcome::TooBusy => "too_busy",
        ReserveOutcome::Unavailable => "unavailable",
        ReserveOutcome::Unknown => "unknown",
    }
}
