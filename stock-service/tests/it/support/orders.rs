//! order-service, as far as stock-service sees it: HTTP in this process, and the real broker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use actix_web::web::{self, Data, Json, Path, Query};
use actix_web::{App, HttpResponse, HttpServer};
use chrono::DateTime;
use common::amqp::{Accepts, AmqpSettings, Incoming, Outgoing, Publisher, RetryLater, Source, Subscription};
use common::amqp::{Topology, Verdict, consume};
use common::api::inventory::{EpochGranted, ItemDefinition, ItemStock, LiveItem, LiveItems, StockOrder};
use common::api::{Order, OrderStatus, Reason};
use common::health::Health;
use common::ids::{EventId, ItemId, OrderId};
use common::messages::order::{CANCELLED_V1, CREATED_V1, OrderV1, PAID_V1, REJECTED_V1, Units};
use common::messages::sale::{CHANGED_V1, ChangedV1};
use common::messages::stock::{FENCE_V1, FenceV1, RESERVED_V1, ReservedV1};
use common::messages::{Envelope, Event};
use common::shutdown::Tasks;
use common::topology::{Exchange, PARTITIONS, Queue};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// With the pause between them, half a minute.
const SEND_ATTEMPTS_MAX: usize = 600;

#[derive(Clone)]
enum FromStock {
    Reserved(ReservedV1),
    Fence(FenceV1),
}

#[derive(Default)]
struct Books {
    items: BTreeMap<ItemId, FakeItem>,
    events: BTreeMap<OrderId, ReservedV1>,
    orders: BTreeMap<OrderId, (ItemId, StockOrder)>,
}

/// A copy of everything in [`FakeOrders`].
pub struct Backup {
    items: BTreeMap<ItemId, (ItemDefinition, i64)>,
    orders: BTreeMap<OrderId, (ItemId, StockOrder)>,
}

struct FakeItem {
    definition: ItemDefinition,
    epoch: i64,
    token: Uuid,
    fenced: i64,
}

/// Switches and counters of the fake.
#[derive(Default)]
pub struct Switches {
    /// HTTP answers 503.
    pub away: AtomicBool,
    /// Messages wait in their queues.
    pub paused: AtomicBool,
    /// New orders are not reported by an event.
    pub silent: AtomicBool,
    /// Reservations that came in by message, repetitions counted.
    pub received: AtomicUsize,
    /// Epochs handed out.
    pub epochs: AtomicUsize,
}

#[derive(Clone)]
pub struct FakeOrders {
    books: Arc<Mutex<Books>>,
    pub switches: Arc<Switches>,
    publisher: Publisher,
    tasks: Tasks,
    pub url: String,
}

pub fn amqp_settings(vhost: &testkit::Vhost) -> AmqpSettings {
    AmqpSettings {
        addresses: common::amqp::NodeList::default(),
        url: vhost.url().into(),
        heartbeat_s: 10,
        connect_timeout_ms: 10_000,
        publish_timeout_ms: 10_000,
        publish_window: 64,
    }
}

impl FakeOrders {
    pub async fn start(vhost: &testkit::Vhost) -> Self {
        testkit::init();
        let settings = amqp_settings(vhost);
        let tasks = Tasks::new(CancellationToken::new());
        let health = Health::default();
        let topology = Topology {
            exchanges: vec![Exchange::Order, Exchange::Sale],
            queues: vec![Queue::stock_orders(), Queue::stock_sales()],
        };
        let publisher =
            Publisher::start(&settings, "fake orders", topology, health.check("publisher"), &tasks);
        let (books, switches) = (Arc::<Mutex<Books>>::default(), Arc::<Switches>::default());
        let state = (Data::from(books.clone()), Data::from(switches.clone()));
        let server = HttpServer::new(move || {
            App::new().app_data(state.0.clone()).app_data(state.1.clone()).configure(routes)
        })
        .workers(1)
        .disable_signals()
        .bind(("127.0.0.1", 0))
        .unwrap();
        let url = format!("http://{}", server.addrs()[0]);
        let server = server.run();
        tokio::spawn(server);
        let fake = Self { books, switches, publisher, tasks, url };
        for partition in 0..PARTITIONS {
            fake.consume(&settings, partition, &health);
        }
        fake
    }

