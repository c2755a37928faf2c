//! Asks stock-service for the catalogue and order-service for the sales, all the time, so that no request has to.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use common::api::blocks::BlockList;
use common::api::inventory;
use common::health::HealthCheck;
use parking_lot::Mutex;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::blocks::Blocks;
use crate::catalogue::{Catalogue, Snapshot};
use crate::downstream::Downstream;
use crate::known_ids::KnownIds;
use crate::listing::{Listing, Sales};

/// Most time for one question. A lease counts from the asking, so a late answer is worth little.
const TIMEOUT: Duration = Duration::from_secs(2);
/// After so long the process is ready without an answer: it has true answers for everything (503), and a store that
/// is away at the start must not take away the login, the documents and the callbacks as well.
const READY_ANYWAY_AFTER: Duration = Duration::from_secs(5);

/// One document of another service, asked for again and again.
struct Document {
    service: Downstream,
    path: &'static str,
    etag: Mutex<Option<String>>,
}

/// What came of a question.
enum Fetched<T> {
    New(T),
    Same,
}

impl Document {
    fn new(service: Downstream, path: &'static str) -> Self {
        Self { service, path, etag: Mutex::new(None) }
    }

    async fn fetch<T: DeserializeOwned>(&self) -> anyhow::Result<Fetched<T>> {
        let known = self.etag.lock().clone();
        // While the service is left alone this is the call that tries it.
        let mut call = self.service.request(Method::GET, self.path, Instant::now() + TIMEOUT).probe();
        if let Some(etag) = &known {
            call = call.header("if-none-match", etag);
        }
        let response = call.send().await?;
        if response.status() == StatusCode::NOT_MODIFIED && known.is_some() {
            return Ok(Fetched::Same);
        }
        ensure!(response.status() == StatusCode::OK, "{} answered {}", self.path, response.status());
        let etag = response.headers().get("etag").and_then(|etag| Some(etag.to_str().ok()?.to_owned()));
        let document = response.json().await.context(self.path)?;
        *self.etag.lock() = etag;
        Ok(Fetched::New(document))
    }
}

/// Keeps the catalogue fresh.
pub struct CataloguePoller {
    document: Document,
    catalogue: Arc<Catalogue>,
    known_ids: Arc<KnownIds>,
    interval: Duration,
    health: HealthCheck,
}

impl CataloguePoller {
    /// Asks `stock` every `interval`; the dependency `health` is ready with the first answer, or after five seconds.
    pub fn new(
        stock: Downstream,
        catalogue: Arc<Catalogue>,
        known_ids: Arc<KnownIds>,
        interval: Duration,
        health: HealthCheck,
    ) -> Self {
        let document = Document::new(stock, "/internal/v1/catalogue");
        Self { document, catalogue, known_ids, interval, health }
    }

    /// Until `stop`.
    ///
    /// # Errors
    /// Never: failures are shown and tried again.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let ready_anyway = Instant::now() + READY_ANYWAY_AFTER;
        let (mut away, mut opened) = (false, false);
        loop {
            let asked_at = Instant::now();
            match self.step(asked_at).await {
                Ok(()) => {
                    self.health.ready();
                    if std::mem::take(&mut away) {
                        tracing::info!("stock-service answers again");
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut away, true) {
                        tracing::warn!(error = format!("{error:#}"), "no catalogue from stock-service");
                    }
                    if asked_at >= ready_anyway && !std::mem::replace(&mut opened, true) {
                        // Once is enough: from then on this is shown, and takes nobody out of service.
                        self.health.ready();
                    }
                    self.health.not_ready("gives no catalogue");
                }
            }
            let age =
                self.catalogue.snapshot().map_or(f64::INFINITY, |now| now.asked_at.elapsed().as_secs_f64());
            metrics::gauge!("gateway_catalogue_age_seconds").set(age);
            if stop.run_until_cancelled(tokio::time::sleep_until(asked_at + self.interval)).await.is_none() {
                return Ok(());
            }
        }
    }

    async fn step(&self, asked_at: Instant) -> anyhow::Result<()> {
        match self.document.fetch::<inventory::Catalogue>().await? {
            Fetched::New(catalogue) => {
                for item in &catalogue.items {
                    self.known_ids.add(item.item_id.0);
                    self.known_ids.add(item.sale_id.0);
                }
                self.catalogue.store(Snapshot::new(asked_at, catalogue));
            }
            Fetched::Same => {
                if let Some(snapshot) = self.catalogue.snapshot() {
                    self.catalogue.store(snapshot.confirmed(asked_at));
                }
            }
        }
        Ok(())
    }
}

