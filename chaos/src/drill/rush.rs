//! Buyers who come in waves, and somebody who looks when the door is open again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use common::ids::{ItemId, OrderId};
use common::problem::Code;
use e2e::client::Client;
use e2e::crowd::{self, Buyer, End, Tally};
use reqwest::StatusCode;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// Between two questions whether orders are taken again: the resolution of every recovery time. A user may ask 20 times a
/// second, and 100 times more.
const PROBE_INTERVAL: Duration = Duration::from_millis(40);
/// Most time for one such question: a system that hangs is asked again.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a system may stay closed before the drill gives it up.
const CLOSED_AT_MOST: Duration = Duration::from_secs(60);
/// How long a wave may take to get going.
const UNDER_WAY_WITHIN: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Buyers who are let in together and each ask until their answer is final.
pub(super) struct Wave {
    accepted: Arc<AtomicU64>,
    tally: JoinHandle<anyhow::Result<Tally>>,
}

impl Wave {
    /// Lets `buyers` in, `at_once` of them at the same time.
    pub(super) fn start(client: &Client, buyers: Vec<Buyer>, item: ItemId, at_once: usize) -> Self {
        let accepted = Arc::<AtomicU64>::default();
        let (client, counter) = (client.clone(), accepted.clone());
        let tally = tokio::spawn(async move {
            let count = move |purchase: &crowd::Purchase| {
                if matches!(purchase.end, End::Accepted(_)) {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            };
            crowd::rush(&client, Arc::new(buyers), item, at_once, count).await
        });
        Self { accepted, tally }
    }

    /// Waits until so many have got an order, or everybody has an answer.
    pub(super) async fn under_way(&self, accepted: u64) {
        let enough = async {
            while self.accepted.load(Ordering::Relaxed) < accepted && !self.tally.is_finished() {
                sleep(POLL_INTERVAL).await;
            }
        };
        // Too slow to wait for: then it is disturbed as it is.
        timeout(UNDER_WAY_WITHIN, enough).await.ok();
    }

    /// How many have got an order so far.
    pub(super) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Waits until everybody has a final answer.
    pub(super) async fn end(self) -> anyhow::Result<Tally> {
        self.tally.await.context("the wave's task ended")?
    }
}

/// What somebody found who asked until orders were taken again.
pub(super) enum Probe {
    /// After so long, with this order.
    Open(Duration, OrderId),
    /// Nothing is left, so there is nothing to measure.
    SoldOut,
}

/// Orders one unit again and again, until it is granted, and says how long after `since` that was.
pub(super) async fn probe(
    client: &Client,
    buyer: &Buyer,
    item: ItemId,
    since: Instant,
) -> anyhow::Result<Probe> {
    loop {
        let asked = timeout(PROBE_TIMEOUT, client.order(&buyer.token, item, "probe", 1)).await;
        if let Ok(Ok(answer)) = asked {
            if answer.status == StatusCode::ACCEPTED {
                let order = answer.json::<common::api::Accepted>()?.order_id;
                return Ok(Probe::Open(since.elapsed(), order));
            }
            if answer.code() == Some(Code::SoldOut) {
                return Ok(Probe::SoldOut);
            }
        }
        if since.elapsed() > CLOSED_AT_MOST {
            bail!("no order was taken for {CLOSED_AT_MOST:?}");
        }
        sleep(PROBE_INTERVAL).await;
    }
}