    fn consume(&self, settings: &AmqpSettings, partition: u32, health: &Health) {
        let accepts = Accepts::new()
            .kind(RESERVED_V1, FromStock::Reserved as fn(ReservedV1) -> FromStock)
            .kind(FENCE_V1, FromStock::Fence as fn(FenceV1) -> FromStock);
        let subscription = Subscription {
            source: Source::Work(Queue::reservations(partition)),
            prefetch: 64,
            batch_max: 256,
            min_interval: Duration::ZERO,
            line_up: std::sync::Arc::default(),
            publisher: self.publisher.clone(),
            health: health.check("partition"),
        };
        let fake = self.clone();
        consume(settings, subscription, accepts, &self.tasks, move |batch| fake.clone().on_stock(batch));
    }

    async fn on_stock(self, batch: Vec<Incoming<FromStock>>) -> Result<Vec<Verdict>, RetryLater> {
        if self.switches.paused.load(Ordering::SeqCst) {
            return Err(RetryLater(anyhow::anyhow!("paused by the test")));
        }
        for incoming in &batch {
            match incoming.event.data.clone() {
                FromStock::Reserved(reserved) => self.on_reserved(reserved).await,
                FromStock::Fence(fence) => {
                    let mut books = self.books.lock();
                    if let Some(item) = books.items.get_mut(&fence.item_id) {
                        item.fenced = item.fenced.max(fence.epoch);
                    }
                }
            }
        }
        Ok(vec![Verdict::Done; batch.len()])
    }

    /// As the real one: one transaction decides, and an event tells of the order's present state.
    async fn on_reserved(&self, reserved: ReservedV1) {
        self.switches.received.fetch_add(1, Ordering::SeqCst);
        let order_id = reserved.order_id;
        {
            let mut books = self.books.lock();
            let Some(item) = books.items.get(&reserved.item_id) else { return };
            let total = item.definition.total;
            let taken: i64 =
                books.of(reserved.item_id).filter(|o| o.units != Units::Returned).map(units).sum();
            let fits = taken + i64::from(reserved.quantity.get()) <= total;
            let order = StockOrder {
                order_id,
                user_id: reserved.user_id.clone(),
                quantity: reserved.quantity,
                units: if fits { Units::Held } else { Units::Returned },
                version: 1,
                status: if fits { OrderStatus::PendingPayment } else { OrderStatus::Rejected },
                reason: (!fits).then_some(Reason::SoldOut),
                created_at: reserved.reserved_at,
            };
            books.orders.entry(order_id).or_insert((reserved.item_id, order));
            books.events.entry(order_id).or_insert(reserved);
        }
        if !self.switches.silent.load(Ordering::SeqCst) {
            self.tell(order_id).await;
        }
    }

    /// Makes an item and says so.
    pub async fn publish_item(&self, total: i64, per_user_limit: u32) -> ItemId {
        let id = ItemId(Uuid::new_v4());
        self.insert_item(super::shelf::definition(id, total, per_user_limit));
        self.tell_item(id).await;
        id
    }

    /// Makes an item and says nothing.
    pub fn insert_item(&self, definition: ItemDefinition) {
        let item = FakeItem { epoch: 0, token: Uuid::nil(), fenced: 0, definition };
        self.books.lock().items.insert(item.definition.item_id, item);
    }

    /// Changes an item and says so.
    pub async fn change_item(&self, id: ItemId, change: impl FnOnce(&mut ItemDefinition)) {
        self.change_item_silently(id, change);
        self.tell_item(id).await;
    }

    pub fn change_item_silently(&self, id: ItemId, change: impl FnOnce(&mut ItemDefinition)) {
        let mut books = self.books.lock();
        let definition = &mut books.items.get_mut(&id).unwrap().definition;
        change(definition);
        definition.version += 1;
    }

    pub async fn tell_item(&self, id: ItemId) {
        let (sale_id, version) = {
            let books = self.books.lock();
            let definition = &books.items[&id].definition;
            (definition.sale_id, definition.version)
        };
        let event = ChangedV1 { item_id: id, sale_id, version };
        self.send(Exchange::Sale, CHANGED_V1, vec![event]).await;
    }

    /// Moves an order on and says so.
    pub async fn move_order(&self, id: OrderId, units: Units, status: OrderStatus) {
        self.move_order_silently(id, units, status);
        self.tell(id).await;
    }

