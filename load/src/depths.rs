//! How much waits where, between an accepted order and the last of its effects.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use common::ids::ItemId;
use common::topology::Queue;
use e2e::environment::Environment;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use tokio::time::timeout;
use uuid::Uuid;

/// Most time for one answer of a store.
const PATIENCE: Duration = Duration::from_secs(5);

/// Orders that are accepted and whose order event has not come back to the inventory yet: all that is under way.
pub const UNSETTLED: &str = "orders unsettled";
/// Messages that wait at RabbitMQ for order-service.
pub const RESERVATIONS: &str = "messages to order-service";
/// Messages that wait at RabbitMQ for stock-service.
pub const SETTLEMENTS: &str = "messages to stock-service";
/// Messages that wait at RabbitMQ for notify-service.
pub const NOTICES: &str = "messages to notify-service";
/// Messages in Postgres that wait to be published.
pub const OUTBOX: &str = "outbox rows";

/// Connections to the stores of one item.
pub struct Depths {
    redis: redis::aio::MultiplexedConnection,
    postgres: tokio_postgres::Client,
    channel: lapin::Channel,
    _connection: lapin::Connection,
    item: ItemId,
}

impl Depths {
    /// Connects as the operator.
    ///
    /// # Errors
    /// A store cannot be reached.
    pub async fn connect(environment: &Environment, item: ItemId) -> anyhow::Result<Self> {
        let redis = redis::Client::open(environment.value("REDIS_URL")?)?;
        let redis = timeout(PATIENCE, redis.get_multiplexed_async_connection()).await;
        let redis = redis.context("Redis")?.context("Redis")?;
        let url = environment.value("ORDERS_DATABASE_URL")?;
        let postgres = timeout(PATIENCE, tokio_postgres::connect(url, tokio_postgres::NoTls)).await;
        let (postgres, driver) = postgres.context("Postgres")?.context("Postgres")?;
        // Ends with the client.
        tokio::spawn(driver);
        let properties = lapin::ConnectionProperties::default();
        let broker = lapin::Connection::connect(environment.value("AMQP_URL")?, properties);
        let connection = timeout(PATIENCE, broker).await.context("RabbitMQ")?.context("RabbitMQ")?;
        let channel = timeout(PATIENCE, connection.create_channel()).await.context("RabbitMQ")??;
        Ok(Self { redis, postgres, channel, _connection: connection, item })
    }

    /// What waits now, by name.
    ///
    /// # Errors
    /// A store does not answer.
    pub async fn read(&mut self) -> anyhow::Result<BTreeMap<&'static str, u64>> {
        let mut depths = BTreeMap::new();
        let key = format!("unsettled:{{{}}}", self.item);
        let mut zcard = redis::cmd("ZCARD");
        let unsettled = timeout(PATIENCE, zcard.arg(key).query_async(&mut self.redis)).await;
        depths.insert(UNSETTLED, unsettled.context("Redis")??);
        let outbox = "SELECT count(*) FROM outbox WHERE published_at IS NULL";
        depths.insert(OUTBOX, self.number(outbox, &[]).await?);
        for queue in Queue::all() {
            let waiting = self.messages(&queue.name).await?;
            let name = match queue.name.as_str() {
                name if name.starts_with("order-service.") => RESERVATIONS,
                name if name.starts_with("notify-service.") => NOTICES,
                _ => SETTLEMENTS,
            };
            *depths.entry(name).or_default() += waiting;
        }
        Ok(depths)
    }

    /// Units of the item that orders in Postgres have taken: with one unit each, as many orders.
    ///
    /// # Errors
    /// Postgres does not answer.
    pub async fn in_postgres(&self) -> anyhow::Result<u64> {
        let id: Uuid = self.item.0;
        self.number(&format!("SELECT taken FROM items WHERE id = '{id}'"), &[]).await
    }

    async fn number(
        &self,
        query: &str,
        parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> anyhow::Result<u64> {
        let row = timeout(PATIENCE, self.postgres.query_one(query, parameters)).await;
        let number: i64 = row.context("Postgres")?.context("Postgres")?.try_get(0)?;
        Ok(u64::try_from(number)?)
    }

    async fn messages(&self, queue: &str) -> anyhow::Result<u64> {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let declare = self.channel.queue_declare(queue.into(), options, FieldTable::default());
        let declared = timeout(PATIENCE, declare).await.context("RabbitMQ")?.context("RabbitMQ")?;
        Ok(declared.message_count().into())
    }
}
