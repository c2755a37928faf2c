//! What can go wrong, and how it is done to a [`World`].
//!
//! Faults overlap in time: each of them leaves the world in a state that any other one can be injected into, and healing
//! is possible in any order. Crash points and poison messages are not faults of this list: a schedule plans them apart.

mod broker;
mod database;
mod draw;
mod inventory;
mod process;

use common::topology::Exchange;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::proxy::Mode;
use crate::world::{Edge, World};

/// One thing that goes wrong, until it is healed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum Fault {
    /// SIGKILL; started again when healed.
    Kill {
        /// Name of the process.
        process: String,
    },
    /// SIGSTOP; SIGCONT when healed.
    Freeze {
        /// Name of the process.
        process: String,
    },
    /// SIGTERM, the drain, and a start at once: a rolling restart of one replica.
    Restart {
        /// Name of the process.
        process: String,
    },
    /// Redis is killed; it comes back with its append-only file when healed.
    StopRedis,
    /// FLUSHALL.
    FlushRedis,
    /// Redis is killed and comes back at once without data.
    EmptyRedis,
    /// Redis is killed and comes back at once with a copy of its files from some time before.
    StaleRedis {
        /// How old the copy is, in milliseconds.
        age_ms: u64,
    },
    /// Redis is killed and comes back at once without the end of its append-only file.
    TruncateRedis {
        /// Most bytes that are missing.
        bytes: u64,
    },
    /// Redis is killed and the connections lead to a replica that did not hear the last of it.
    FailOver {
        /// How far the replica lags behind, in milliseconds.
        lag_ms: u64,
    },
    /// Redis is stopped by SIGSTOP; SIGCONT when healed.
    FreezeRedis,
    /// SCRIPT FLUSH.
    FlushScripts,
    /// Redis has no memory left for writes.
    FullRedis,
    /// An item's key holds something that is not an item.
    SpoilKey,
    /// The virtual host comes back empty.
    WipeBroker,
    /// A work queue is deleted with everything in it.
    DeleteQueue {
        /// Its name.
        queue: String,
    },
    /// A work queue gets nothing any more.
    DeleteBinding {
        /// The exchange that it was bound to.
        exchange: String,
        /// Its name.
        queue: String,
    },
    /// An exchange is deleted, and every binding of it.
    DeleteExchange {
        /// Its name.
        exchange: String,
    },
    /// The broker closes every connection, again and again.
    CloseBrokerConnections {
        /// How often.
        times: u32,
    },
    /// The broker lets nobody in.
    BlockBroker,
    /// Work queues take no more messages.
    FullQueues,
    /// Postgres ends every connection to a database.
    CloseDatabaseConnections {
        /// Whose.
        database: Owner,
    },
    /// A database lets nobody in.
    BlockDatabase {
        /// Whose.
        database: Owner,
    },
    /// Somebody else holds a lock on the orders (or events) table.
    LockTable {
        /// Whose database.
        database: Owner,
    },
    /// A database takes no writes.
    ReadOnlyDatabase {
        /// Whose.
        database: Owner,
    },
    /// A proxy on the way misbehaves.
    Network {
        /// Which connections.
        edge: Edge,
        /// How.
        #[serde(flatten)]
        mode: Mode,
    },
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

/// The service that a database belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// order-service.
    Orders,
    /// notify-service.
    Notify,
}

/// What faults leave in a world until they are healed.
#[derive(Debug, Default)]
pub struct Marks {
    /// Each holds a table's lock until it is aborted.
    locks: Vec<(Owner, JoinHandle<()>)>,
}

impl Drop for Marks {
    fn drop(&mut self) {
        self.locks.iter().for_each(|(_, lock)| lock.abort());
    }
}

impl Fault {
    /// Draws one of all faults that a schedule may contain.
    pub fn draw(rng: &mut StdRng) -> Self {
        draw::draw(rng)
    }

    /// What it destroys. No promise holds when both stores lose data before the system is quiet in between, so a
    /// schedule does not contain both.
    pub fn loses(&self) -> Option<Store> {
        match self {
            Self::FlushRedis
            | Self::EmptyRedis
            | Self::StaleRedis { .. }
            | Self::TruncateRedis { .. }
            | Self::FailOver { .. }
            | Self::SpoilKey => Some(Store::Redis),
            // A message that reaches one of two queues is not returned to its publisher.
            Self::WipeBroker | Self::DeleteQueue { .. } | Self::DeleteBinding { .. } => Some(Store::Broker),
            // Without its exchange every reservation is returned: nothing that was accepted is lost.
            Self::DeleteExchange { exchange } => {
                (exchange != Exchange::Stock.name()).then_some(Store::Broker)
            }
            Self::Kill { .. }
            | Self::Freeze { .. }
            | Self::Restart { .. }
            | Self::StopRedis
            | Self::FreezeRedis
            | Self::FlushScripts
            | Self::FullRedis
            | Self::CloseBrokerConnections { .. }
            | Self::BlockBroker
            | Self::FullQueues
            | Self::CloseDatabaseConnections { .. }
            | Self::BlockDatabase { .. }
            | Self::LockTable { .. }
            | Self::ReadOnlyDatabase { .. }
            | Self::Network { .. } => None,
        }
    }