    pub fn move_order_silently(&self, id: OrderId, units: Units, status: OrderStatus) {
        let mut books = self.books.lock();
        let order = &mut books.orders.get_mut(&id).expect("the order exists").1;
        (order.units, order.status) = (units, status);
        order.version += 1;
    }

    /// Tells of an order's present state, perhaps once more.
    pub async fn tell(&self, id: OrderId) {
        let event = self.event(id);
        let kind = match event.order.status {
            OrderStatus::PendingPayment => CREATED_V1,
            OrderStatus::Paid => PAID_V1,
            OrderStatus::Rejected => REJECTED_V1,
            OrderStatus::Queued
            | OrderStatus::Cancelled
            | OrderStatus::Expired
            | OrderStatus::RefundPending
            | OrderStatus::Refunded => CANCELLED_V1,
        };
        self.send(Exchange::Order, kind, vec![event]).await;
    }

    pub fn event(&self, id: OrderId) -> OrderV1 {
        let books = self.books.lock();
        let ((_, order), reserved) = (&books.orders[&id], &books.events[&id]);
        OrderV1 {
            order: Order {
                id,
                item_id: reserved.item_id,
                sale_id: reserved.sale_id,
                quantity: order.quantity,
                unit_price_cents: reserved.unit_price_cents,
                total_cents: reserved.unit_price_cents * i64::from(order.quantity.get()),
                currency: reserved.currency.clone(),
                status: order.status,
                reason: order.reason,
                refund: None,
                version: order.version,
                created_at: order.created_at,
                expires_at: None,
            },
            user_id: order.user_id.clone(),
            units: order.units,
            epoch: reserved.epoch,
        }
    }

