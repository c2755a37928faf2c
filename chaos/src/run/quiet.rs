//! Waiting until nothing is under way any more.

use std::time::Duration;

use common::messages::order::Units;
use tokio::time::{Instant, sleep};

use super::setup::Scene;
use crate::schedule::Schedule;
use crate::stores::{Ledger, Shelf};
use crate::workload::buyer::Market;
use crate::world::World;

/// Longest that the system has to come to rest after everything was healed and the buyers are done.
const QUIET_WITHIN: Duration = Duration::from_secs(45);
const POLL: Duration = Duration::from_millis(120);
/// Orders with a longer time to pay are not waited for.
const WINDOW_S_MAX: u32 = 60;

/// What must be zero in the database of the orders.
const UNDER_WAY: [(&str, &str); 4] = [
    ("messages in the outbox", "SELECT count(*) AS count FROM outbox WHERE published_at IS NULL"),
    ("refunds", "SELECT count(*) AS count FROM payments WHERE status = 'refund_pending'"),
    ("orders that are taken back", "SELECT count(*) AS count FROM orders WHERE status = 'refund_pending'"),
    (
        "captures that nobody was told of",
        "SELECT count(*) AS count FROM sandbox_payments s JOIN payments p ON p.id = s.payment_id \
          WHERE s.captured_at IS NOT NULL AND p.status IN ('started', 'failed')",
    ),
];
const WAITING: (&str, &str) =
    ("orders that wait", "SELECT count(*) AS count FROM orders WHERE status = 'pending_payment'");
const OVERDUE: (&str, &str) = (
    "overdue orders",
    "SELECT count(*) AS count FROM orders WHERE status = 'pending_payment' AND expires_at < now()",
);
const DELIVERIES: (&str, &str) =
    ("deliveries", "SELECT count(*) AS count FROM deliveries WHERE state = 'pending'");

/// Waits; what is still under way when the patience is over, if anything.
pub async fn wait(world: &mut World, schedule: &Schedule, scene: &Scene, market: &Market) -> Option<String> {
    let deadline = Instant::now() + QUIET_WITHIN;
    let mut eyes = Eyes {
        orders: Ledger::new(world.services.orders_database().url()),
        notify: Ledger::new(world.services.notify_database().url()),
        shelf: Shelf::new(world.redis_url()),
    };
    loop {
        world.start_missing();
        let under_way = match eyes.look(world, schedule, scene, market).await {
            Ok(None) => return None,
            Ok(Some(under_way)) => under_way,
            Err(error) => format!("a store does not answer: {error:#}"),
        };
        if Instant::now() >= deadline {
            return Some(under_way);
        }
        sleep(POLL).await;
    }
}

struct Eyes {
    orders: Ledger,
    notify: Ledger,
    shelf: Shelf,
}

impl Eyes {
    /// The first thing found that is under way; cheap looks first.
    async fn look(
        &mut self,
        world: &World,
        schedule: &Schedule,
        scene: &Scene,
        market: &Market,
    ) -> anyhow::Result<Option<String>> {
        let waiting = if schedule.shop.window_s <= WINDOW_S_MAX { WAITING } else { OVERDUE };
        for (what, query) in UNDER_WAY.into_iter().chain([waiting]) {
            let count = self.orders.count(query).await?;
            if count > 0 {
                return Ok(Some(format!("{count} {what}")));
            }
        }
        let (what, query) = DELIVERIES;
        let count = self.notify.count(query).await?;
        if count > 0 {
            return Ok(Some(format!("{count} {what}")));
        }
        if let Some(item) = self.inventory(scene, market).await? {
            return Ok(Some(item));
        }
        if let Some(listener) = self.listeners(schedule, scene).await? {
            return Ok(Some(listener));
        }
        let not_ready = world.not_ready().await;
        if !not_ready.is_empty() {
            return Ok(Some(format!("not ready: {not_ready:?}")));
        }
        let busy: Vec<_> =
            world.services.vhost().queue_depths().await.into_iter().filter(|(_, depth)| *depth > 0).collect();
        Ok((!busy.is_empty()).then(|| format!("messages in queues: {busy:?}")))
    }

    async fn inventory(&mut self, scene: &Scene, market: &Market) -> anyhow::Result<Option<String>> {
        let standings: Vec<_> = market.persistent.lock().values().copied().collect();
        for fact in &scene.items {
            let item = self.shelf.inventory(fact.id).await?;
            if !item.open {
                return Ok(Some(format!("the gate of {} is closed", fact.id)));
            }
            if !item.unsettled.is_empty() {
                return Ok(Some(format!("{} unsettled in {}", item.unsettled.len(), fact.id)));
            }
            let held = |units: Units| {
                let of = item.holds.values().filter(|(_, at)| *at == units);
                of.map(|(quantity, _)| quantity).sum::<i64>()
            };
            let query = format!(
                "SELECT coalesce(sum(quantity) FILTER (WHERE units = 'held'), 0) * 100000 \
                      + coalesce(sum(quantity) FILTER (WHERE units = 'sold'), 0) AS count \
                   FROM orders WHERE item_id = '{}'",
                fact.id
            );
            if self.orders.count(&query).await? != held(Units::Held) * 100_000 + held(Units::Sold) {
                return Ok(Some(format!("the books of {} differ", fact.id)));
            }
            let of_item = || standings.iter().filter(|standing| standing.item == fact.id);
            if of_item().any(|standing| standing.busy) {
                return Ok(Some("buyers are about to pay".to_owned()));
            }
            // Withdrawn ones that nobody claims are about to be on offer again.
            let left = item.available + item.withheld;
            if left > 0 && of_item().any(|standing| !standing.served) {
                return Ok(Some(format!("{left} units of {} that buyers ask for", fact.id)));
            }
        }
        Ok(None)
    }

    /// Whether the listeners have heard everything that is stored for them.
    async fn listeners(&mut self, schedule: &Schedule, scene: &Scene) -> anyhow::Result<Option<String>> {
        let users = scene.listeners(schedule);
        let names: Vec<String> = users.iter().map(|user| format!("'{user}'")).collect();
        if names.is_empty() {
            return Ok(None);
        }
        let query = format!("SELECT count(*) AS count FROM events WHERE user_id IN ({})", names.join(","));
        let stored = self.notify.count(&query).await?;
        let history = scene.admin.log().history();
        let mut heard: Vec<_> = history.events.iter().map(|event| (&event.user, event.seq)).collect();
        heard.sort_unstable();
        heard.dedup();
        let heard = i64::try_from(heard.len())?;
        Ok((heard < stored).then(|| format!("listeners heard {heard} of {stored} events")))
    }
}
