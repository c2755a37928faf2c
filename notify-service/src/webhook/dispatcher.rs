//! The delivery worker: takes what is due, has it sent, records what came of it.
//!
//! One task owns all of its state; only the attempts themselves run beside it. Each webhook has so many places
//! (`webhooks.endpoint_concurrency`), kept until the result is recorded, so a slow receiver holds up its own
//! deliveries and nobody else's, and memory stays bounded when the database is away.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use common::failpoint;
use tokio::sync::Notify;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::circuit::{Circuits, Limits};
use super::sender::Sender;
use crate::crash_points;
use crate::db::queue::{self, Attempted, Room, Taken};
use crate::db::webhooks::{self, Endpoint};
use crate::db::{Db, DbError};
use crate::settings::WebhookSettings;

/// Least time between two turns, so that results are recorded together.
const TURN_INTERVAL: Duration = Duration::from_millis(10);
/// Most results recorded by one statement.
const RECORD_MAX: usize = 256;
/// Pause after a failure of the database.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// What the worker works with.
pub struct Dispatcher {
    db: Db,
    sender: Sender,
    /// Rung when there are new deliveries.
    due: Arc<Notify>,
    /// Most time for what is under way when the process stops.
    finish_timeout: Duration,
    places: usize,
    limits: Limits,
    lease: Duration,
    poll: Duration,
}

/// What is under way.
#[derive(Default)]
struct State {
    attempts: JoinSet<Attempted>,
    /// The webhook of each running attempt; also known when the attempt panics.
    running: HashMap<Id, Uuid>,
    /// Places taken, by webhook: running attempts and results that are not recorded.
    taken: HashMap<Uuid, usize>,
    unrecorded: Vec<(Uuid, Attempted)>,
    circuits: Circuits,
}

impl Dispatcher {
    /// A worker by these settings.
    pub fn new(
        db: Db,
        sender: Sender,
        due: Arc<Notify>,
        settings: &WebhookSettings,
        finish_timeout: Duration,
    ) -> Self {
        Self {
            db,
            sender,
            due,
            finish_timeout,
            places: settings.endpoint_concurrency,
            limits: settings.circuit(),
            lease: settings.lease(),
            poll: Duration::from_millis(settings.poll_ms),
        }
    }

    /// Works until `stop`; then what is under way is finished and recorded.
    ///
    /// # Errors
    /// None: it goes on whatever happens.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut state = State::default();
        while !stop.is_cancelled() {
            let pause = match self.turn(&mut state).await {
                Ok(()) => TURN_INTERVAL,
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "webhook deliveries have to wait"
                    );
                    RETRY_PAUSE
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep(pause) => {}
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.due.notified() => {}
                () = sleep(self.poll) => {}
                Some(ended) = state.attempts.join_next_with_id() => state.keep(ended, self.limits),
            }
        }
        self.finish(state).await;
        Ok(())
    }

    /// Records what has ended, and begins what is due.
    async fn turn(&self, state: &mut State) -> Result<(), DbError> {
        while let Some(ended) = state.attempts.try_join_next_with_id() {
            state.keep(ended, self.limits);
        }
        self.record(state).await?;

        let mut connection = self.db.get().await?;
        let endpoints = webhooks::active(&mut connection).await?;
        let active: HashSet<Uuid> = endpoints.iter().map(|endpoint| endpoint.id).collect();
        state.circuits.keep(&active);
        let rooms: Vec<Room> =
            endpoints.iter().filter_map(|endpoint| self.room(state, endpoint.id)).collect();
        if rooms.is_empty() {
            return Ok(());
        }
        let taken = queue::take(&mut connection, &rooms, self.lease).await?;
        drop(connection);
        let endpoints: HashMap<Uuid, Endpoint> =
            endpoints.into_iter().map(|endpoint| (endpoint.id, endpoint)).collect();
        for delivery in taken {
            if let Some(endpoint) = endpoints.get(&delivery.webhook_id) {
                state.begin(self.sender.clone(), endpoint.clone(), delivery);
            }
        }
        Ok(())
    }

    fn room(&self, state: &State, webhook_id: Uuid) -> Option<Room> {
        let under_way = state.taken.get(&webhook_id).copied().unwrap_or(0);
        let places = state.circuits.places(webhook_id, under_way, self.places);
        let free = places.saturating_sub(under_way);
        let free = i32::try_from(free).unwrap_or(i32::MAX);
        (free > 0).then_some(Room { webhook_id, free })
    }

    async fn record(&self, state: &mut State) -> Result<(), DbError> {
        while !state.unrecorded.is_empty() {
            let count = state.unrecorded.len().min(RECORD_MAX);
            let results: Vec<Attempted> =
                state.unrecorded.iter().take(count).map(|(_, result)| result.clone()).collect();
            failpoint::reach(crash_points::RECORD_BEFORE).await?;
            queue::record(&mut *self.db.get().await?, &results).await?;
            failpoint::reach(crash_points::RECORD_AFTER).await?;
            for (webhook_id, result) in state.unrecorded.drain(..count) {
                tell(webhook_id, &result);
                release(&mut state.taken, webhook_id);
            }
        }
        Ok(())
    }

    /// What does not end in time is repeated, with the same id, when its lease has run out.
    async fn finish(&self, mut state: State) {
        let finishing = async {
            while let Some(ended) = state.attempts.join_next_with_id().await {
                state.keep(ended, self.limits);
            }
        };
        if timeout(self.finish_timeout, finishing).await.is_err() {
            tracing::warn!(attempts = state.attempts.len(), "attempts are broken off and will be repeated");
        }
        if let Err(error) = self.record(&mut state).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "last results are not recorded");
        }
    }
}

impl State {
    fn begin(&mut self, sender: Sender, endpoint: Endpoint, delivery: Taken) {
        let webhook_id = endpoint.id;
        *self.taken.entry(webhook_id).or_default() += 1;
        let running = self.attempts.spawn(async move { sender.attempt(&endpoint, &delivery).await });
        self.running.insert(running.id(), webhook_id);
    }

    fn keep(&mut self, ended: Result<(Id, Attempted), JoinError>, limits: Limits) {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let Some(webhook_id) = self.running.remove(&id) else { return };
        match ended {
            Ok((_, result)) => {
                self.circuits.note(webhook_id, result.error.is_none(), limits);
                self.unrecorded.push((webhook_id, result));
            }
            Err(error) => {
                tracing::error!(%error, %webhook_id, "an attempt died; its lease will run out");
                release(&mut self.taken, webhook_id);
            }
        }
    }
}

fn release(taken: &mut HashMap<Uuid, usize>, webhook_id: Uuid) {
    if let Some(count) = taken.get_mut(&webhook_id) {
        *count -= 1;
        if *count == 0 {
            taken.remove(&webhook_id);
        }
    }
}

/// Counts a result, and says it where somebody has to look.
fn tell(webhook_id: Uuid, result: &Attempted) {
    let outcome = match (&result.error, result.retry_after_s) {
        (None, _) => "delivered",
        (Some(_), Some(_)) => "failed",
        (Some(error), None) => {
            tracing::warn!(%webhook_id, delivery_id = %result.id, error, "a webhook delivery is parked");
            "parked"
        }
    };
    metrics::counter!("webhook_attempts_total", "outcome" => outcome).increment(1);
}
