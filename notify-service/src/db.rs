//! The `notify` database: the pool, the migrations at start, and one file of queries per matter.
//!
//! Queries are plain SQL: nearly all of them are batches (`UNNEST`) or claims (`SKIP LOCKED`).

pub mod audit_log;
mod connect;
pub mod deliveries;
pub mod erasure;
pub mod events;
pub mod queue;
pub mod retention;
mod schema_version;
pub mod webhooks;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use common::failpoint::Injected;
use deadpool::managed::QueueMode;
use diesel::{ConnectionError, ConnectionResult, QueryableByName, sql_query};
use diesel_async::pooled_connection::deadpool::{Object, Pool};
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod};
use diesel_async::{AsyncMigrationHarness, AsyncPgConnection, RunQueryDsl as _, SimpleAsyncConnection as _};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};
use futures_util::FutureExt as _;
use metrics::gauge;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::runtime::Handle;
use tokio::task::JoinError;

use crate::settings::DatabaseSettings;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");

/// Most time for the migrations, waiting for another replica's included.
const MIGRATION_TIMEOUT_S: u32 = 120;
/// What Postgres says while it is no primary yet, and when it ends connections.
const NOT_YET: [&str; 3] = ["in a read-only transaction", "terminating connection", "connection closed"];
/// How long a database that cannot be reached at start, or not be written to, is waited for: it may be starting itself.
const STARTUP_PATIENCE: Duration = Duration::from_secs(60);
/// How much longer than a statement may take the server may say nothing.
const SILENCE_MARGIN: Duration = Duration::from_secs(3);
/// Pause between two tries to reach it.
const STARTUP_RETRY: Duration = Duration::from_millis(500);

/// Advisory locks of this database; the number is arbitrary, but belongs to one purpose.
#[derive(Debug, Clone, Copy)]
pub enum Lock {
    /// One replica migrates at a time.
    Migrations = 1,
    /// Events are stored one batch at a time, so that none is stored twice and numbers have no holes.
    Ingest = 2,
    /// Webhooks are counted and added one at a time.
    Webhooks = 3,
    /// One replica tidies up at a time.
    Retention = 4,
}

