//! Watching Redis: is it there, and is it what the promises need.

use std::time::Duration;

use anyhow::Context as _;
use common::health::HealthCheck;
use common::settings::Profile;
use common::shutdown::Tasks;
use tokio::time::sleep;

use crate::inventory::{Checked, Inventory, StoreError};

/// Time between two signs of life.
const PROBE_INTERVAL: Duration = Duration::from_millis(200);

/// Time before a Redis that answers but cannot be checked is checked again.
const CHECK_RETRY: Duration = Duration::from_millis(500);

/// Watches Redis, as one of `tasks`.
pub fn start(inventory: Inventory, profile: Profile, health: HealthCheck, tasks: &Tasks) {
    let stop = tasks.stop_token();
    tasks.spawn("redis-watch", async move {
        let watching = async {
            let mut checked = false;
            loop {
                if let Err(error) = inventory.probe().await {
                    tracing::debug!(error = &error as &dyn std::error::Error, "no sign of life from Redis");
                    checked = false;
                    health.not_ready("Redis does not answer");
                } else if !checked {
                    // It may be another one than before.
                    checked = check(&inventory, profile).await?;
                    if checked {
                        health.ready();
                    } else {
                        health.not_ready("Redis answers, but cannot be checked");
                        sleep(CHECK_RETRY).await;
                    }
                }
                sleep(PROBE_INTERVAL).await;
            }
        };
        stop.run_until_cancelled(watching).await.unwrap_or(Ok(()))
    });
}

/// Checks scripts and settings of Redis; `false`: it cannot be asked now.
///
/// # Errors
/// A script does not compile, or keys would be evicted in production.
pub async fn check(inventory: &Inventory, profile: Profile) -> anyhow::Result<bool> {
    let Checked { evicts, persists } = match inventory.check().await {
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
