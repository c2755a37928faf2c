//! The assembled service.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_web::web;
use anyhow::Context as _;
use common::amqp::{AmqpSettings, Publisher, Source, Subscription, Topology};
use common::health::Health;
use common::serve::Server;
use common::settings::DrainSettings;
use common::shutdown::Tasks;
use common::telemetry::Metrics;
use common::topology::{Exchange, Queue};
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::consumer::{Ingest, listen};
use crate::db::{Db, prepare};
use crate::http::{Api, routes};
use crate::settings::{IngestSettings, Settings};
use crate::sse::heads::Heads;
use crate::sse::hub::Hub;
use crate::sse::reader;
use crate::webhook::dispatcher::Dispatcher;
use crate::webhook::sender::Sender;
use crate::{retention, watch};

/// The service: `main` and the tests build it the same way.
pub struct App {
    server: Server,
    tasks: Tasks,
    stop: CancellationToken,
    end_of_streams: CancellationToken,
    drain: DrainSettings,
}

impl App {
    /// Brings the schema up to date, binds, and starts the work in the background; requests queue up until it runs.
    /// It ends when `stop` is cancelled.
    ///
    /// # Errors
    /// A setting cannot be used, the database cannot be reached, or the address cannot be bound.
    pub async fn build(
        settings: Settings,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        prepare(&settings.database).await.context("preparing the database")?;
        let db = Db::new(&settings.database)?;
        let health = Health::new(metrics);
        let tasks = Tasks::new(stop.clone());
        let hub = Hub::new(settings.sse);
        let due = Arc::new(Notify::new());
        let sender = Sender::new(&settings.webhooks)?;
        let end_of_streams = CancellationToken::new();

        let api = web::Data::new(Api {
            db: db.clone(),
            hub: hub.clone(),
            heads: Heads::start(db.clone(), settings.sse.streams_max, &tasks),
            end_of_streams: end_of_streams.clone(),
            sse: settings.sse,
            webhooks: settings.webhooks.clone(),
            due: due.clone(),
        });
        let internal = settings.internal.clone();
        let server = Server::bind(&settings.http, settings.drain, health.clone(), move |cfg| {
            routes(cfg, api.clone(), &internal);
        })?;

        let ingest = Ingest::new(db.clone(), hub.clone(), due.clone());
        let broker = Broker { settings: &settings.amqp, health: &health, tasks: &tasks };
        broker.consume(ingest, settings.ingest, hub.clone());
        let finish_timeout = settings.drain.tasks_timeout() / 2;
        let dispatcher = Dispatcher::new(db.clone(), sender, due, &settings.webhooks, finish_timeout);
        let stop_work = tasks.stop_token();
        tasks.spawn("webhook-dispatcher", dispatcher.run(stop_work.clone()));
        tasks.spawn("sse-reader", reader::read(db.clone(), hub.clone(), settings.sse, stop_work.clone()));
        tasks.spawn("sse-sweep", reader::sweep(db.clone(), hub, settings.sse, stop_work.clone()));
        tasks.spawn("retention", retention::run(db.clone(), settings.retention, stop_work.clone()));
        tasks.spawn("database-watch", watch::database(db, health.dependency("postgres"), stop_work));
        Ok(Self { server, tasks, stop, end_of_streams, drain: settings.drain })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Serves until told to stop, then ends streams, lets requests finish, and ends the background work.
    ///
    /// # Errors
    /// The server or a task failed, or something did not end in time.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self { server, tasks, stop, end_of_streams, drain } = self;
        let ending = end_streams(stop.clone(), drain.ready_delay(), end_of_streams);
        let (served, ()) = tokio::join!(server.run(stop), ending);
        let finished = tasks.finish(drain.tasks_timeout()).await;
        served.and(finished)
    }
}

/// Streams end when the server stops accepting, not before: whoever comes back must find another replica. They
/// would never end by themselves.
async fn end_streams(stop: CancellationToken, ready_delay: Duration, end: CancellationToken) {
    stop.cancelled().await;
    sleep(ready_delay).await;
    end.cancel();
}

/// What consumers need of the broker.
struct Broker<'a> {
    settings: &'a AmqpSettings,
    health: &'a Health,
    tasks: &'a Tasks,
}

impl Broker<'_> {
    fn consume(&self, ingest: Ingest, settings: IngestSettings, hub: Hub) {
        let queue = Queue::notify_orders();
        // Parks what can never work; it outlives the consumers that use it.
        let topology = Topology { exchanges: vec![Exchange::Order], queues: vec![queue.clone()] };
        let health = self.health.dependency("amqp-publisher");
        let publisher =
            Publisher::start(self.settings, "notify-service", topology, health, &self.tasks.last());
        let subscription = Subscription {
            source: Source::Work(queue),
            prefetch: settings.prefetch,
            batch_max: settings.batch_max,
            min_interval: Duration::from_millis(settings.min_interval_ms),
            line_up: std::sync::Arc::default(),
            publisher,
            health: self.health.dependency("amqp-orders"),
        };
        let wakeups = Subscription { health: self.health.dependency("amqp-wakeups"), ..subscription.clone() };
        ingest.consume(self.settings, subscription, self.tasks);
        listen(self.settings, wakeups, hub, self.tasks);
    }
}