    /// A short name for counting, without parameters but for a network's mode.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Kill { .. } => "kill",
            Self::Freeze { .. } => "freeze",
            Self::Restart { .. } => "restart",
            Self::StopRedis => "redis_restart",
            Self::FlushRedis => "redis_flush",
            Self::EmptyRedis => "redis_empty",
            Self::StaleRedis { .. } => "redis_stale",
            Self::TruncateRedis { .. } => "redis_truncated",
            Self::FailOver { .. } => "redis_fail_over",
            Self::FreezeRedis => "redis_freeze",
            Self::FlushScripts => "redis_script_flush",
            Self::FullRedis => "redis_full",
            Self::SpoilKey => "redis_wrong_type",
            Self::WipeBroker => "broker_wipe",
            Self::DeleteQueue { .. } => "broker_queue_deleted",
            Self::DeleteBinding { .. } => "broker_binding_deleted",
            Self::DeleteExchange { .. } => "broker_exchange_deleted",
            Self::CloseBrokerConnections { .. } => "broker_connections_closed",
            Self::BlockBroker => "broker_blocked",
            Self::FullQueues => "broker_queues_full",
            Self::CloseDatabaseConnections { .. } => "database_connections_closed",
            Self::BlockDatabase { .. } => "database_blocked",
            Self::LockTable { .. } => "database_locked",
            Self::ReadOnlyDatabase { .. } => "database_read_only",
            Self::Network { mode, .. } => mode.kind(),
        }
    }

    /// Makes it happen.
    ///
    /// # Errors
    /// It could not be done.
    pub async fn inject(&self, world: &mut World) -> anyhow::Result<()> {
        match self {
            Self::Kill { process } => world.services.kill(process),
            Self::Freeze { process } => process::freeze(world, process),
            Self::Restart { process } => process::restart(world, process).await?,
            Self::StopRedis => world.services.redis_mut().stop(),
            Self::FlushRedis => inventory::flush(world).await?,
            Self::EmptyRedis => world.services.redis_mut().wipe().await,
            Self::StaleRedis { age_ms } => inventory::go_back(world, *age_ms).await,
            Self::TruncateRedis { bytes } => world.services.redis_mut().restart_truncated(*bytes).await,
            Self::FailOver { lag_ms } => inventory::fail_over(world, *lag_ms).await?,
            Self::FreezeRedis => inventory::awake(world).await.freeze(),
            Self::FlushScripts => inventory::flush_scripts(world).await?,
            Self::FullRedis => inventory::fill(world).await?,
            Self::SpoilKey => inventory::spoil(world).await?,
            Self::WipeBroker => world.services.vhost().wipe().await,
            Self::DeleteQueue { queue } => world.services.vhost().delete_queue(queue).await,
            Self::DeleteBinding { exchange, queue } => {
                world.services.vhost().delete_bindings(exchange, queue).await;
            }
            Self::DeleteExchange { exchange } => world.services.vhost().delete_exchange(exchange).await,
            Self::CloseBrokerConnections { times } => broker::close_connections(world, *times).await,
            Self::BlockBroker => world.services.vhost().block().await,
            Self::FullQueues => world.services.vhost().limit_queues(broker::WORK_QUEUES, 0).await,
            Self::CloseDatabaseConnections { database } => {
                database::of(world, *database).close_all_connections().await;
            }
            Self::BlockDatabase { database } => database::of(world, *database).block().await,
            Self::LockTable { database } => database::lock(world, *database).await?,
            Self::ReadOnlyDatabase { database } => database::of(world, *database).set_read_only(true).await,
            Self::Network { edge, mode } => set(world, *edge, mode),
        }
        Ok(())
    }

    /// Undoes what can be undone; data that was destroyed stays so.
    ///
    /// # Errors
    /// It could not be done.
    pub async fn heal(&self, world: &mut World) -> anyhow::Result<()> {
        match self {
            Self::Kill { process } => process::start_if_dead(world, process),
            Self::Freeze { process } => process::unfreeze(world, process),
            Self::StopRedis | Self::FreezeRedis => {
                inventory::awake(world).await;
            }
            Self::FullRedis => inventory::make_room(world).await?,
            Self::SpoilKey => inventory::unspoil(world).await?,
            Self::BlockBroker => world.services.vhost().unblock().await,
            Self::FullQueues => world.services.vhost().unlimit_queues().await,
            Self::BlockDatabase { database } => database::of(world, *database).unblock().await,
            Self::LockTable { database } => database::unlock(world, *database),
            Self::ReadOnlyDatabase { database } => database::of(world, *database).set_read_only(false).await,
            Self::Network { edge, .. } => set(world, *edge, &Mode::Pass),
            Self::Restart { .. }
            | Self::FlushRedis
            | Self::EmptyRedis
            | Self::StaleRedis { .. }
            | Self::TruncateRedis { .. }
            | Self::FailOver { .. }
            | Self::FlushScripts
            | Self::WipeBroker
            | Self::DeleteQueue { .. }
            | Self::DeleteBinding { .. }
            | Self::DeleteExchange { .. }
            | Self::CloseBrokerConnections { .. }
            | Self::CloseDatabaseConnections { .. } => {}
        }
        Ok(())
    }
}

fn set(world: &World, edge: Edge, mode: &Mode) {
    world.proxies(edge).iter().for_each(|proxy| proxy.set(mode.clone()));
}
