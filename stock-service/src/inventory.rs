//! The inventory in Redis: every script with its typed call.
//!
//! No key of an item is written anywhere else. A failed call says whether the script can have run, see
//! [`StoreError`]; what a script decides is a value, never an error.

mod apply;
mod books;
mod catalogue;
mod check;
mod clock;
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
pub use books::{BOOKS_ATOMIC_MAX, BooksView};
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

use clock::RedisClock;
use connection::Connection;
use scripts::{Script, Scripts};

use crate::crash_points::{CONNECT, Step};

/// Typed access to the inventory. Cheap to clone.
#[derive(Clone)]
pub struct Inventory {
    shared: Arc<Shared>,
}

struct Shared {
    connection: Connection,
    scripts: Scripts,
    clock: RedisClock,
}

/// Which connection a call takes: what buyers wait for does not queue behind bulk work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    Hot,
    Bulk,
}

impl Inventory {
    /// Prepares the connections; nothing is sent yet.
    ///
    /// # Errors
    /// The address is not one.
    pub fn new(settings: &RedisSettings) -> anyhow::Result<Self> {
        let connection = Connection::new(settings)?;
        let shared = Shared { connection, scripts: Scripts::new(), clock: RedisClock::default() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Whether the last thing heard of Redis was an answer. While it is not, callers are refused up front instead of
    /// waiting for a time-out each.
    pub fn is_up(&self) -> bool {
        self.shared.connection.is_up()
    }

    /// Asks Redis for a sign of life and its clock.
    ///
    /// # Errors
    /// No answer in time.
    pub async fn probe(&self) -> Result<(), StoreError> {
        self.begins(CONNECT).await?;
        let sent = tokio::time::Instant::now();
        let time = self.shared.connection.call(Lane::Hot, &redis::cmd("TIME")).await?;
        self.ended(CONNECT).await?;
        let mut reply = reply::Reply::of(time, "TIME")?;
        let seconds = reply.text()?.parse::<i64>().unwrap_or(0);
        let micros = reply.text()?.parse::<i64>().unwrap_or(0);
        self.shared.clock.heard(seconds * 1000 + micros / 1000, sent);
        Ok(())
    }

    /// Checks what the promises rest on: every script compiles, and nothing is ever evicted.
    ///
    /// # Errors
    /// What does not hold, or that Redis cannot be asked.
    pub async fn check(&self) -> Result<Checked, StoreError> {
        for script in self.shared.scripts.all() {
            self.shared.connection.load(Lane::Bulk, script.text()).await?;
        }
        let memory = self.shared.connection.info("memory").await?;
        let persistence = self.shared.connection.info("persistence").await?;
        Ok(Checked {
            evicts: !memory.contains("maxmemory_policy:noeviction"),
            persists: persistence.contains("aof_enabled:1"),
        })
    }

    /// A moment of this process in ms of Redis' clock.
    pub fn redis_ms(&self, moment: tokio::time::Instant) -> i64 {
        self.shared.clock.redis_ms(moment)
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
        self.shared.connection.run(lane, script, keys, args).await
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
