//! The assembled service. `main` and the tests build it the same way.

use std::net::SocketAddr;
use std::time::Duration;

use common::amqp::{Publisher, Topology};
use common::health::{Health, HealthCheck};
use common::http_client::{self, Upstream};
use common::serve::Server;
use common::shutdown::Tasks;
use common::telemetry::Metrics;
use common::topology::{Exchange, Queue};
use diesel_async::RunQueryDsl as _;
use tokio_util::sync::CancellationToken;

use crate::db::replica::Reports;
use crate::db::statement::Kept;
use crate::db::{self, Db, Pools};
use crate::payments::provider::Providers;
use crate::payments::{asking, refunds};
use crate::sandbox::notifier::Notifier;
use crate::settings::{SandboxFaults, Settings};
use crate::watch::Watch;
use crate::{dead_letters, expiry, gauges, http, outbox, place_orders};

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
    /// Migrates (or waits for it), starts the background tasks and binds; serves nothing yet. `stop` ends it, and is cancelled by it
    /// when a task fails.
    ///
    /// # Errors
    /// The database cannot be migrated, or the address cannot be bound.
    pub async fn build(
        settings: Settings,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        db::prepare(&settings.database).await?;
        let Pools { requests, background: db } = Db::connect(&settings.database)?;
        let health = Health::new(metrics);
        let tasks = Tasks::new(stop.clone());
        tasks.spawn("database-probe", probe(db.clone(), health.dependency("postgres"), tasks.stop_token()));

        let publisher = start_publisher(&settings, &health, &tasks);
        start_tasks(&settings, &db, &publisher, &health, &tasks);
        let pools = [("background", db.clone()), ("requests", requests.clone())];
        tasks.spawn("gauges", gauges::run(pools, publisher.clone(), tasks.stop_token()));
        let notifier = start_money(&settings, &db, &tasks)?;
        let watch = Watch::new(stop.clone());
        tasks.spawn("order-watch", watch.clone().run(db.clone(), tasks.stop_token()));

        let reports = Reports::connect(&settings.database, requests.clone())?;
        tasks.spawn("replica-marks", reports.clone().mark(tasks.stop_token()));

        let state = http::State {
            db: requests,
            reports,
            watch,
            publisher,
            internal: settings.internal.clone(),
            checkout: http::payments::Checkout {
                public_url: settings.payments.public_url.clone(),
                sandbox_secret: settings.sandbox().then(|| settings.payments.sandbox_secret.clone()),
                providers: providers(&settings, &db, settings.asking.provider_timeout()),
                ask_after: settings.asking.first_wait(),
            },
            sandbox: http::sandbox::Sandbox(notifier),
            books: books(&settings)?,
            keep_hours: settings.outbox.keep_hours,
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

/// Declares every queue of the system: what is published must find its queues, whoever started first.
fn start_publisher(settings: &Settings, health: &Health, tasks: &Tasks) -> Publisher {
    let topology = Topology { exchanges: vec![Exchange::Sale, Exchange::Order], queues: Queue::all() };
    Publisher::start(&settings.amqp, "order-service", topology, health.dependency("amqp"), tasks)
}

fn start_tasks(settings: &Settings, db: &Db, publisher: &Publisher, health: &Health, tasks: &Tasks) {
    place_orders::consumer::start(&settings.place_orders, &settings.amqp, publisher, (db, health), tasks);
    let interval = Duration::from_millis(settings.dead_letters.interval_ms);
    dead_letters::start(&settings.amqp, interval, publisher, (db, health), tasks);
    tasks.spawn("expiry", expiry::run(db.clone(), settings.expiry.clone(), tasks.stop_token()));

    // The relay goes on until nobody writes into the outbox any more.
    let relay = tasks.outliving();
    relay.spawn(
        "outbox-relay",
        outbox::relay::run(db.clone(), publisher.clone(), settings.outbox.clone(), relay.stop_token()),
    );
    relay.spawn(
        "outbox-keeper",
        outbox::keeper::run(db.clone(), publisher.clone(), settings.outbox.keep_hours, relay.stop_token()),
    );
}

/// Refunds, and the sandbox provider's side that tells, where it is on.
fn start_money(settings: &Settings, db: &Db, tasks: &Tasks) -> anyhow::Result<Option<Notifier>> {
    let asking = settings.asking.clone();
    tasks.spawn(
        "asking",
        asking::run(
            db.clone(),
            providers(settings, db, asking.provider_timeout()),
            asking,
            tasks.stop_token(),
        ),
    );
    let refunding = settings.refunds.clone();
    let for_refunds = providers(settings, db, refunding.provider_timeout());
    tasks.spawn("refunds", refunds::run(db.clone(), for_refunds, refunding, tasks.stop_token()));
    if !settings.sandbox() {
        return Ok(None);
    }
    let payments = &settings.payments;
    let client = http_client::build(payments.callback_timeout(), payments.callback_timeout())?;
    let secret = payments.sandbox_secret.clone();
    let speaks = payments.sandbox_faults == SandboxFaults::None;
    let notifier = Notifier { db: db.clone(), client, secret, url: payments.callback_url()?, speaks };
    tasks.spawn("sandbox-notifier", notifier.clone().run(tasks.stop_token()));
    Ok(Some(notifier))
}

fn providers(settings: &Settings, db: &Db, timeout: Duration) -> Providers {
    let sandbox_down = settings.payments.sandbox_faults == SandboxFaults::Down;
    Providers { db: db.clone(), sandbox_down, timeout }
}

/// Where the audit asks for the inventory's books.
///
/// # Errors
/// The client cannot be made.
pub fn books(settings: &Settings) -> anyhow::Result<http::audit::Inventory> {
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