    pub async fn send<E: Serialize>(&self, exchange: Exchange, kind: &str, events: Vec<E>) {
        let event = |data| Event { event_id: EventId(Uuid::new_v4()), data };
        let envelope = Envelope {
            id: Uuid::new_v4(),
            kind: kind.to_owned(),
            occurred_at: DateTime::from_timestamp_millis(1_000).unwrap(),
            producer: "order-service".to_owned(),
            events: events.into_iter().map(event).collect(),
        };
        let body = serde_json::to_vec(&envelope).unwrap();
        // Not `eventually`: consumers call this, and their futures have to be `Send`.
        for _ in 0..SEND_ATTEMPTS_MAX {
            let message = Outgoing {
                exchange: exchange.name(),
                routing_key: kind.to_owned(),
                message_id: envelope.id,
                kind: kind.to_owned(),
                body: body.clone(),
            };
            if self.publisher.publish(message, Instant::now() + Duration::from_secs(10)).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the fake's message cannot be published");
    }

    /// The orders of an item.
    pub fn orders(&self, item: ItemId) -> Vec<StockOrder> {
        self.books.lock().of(item).cloned().collect()
    }

    /// What a backup of now would have.
    pub fn backup(&self) -> Backup {
        let books = self.books.lock();
        let epochs = books.items.iter().map(|(id, item)| (*id, (item.definition.clone(), item.epoch)));
        Backup { items: epochs.collect(), orders: books.orders.clone() }
    }

    /// Goes back to that.
    pub fn restore(&self, backup: &Backup) {
        let mut books = self.books.lock();
        books.items = backup
            .items
            .iter()
            .map(|(id, (definition, epoch))| {
                let item = FakeItem {
                    definition: definition.clone(),
                    epoch: *epoch,
                    token: Uuid::nil(),
                    fenced: *epoch,
                };
                (*id, item)
            })
            .collect();
        books.orders = backup.orders.clone();
    }

    pub fn has(&self, id: OrderId) -> bool {
        self.books.lock().orders.contains_key(&id)
    }
}

impl Books {
    fn of(&self, item: ItemId) -> impl Iterator<Item = &StockOrder> {
        self.orders.values().filter(move |(of, _)| *of == item).map(|(_, order)| order)
    }
}

fn units(order: &StockOrder) -> i64 {
    i64::from(order.quantity.get())
}

fn routes(cfg: &mut web::ServiceConfig) {
    cfg.route("/internal/v1/items", web::get().to(items))
        .route("/internal/v1/items/{id}", web::get().to(item))
        .route("/internal/v1/items/{id}/epochs", web::post().to(epochs))
        .route("/internal/v1/items/{id}/stock", web::get().to(stock))
        .route("/internal/v1/items/{id}/orders", web::get().to(quiet_orders))
        .route("/internal/v1/items/{id}/orders/lookup", web::post().to(lookup));
}

fn away(switches: &Switches) -> Option<HttpResponse> {
    switches.away.load(Ordering::SeqCst).then(|| HttpResponse::ServiceUnavailable().finish())
}

async fn items(books: Data<Mutex<Books>>, switches: Data<Switches>) -> HttpResponse {
    if let Some(away) = away(&switches) {
        return away;
    }
    let books = books.lock();
    let live = |item: &FakeItem| LiveItem {
        item_id: item.definition.item_id,
        version: item.definition.version,
        epoch: item.epoch,
        ends_at: Some(item.definition.ends_at),
    };
    HttpResponse::Ok().json(LiveItems { items: books.items.values().map(live).collect() })
}

async fn item(books: Data<Mutex<Books>>, switches: Data<Switches>, id: Path<ItemId>) -> HttpResponse {
    if let Some(away) = away(&switches) {
        return away;
    }
    match books.lock().items.get(&id) {
        Some(item) => {
            HttpResponse::Ok().json(ItemDefinition { epoch: Some(item.epoch), ..item.definition.clone() })
        }
        None => HttpResponse::NotFound().finish(),
    }
}

#[derive(Deserialize)]
struct Above {
    above: i64,
}

async fn epochs(
    books: Data<Mutex<Books>>,
    switches: Data<Switches>,
    id: Path<ItemId>,
    query: Query<Above>,
) -> HttpResponse {
    if let Some(away) = away(&switches) {
        return away;
    }
    let mut books = books.lock();
    let Some(item) = books.items.get_mut(&id) else { return HttpResponse::NotFound().finish() };
    item.epoch = item.epoch.max(query.above) + 1;
    item.token = Uuid::new_v4();
    switches.epochs.fetch_add(1, Ordering::SeqCst);
    HttpResponse::Ok().json(EpochGranted { epoch: item.epoch, token: item.token })
}

#[derive(Deserialize)]
struct Fence {
    epoch: i64,
    token: Uuid,
}

async fn stock(
    books: Data<Mutex<Books>>,
    switches: Data<Switches>,
    id: Path<ItemId>,
    fence: Query<Fence>,
) -> HttpResponse {
    if let Some(away) = away(&switches) {
        return away;
    }
    for _ in 0..100 {
        {
            let books = books.lock();
            let Some(item) = books.items.get(&id) else { return HttpResponse::NotFound().finish() };
            if item.epoch != fence.epoch || item.token != fence.token {
                return HttpResponse::Conflict().finish();
            }
            if item.fenced >= fence.epoch {
                let orders = books.of(*id).cloned().collect();
                return HttpResponse::Ok().json(ItemStock { item: item.definition.clone(), orders });
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    HttpResponse::ServiceUnavailable().finish()
}

#[derive(Deserialize)]
struct Lookup {
    order_ids: Vec<OrderId>,
}

#[derive(Serialize)]
struct LookedUp {
    orders: Vec<StockOrder>,
}

async fn lookup(books: Data<Mutex<Books>>, switches: Data<Switches>, lookup: Json<Lookup>) -> HttpResponse {
    if let Some(away) = away(&switches) {
        return away;
    }
    let books = books.lock();
    let found = lookup.order_ids.iter().filter_map(|id| books.orders.get(id));
    HttpResponse::Ok().json(LookedUp { orders: found.map(|(_, order)| order.clone()).collect() })
}

#[derive(Deserialize)]
struct After {
    #[serde(default)]
    after_user: String,
    #[serde(default)]
    after_order: Uuid,
}

/// Two at a time, so that pages are turned; all of them count as quiet.
async fn quiet_orders(
    books: Data<Mutex<Books>>,
    switches: Data<Switches>,
    id: Path<ItemId>,
    after: Query<After>,
) -> HttpResponse {
    if let Some(away) = away(&switches) {
        return away;
    }
    let mut orders: Vec<StockOrder> = books.lock().of(*id).cloned().collect();
    orders.sort_by_key(|order| (order.user_id.to_string(), order.order_id));
    let after = (after.after_user.clone(), OrderId(after.after_order));
    orders.retain(|order| (order.user_id.to_string(), order.order_id) > after);
    orders.truncate(2);
    HttpResponse::Ok().json(LookedUp { orders })
}