/// Why the database did not do what it should; but for broken rows it may work later.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// No connection within the time.
    #[error("no database connection")]
    Pool(#[source] diesel_async::pooled_connection::deadpool::PoolError),
    /// No connection became free within the time.
    #[error("the database pool is exhausted or the database does not answer")]
    PoolTimeout,
    /// A query failed.
    #[error("database query")]
    Query(#[from] diesel::result::Error),
    /// What should be stored cannot be written as JSON.
    #[error("not JSON")]
    Json(#[from] serde_json::Error),
    /// What is stored is not what this service writes.
    #[error("broken row: {0}")]
    Broken(String),
    /// A fault campaign asked for it.
    #[error(transparent)]
    Injected(#[from] Injected),
}

/// Connections to the database. Cheap to clone.
#[derive(Clone)]
pub struct Db {
    pool: Pool<AsyncPgConnection>,
    pool_timeout: Duration,
    connect_timeout: Duration,
    /// Where connections are opened: an HTTP worker's own runtime ends with the server.
    runtime: Handle,
}

impl Db {
    /// Tells how the pool is used.
    pub fn count_connections(&self) {
        let status = self.pool.status();
        let gauges = [
            (gauge!("database_pool_connections"), status.size),
            (gauge!("database_pool_available"), status.available),
            (gauge!("database_pool_waiting"), status.waiting),
            (gauge!("database_pool_size_max"), status.max_size),
        ];
        gauges.iter().for_each(|(gauge, count)| gauge.set(*count as f64));
    }

    /// A pool that connects when first used.
    ///
    /// # Errors
    /// The pool cannot be built.
    pub fn new(settings: &DatabaseSettings) -> anyhow::Result<Self> {
        let connect_timeout = settings.connect_timeout();
        let statement_timeout_ms = settings.statement_timeout_ms;
        let runtime = Handle::current();
        let mut config = ManagerConfig::<AsyncPgConnection>::default();
        config.custom_setup = Box::new(move |url| {
            // Not on an HTTP worker's runtime, which ends before the pool does.
            let opening = runtime.spawn(open(url.to_owned(), connect_timeout, statement_timeout_ms));
            let broken = |error: JoinError| Err(ConnectionError::BadConnection(error.to_string()));
            async move { opening.await.unwrap_or_else(broken) }.boxed()
        });
        // A broken connection shows in its first query, and every caller tries again.
        config.recycling_method = RecyclingMethod::Fast;
        let url = settings.url.expose_secret();
        let manager = AsyncDieselConnectionManager::<AsyncPgConnection>::new_with_config(url, config);
        // The connection that was used last: its server process has plans and tables at hand, the others' have gone cold.
        let pool = Pool::builder(manager).max_size(settings.pool_max).queue_mode(QueueMode::Lifo);
        let pool = pool.build().context("database pool")?;
        let (pool_timeout, runtime) = (settings.pool_timeout(), Handle::current());
        Ok(Self { pool, pool_timeout, connect_timeout, runtime })
    }

    /// A connection from the pool.
    ///
    /// # Errors
    /// None within `database.pool_timeout_ms`.
    pub async fn get(&self) -> Result<Object<AsyncPgConnection>, DbError> {
        let (pool, patience) = (self.pool.clone(), self.pool_timeout + self.connect_timeout);
        // In a task of its own: a connection that takes longer to open than anybody waits for one is there for whoever
        // comes next. Otherwise each would begin from the beginning, and give up, for ever.
        let getting = self.runtime.spawn(async move { tokio::time::timeout(patience, pool.get()).await });
        match tokio::time::timeout(self.pool_timeout, getting).await {
            Ok(Ok(Ok(connection))) => connection.map_err(DbError::Pool),
            Ok(Ok(Err(_)) | Err(_)) | Err(_) => Err(DbError::PoolTimeout),
        }
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// It does not.
    pub async fn ping(&self) -> Result<(), DbError> {
        sql_query("SELECT 1").execute(&mut self.get().await?).await?;
        Ok(())
    }
}

async fn open(
    url: String,
    timeout: Duration,
    statement_timeout_ms: u32,
) -> ConnectionResult<AsyncPgConnection> {
    let establish = async {
        let patience = Duration::from_millis(statement_timeout_ms.into()) + SILENCE_MARGIN;
        let mut connection = connect::connect(&url, patience).await?;
        // Also what one statement may wait for locks; a replica that hangs must not hold the others up for ever. No
        // statement runs long enough to be worth compiling, which takes half a second of CPU.
        let set = format!(
            "SET statement_timeout = {statement_timeout_ms}; \
             SET idle_in_transaction_session_timeout = {statement_timeout_ms}; \
             SET application_name = 'notify-service'; SET jit = off"
        );
        connection.batch_execute(&set).await.map_err(ConnectionError::CouldntSetupConfiguration)?;
        Ok(connection)
    };
    match tokio::time::timeout(timeout, establish).await {
        Ok(connection) => connection,
        Err(_elapsed) => Err(ConnectionError::BadConnection("connecting timed out".to_owned())),
    }
}

/// A connection for migrations, whose statements may take longer.
async fn connect_patiently(
    settings: &DatabaseSettings,
    url: &SecretString,
) -> ConnectionResult<AsyncPgConnection> {
    let give_up = Instant::now() + STARTUP_PATIENCE;
    loop {
        let url = url.expose_secret().to_owned();
        match open(url, settings.connect_timeout(), MIGRATION_TIMEOUT_S * 1_000).await {
            Err(error) if Instant::now() < give_up => {
                tracing::warn!(%error, "waiting for the database");
                tokio::time::sleep(STARTUP_RETRY).await;
            }
            result => return result,
        }
    }
}

/// Makes sure that the database has the schema of this version: brings it there, or, where another process does that,
/// waits for it.
///
/// # Errors
/// As [`migrate`]; or nobody migrated it in time.
pub async fn prepare(settings: &DatabaseSettings) -> anyhow::Result<()> {
    if settings.migrate_at_start { migrate(settings).await } else { schema_version::wait(settings).await }
}

/// Brings the schema up to date, one replica at a time. A schema that is newer than this program is fine: migrations suit the version before them.
///
/// # Errors
/// The database cannot be reached, or a migration fails.
pub async fn migrate(settings: &DatabaseSettings) -> anyhow::Result<()> {
    let give_up = Instant::now() + STARTUP_PATIENCE;
    loop {
        match run_migrations(settings).await {
            Err(error) if Instant::now() < give_up => {
                let reason = format!("{error:#}");
                if !NOT_YET.iter().any(|passing| reason.contains(passing)) {
                    return Err(error);
                }
                tracing::warn!(error = reason, "waiting for a database that can be written to");
                tokio::time::sleep(STARTUP_RETRY).await;
            }
            done => return done,
        }
    }
}

/// On a connection of its own: whether it may write is settled when it is opened.
async fn run_migrations(settings: &DatabaseSettings) -> anyhow::Result<()> {
    let mut connection =
        connect_patiently(settings, settings.migration_url()).await.context("connecting to Postgres")?;
    let lock = format!("SELECT pg_advisory_lock({})", Lock::Migrations as i64);
    connection.batch_execute(&lock).await.context("waiting for other replicas' migrations")?;

    // The lock goes with the connection.
    let mut harness = AsyncMigrationHarness::new(connection);
    let run = harness.run_pending_migrations(MIGRATIONS).map_err(anyhow::Error::from_boxed)?;
    tracing::info!(applied = run.len(), "schema is up to date");
    Ok(())
}

/// Waits for `lock` and holds it until the transaction ends.
///
/// # Errors
/// The query failed, or waited longer than a statement may.
pub async fn lock(connection: &mut AsyncPgConnection, lock: Lock) -> Result<(), DbError> {
    sql_query(format!("SELECT pg_advisory_xact_lock({})", lock as i64)).execute(connection).await?;
    Ok(())
}

/// Takes `lock` until the transaction ends, or answers false if somebody else has it.
///
/// # Errors
/// The query failed.
pub async fn try_lock(connection: &mut AsyncPgConnection, lock: Lock) -> Result<bool, DbError> {
    #[derive(QueryableByName)]
    struct Taken {
        #[diesel(sql_type = diesel::sql_types::Bool)]
        taken: bool,
    }
    let query = format!("SELECT pg_try_advisory_xact_lock({}) AS taken", lock as i64);
    let row: Taken = sql_query(query).get_result(connection).await?;
    Ok(row.taken)
}
