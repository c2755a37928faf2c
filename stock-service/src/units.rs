//! What is left of each item, for `/metrics`.

use common::telemetry::Metrics;
use common::telemetry::metrics::Family;

use crate::inventory::Figures;
use crate::items::Item;

/// Most items that are shown. A sale has a few; the others are in the sums.
const ITEMS_MAX: usize = 200;

/// Units and orders by item. Items that are gone are shown no more.
#[derive(Clone)]
pub struct Units {
    available: Family,
    total: Family,
    holds: Family,
}

impl Units {
    /// Shown among `metrics`.
    pub fn new(metrics: &Metrics) -> Self {
        let family = |name| metrics.family(name, "item", ITEMS_MAX);
        Self {
            available: family("stock_item_units_available"),
            total: family("stock_item_units_total"),
            holds: family("stock_item_holds"),
        }
    }

    /// These are all items.
    pub fn show<'a>(&self, items: impl Iterator<Item = (&'a Item, &'a Figures)> + Clone) {
        let by_item = |value: fn(&Figures) -> f64| {
            items.clone().map(move |(item, figures)| (item.id.to_string(), value(figures)))
        };
        self.available.set(by_item(|figures| figures.available as f64));
        self.total.set(by_item(|figures| figures.total as f64));
        self.holds.set(by_item(|figures| figures.holds as f64));
    }
}
