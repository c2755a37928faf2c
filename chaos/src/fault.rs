//! What can go wrong, and how it is done to a [`World`].

use rand::Rng as _;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use crate::world::World;

/// One thing that goes wrong, until it is healed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum Fault {
    /// SIGKILL; started again when healed.
    Kill {
        /// Name of the process.
        process: String,
    },
    /// FLUSHALL.
    FlushRedis,
    /// The broker comes back empty.
    WipeBroker,
}

/// A store whose data a fault destroys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Store {
    /// The inventory.
    Redis,
    /// The queues.
    Broker,
}

impl Fault {
    /// Draws one of all faults that a schedule may contain.
    pub fn draw(rng: &mut StdRng) -> Self {
        match rng.random_range(0..3) {
            0 => {
                let services = ["stock-service", "order-service", "notify-service", "gateway"];
                Self::Kill { process: services[rng.random_range(0..services.len())].to_owned() }
            }
            1 => Self::FlushRedis,
            _ => Self::WipeBroker,
        }
    }

    /// What it destroys. No promise holds when both stores lose data before the system is quiet in between, so a
    /// schedule does not contain both.
    pub fn loses(&self) -> Option<Store> {
        match self {
            Self::Kill { .. } => None,
            Self::FlushRedis => Some(Store::Redis),
            Self::WipeBroker => Some(Store::Broker),
        }
    }

    /// A short name for counting, without parameters.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Kill { .. } => "kill",
            Self::FlushRedis => "flush_redis",
            Self::WipeBroker => "wipe_broker",
        }
    }

    /// Makes it happen.
    ///
    /// # Errors
    /// It could not be done.
    pub async fn inject(&self, world: &mut World) -> anyhow::Result<()> {
        match self {
            Self::Kill { process } => world.services.kill(process),
            Self::FlushRedis => world.services.redis().flush_all().await,
            Self::WipeBroker => world.services.vhost().wipe().await,
        }
        Ok(())
    }

    /// Undoes what can be undone; data that was destroyed stays so.
    ///
    /// # Errors
    /// It could not be done.
    pub async fn heal(&self, world: &mut World) -> anyhow::Result<()> {
        if let Self::Kill { process } = self {
            world.services.start_again(process);
        }
        Ok(())
    }
}
