//! A world per test: a database, a virtual host, as many replicas as the test wants.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeZone as _, Utc};
use common::amqp::{Outgoing, Publisher, Topology};
use common::api::{Order, OrderStatus};
use common::health::Health;
use common::ids::{EventId, ItemId, OrderId, SaleId, UserId};
use common::messages::order::{CREATED_V1, OrderV1, Units};
use common::messages::{Envelope, Event};
use common::settings::Profile;
use common::shutdown::Tasks;
use common::telemetry::Metrics;
use common::topology::{Exchange, Queue};
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use notify_service::settings::Numbers;
use notify_service::{App, Settings};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::Value;
use testkit::{Database, Vhost, eventually};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::sse_client::SseClient;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const DEFAULTS: &str = include_str!("../../config/default.toml");
/// The client gives up on a stream after this long.
const STREAM_TIME_MAX: Duration = Duration::from_secs(300);
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(20);

/// What one test has for itself.
pub struct World {
    pub database: Database,
    pub vhost: Vhost,
    publisher: Publisher,
    tasks: Tasks,
    http: reqwest::Client,
}

/// A running service.
pub struct Replica {
    address: SocketAddr,
    http: reqwest::Client,
    stop: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
}

impl World {
    pub async fn start() -> Self {
        testkit::init();
        let (database, vhost) = tokio::join!(Database::create("notify"), Vhost::create());
        let tasks = Tasks::new(CancellationToken::new());
        let settings = settings_of(&database, &vhost).amqp;
        let topology = Topology { exchanges: vec![Exchange::Order], queues: vec![Queue::notify_orders()] };
        let health = Health::new(Metrics::default()).dependency("publisher");
        let publisher = Publisher::start(&settings, "test", topology, health, &tasks);
        let http = common::http_client::build(Duration::from_secs(5), STREAM_TIME_MAX).unwrap();
        Self { database, vhost, publisher, tasks, http }
    }

    /// Settings that make tests quick.
    pub fn settings(&self) -> Settings {
        settings_of(&self.database, &self.vhost)
    }

    pub async fn replica(&self) -> Replica {
        self.replica_with(self.settings()).await
    }

    pub async fn replica_with(&self, settings: Settings) -> Replica {
        settings.validate().unwrap();
        let stop = CancellationToken::new();
        let app = App::build(settings, Metrics::default(), stop.clone()).await.unwrap();
        let address = app.address();
        let running = tokio::spawn(app.run());
        let replica = Replica { address, http: self.http.clone(), stop, running };
        eventually("the replica is ready", async || {
            let answer = replica.request(Method::GET, "/readyz").send().await.ok()?;
            (answer.status() == StatusCode::OK).then_some(())
        })
        .await;
        replica
    }

    pub async fn connection(&self) -> AsyncPgConnection {
        AsyncPgConnection::establish(&self.database.url()).await.unwrap()
    }

    /// Publishes events of one type in one message.
    pub async fn publish(&self, kind: &str, events: Vec<Event<OrderV1>>) {
        let envelope = Envelope {
            id: Uuid::new_v4(),
            kind: kind.to_owned(),
            occurred_at: some_time(),
            producer: "test".to_owned(),
            events,
        };
        self.publish_bytes(kind, serde_json::to_vec(&envelope).unwrap()).await;
    }

    pub async fn publish_bytes(&self, kind: &str, body: Vec<u8>) {
        let message = || Outgoing {
            exchange: Exchange::Order.name(),
            routing_key: kind.to_owned(),
            message_id: Uuid::new_v4(),
            kind: kind.to_owned(),
            body: body.clone(),
        };
        eventually("the message is published", async || {
            self.publisher.publish(message(), Instant::now() + PUBLISH_TIMEOUT).await.ok()
        })
        .await;
    }

    /// Publishes that an order of `user` was created, and returns the event.
    pub async fn tell(&self, user: &str) -> Event<OrderV1> {
        let event = order_event(user, 1, OrderStatus::PendingPayment);
        self.publish(CREATED_V1, vec![event.clone()]).await;
        event
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.stop_token().cancel();
    }
}

