//! A world per test: a database, a virtual host, an inventory that can be made to say anything, and instances.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use common::amqp::{
    Accepts, AmqpSettings, Outgoing, Publisher, Source, Subscription, Topology, Verdict, consume,
};
use common::api::OrderStatus;
use common::health::Health;
use common::ids::{Currency, EventId, IdempotencyKey, ItemId, OrderId, Quantity, SaleId, UserId};
use common::messages::order::{ALL_V1, OrderV1};
use common::messages::stock::{FENCE_V1, FenceV1, RESERVED_V1, ReservedV1};
use common::messages::{Envelope, Event};
use common::shutdown::Tasks;
use common::telemetry::Metrics;
use common::topology::{Exchange, Queue, stock_routing_key};
use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Text};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _, SimpleAsyncConnection as _};
use order_service::db::Db;
use order_service::{App, Settings};
use serde::Serialize;
use testkit::{Database, Vhost, eventually};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub const TOKEN: &str = "a token of the tests that nobody guesses";
/// What the sandbox provider signs with.
pub const SANDBOX_SECRET: &str = "what the sandbox of the tests signs with";
pub const PRICE_CENTS: i64 = 1_990;
const CONFIRM_WITHIN: Duration = Duration::from_secs(20);

/// The stores, and everything a test does around the service.
pub struct World {
    pub publisher: Publisher,
    pub client: reqwest::Client,
    amqp: AmqpSettings,
    tasks: Tasks,
    pub vhost: Vhost,
    pub database: Database,
}

/// What a test wants of an item.
#[derive(Clone, Copy)]
pub struct Wanted {
    pub total: i64,
    pub per_user_limit: i32,
    pub window_s: i32,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { total: 100, per_user_limit: 1, window_s: 600 }
    }
}

/// An item that is on sale.
#[derive(Debug, Clone, Copy)]
pub struct Item {
    pub id: ItemId,
    pub sale: SaleId,
}

/// One running instance; stopped when dropped.
pub struct Instance {
    pub address: SocketAddr,
    pub db: Db,
    client: reqwest::Client,
    stop: CancellationToken,
    running: Option<tokio::task::JoinHandle<anyhow::Result<()>>>,
}

/// Events heard on `stock-service.orders`, in order of arrival.
#[derive(Clone, Default)]
pub struct Heard(Arc<Mutex<Vec<Told>>>);

/// The type, the id and the body of an event.
pub type Told = (&'static str, EventId, OrderV1);

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    number: i64,
}

#[derive(QueryableByName)]
struct Words {
    #[diesel(sql_type = Text)]
    words: String,
}

impl World {
    pub async fn start(hint: &str) -> Self {
        Self::on(Database::create(hint).await).await
    }

    /// Around this database.
    pub async fn on(database: Database) -> Self {
        testkit::init();
        let vhost = Vhost::create().await;
        let settings = settings(&database, &vhost, &[]);
        let tasks = Tasks::new(CancellationToken::new());
        let topology = Topology { exchanges: vec![Exchange::Stock], queues: Queue::all() };
        let health = Health::default().check("amqp");
        let publisher = Publisher::start(&settings.amqp, "test", topology, health, &tasks);
        // Before anything else: a virtual host that is deleted while its queues are being declared can take down the
        // broker's dead-lettering for all others (RabbitMQ 3.10, rabbit_fifo_dlx_sup).
        eventually("the broker answers", async || publisher.is_ready().then_some(())).await;
        order_service::db::migrate(&settings.database).await.expect("the database can be migrated");
        let client = reqwest::Client::builder()
            .no_proxy()
            // A connection that was opened ahead of its request and sat idle is closed by the server at any moment.
            .pool_max_idle_per_host(0)
            .timeout(Duration::from_secs(60))
            .build();
        Self { publisher, client: client.expect("a client"), amqp: settings.amqp, tasks, vhost, database }
    }

    pub async fn instance(&self) -> Instance {
        self.instance_with(&[]).await
    }

    /// An instance that is ready: before that, it truthfully answers that a neighbour is away.
    pub async fn instance_with(&self, overrides: &[(&str, &str)]) -> Instance {
        let settings = settings(&self.database, &self.vhost, overrides);
        let stop = CancellationToken::new();
        let db = Db::connect(&settings.database).expect("a pool").requests;
        let app = App::build(settings, Metrics::default(), stop.clone()).await.expect("the service starts");
        let (address, client) = (app.address(), self.client.clone());
        let running = Some(tokio::spawn(app.run()));
        let instance = Instance { address, db, client, stop, running };
        instance.becomes_ready().await;
        instance
    }

    /// What an instance is given.
    pub fn settings(&self) -> Settings {
        settings(&self.database, &self.vhost, &[])
    }

