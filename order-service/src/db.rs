//! The orders database: pool, migrations, and transactions that run to their end.

mod connect;
mod error;
pub mod replica;
pub mod schema;
mod schema_version;
pub mod statement;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use common::telemetry::trace::{self, Describe, SpanKind};
use deadpool::managed::QueueMode;
use diesel::ConnectionError;
use diesel_async::pooled_connection::deadpool::{Object, Pool};
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod};
use diesel_async::{
    AsyncConnection as _, AsyncMigrationHarness, AsyncPgConnection, SimpleAsyncConnection as _,
};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use metrics::gauge;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::runtime::Handle;
use tokio::sync::Notify;

pub use self::error::DbError;
use crate::settings::DatabaseSettings;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!();
/// Names the advisory lock under which one instance at a time migrates.
const MIGRATION_LOCK: i64 = 0x5374_616d_7065_6465;
/// Longest that a migration may take, or wait for another instance's.
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a migration waits for a lock, with everybody who comes after it: then it lets them by, and is tried again.
const MIGRATION_LOCK_TIMEOUT: &str = "SET lock_timeout = '2s'";
const MIGRATION_RETRY: Duration = Duration::from_millis(500);
/// What Postgres says when transactions that run were in a migration's way, of a server that is no primary yet, and when it
/// ends connections.
const IN_THE_WAY: [&str; 5] = [
    "deadlock detected",
    "canceling statement due to lock timeout",
    "in a read-only transaction",
    "terminating connection",
    "connection closed",
];
/// How long a database that cannot be reached at start is waited for: it may be starting itself.
const STARTUP_PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two tries to reach it.
const STARTUP_RETRY: Duration = Duration::from_millis(500);

/// Attempts at a transaction that the server rolls back because of others.
const ATTEMPTS_MAX: u32 = 4;
/// Most pause before the second attempt; before the later ones it is longer.
const CLASH_PAUSE: Duration = Duration::from_millis(50);

/// What can be done in a transaction, more than once if need be.
pub trait Work<T>:
    for<'c> FnOnce(&'c mut AsyncPgConnection) -> BoxFuture<'c, Result<T, DbError>> + Clone + Send + 'static
{
}

impl<T, F> Work<T> for F where
    F: for<'c> FnOnce(&'c mut AsyncPgConnection) -> BoxFuture<'c, Result<T, DbError>>
        + Clone
        + Send
        + 'static
{
}

/// The database. Cheap to clone.
#[derive(Clone)]
pub struct Db {
    pool: Pool<AsyncPgConnection>,
    wait: Duration,
    connecting: Duration,
    committed: Arc<Notify>,
    /// Where transactions run: an HTTP worker's own runtime ends with the server, in the middle of one.
    runtime: Handle,
}

/// The same database for the two kinds of work.
pub struct Pools {
    /// For requests.
    pub requests: Db,
    /// For everything that goes on by itself.
    pub background: Db,
}

impl Db {
    /// Two pools with bounded size and waits, which connect when first used: one for requests and one for background
    /// work, so that no crowd of requests can keep orders from being made.
    ///
    /// # Errors
    /// The settings make no pool.
    pub fn connect(settings: &DatabaseSettings) -> anyhow::Result<Pools> {
        let committed = Arc::new(Notify::new());
        let open = |size| {
            let pool = pool(settings, &settings.url, size)?;
            let (wait, connecting) = (settings.pool_wait(), settings.connect_timeout());
            let (committed, runtime) = (committed.clone(), Handle::current());
            anyhow::Ok(Self { pool, wait, connecting, committed, runtime })
        };
        Ok(Pools { requests: open(settings.pool_size)?, background: open(settings.background_pool_size)? })
    }

    /// The replica of the settings; `None` where there is none.
    ///
    /// # Errors
    /// The settings make no pool.
    fn replica(settings: &DatabaseSettings) -> anyhow::Result<Option<Self>> {
        if settings.replica_url.expose_secret().is_empty() {
            return Ok(None);
        }
        let pool = pool(settings, &settings.replica_url, settings.replica_pool_size)?;
        let (wait, connecting) = (settings.pool_wait(), settings.connect_timeout());
        let (committed, runtime) = (Arc::default(), Handle::current());
        Ok(Some(Self { pool, wait, connecting, committed, runtime }))
    }

