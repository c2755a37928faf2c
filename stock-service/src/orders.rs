//! order-service, as the inventory asks it.

use std::time::Duration;

use common::api::inventory::{EpochGranted, ItemDefinition, ItemStock, LiveItem, LiveItems, StockOrder};
use common::http_client::{CallError, Upstream};
use common::ids::{ItemId, OrderId};
use reqwest::{Method, Response, StatusCode};
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::settings::OrdersSettings;

/// Most orders in one question; a limit of order-service.
pub const LOOKUP_MAX: usize = 256;

/// Why order-service gave no answer that helps.
#[derive(Debug, thiserror::Error)]
pub enum OrdersError {
    /// It was not reached, or broke off.
    #[error("order-service cannot be asked")]
    Call(#[from] CallError),
    /// It answered, but not with what was asked for.
    #[error("order-service answered {0}")]
    Status(StatusCode),
    /// Its answer cannot be read.
    #[error("the answer of order-service cannot be read")]
    Body(#[source] reqwest::Error),
}

/// The item's state for a load.
#[derive(Debug)]
pub enum StockAnswer {
    /// All of it.
    Stock(Box<ItemStock>),
    /// A newer epoch was handed out.
    Superseded,
}

/// Calls of order-service. Cheap to clone.
#[derive(Clone)]
pub struct Orders {
    upstream: Upstream,
    timeout: Duration,
    stock_timeout: Duration,
}

#[derive(Serialize)]
struct Lookup<'a> {
    order_ids: &'a [OrderId],
}

#[derive(Deserialize)]
struct LookedUp {
    orders: Vec<StockOrder>,
}

#[derive(Serialize)]
struct After<'a> {
    after_user: &'a str,
    after_order: OrderId,
}

#[derive(Serialize)]
struct Above {
    above: i64,
}

#[derive(Serialize)]
struct Fence<'a> {
    epoch: i64,
    token: &'a str,
}

impl Orders {
    /// Prepares the calls.
    ///
    /// # Errors
    /// The client cannot be built.
    pub fn new(settings: &OrdersSettings, token: &SecretString) -> anyhow::Result<Self> {
        let timeout = Duration::from_millis(settings.timeout_ms);
        let stock_timeout = Duration::from_millis(settings.stock_timeout_ms);
        let connect_timeout = Duration::from_millis(settings.connect_timeout_ms);
        let client = common::http_client::build(connect_timeout, timeout.max(stock_timeout))?;
        let upstream = Upstream::new("order-service", settings.urls.clone(), client, token)?;
        Ok(Self { upstream, timeout, stock_timeout })
    }

    /// The items that belong into the inventory.
    ///
    /// # Errors
    /// See [`OrdersError`].
    pub async fn items(&self) -> Result<Vec<LiveItem>, OrdersError> {
        let response = self.get("/internal/v1/items").await?;
        Ok(read::<LiveItems>(expect_ok(response)?).await?.items)
    }

    /// The absolute state of an item; `None`: there is no such item, or it is not published.
    ///
    /// # Errors
    /// See [`OrdersError`].
    pub async fn definition(&self, item: ItemId) -> Result<Option<ItemDefinition>, OrdersError> {
        let response = self.get(&format!("/internal/v1/items/{item}")).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        read(expect_ok(response)?).await.map(Some)
    }

    /// The right to load an item, with an epoch above `above`; `None`: there is no such item.
    ///
    /// # Errors
    /// See [`OrdersError`].
    pub async fn grant_epoch(&self, item: ItemId, above: i64) -> Result<Option<EpochGranted>, OrdersError> {
        let path = format!("/internal/v1/items/{item}/epochs");
        let call = self.upstream.request(Method::POST, &path, self.deadline());
        let response = call.query(&Above { above }).send().await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        read(expect_ok(response)?).await.map(Some)
    }

    /// The item with all its orders, once the fence of this epoch has been processed.
    ///
    /// # Errors
    /// See [`OrdersError`].
    pub async fn stock(&self, item: ItemId, granted: &EpochGranted) -> Result<StockAnswer, OrdersError> {
        let path = format!("/internal/v1/items/{item}/stock");
        let token = granted.token.to_string();
        let deadline = Instant::now() + self.stock_timeout;
        let call = self.upstream.request(Method::GET, &path, deadline);
        let response = call.query(&Fence { epoch: granted.epoch, token: &token }).send().await?;
        if response.status() == StatusCode::CONFLICT {
            return Ok(StockAnswer::Superseded);
        }
        Ok(StockAnswer::Stock(Box::new(read(expect_ok(response)?).await?)))
    }

    /// Those of up to [`LOOKUP_MAX`] orders that exist.
    ///
    /// # Errors
    /// See [`OrdersError`].
    pub async fn lookup(&self, item: ItemId, order_ids: &[OrderId]) -> Result<Vec<StockOrder>, OrdersError> {
        let path = format!("/internal/v1/items/{item}/orders/lookup");
        let call = self.upstream.request(Method::POST, &path, self.deadline());
        let response = call.json(&Lookup { order_ids }).send().await?;
        Ok(read::<LookedUp>(expect_ok(response)?).await?.orders)
    }

    /// The next page of the item's orders that have not changed for ten seconds, from behind `after` on; empty at the
    /// end, and from an order-service that has no such list yet.
    ///
    /// # Errors
    /// See [`OrdersError`].
    pub async fn quiet_orders(
        &self,
        item: ItemId,
        after: Option<&StockOrder>,
    ) -> Result<Vec<StockOrder>, OrdersError> {
        let path = format!("/internal/v1/items/{item}/orders");
        let mut call = self.upstream.request(Method::GET, &path, self.deadline());
        if let Some(StockOrder { user_id, order_id, .. }) = after {
            call = call.query(&After { after_user: user_id.as_str(), after_order: *order_id });
        }
        let response = call.send().await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(Vec::new());
        }
        Ok(read::<LookedUp>(expect_ok(response)?).await?.orders)
    }

    async fn get(&self, path: &str) -> Result<Response, OrdersError> {
        Ok(self.upstream.request(Method::GET, path, self.deadline()).send().await?)
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }
}

fn expect_ok(response: Response) -> Result<Response, OrdersError> {
    if response.status() == StatusCode::OK {
        Ok(response)
    } else {
        Err(OrdersError::Status(response.status()))
    }
}

async fn read<T: DeserializeOwned>(response: Response) -> Result<T, OrdersError> {
    response.json().await.map_err(OrdersError::Body)
}