    pub async fn connection(&self) -> AsyncPgConnection {
        AsyncPgConnection::establish(&self.database.url()).await.expect("the database answers")
    }

    pub async fn execute(&self, sql: &str) {
        self.connection().await.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    pub async fn number(&self, sql: &str) -> i64 {
        let query = diesel::sql_query(format!("SELECT ({sql})::bigint AS number"));
        let row: Number = query.get_result(&mut self.connection().await).await.expect(sql);
        row.number
    }

    pub async fn words(&self, sql: &str) -> Vec<String> {
        let query = diesel::sql_query(format!("SELECT q.words::text AS words FROM ({sql}) AS q (words)"));
        let rows: Vec<Words> = query.load(&mut self.connection().await).await.expect(sql);
        rows.into_iter().map(|row| row.words).collect()
    }

    /// Waits until the query gives `number`.
    pub async fn number_becomes(&self, sql: &str, number: i64) {
        let what = format!("{sql} = {number}");
        eventually(&what, async || (self.number(sql).await == number).then_some(())).await;
    }

    /// An item of a sale that is open.
    pub async fn item(&self, wanted: Wanted) -> Item {
        let item = Item { id: ItemId(Uuid::new_v4()), sale: SaleId(Uuid::new_v4()) };
        self.put_on_sale(item, wanted).await;
        item
    }

    pub async fn put_on_sale(&self, item: Item, wanted: Wanted) {
        let Wanted { total, per_user_limit, window_s } = wanted;
        self.execute(&format!(
            "INSERT INTO sales (id, title, published_at, starts_at, ends_at, payment_window_seconds)
             VALUES ('{sale}', 'Lunch', now(), now() - interval '1 hour', now() + interval '1 hour', {window_s});
             INSERT INTO items (id, sale_id, position, sku, name, image_url, price_cents, currency, total,
                                per_user_limit)
             VALUES ('{id}', '{sale}', 0, 'sku', 'Noodles', '', {PRICE_CENTS}, 'CNY', {total}, {per_user_limit})",
            id = item.id,
            sale = item.sale,
        ))
        .await;
    }

    /// Publishes reservations of one item as one message.
    pub async fn reserve(&self, item: Item, reserved: &[Event<ReservedV1>]) {
        self.publish(RESERVED_V1, item.id, envelope(RESERVED_V1, reserved)).await;
    }

    pub async fn fence(&self, item: Item, epoch: i64, token: Uuid) {
        let fence =
            Event { event_id: EventId(Uuid::new_v4()), data: FenceV1 { item_id: item.id, epoch, token } };
        self.publish(FENCE_V1, item.id, envelope(FENCE_V1, &[fence])).await;
    }

    pub async fn publish(&self, kind: &str, item: ItemId, body: Vec<u8>) {
        let outgoing = Outgoing {
            exchange: Exchange::Stock.name(),
            routing_key: stock_routing_key(kind, item),
            message_id: Uuid::new_v4(),
            kind: kind.to_owned(),
            body,
        };
        let published = self.publisher.publish(outgoing, Instant::now() + CONFIRM_WITHIN).await;
        published.expect("the broker confirms");
    }

    /// Listens as stock-service does.
    pub fn listen(&self) -> Heard {
        let heard = Heard::default();
        let subscription = Subscription {
            source: Source::Work(Queue::stock_orders()),
            prefetch: 100,
            batch_max: 1_000,
            min_interval: Duration::ZERO,
            line_up: std::sync::Arc::default(),
            publisher: self.publisher.clone(),
            health: Health::default().check("listening"),
        };
        let mut accepts = Accepts::new();
        for kind in ALL_V1 {
            accepts = accepts.kind(kind, |order: OrderV1| order);
        }
        let ear = heard.clone();
        consume(&self.amqp, subscription, accepts, &self.tasks, move |batch| {
            let ear = ear.clone();
            async move {
                let verdicts = vec![Verdict::Done; batch.len()];
                let events = batch.into_iter().map(|one| (one.kind, one.event.event_id, one.event.data));
                ear.0.lock().unwrap().extend(events);
                Ok(verdicts)
            }
        });
        heard
    }
}

impl Heard {
    pub fn all(&self) -> Vec<Told> {
        self.0.lock().unwrap().clone()
    }

    /// The types of what was heard, each piece of news once: on a busy machine a confirm may come too late, and then
    /// the same news is told again.
    pub fn news(&self) -> Vec<&'static str> {
        let mut seen = std::collections::HashSet::new();
        self.all().into_iter().filter(|(_, id, _)| seen.insert(*id)).map(|(kind, ..)| kind).collect()
    }

    /// The types heard about one order, in order of arrival.
    pub fn about(&self, order: OrderId) -> Vec<&'static str> {
        self.all().into_iter().filter(|(_, _, data)| data.order.id == order).map(|(kind, ..)| kind).collect()
    }
}

