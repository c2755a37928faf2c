//! Whether it is time to be many.

use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use common::api::{Sale, SaleState};
use reqwest::Client;
use serde::Deserialize;
use url::Url;

/// Around a sale's opening.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// How long before the opening the replicas are wanted: pods have to be scheduled, started and ready.
    pub lead: Duration,
    /// How long after it they are kept; by then the autoscaler knows by itself.
    pub hold: Duration,
}

#[derive(Deserialize)]
struct Listing {
    items: Vec<Sale>,
}

/// The published sales, as every client sees them.
///
/// # Errors
/// The gateway does not answer with them. Then nothing may be changed.
pub async fn read(client: &Client, gateway: &Url) -> anyhow::Result<Vec<Sale>> {
    let url = gateway.join("/api/v1/sales").context("the gateway's address")?;
    let answer = client.get(url).send().await?.error_for_status()?;
    let listing: Listing = answer.json().await.context("the calendar")?;
    Ok(listing.items)
}

/// Whether some sale opens soon or has just opened, by the clock of the server that listed it.
pub fn opening(sales: &[Sale], window: Window) -> bool {
    sales.iter().filter(|sale| sale.state != SaleState::Ended).any(|sale| {
        let until = sale.starts_at - sale.server_time;
        until <= delta(window.lead) && until > -delta(window.hold)
    })
}

/// When the next sale opens, for the log.
pub fn next(sales: &[Sale]) -> Option<DateTime<Utc>> {
    sales.iter().filter(|sale| sale.starts_at > sale.server_time).map(|sale| sale.starts_at).min()
}

fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}
