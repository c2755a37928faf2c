//! The assembled service.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::amqp::{Publisher, Source, Subscription, Topology, consume};
use common::health::Health;
use common::serve::Server;
use common::settings::DrainSettings;
use common::shutdown::Tasks;
use common::telemetry::Metrics;
use common::topology::{Exchange, PARTITIONS, Queue};
use tokio_util::sync::CancellationToken;

use crate::announce::Announcer;
use crate::catalogue::CatalogueReader;
use crate::consumers::{self, OrderFollower};
use crate::http::{Api, routes};
use crate::inventory::{Inventory, Owner};
use crate::items::Items;
use crate::load::{self, Loader};
use crate::reconcile;
use crate::relay;
use crate::reserve::Reservations;
use crate::settings::Settings;
use crate::stock::ORDERS_PER_CALL_MAX;
use crate::units::Units;
use crate::upkeep::Upkeep;
use crate::watch;

/// The name of the publisher's connection.
const PUBLISHER: &str = "stock-service publisher";

/// The service: `main` and the tests build it the same way.
pub struct App {
    server: Server,
    tasks: Tasks,
    stop: CancellationToken,
    drain: DrainSettings,
}

/// What is built on the way and needed by several parts.
struct Parts {
    inventory: Inventory,
    items: Items,
    publisher: Publisher,
    loader: Loader,
    upkeep: Upkeep,
    catalogue: CatalogueReader,
}

impl App {
    /// Checks the scripts if Redis is there, binds, and starts the work in the background; requests queue up until
    /// it runs. It ends when `stop` is cancelled.
    ///
    /// # Errors
    /// A setting cannot be used, Redis refuses a script, or the address cannot be bound.
    pub async fn build(
        settings: Settings,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        let units = Units::new(&metrics);
        let health = Health::new(metrics);
        let tasks = Tasks::new(stop.clone());
        let inventory = Inventory::new(&settings.redis)?;
        watch::check(&inventory, settings.profile).await?;

        let parts = Parts::build(&settings, inventory, (&health, units), &tasks)?;
        watch::start(parts.inventory.clone(), settings.profile, health.dependency("redis"), &tasks);
        let api = Api {
            inventory: parts.inventory.clone(),
            items: parts.items.clone(),
            reservations: parts.upkeep.reservations.clone(),
            catalogue: parts.catalogue.clone(),
            lease_ms: settings.catalogue.script_lease_ms(),
        };
        let internal = settings.internal.clone();
        let server = Server::bind(&settings.http, settings.drain, health.clone(), move |cfg| {
            routes(cfg, &api, &internal);
        })?;
        parts.start(&settings, &health, &tasks);
        Ok(Self { server, tasks, stop, drain: settings.drain })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Serves until it is told to stop, then drains.
    ///
    /// # Errors
    /// A part failed, or did not end in time.
    pub async fn run(self) -> anyhow::Result<()> {
        let served = self.server.run(self.stop.clone()).await;
        self.stop.cancel();
        self.tasks.finish(self.drain.tasks_timeout()).await.and(served)
    }
}

impl Parts {
    fn build(
        settings: &Settings,
        inventory: Inventory,
        (health, units): (&Health, Units),
        tasks: &Tasks,
    ) -> anyhow::Result<Self> {
        let items = Items::new(settings.catalogue.items_max);
        // The work queues too: a reservation may be accepted though order-service has not been there yet.
        let topology = Topology {
            exchanges: vec![Exchange::Stock],
            queues: (0..PARTITIONS).map(Queue::reservations).collect(),
        };
        let publisher =
            Publisher::start(&settings.amqp, PUBLISHER, topology, health.dependency("amqp-publisher"), tasks);
        let orders = crate::orders::Orders::new(&settings.orders, &settings.internal.token)?;
        let (publish_ms, reply_ms) = (settings.amqp.publish_timeout_ms, settings.redis.response_timeout_ms);
        let announcer = Announcer::new(publisher.clone(), publish_ms, reply_ms);
        let reservations =
            Reservations::new(inventory.clone(), announcer.clone(), items.clone(), settings.reserve, tasks);
        let loader = Loader {
            inventory: inventory.clone(),
            orders: orders.clone(),
            announcer,
            items: items.clone(),
            catalogue: settings.catalogue,
            retire: settings.retire,
            owner: Owner::draw(),
        };
        let upkeep = Upkeep {
            inventory: inventory.clone(),
            orders,
            items: items.clone(),
            reservations,
            catalogue: settings.catalogue,
            retire: settings.retire,
        };
        let catalogue =
            CatalogueReader::new((inventory.clone(), items.clone()), settings.catalogue, units, tasks);
        Ok(Self { inventory, items, publisher, loader, upkeep, catalogue })
    }

    fn start(self, settings: &Settings, health: &Health, tasks: &Tasks) {
        self.catalogue.start(Duration::from_millis(settings.load.interval_ms));
        let subscription = |queue: Queue, check: &'static str| Subscription {
            source: Source::Work(queue),
            prefetch: settings.consume.prefetch,
            batch_max: ORDERS_PER_CALL_MAX,
            min_interval: Duration::from_millis(settings.consume.min_interval_ms),
            line_up: std::sync::Arc::default(),
            publisher: self.publisher.clone(),
            health: health.dependency(check),
        };

        let upkeep = self.upkeep.clone();
        let sales = subscription(Queue::stock_sales(), "amqp-sales");
        consume(&settings.amqp, sales, consumers::sale_events(), tasks, move |batch| {
            consumers::on_sales(upkeep.clone(), batch)
        });

        let follower = OrderFollower {
            inventory: self.inventory.clone(),
            items: self.items.clone(),
            catalogue: settings.catalogue,
        };
        let follower = Arc::new(follower);
        let orders = subscription(Queue::stock_orders(), "amqp-orders");
        consume(&settings.amqp, orders, consumers::order_events(), tasks, move |batch| {
            follower.clone().on_orders(batch)
        });

        relay::start(self.loader.clone(), settings.relay, tasks);
        reconcile::start(self.loader.clone(), settings.reconcile, tasks);
        load::start(self.loader, settings.load, tasks);
        self.upkeep.start(settings.load, tasks);
    }
}