fn settings_of(database: &Database, vhost: &Vhost) -> Settings {
    let given = [
        ("PROFILE", "dev".to_owned()),
        // Breakers would stretch the short ladder; the test about them sets its own.
        ("WEBHOOKS__CIRCUIT_FAILURES", "1000000".to_owned()),
        ("HTTP__HOST", "127.0.0.1".to_owned()),
        ("HTTP__PORT", "0".to_owned()),
        ("HTTP__WORKERS", "1".to_owned()),
        ("INTERNAL__TOKEN", TOKEN.to_owned()),
        ("DRAIN__READY_DELAY_MS", "0".to_owned()),
        ("DATABASE__URL", database.url()),
        ("AMQP__URL", vhost.url()),
        ("WEBHOOKS__ALLOW_PRIVATE", "true".to_owned()),
        ("WEBHOOKS__POLL_MS", "50".to_owned()),
        ("WEBHOOKS__RETRY_MS", "10,10,10".to_owned()),
    ];
    let environment: HashMap<String, String> =
        given.into_iter().map(|(key, value)| (format!("NOTIFY_SERVICE__{key}"), value)).collect();
    let settings: Settings = common::settings::load_from("NOTIFY_SERVICE", DEFAULTS, environment).unwrap();
    assert_eq!(settings.profile, Profile::Dev);
    assert_eq!(settings.webhooks.retry_ms, Numbers(vec![10, 10, 10]));
    settings
}

impl Replica {
    /// A request with the internal token.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.stranger(method, path).header("x-internal-token", TOKEN)
    }

    /// A request without it.
    pub fn stranger(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("http://{}{path}", self.address))
    }

    /// A request of an admin.
    pub fn admin(&self, method: Method, path: &str) -> RequestBuilder {
        let path = format!("/internal/v1/admin/webhooks{path}");
        self.request(method, &path).header("x-user-id", "boss").header("x-user-role", "admin")
    }

    /// Sends a request of an admin; the answer's status and JSON body.
    pub async fn admin_json(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let mut request = self.admin(method, path);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// Registers a webhook; its id and secret.
    pub async fn register(&self, url: &str, types: &[&str]) -> (String, String) {
        let body = serde_json::json!({ "url": url, "types": types });
        let (status, webhook) = self.admin_json(Method::POST, "", Some(body)).await;
        assert_eq!(status, StatusCode::CREATED, "{webhook}");
        (text(&webhook["id"]), text(&webhook["secret"]))
    }

    /// Deliveries of a webhook, newest first; `query` such as `?state=parked`.
    pub async fn deliveries(&self, webhook: &str, query: &str) -> Vec<Value> {
        let (status, page) =
            self.admin_json(Method::GET, &format!("/{webhook}/deliveries{query}"), None).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        page["items"].as_array().unwrap().clone()
    }

    /// Opens a stream of `user`.
    pub async fn stream(&self, user: &str, last_event_id: Option<&str>) -> SseClient {
        let mut request = self.request(Method::GET, "/internal/v1/events").header("x-user-id", user);
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        SseClient::open(request).await
    }

    /// Stops it as SIGTERM does, and waits for its end.
    pub async fn stop(mut self) {
        self.stop.cancel();
        (&mut self.running).await.unwrap().unwrap();
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// An event about a new order of `user`.
pub fn order_event(user: &str, version: i64, status: OrderStatus) -> Event<OrderV1> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let order = Order {
        id: OrderId(Uuid::new_v4()),
        item_id: ItemId(Uuid::from_u128(7)),
        sale_id: SaleId(Uuid::from_u128(8)),
        quantity: serde_json::from_value(1.into()).unwrap(),
        unit_price_cents: 1_990 + i64::from(number),
        total_cents: 1_990 + i64::from(number),
        currency: serde_json::from_value("CNY".into()).unwrap(),
        status,
        reason: None,
        refund: None,
        version,
        created_at: some_time(),
        expires_at: None,
    };
    let user_id = UserId::try_from(user.to_owned()).unwrap();
    let data = OrderV1 { order, user_id, units: Units::Held, epoch: 1 };
    Event { event_id: EventId(Uuid::new_v4()), data }
}

pub fn some_time() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 22, 12, 0, 0).unwrap()
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}")).to_owned()
}

/// Time enough for something to happen that must not.
pub async fn a_while() {
    sleep(Duration::from_millis(700)).await;
}
