//! Before anything goes wrong: the sale, the buyers' tokens, the webhook.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chrono::Utc;
use common::api::Sale;
use common::ids::SaleId;
use futures_util::future::try_join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::client_log::ClientLog;
use crate::evidence::ItemFact;
use crate::schedule::Schedule;
use crate::workload::buyer::Market;
use crate::workload::caller::Caller;
use crate::workload::notices::Provider;
use crate::workload::receiver::Receiver;
use crate::world::World;

const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(40);

/// What everybody acts on.
pub struct Scene {
    /// The sale.
    pub sale: SaleId,
    /// Its items, in the shop's order.
    pub items: Vec<ItemFact>,
    /// A client for each of the schedule's buyers.
    pub callers: Vec<Caller>,
    /// The admin.
    pub admin: Caller,
    /// Somebody who owns nothing.
    pub stranger: Caller,
    /// Where the webhook's deliveries arrive.
    pub receiver: Receiver,
}

impl Scene {
    /// Sets it.
    ///
    /// # Errors
    /// Something is refused although nothing has gone wrong yet.
    pub async fn set(world: &World, schedule: &Schedule, log: &ClientLog) -> anyhow::Result<Self> {
        let anybody = Caller::new(world.services.gateway_urls(), log.clone())?;
        let admin = anybody.login(schedule.buyers.len(), "admin", "admin").await?;
        let stranger = anybody.login(schedule.buyers.len() + 1, "stranger", "customer").await?;
        let buyers = schedule.buyers.iter().enumerate();
        let logins = buyers.map(|(process, buyer)| anybody.login(process, &buyer.user, "customer"));
        let callers = try_join_all(logins).await.context("logging in")?;

        let receiver = Receiver::start()?;
        let types = common::messages::order::ALL_V1;
        let webhook = json!({ "url": receiver.url, "types": types, "secret": receiver.secret });
        insist(&admin, "/api/v1/admin/webhooks", &webhook).await?;
        let sale = open_sale(&admin, schedule).await?;
        let items = sale.items.iter().map(|item| ItemFact {
            id: item.id,
            stock: item.total,
            limit: item.per_user_limit.into(),
            price_cents: item.price_cents,
        });
        Ok(Self { sale: sale.id, items: items.collect(), callers, admin, stranger, receiver })
    }

    /// What the buyers share.
    pub fn market(&self, world: &World, over: watch::Receiver<bool>) -> Market {
        let secret = world.services.sandbox_secret().to_owned();
        Market {
            goods: self.items.iter().map(|item| (item.id, item.price_cents)).collect(),
            provider: Provider::new(secret, world.services.orders_database().url()),
            paid: Arc::default(),
            stranger: self.stranger.clone(),
            persistent: Arc::default(),
            over,
        }
    }

    /// The users whose streams are followed.
    pub fn listeners(&self, schedule: &Schedule) -> Vec<String> {
        let listening = schedule.buyers.iter().filter(|buyer| buyer.listens);
        listening.map(|buyer| buyer.user.clone()).collect()
    }
}

async fn open_sale(admin: &Caller, schedule: &Schedule) -> anyhow::Result<Sale> {
    let shop = &schedule.shop;
    let items = shop.goods.iter().enumerate().map(|(n, goods)| {
        json!({
            "sku": format!("dish-{n}"), "name": format!("Dish {n}"), "image_url": "", "currency": "CNY",
            "price_cents": goods.price_cents, "stock": goods.stock, "per_user_limit": goods.limit,
        })
    });
    #[expect(clippy::disallowed_methods, reason = "a merchant plans by the clock on the wall")]
    let now = Utc::now();
    let ends_after_ms = shop.ends_after_ms.map_or(86_400_000, |ms| ms + 500);
    let sale = json!({
        "title": format!("Seed {}", schedule.seed),
        "starts_at": now - chrono::Duration::seconds(1),
        "ends_at": now + chrono::Duration::milliseconds(i64::try_from(ends_after_ms)?),
        "payment_window_seconds": shop.window_s,
        "items": items.collect::<Vec<_>>(),
    });
    let created: Sale = serde_json::from_value(insist(admin, "/api/v1/admin/sales", &sale).await?)?;
    insist(admin, &format!("/api/v1/admin/sales/{}/publish", created.id), &json!({})).await?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let path = format!("/api/v1/sales/{}", created.id);
        let answer = admin.request(Method::GET, &path).send().await;
        if let Ok(answer) = answer
            && let Ok(listed) = answer.json::<Sale>().await
            && !listed.stale
        {
            return Ok(created);
        }
        ensure!(Instant::now() < deadline, "the sale is not listed");
        sleep(PAUSE).await;
    }
}

/// Asks until it is done; what could not be done a second time has been done the first time.
async fn insist(admin: &Caller, path: &str, body: &Value) -> anyhow::Result<Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = admin.admin(path, body).await;
        // Refused because an attempt whose answer was lost has done it.
        let done_before = seen.code.as_deref() == Some("invalid_transition");
        if seen.http.is_some_and(|status| status < 300) || done_before {
            return Ok(seen.body);
        }
        ensure!(Instant::now() < deadline, "{path}: {:?} {:?}", seen.http, seen.body);
        sleep(PAUSE * 5).await;
    }
}
