//! The sales as everybody sees them: what order-service last said of them, with the stock figures of stock-service.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix_web::web::Bytes;
use arc_swap::ArcSwapOption;
use chrono::{DateTime, Utc};
use common::api::{ItemState, Sale, SaleState};
use common::ids::{ItemId, SaleId};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::catalogue::{Catalogue, Snapshot};

/// How long a rendered listing is sent again; `server_time` is at most this old.
const RENDERED_FOR: Duration = Duration::from_millis(100);

/// Body of `GET /api/v1/sales`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Sales {
    /// Published sales, newest start first.
    pub items: Vec<Sale>,
}

/// One answer of order-service.
pub struct Published {
    sales: Vec<Sale>,
    items: HashMap<ItemId, SaleState>,
}

impl From<Sales> for Published {
    fn from(sales: Sales) -> Self {
        let of_items = sales.items.iter().flat_map(|sale| sale.items.iter().map(move |item| (item.id, sale)));
        let items = of_items.map(|(id, sale)| (id, sale.state)).collect();
        Self { sales: sales.items, items }
    }
}

/// A body, and what in it may be out of date.
#[derive(Debug, Clone)]
pub struct Page {
    /// JSON.
    pub body: Bytes,
    /// Figures of stock, as the field `stale` of a sale says.
    pub old_stock: bool,
    /// The sales themselves.
    pub old_sales: bool,
}

/// A rendered listing.
struct Rendered {
    at: Instant,
    published: Arc<Published>,
    all: Page,
    single: HashMap<SaleId, Page>,
}

/// The newest listing; last known good when order-service is away.
pub struct Listing {
    published: ArcSwapOption<Published>,
    confirmed_at: Mutex<Option<Instant>>,
    rendered: ArcSwapOption<Rendered>,
    stale_after: Duration,
}

/// What the listing knows of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Its sale is published, and not over as far as order-service has said.
    OnSale,
    /// order-service says that its sale is over.
    Ended,
    /// It is in no published sale.
    No,
    /// There is no listing yet.
    NotLoaded,
}

impl Listing {
    /// Empty; figures older than `stale_after` will be marked.
    pub fn new(stale_after: Duration) -> Self {
        Self {
            published: ArcSwapOption::empty(),
            confirmed_at: Mutex::new(None),
            rendered: ArcSwapOption::empty(),
            stale_after,
        }
    }

    /// Replaces it.
    pub fn store(&self, published: Published) {
        self.published.store(Some(Arc::new(published)));
    }

    /// order-service has just said it, or that it is still so.
    pub fn confirm(&self, asked_at: Instant) {
        *self.confirmed_at.lock() = Some(asked_at);
    }

    /// Whether there has been one.
    pub fn is_loaded(&self) -> bool {
        self.published.load().is_some()
    }

    /// What it knows of `item`.
    pub fn known(&self, item: ItemId) -> Known {
        let published = self.published.load();
        let Some(published) = published.as_ref() else { return Known::NotLoaded };
        match published.items.get(&item) {
            None => Known::No,
            Some(SaleState::Ended) => Known::Ended,
            Some(_) => Known::OnSale,
        }
    }

    /// One sale that the listing does not have yet, with the figures of stock-service.
    pub fn render(&self, sale: Sale, catalogue: &Catalogue) -> Page {
        #[expect(clippy::disallowed_methods, reason = "shown to people; decisions use the clock of Redis")]
        let clock = Utc::now();
        page(&with_stock(sale, self.fresh(catalogue).as_deref(), clock), false)
    }

    /// The items of a published sale; none if it is not known.
    pub fn items_of(&self, sale: SaleId) -> Vec<ItemId> {
        let published = self.published.load();
        let sales = published.as_ref().map(|published| published.sales.as_slice()).unwrap_or_default();
        let sale = sales.iter().find(|known| known.id == sale);
        sale.map(|sale| sale.items.iter().map(|item| item.id).collect()).unwrap_or_default()
    }

    /// The body of the listing; `None` while there is none.
    pub fn all(&self, catalogue: &Catalogue) -> Option<Page> {
        Some(self.rendered(catalogue)?.all.clone())
    }

    /// The body of one sale: outside `None` while there is no listing, inside when it does not have the sale.
    pub fn single(&self, sale: SaleId, catalogue: &Catalogue) -> Option<Option<Page>> {
        Some(self.rendered(catalogue)?.single.get(&sale).cloned())
    }

    fn rendered(&self, catalogue: &Catalogue) -> Option<Arc<Rendered>> {
        let published = self.published.load_full()?;
        let now = Instant::now();
        let rendered = self.rendered.load_full();
        if let Some(rendered) = rendered
            && now < rendered.at + RENDERED_FOR
            && Arc::ptr_eq(&rendered.published, &published)
        {
            return Some(rendered);
        }
        #[expect(clippy::disallowed_methods, reason = "shown to people; decisions use the clock of Redis")]
        let clock = Utc::now();
        let fresh = self.fresh(catalogue);
        let old_sales = self.confirmed_at.lock().is_none_or(|at| now >= at + self.stale_after);
        let sales: Vec<Sale> =
            published.sales.iter().map(|sale| with_stock(sale.clone(), fresh.as_deref(), clock)).collect();
        let single = sales.iter().map(|sale| (sale.id, page(sale, old_sales))).collect();
        let old_stock = sales.iter().any(|sale| sale.stale);
        let all = Page { body: body(&Sales { items: sales }), old_stock, old_sales };
        let rendered = Arc::new(Rendered { at: now, published, all, single });
        self.rendered.store(Some(rendered.clone()));
        Some(rendered)
    }

    fn fresh(&self, catalogue: &Catalogue) -> Option<Arc<Snapshot>> {
        let now = Instant::now();
        catalogue.snapshot().filter(|snapshot| now < snapshot.asked_at + self.stale_after)
    }
}

fn page(sale: &Sale, old_sales: bool) -> Page {
    Page { body: body(sale), old_stock: sale.stale, old_sales }
}

fn body(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).unwrap_or_default().into()
}

/// The sale with the figures of `fresh`; without it, or where an item's gate is closed, with those of order-service,
/// and marked.
fn with_stock(mut sale: Sale, fresh: Option<&Snapshot>, clock: DateTime<Utc>) -> Sale {
    sale.server_time = clock;
    sale.stale = fresh.is_none();
    let published = sale.state != SaleState::Draft;
    if published && clock >= sale.ends_at {
        sale.state = SaleState::Ended;
    } else if sale.state == SaleState::Scheduled && clock >= sale.starts_at {
        sale.state = SaleState::Active;
    }
    for item in &mut sale.items {
        match fresh.and_then(|snapshot| snapshot.item(item.id)) {
            Some(stock) if stock.open => {
                item.total = stock.total;
                item.available = stock.available;
                item.state = stock.state;
            }
            stock => {
                sale.stale |= stock.is_some();
                item.state = match sale.state {
                    SaleState::Active if item.available <= 0 => ItemState::SoldOut,
                    SaleState::Active => ItemState::Active,
                    SaleState::Draft => ItemState::Draft,
                    SaleState::Scheduled => ItemState::Scheduled,
                    SaleState::Paused => ItemState::Paused,
                    SaleState::Ended => ItemState::Ended,
                };
            }
        }
    }
    sale
}