/// Keeps the listing fresh.
pub struct SalesPoller {
    orders: Downstream,
    document: Document,
    listing: Arc<Listing>,
    known_ids: Arc<KnownIds>,
    interval: Duration,
}

/// One page of order-service's list of all sales and items.
#[derive(Deserialize)]
struct IdsPage {
    ids: Vec<Uuid>,
    next: Option<Uuid>,
}

impl SalesPoller {
    /// Asks `orders` every `interval`.
    pub fn new(
        orders: Downstream,
        listing: Arc<Listing>,
        known_ids: Arc<KnownIds>,
        interval: Duration,
    ) -> Self {
        let document = Document::new(orders.clone(), "/internal/v1/sales");
        Self { orders, document, listing, known_ids, interval }
    }

    /// Until `stop`.
    ///
    /// # Errors
    /// Never: failures are shown and tried again.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        let mut away = false;
        loop {
            match self.refresh().await {
                Ok(()) if std::mem::take(&mut away) => tracing::info!("order-service answers again"),
                Ok(()) => {}
                Err(error) if !std::mem::replace(&mut away, true) => {
                    tracing::warn!(error = format!("{error:#}"), "no sales from order-service");
                }
                Err(_) => {}
            }
            // What the listing has dropped long ago is read once; until then nothing is denied, so it may fail.
            if !away
                && !self.known_ids.is_complete()
                && let Err(error) = self.read_all_ids().await
            {
                tracing::debug!(error = format!("{error:#}"), "no list of all sales and items");
            }
            if stop.run_until_cancelled(tokio::time::sleep(self.interval)).await.is_none() {
                return Ok(());
            }
        }
    }

    async fn read_all_ids(&self) -> anyhow::Result<()> {
        let mut after = Uuid::nil();
        loop {
            let call = self.orders.request(Method::GET, "/internal/v1/known-ids", Instant::now() + TIMEOUT);
            let response = call.query(&[("after", after)]).probe().send().await?;
            ensure!(response.status() == StatusCode::OK, "answered {}", response.status());
            let page: IdsPage = response.json().await?;
            page.ids.iter().for_each(|id| self.known_ids.add(*id));
            match page.next {
                Some(next) if next > after => after = next,
                Some(_) | None => break,
            }
        }
        self.known_ids.completed();
        Ok(())
    }

    /// Asks now: an admin who has changed a sale here sees the change here.
    ///
    /// # Errors
    /// order-service cannot be asked; what is known stays.
    pub async fn refresh(&self) -> anyhow::Result<()> {
        let asked_at = Instant::now();
        if let Fetched::New(sales) = self.document.fetch::<Sales>().await? {
            for sale in &sales.items {
                self.known_ids.add(sale.id.0);
                sale.items.iter().for_each(|item| self.known_ids.add(item.id.0));
            }
            self.listing.store(sales.into());
        }
        self.listing.confirm(asked_at);
        self.known_ids.listed(asked_at);
        Ok(())
    }
}

/// Keeps the block list fresh.
pub struct BlocksPoller {
    document: Document,
    blocks: Arc<Blocks>,
    interval: Duration,
}

impl BlocksPoller {
    /// Asks `orders` every `interval`.
    pub fn new(orders: Downstream, blocks: Arc<Blocks>, interval: Duration) -> Self {
        Self { document: Document::new(orders, "/internal/v1/blocks"), blocks, interval }
    }

    /// Until `stop`.
    ///
    /// # Errors
    /// Never: failures are tried again, and what was read last stays in force.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        let mut read_at = None;
        loop {
            match self.refresh().await {
                Ok(()) => read_at = Some(Instant::now()),
                Err(error) => tracing::debug!(error = format!("{error:#}"), "no block list"),
            }
            let age = read_at.map_or(f64::INFINITY, |at| at.elapsed().as_secs_f64());
            metrics::gauge!("gateway_block_list_age_seconds").set(age);
            if stop.run_until_cancelled(tokio::time::sleep(self.interval)).await.is_none() {
                return Ok(());
            }
        }
    }

    /// Asks now: an admin who has changed the list here sees the change here.
    ///
    /// # Errors
    /// order-service cannot be asked; what is known stays.
    pub async fn refresh(&self) -> anyhow::Result<()> {
        let asked_at = Instant::now();
        if let Fetched::New(list) = self.document.fetch::<BlockList>().await? {
            self.blocks.store(list, asked_at);
        }
        Ok(())
    }
}
