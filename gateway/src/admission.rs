//! The queue of each item: what waits travels together to stock-service, and what does not fit is told so at once.

mod flight;
mod shaper;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use common::api::inventory::ReserveOutcome;
use common::batcher::{BatchError, Batcher, BatcherSettings};
use common::ids::{ItemId, OrderId, Quantity, UserId};
use common::shutdown::Tasks;
use common::telemetry::trace::Origin;
use parking_lot::RwLock;
use tokio::time::Instant;

use crate::downstream::Downstream;
use crate::settings::AdmissionSettings;
use flight::Airport;
use shaper::Shaper;

/// What a buyer wants, without the item, which names the queue.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The order to be.
    pub order_id: OrderId,
    /// Who buys.
    pub user_id: UserId,
    /// Units wanted.
    pub quantity: Quantity,
    /// When the waiting room admitted the buyer, if it did, in ms of its clock.
    pub admitted_ms: Option<i64>,
    /// The request that it came with.
    pub origin: Origin,
}

type Queue = Batcher<Wish, ReserveOutcome>;

/// All queues. There is one per item that was ordered here since the start, so callers check first that the item
/// exists.
pub struct Admission {
    settings: AdmissionSettings,
    airport: Arc<Airport>,
    tasks: Tasks,
    queues: RwLock<HashMap<ItemId, Queue>>,
}

impl Admission {
    /// No queues yet; they end with `tasks`.
    pub fn new(settings: AdmissionSettings, stock: Downstream, tasks: Tasks) -> Self {
        let shaper = Shaper::new(settings.per_second_max);
        Self { settings, airport: Arc::new(Airport { stock, shaper }), tasks, queues: RwLock::default() }
    }

    /// Asks stock-service for units of `item`, together with whoever else waits for them.
    ///
    /// # Errors
    /// Why there is no answer; only [`BatchError::Lost`] may have had an effect.
    pub async fn place(
        &self,
        item: ItemId,
        wish: Wish,
        deadline: Instant,
    ) -> Result<ReserveOutcome, BatchError> {
        self.queue(item).submit(wish, deadline).await
    }

    fn queue(&self, item: ItemId) -> Queue {
        if let Some(queue) = self.queues.read().get(&item) {
            return queue.clone();
        }
        let mut queues = self.queues.write();
        queues.entry(item).or_insert_with(|| self.start(item)).clone()
    }

    fn start(&self, item: ItemId) -> Queue {
        let settings = BatcherSettings {
            name: "admission",
            queue_max: self.settings.queue_max,
            batch_max: self.settings.batch_max,
            flights_max: self.settings.flights_max,
            min_interval: Duration::from_millis(self.settings.min_interval_ms),
        };
        let airport = self.airport.clone();
        Batcher::start(settings, &self.tasks, move |batch| {
            let airport = airport.clone();
            async move { airport.fly(item, batch).await }
        })
    }
}