impl Instance {
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/internal/v1{path}", self.address)
    }

    /// A call on behalf of `user`.
    pub fn call(&self, method: reqwest::Method, path: &str, user: &str) -> reqwest::RequestBuilder {
        let request = self.client.request(method, self.url(path));
        request.header("x-internal-token", TOKEN).header("x-user-id", user).header("x-deadline-ms", "30000")
    }

    pub async fn get(&self, path: &str, user: &str) -> (u16, serde_json::Value) {
        answer(self.call(reqwest::Method::GET, path, user)).await
    }

    pub async fn post(&self, path: &str, user: &str) -> (u16, serde_json::Value) {
        answer(self.call(reqwest::Method::POST, path, user)).await
    }

    /// Waits until all that it depends on answers.
    async fn becomes_ready(&self) {
        let url = format!("http://{}/readyz", self.address);
        eventually("the instance is ready", async || {
            let answer = self.client.get(&url).send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    }

    /// Waits until the user's order is in the database with this status.
    pub async fn order_becomes(&self, order: OrderId, user: &str, status: OrderStatus) -> common::api::Order {
        let what = format!("order {order} becomes {status:?}");
        eventually(&what, async || {
            let (code, body) = self.get(&format!("/orders/{order}"), user).await;
            let order: common::api::Order = (code == 200).then(|| serde_json::from_value(body).unwrap())?;
            (order.status == status).then_some(order)
        })
        .await
    }

    /// Stops it as a signal does, and waits until it has ended well.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let running = self.running.take().expect("it runs");
        running.await.expect("it does not panic").expect("it ends well");
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub async fn answer(request: reqwest::RequestBuilder) -> (u16, serde_json::Value) {
    let response = request.send().await.expect("the service answers");
    let status = response.status().as_u16();
    let body = response.text().await.expect("a body");
    (status, serde_json::from_str(&body).unwrap_or(serde_json::Value::String(body)))
}

pub fn envelope<E: Serialize + Clone>(kind: &str, events: &[Event<E>]) -> Vec<u8> {
    let envelope = Envelope {
        id: Uuid::new_v4(),
        kind: kind.to_owned(),
        occurred_at: moment(),
        producer: "stock-service".to_owned(),
        events: events.to_vec(),
    };
    serde_json::to_vec(&envelope).expect("an envelope")
}

/// A reservation of one unit, as stock-service would grant it.
pub fn reserved(item: Item, user: &str, key: &str) -> Event<ReservedV1> {
    let user: UserId = user.parse().expect("a user id");
    let key = IdempotencyKey::try_from(key.to_owned()).expect("a key");
    Event {
        event_id: EventId(Uuid::new_v4()),
        data: ReservedV1 {
            order_id: OrderId::derive(&user, item.id, &key),
            item_id: item.id,
            sale_id: item.sale,
            user_id: user,
            quantity: quantity(1),
            unit_price_cents: PRICE_CENTS,
            currency: Currency::try_from("CNY".to_owned()).expect("a currency"),
            epoch: 1,
            reserved_at: moment(),
        },
    }
}

pub fn quantity(units: u32) -> Quantity {
    Quantity::try_from(units).expect("a quantity")
}

fn moment() -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000, 0).expect("a moment")
}

fn settings(database: &Database, vhost: &Vhost, overrides: &[(&str, &str)]) -> Settings {
    let (database, amqp) = (database.url(), vhost.url());
    let mut environment = vec![
        ("PROFILE", "dev"),
        ("HTTP__HOST", "127.0.0.1"),
        ("HTTP__PORT", "0"),
        ("HTTP__WORKERS", "1"),
        ("INTERNAL__TOKEN", TOKEN),
        ("DRAIN__READY_DELAY_MS", "0"),
        ("DATABASE__URL", &database),
        ("DATABASE__POOL_SIZE", "8"),
        ("DATABASE__BACKGROUND_POOL_SIZE", "12"),
        // Unoptimised, logging in takes a good part of a second of a core.
        ("DATABASE__CONNECT_TIMEOUT_MS", "20000"),
        ("DATABASE__POOL_WAIT_MS", "20000"),
        ("DATABASE__STATEMENT_TIMEOUT_MS", "20000"),
        ("DATABASE__LOCK_TIMEOUT_MS", "20000"),
        ("DATABASE__IDLE_IN_TRANSACTION_TIMEOUT_MS", "30000"),
        ("AMQP__URL", &amqp),
        ("PAYMENTS__SANDBOX_SECRET", SANDBOX_SECRET),
        ("DEAD_LETTERS__INTERVAL_MS", "50"),
    ];
    environment.extend_from_slice(overrides);
    Settings::load_from(&environment).expect("valid settings")
}
