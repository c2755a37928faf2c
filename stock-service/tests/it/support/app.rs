//! The whole service on a Redis and a virtual host of its own.

use std::collections::HashMap;
use std::time::Duration;

use common::api::inventory::{
    Books, Catalogue, CatalogueItem, Reservation, ReserveBatch, ReserveLine, ReserveOutcome, ReserveRequest,
};
use common::ids::{IdempotencyKey, ItemId, OrderId};
use common::telemetry::Metrics;
use reqwest::{Response, StatusCode};
use stock_service::keys::ItemKeys;
use stock_service::settings::{DEFAULT_TOML, PREFIX};
use stock_service::{App, Settings};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::orders::FakeOrders;
use super::shelf::{units, user};

pub const TOKEN: &str = "internal-token-of-the-tests";

pub struct TestApp {
    pub redis: testkit::Redis,
    pub vhost: testkit::Vhost,
    pub orders: FakeOrders,
    pub service: Service,
    client: reqwest::Client,
}

/// One replica.
pub struct Service {
    pub url: String,
    pub stop: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Service {
    /// As after SIGTERM.
    pub async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }
}

fn settings(
    redis: &testkit::Redis,
    vhost: &testkit::Vhost,
    orders_url: &str,
    extra: &[(&str, &str)],
) -> Settings {
    let (redis_url, amqp_url) = (redis.url(), vhost.url());
    let base = [
        ("PROFILE", "dev"),
        ("HTTP__HOST", "127.0.0.1"),
        ("HTTP__PORT", "0"),
        ("HTTP__WORKERS", "2"),
        ("INTERNAL__TOKEN", TOKEN),
        ("DRAIN__READY_DELAY_MS", "0"),
        ("REDIS__URL", &redis_url),
        ("REDIS__CONNECT_TIMEOUT_MS", "2000"),
        ("REDIS__RESPONSE_TIMEOUT_MS", "1000"),
        ("AMQP__URL", &amqp_url),
        ("AMQP__PUBLISH_TIMEOUT_MS", "2000"),
        ("ORDERS__URLS", orders_url),
        ("CATALOGUE__LEASE_MS", "200"),
        ("LOAD__SYNC_INTERVAL_MS", "500"),
        ("RELAY__INTERVAL_MS", "200"),
        ("RELAY__AGE_MS", "500"),
        ("RELAY__LOOKUP_AGE_MS", "1500"),
        ("RECONCILE__INTERVAL_MS", "600000"),
        ("RETIRE__INTERVAL_MS", "200"),
    ];
    let environment: HashMap<String, String> = base
        .iter()
        .chain(extra)
        .map(|(key, value)| (format!("{PREFIX}__{key}"), (*value).to_owned()))
        .collect();
    let settings: Settings = common::settings::load_from(PREFIX, DEFAULT_TOML, environment).unwrap();
    settings.validate().unwrap();
    settings
}

impl TestApp {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub async fn start_with(extra: &[(&str, &str)]) -> Self {
        testkit::init();
        let (redis, vhost) = tokio::join!(testkit::Redis::start(), testkit::Vhost::create());
        let orders = FakeOrders::start(&vhost).await;
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().unwrap();
        let service = launch(settings(&redis, &vhost, &orders.url, extra)).await;
        let app = Self { redis, vhost, orders, service, client };
        app.until_ready(&app.service.url).await;
        app
    }

    /// One more replica on the same stores.
    pub async fn replica(&self, extra: &[(&str, &str)]) -> Service {
        self.replica_on(&self.redis, extra).await
    }

    /// One more replica on another Redis.
    pub async fn replica_on(&self, redis: &testkit::Redis, extra: &[(&str, &str)]) -> Service {
        launch(settings(redis, &self.vhost, &self.orders.url, extra)).await
    }

    /// From now on everything goes to `service` on `redis`; what was there before is gone.
    pub fn fail_over(mut self, redis: testkit::Redis, service: Service) -> Self {
        self.service.stop.cancel();
        self.redis = redis;
        self.service = service;
        self
    }

    /// Builds one more replica, without running it.
    pub async fn build_replica(&self, extra: &[(&str, &str)]) -> anyhow::Result<App> {
        let settings = settings(&self.redis, &self.vhost, &self.orders.url, extra);
        App::build(settings, Metrics::default(), CancellationToken::new()).await
    }

    pub async fn until_ready(&self, url: &str) {
        testkit::eventually("the service is ready", async || {
            let answer = self.client.get(format!("{url}/readyz")).send().await.ok()?;
            (answer.status() == StatusCode::OK).then_some(())
        })
        .await;
    }

    /// A published item whose gate is open.
    pub async fn open_item(&self, total: i64, per_user_limit: u32) -> ItemId {
        let item = self.orders.publish_item(total, per_user_limit).await;
        self.until_open(item).await;
        item
    }

