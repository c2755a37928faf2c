//! The inventory in Redis: every script with its typed call.
//!
//! No key of an item is written anywhere else. A failed call says whether the script can have run, see
//! [`StoreError`]; what a script decides is a value, never an error.

mod apply;
mod books;
mod catalogue;
mod check;
mod connection;
mod find;
mod load;
mod lock;
mod reply;
mod reserve;
mod scan;
mod scripts;
mod withdraw;

pub use apply::Kept;
pub use books::{BOOKS_ATOMIC_MAX, BooksView, Reading};
pub use catalogue::{Figures, Look, Unsettled};
pub use check::{ALARM_CALM, BooksChecked, Fault};
pub use connection::{RedisSettings, StoreError};
pub use find::Found;
pub use load::{Begun, Commit, Committed, Retired, Updated};
pub use lock::Owner;
pub use reserve::Reserved;
pub use scripts::SCHEMA;
pub use withdraw::Withdrawn;

use std::sync::Arc;

use redis::Value;
use redis_route::Node;
use tokio_util::sync::CancellationToken;

use connection::Connection;
use scripts::{Script, Scripts};

use crate::crash_points::{CONNECT, Step};
use crate::keys::ItemKeys;

/// Typed access to the inventory. Cheap to clone.
#[derive(Clone)]
pub struct Inventory {
    shared: Arc<Shared>,
}

struct Shared {
    connection: Connection,
    scripts: Scripts,
}

/// Which connection a call takes: what buyers wait for does not queue behind bulk work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    Hot,
    Bulk,
}

impl Lane {
    /// Its place among the connections to a server.
    fn index(self) -> usize {
        match self {
            Self::Hot => 0,
            Self::Bulk => 1,
        }
    }
}

impl Inventory {
    /// Prepares the connections; nothing is sent yet.
    ///
    /// # Errors
    /// The address is not one.
    pub fn new(settings: &RedisSettings) -> anyhow::Result<Self> {
        let connection = Connection::new(settings)?;
        let shared = Shared { connection, scripts: Scripts::new() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Whether the last thing heard of any of its servers was an answer.
    pub fn is_up(&self) -> bool {
        self.nodes().iter().any(|node| node.is_up())
    }

    /// Whether the last thing heard of the server with this item was an answer. While it is not, callers are refused up
    /// front instead of waiting for a time-out each.
    pub fn has(&self, keys: &ItemKeys) -> bool {
        self.shared.connection.node_of(&keys.item).is_some_and(|node| node.is_up())
    }

    /// The servers: one, or the primaries of a cluster.
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        self.shared.connection.nodes()
    }

    /// Asks a cluster or the sentinels once who has what.
    pub async fn refresh(&self) {
        self.shared.connection.refresh().await;
    }

    /// Keeps who has what current, until `stop`.
    pub async fn keep_current(self, stop: CancellationToken) {
        self.shared.connection.keep_current(stop).await;
    }

    /// Asks one server for a sign of life and its clock.
    ///
    /// # Errors
    /// No answer in time.
    pub async fn probe(&self, node: &Node) -> Result<(), StoreError> {
        self.begins(CONNECT).await?;
        let sent = tokio::time::Instant::now();
        let time = self.shared.connection.ask(Lane::Hot, node, &redis::cmd("TIME")).await?;
        self.ended(CONNECT).await?;
        let mut reply = reply::Reply::of(time, "TIME")?;
        let seconds = reply.text()?.parse::<i64>().unwrap_or(0);
        let micros = reply.text()?.parse::<i64>().unwrap_or(0);
        node.clock().heard(seconds * 1000 + micros / 1000, sent);
        Ok(())
    }

    /// Checks of one server what the promises rest on: every script compiles, and nothing is ever evicted.
    ///
    /// # Errors
    /// What does not hold, or that it cannot be asked.
    pub async fn check(&self, node: &Node) -> Result<Checked, StoreError> {
        for script in self.shared.scripts.all() {
            let mut load = redis::cmd("SCRIPT");
            load.arg("LOAD").arg(&script.text().source);
            self.shared.connection.ask(Lane::Bulk, node, &load).await?;
        }
        let memory = self.info(node, "memory").await?;
        let persistence = self.info(node, "persistence").await?;
        Ok(Checked {
            evicts: !memory.contains("maxmemory_policy:noeviction"),
            persists: persistence.contains("aof_enabled:1"),
        })
    }

    async fn info(&self, node: &Node, section: &str) -> Result<String, StoreError> {
        let info = self.shared.connection.ask(Lane::Bulk, node, redis::cmd("INFO").arg(section)).await?;
        redis::from_redis_value(info).map_err(|_| StoreError::Garbled("INFO"))
    }

    /// A moment of this process in ms of the clock of the server with this item.
    pub fn redis_ms(&self, keys: &ItemKeys, moment: tokio::time::Instant) -> i64 {
        self.shared.connection.node_of(&keys.item).map_or(0, |node| node.clock().redis_ms(moment))
    }

    /// As [`Inventory::redis_ms`] where nothing rests on whose clock it is.
    pub fn about_ms(&self, moment: tokio::time::Instant) -> i64 {
        self.nodes().first().map_or(0, |node| node.clock().redis_ms(moment))
    }

    /// Passes the point before `step`; an error there is that of a Redis that was not reached.
    async fn begins(&self, step: Step) -> Result<(), StoreError> {
        let passed = step.begins().await;
        passed.map_err(|injected| self.shared.connection.noted(StoreError::not_begun(injected)))
    }

    /// Passes the point after `step`; an error there is that of a lost answer.
    async fn ended(&self, step: Step) -> Result<(), StoreError> {
        let passed = step.ended().await;
        passed.map_err(|injected| self.shared.connection.noted(StoreError::unanswered(injected)))
    }

    async fn run<'a>(
        &self,
        lane: Lane,
        script: &Script,
        keys: &[&str],
        args: impl Fn(&mut redis::Cmd) + Send + 'a,
    ) -> Result<Value, StoreError> {
        self.shared.connection.run(lane, script, keys, args).await.map(|(value, _)| value)
    }
}

/// What [`Inventory::check`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked {
    /// Redis would throw keys away when it is full: not a place for books.
    pub evicts: bool,
    /// Redis writes to disk: a restart costs a short pause instead of a load from nothing.
    pub persists: bool,
}
