//! A running system with an admin and buyers.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use common::api::Sale;
use common::ids::SaleId;
use e2e::client::{Client, one_dish};
use e2e::crowd::{self, Buyer};
use serde_json::json;
use testkit::Stores;

use crate::world::{Plan, World};

/// How long a gateway may take to list a new sale, on a busy machine.
const LISTED_WITHIN: Duration = Duration::from_secs(30);
/// Attempts to open a sale, and the pause between them.
const OPENING_TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(500);
/// What Linux counts processors' time in, everywhere.
const TICK: Duration = Duration::from_millis(10);
/// Seconds to pay; longer than any drill that does not make orders lapse itself.
pub(super) const WINDOW_S: u32 = 36_000;

/// A running system with an admin.
pub(super) struct Stage {
    pub(super) world: World,
    pub(super) client: Client,
    pub(super) admin: String,
}

impl Stage {
    pub(super) async fn start(replicas: usize, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        Self::start_on(Stores::create().await, replicas, settings).await
    }

    pub(super) async fn start_on(
        stores: Stores,
        replicas: usize,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let plan = Plan { replicas, settings, failpoints: String::new() };
        let world = World::start_on(stores, &plan).await?;
        let client = Client::new(world.services.gateway_urls())?;
        let admin = client.token("admin", "admin").await?;
        Ok(Self { world, client, admin })
    }

    /// What all services have used of processors since they were started, with the resolution of the system's ticks.
    pub(super) fn cpu(&self) -> Duration {
        let services = &self.world.services;
        let pids = services.names().into_iter().filter_map(|name| services.pid(&name));
        pids.map(|pid| ticks(pid).map_or(Duration::ZERO, |ticks| TICK * ticks)).sum()
    }

    /// Opens a sale of one dish and waits until every gateway takes orders for it.
    pub(super) async fn open_sale(&self, stock: u64, per_user_limit: u32) -> anyhow::Result<Sale> {
        #[expect(clippy::disallowed_methods, reason = "a client picks its sale's opening by its own clock")]
        let dish = one_dish(Utc::now(), i64::try_from(stock)?, per_user_limit, WINDOW_S)?;
        let mut opened = self.client.open_sale(&self.admin, &dish).await;
        for _ in 1..OPENING_TRIES {
            if opened.is_ok() {
                break;
            }
            // A busy system puts it off. A sale that nobody hears of is in nobody's way.
            tokio::time::sleep(PAUSE).await;
            opened = self.client.open_sale(&self.admin, &dish).await;
        }
        let sale = opened?;
        self.client.wait_until_listed(sale.id, LISTED_WITHIN).await?;
        Ok(sale)
    }

    /// What an admin does to a sale: `pause`, `resume`, `end`.
    pub(super) async fn tell_sale(&self, sale: SaleId, what: &str) -> anyhow::Result<()> {
        let path = format!("/api/v1/admin/sales/{sale}/{what}");
        self.client.post(&path, &self.admin, &json!({})).await?.json::<Sale>()?;
        Ok(())
    }

    pub(super) async fn buyers(&self, prefix: &str, count: u64) -> anyhow::Result<Arc<Vec<Buyer>>> {
        Ok(Arc::new(crowd::gather(&self.client, prefix, usize::try_from(count)?).await?))
    }
}

/// A process' ticks in user and in kernel mode; `None` when it has ended.
fn ticks(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold anything; after it: state, then 10 numbers, then the two.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, kernel): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + kernel)
}
