//! Watching Redis: is it there, and is it what the promises need.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use common::health::HealthCheck;
use common::settings::Profile;
use common::shutdown::Tasks;
use futures_util::future::join_all;
use redis_route::{Address, Node};
use tokio::time::sleep;

use crate::inventory::{Checked, Inventory, StoreError};

/// Time between two signs of life.
const PROBE_INTERVAL: Duration = Duration::from_millis(200);

/// Watches Redis and, where there are several servers, who has what, as two of `tasks`.
pub fn start(inventory: Inventory, profile: Profile, health: HealthCheck, tasks: &Tasks) {
    let (route, stop) = (inventory.clone(), tasks.stop_token());
    tasks.spawn("redis-route", async move {
        route.keep_current(stop).await;
        Ok(())
    });
    let stop = tasks.stop_token();
    tasks.spawn("redis-watch", async move {
        let watching = async {
            let mut checked = HashSet::new();
            loop {
                look(&inventory, profile, &mut checked).await?;
                // With one of several servers the items of the others can be sold.
                if checked.is_empty() {
                    health.not_ready("Redis does not answer, or cannot be checked");
                } else {
                    health.ready();
                }
                sleep(PROBE_INTERVAL).await;
            }
        };
        stop.run_until_cancelled(watching).await.unwrap_or(Ok(()))
    });
}

/// One round over all servers; `checked`: those that answer and are fit.
async fn look(inventory: &Inventory, profile: Profile, checked: &mut HashSet<Address>) -> anyhow::Result<()> {
    let nodes = inventory.nodes();
    let probes = nodes.iter().map(|node| async move { (node, inventory.probe(node).await) });
    let mut answering = HashSet::new();
    for (node, probe) in join_all(probes).await {
        match probe {
            Ok(()) => {
                answering.insert(node.address().clone());
                // It may be another one than before.
                if !checked.contains(node.address()) && check_node(inventory, node, profile).await? {
                    checked.insert(node.address().clone());
                }
            }
            Err(error) => {
                let cause = &error as &dyn std::error::Error;
                tracing::debug!(error = cause, server = %node.address(), "no sign of life from Redis");
            }
        }
    }
    checked.retain(|address| answering.contains(address));
    Ok(())
}

/// Finds out who has what, and checks scripts and settings of all servers that can be asked now.
///
/// # Errors
/// A script does not compile, or keys would be evicted in production.
pub async fn check(inventory: &Inventory, profile: Profile) -> anyhow::Result<()> {
    inventory.refresh().await;
    for node in inventory.nodes() {
        check_node(inventory, &node, profile).await?;
    }
    Ok(())
}

/// `false`: it cannot be asked now.
async fn check_node(inventory: &Inventory, node: &Arc<Node>, profile: Profile) -> anyhow::Result<bool> {
    let Checked { evicts, persists } = match inventory.check(node).await {
        Ok(checked) => checked,
        Err(StoreError::NotDone(error)) if error.code() == Some("ERR") => {
            return Err(error).context("Redis refuses a script");
        }
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "Redis cannot be checked yet");
            return Ok(false);
        }
    };
    let advice = "set `maxmemory-policy noeviction` in Redis: evicted keys are lost reservations";
    anyhow::ensure!(!evicts || profile == Profile::Dev, "{advice}");
    if evicts {
        tracing::warn!("{advice}");
    }
    if !persists {
        tracing::warn!(
            "Redis keeps nothing on disk (`appendonly no`): after a restart every item is loaded from nothing"
        );
    }
    Ok(true)
}
