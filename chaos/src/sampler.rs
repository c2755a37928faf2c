//! Looks at both stores all the time, so that a state that is wrong for a moment is seen.

use std::collections::BTreeMap;
use std::time::Duration;

use common::ids::ItemId;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::client_log::ClientLog;
use crate::evidence::Sample;
use crate::stores::{Ledger, Shelf};

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(20);

/// Takes samples until `over` becomes true.
pub async fn run(
    mut ledger: Ledger,
    mut shelf: Shelf,
    items: Vec<ItemId>,
    log: ClientLog,
    over: watch::Receiver<bool>,
) -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut epochs: BTreeMap<ItemId, i64> = BTreeMap::new();
    while !*over.borrow() {
        let next = Instant::now() + INTERVAL;
        let from = log.now();
        let (ledger, inventory) = tokio::join!(ledger.sample(), look(&mut shelf, &items, &mut epochs));
        samples.push(Sample { from, until: log.now(), ledger: ledger.ok(), inventory: inventory.ok() });
        sleep_until(next).await;
    }
    samples
}

async fn look(
    shelf: &mut Shelf,
    items: &[ItemId],
    epochs: &mut BTreeMap<ItemId, i64>,
) -> anyhow::Result<Vec<crate::evidence::InventorySample>> {
    let mut found = Vec::new();
    for item in items {
        let epoch = epochs.get(item).copied().unwrap_or(-1);
        if let Some(sample) = shelf.sample(*item, epoch).await? {
            epochs.insert(*item, sample.epoch);
            found.push(sample);
        }
    }
    Ok(found)
}