    /// A connection, for reads and for background work that nobody cancels.
    ///
    /// # Errors
    /// None became free, or none could be opened, in time.
    pub async fn get(&self) -> Result<Object<AsyncPgConnection>, DbError> {
        let (pool, patience) = (self.pool.clone(), self.wait + self.connecting);
        // In a task of its own: a connection that takes longer to open than anybody waits for one is there for whoever
        // comes next. Otherwise each would begin from the beginning, and give up, for ever.
        let getting = self.runtime.spawn(async move { tokio::time::timeout(patience, pool.get()).await });
        match tokio::time::timeout(self.wait, getting).await {
            Ok(Ok(Ok(connection))) => Ok(connection?),
            Ok(Err(_)) => Err(DbError::Panicked),
            Ok(Ok(Err(_))) | Err(_) => Err(DbError::Busy),
        }
    }

    /// Runs `work` in a transaction, in a task of its own: a client that hangs up cannot cut it in the middle. Work that
    /// the server rolled back because of other transactions is done again, a few times.
    ///
    /// # Errors
    /// As `work`, and everything that can happen to a transaction; then it has been rolled back, except that a
    /// connection lost during the commit leaves that open.
    pub async fn transaction<T, F>(&self, work: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: Work<T>,
    {
        let done = self.quiet_transaction(work).await;
        if done.is_ok() {
            self.committed.notify_one();
        }
        done
    }

    /// As [`Db::transaction`], for work that leaves nothing in the outbox: the relay is not woken.
    ///
    /// # Errors
    /// As [`Db::transaction`].
    pub async fn quiet_transaction<T, F>(&self, work: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: Work<T>,
    {
        let mut attempts = 1;
        loop {
            let done = self.attempt(work.clone()).await;
            let Some(reason) = done.as_ref().err().and_then(DbError::clash) else { return done };
            metrics::counter!("database_clashes_total", "reason" => reason).increment(1);
            if attempts == ATTEMPTS_MAX {
                return done;
            }
            // Some chance, so that those who clashed do not meet again.
            tokio::time::sleep(CLASH_PAUSE.mul_f64(f64::from(attempts) * rand::random::<f64>())).await;
            attempts += 1;
        }
    }

    async fn attempt<T: Send + 'static>(&self, work: impl Work<T>) -> Result<T, DbError> {
        let db = self.clone();
        let traced = trace::child(|| {
            Describe::new("transaction orders", SpanKind::Client)
                .with("db.system.name", "postgresql")
                .with("db.namespace", "orders")
        });
        let running = self.runtime.spawn(trace::within(traced, async move {
            let mut conn = db.get().await?;
            conn.transaction(async move |conn| work(conn).await).await
        }));
        running.await.unwrap_or(Err(DbError::Panicked))
    }

    /// Tells how the pool `name` is used.
    pub fn count_connections(&self, name: &'static str) {
        let status = self.pool.status();
        let gauges = [
            (gauge!("database_pool_connections", "pool" => name), status.size),
            (gauge!("database_pool_available", "pool" => name), status.available),
            (gauge!("database_pool_waiting", "pool" => name), status.waiting),
            (gauge!("database_pool_size_max", "pool" => name), status.max_size),
        ];
        gauges.iter().for_each(|(gauge, count)| gauge.set(*count as f64));
    }

    /// Waits until a transaction of this process has committed since the last call: there may be something in the
    /// outbox. For the one relay of the process.
    pub async fn committed(&self) {
        self.committed.notified().await;
    }
}

fn pool(
    settings: &DatabaseSettings,
    url: &SecretString,
    size: usize,
) -> anyhow::Result<Pool<AsyncPgConnection>> {
    let mut config = ManagerConfig::default();
    config.recycling_method = RecyclingMethod::Fast;
    let setup = session_setup(settings);
    let times = (settings.connect_timeout(), settings.patience());
    // Not on an HTTP worker's runtime, which ends before the pool does.
    let runtime = Handle::current();
    config.custom_setup = Box::new(move |url| {
        let opening = runtime.spawn(open(url.to_owned(), setup.clone(), times));
        async { opening.await.unwrap_or_else(|error| Err(ConnectionError::BadConnection(error.to_string()))) }
            .boxed()
    });
    let manager =
        AsyncDieselConnectionManager::<AsyncPgConnection>::new_with_config(url.expose_secret(), config);
    // The connection that was used last: its server process has plans and tables at hand, the others' have gone cold.
    let pool = Pool::builder(manager).max_size(size).queue_mode(QueueMode::Lifo);
    pool.build().context("database pool")
}

/// Makes sure that the database has the schema of this version: brings it there, or, where another process does that,
/// waits for it.
///
/// # Errors
/// As [`migrate`]; or nobody migrated it in time.
pub async fn prepare(settings: &DatabaseSettings) -> anyhow::Result<()> {
    if settings.migrate_at_start { migrate(settings).await } else { schema_version::wait(settings).await }
}

/// Brings the database to the schema of this version; instances that start together do it once.
///
/// # Errors
/// The database cannot be reached, or is of a newer version that this one does not know.
pub async fn migrate(settings: &DatabaseSettings) -> anyhow::Result<()> {
    let work = async {
        loop {
            match run_migrations(settings).await {
                // What was migrated already stays so.
                Err(error) if IN_THE_WAY.iter().any(|reason| format!("{error:#}").contains(reason)) => {
                    tracing::warn!(error = format!("{error:#}"), "a migration has to wait");
                    tokio::time::sleep(MIGRATION_RETRY).await;
                }
                done => return done,
            }
        }
    };
    tokio::time::timeout(MIGRATION_TIMEOUT, work)
        .await
        .context("migrations took too long")?
        .context("migrating")
}

/// On a connection of its own: whether it may write is settled when it is opened.
async fn run_migrations(settings: &DatabaseSettings) -> anyhow::Result<()> {
    // Not from the pool: migrations may take longer than a statement is allowed to.
    let mut conn = open_patiently(settings, settings.migration_url()).await?;
    conn.batch_execute(&format!("SELECT pg_advisory_lock({MIGRATION_LOCK})")).await?;
    conn.batch_execute(MIGRATION_LOCK_TIMEOUT).await?;
    // The lock ends with the connection, also if this fails.
    let mut harness = AsyncMigrationHarness::new(conn);
    let applied = harness.run_pending_migrations(MIGRATIONS).map_err(anyhow::Error::from_boxed)?;
    applied.iter().for_each(|version| tracing::info!(%version, "migrated"));
    Ok(())
}

/// A connection without the bounds of a session.
async fn open_patiently(
    settings: &DatabaseSettings,
    url: &SecretString,
) -> Result<AsyncPgConnection, ConnectionError> {
    let give_up = Instant::now() + STARTUP_PATIENCE;
    loop {
        let url = url.expose_secret().to_owned();
        match open(url, String::new(), (settings.connect_timeout(), MIGRATION_TIMEOUT)).await {
            Err(error) if Instant::now() < give_up => {
                tracing::warn!(%error, "waiting for the database");
                tokio::time::sleep(STARTUP_RETRY).await;
            }
            result => return result,
        }
    }
}

/// Bounds of every session. Plans are made for the actual values: a generic plan made while the table was new reads
/// all of it in the per-user guard. No statement here runs long enough to be worth compiling, which takes half a second
/// of CPU and begins as soon as a plan looks expensive, even if it is never executed.
fn session_setup(settings: &DatabaseSettings) -> String {
    format!(
        "SET statement_timeout = {}; SET lock_timeout = {}; \
         SET idle_in_transaction_session_timeout = {}; SET plan_cache_mode = force_custom_plan; SET jit = off",
        settings.statement_timeout_ms, settings.lock_timeout_ms, settings.idle_in_transaction_timeout_ms
    )
}

async fn open(
    url: String,
    setup: String,
    (timeout, patience): (Duration, Duration),
) -> Result<AsyncPgConnection, ConnectionError> {
    let connecting = async {
        let mut conn = connect::connect(&url, patience).await?;
        conn.batch_execute(&setup).await.map_err(ConnectionError::CouldntSetupConfiguration)?;
        Ok(conn)
    };
    let late = || ConnectionError::BadConnection(format!("no connection within {timeout:?}"));
    tokio::time::timeout(timeout, connecting).await.unwrap_or_else(|_| Err(late()))
}
