//! The assembled service. `main` and the tests build it the same way.

use std::net::SocketAddr;
use std::time::Duration;

use common::health::{Health, HealthCheck};
use common::http_client::{self, Upstream};
use common::serve::Server;
use common::shutdown::Tasks;
use common::telemetry::Metrics;
use diesel_async::RunQueryDsl as _;
use tokio_util::sync::CancellationToken;

use crate::db::statement::Kept;
use crate::db::{self, Db};
use crate::http;
use crate::payments::refunds;
use crate::sandbox::notifier::Notifier;
use crate::settings::Settings;

/// How often the database is asked whether it is there.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// The bound server and the running tasks.
pub struct App {
    server: Server,
    tasks: Tasks,
    stop: CancellationToken,
    tasks_timeout: Duration,
}

impl App {
    /// Migrates, starts the background tasks and binds; serves nothing yet. `stop` ends it, and is cancelled by it
    /// when a task fails.
    ///
    /// # Errors
    /// The database cannot be migrated, or the address cannot be bound.
    pub async fn build(
        settings: Settings,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        db::migrate(&settings.database).await?;
        let db = Db::connect(&settings.database)?;
        let health = Health::new(metrics);
        let tasks = Tasks::new(stop.clone());
        tasks.spawn("database-probe", probe(db.clone(), health.dependency("postgres"), tasks.stop_token()));

        tasks.spawn("refunds", refunds::run(db.clone(), settings.refunds.clone(), tasks.stop_token()));
        let notifier = notifier(&settings, &db)?;
        if let Some(notifier) = &notifier {
            tasks.spawn("sandbox-notifier", notifier.clone().run(tasks.stop_token()));
        }

        let state = http::State {
            db,
            internal_token: settings.internal.token.clone(),
            checkout: http::payments::Checkout {
                public_url: settings.payments.public_url.clone(),
                sandbox_secret: settings.sandbox().then(|| settings.payments.sandbox_secret.clone()),
            },
            sandbox: http::sandbox::Sandbox(notifier),
            inventory: inventory(&settings)?,
        };
        let server =
            Server::bind(&settings.http, settings.drain, health, move |cfg| http::routes(cfg, &state))?;
        Ok(Self { server, tasks, stop, tasks_timeout: settings.drain.tasks_timeout() })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Serves until stopped, then lets what is in flight finish.
    ///
    /// # Errors
    /// The server or a task failed, or did not finish in time.
    pub async fn run(self) -> anyhow::Result<()> {
        let served = self.server.run(self.stop).await;
        let finished = self.tasks.finish(self.tasks_timeout).await;
        served.and(finished)
    }
}

/// The sandbox provider's side that tells, where it is on.
fn notifier(settings: &Settings, db: &Db) -> anyhow::Result<Option<Notifier>> {
    if !settings.sandbox() {
        return Ok(None);
    }
    let payments = &settings.payments;
    let client = http_client::build(payments.callback_timeout(), payments.callback_timeout())?;
    let secret = payments.sandbox_secret.clone();
    Ok(Some(Notifier::new(db.clone(), client, secret, payments.callback_url()?)))
}

fn inventory(settings: &Settings) -> anyhow::Result<http::audit::Inventory> {
    let timeout = Duration::from_millis(settings.stock.timeout_ms);
    let client = http_client::build(Duration::from_millis(settings.stock.connect_timeout_ms), timeout)?;
    let urls = settings.stock.urls.clone();
    let stock = Upstream::new("stock-service", urls, client, &settings.internal.token)?;
    Ok(http::audit::Inventory { stock, timeout })
}

async fn probe(db: Db, health: HealthCheck, stop: CancellationToken) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(PROBE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        match ask(&db).await {
            Ok(()) => health.ready(),
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "the database does not answer");
                health.not_ready("the database does not answer");
            }
        }
    }
    Ok(())
}

async fn ask(db: &Db) -> Result<(), db::DbError> {
    let mut conn = db.get().await?;
    Kept(diesel::sql_query("SELECT 1")).execute(&mut conn).await?;
    Ok(())
}