    pub async fn until_open(&self, item: ItemId) {
        testkit::eventually("the gate is open", async || self.shown(item).await.filter(|item| item.open))
            .await;
    }

    pub fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.get(format!("{}/internal/v1{path}", self.service.url)).header("x-internal-token", TOKEN)
    }

    pub fn post(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.post(format!("{}/internal/v1{path}", self.service.url)).header("x-internal-token", TOKEN)
    }

    pub async fn catalogue(&self) -> Catalogue {
        self.get("/catalogue").send().await.unwrap().json().await.unwrap()
    }

    pub async fn shown(&self, item: ItemId) -> Option<CatalogueItem> {
        self.catalogue().await.items.into_iter().find(|shown| shown.item_id == item)
    }

    pub fn request(&self, item: ItemId, user_name: &str, key: &str, quantity: u32) -> ReserveRequest {
        ReserveRequest {
            order_id: order_id(item, user_name, key),
            user_id: user(user_name),
            quantity: units(quantity),
            deadline_ms: 20_000,
            admitted_ms: None,
        }
    }

    /// The outcomes of a batch, in its order; a missing one is unknown.
    pub async fn reserve_batch(&self, item: ItemId, requests: Vec<ReserveRequest>) -> Vec<ReserveOutcome> {
        let count = requests.len();
        let answer = self.post(&format!("/items/{item}/reservations")).json(&ReserveBatch { requests });
        let answer = answer.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let mut outcomes = vec![ReserveOutcome::Unknown; count];
        for line in answer.text().await.unwrap().lines() {
            for answer in serde_json::from_str::<ReserveLine>(line).unwrap().answers {
                outcomes[answer.index] = answer.outcome;
            }
        }
        outcomes
    }

    pub async fn reserve(&self, item: ItemId, user_name: &str, key: &str, quantity: u32) -> ReserveOutcome {
        let request = self.request(item, user_name, key, quantity);
        self.reserve_batch(item, vec![request]).await.remove(0)
    }

    /// Asks again, as a client does, until the answer is not "later".
    pub async fn reserve_until_decided(
        &self,
        item: ItemId,
        user_name: &str,
        key: &str,
        quantity: u32,
    ) -> ReserveOutcome {
        testkit::eventually("a decision", async || {
            let outcome = self.reserve(item, user_name, key, quantity).await;
            let later = matches!(
                outcome,
                ReserveOutcome::Unavailable | ReserveOutcome::Unknown | ReserveOutcome::UnknownItem
            );
            (!later).then_some(outcome)
        })
        .await
    }

    pub async fn books(&self, item: ItemId) -> Books {
        testkit::eventually("the books can be read", async || {
            let answer = self.get(&format!("/items/{item}/books")).send().await.unwrap();
            if answer.status() == StatusCode::OK { answer.json().await.ok() } else { None }
        })
        .await
    }

    /// Waits until nothing is on its way, then asserts that both sides agree.
    pub async fn assert_quiet_and_equal(&self, item: ItemId) -> Books {
        let books = testkit::eventually("nothing is unsettled", async || {
            Some(self.books(item).await).filter(|books| books.unsettled == 0)
        })
        .await;
        assert_eq!(books.available + books.held + books.sold, books.total, "{books:?}");
        assert_eq!(books.buyers, books.held + books.sold, "{books:?}");
        let mut here: Vec<_> = books.orders.iter().map(|o| (o.order_id, o.quantity, o.units)).collect();
        let mut there: Vec<_> =
            self.orders.orders(item).iter().map(|o| (o.order_id, o.quantity, o.units)).collect();
        here.sort_by_key(|order| order.0);
        there.sort_by_key(|order| order.0);
        assert_eq!(here, there, "the two sides know different orders");
        books
    }

    pub async fn reservation(&self, order: OrderId) -> Response {
        self.get(&format!("/reservations/{order}")).send().await.unwrap()
    }

    pub async fn hold(&self, order: OrderId) -> Option<Reservation> {
        let answer = self.reservation(order).await;
        if answer.status() == StatusCode::OK { Some(answer.json().await.unwrap()) } else { None }
    }

    pub async fn redis_command<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let client = redis::Client::open(self.redis.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        command.query_async(&mut connection).await.unwrap()
    }

    pub async fn unsettled(&self, item: ItemId) -> Vec<String> {
        self.redis_command(&["ZRANGE", &ItemKeys::of(item).unsettled, "0", "-1"]).await
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        self.service.stop.cancel();
    }
}

pub fn order_id(item: ItemId, user_name: &str, key: &str) -> OrderId {
    OrderId::derive(&user(user_name), item, &IdempotencyKey::try_from(key.to_owned()).unwrap())
}

async fn launch(settings: Settings) -> Service {
    let stop = CancellationToken::new();
    let app = App::build(settings, Metrics::default(), stop.clone()).await.unwrap();
    let url = format!("http://{}", app.address());
    let running = tokio::spawn(app.run());
    Service { url, stop, running }
}
