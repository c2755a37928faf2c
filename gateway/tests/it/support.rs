//! A gateway on free ports, and in-process stand-ins for the services behind it that count what they are asked.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_web::web::{self, Bytes};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use chrono::{DateTime, TimeDelta, Utc};
use common::api::inventory::{
    Catalogue, CatalogueItem, ReserveAnswer, ReserveBatch, ReserveLine, ReserveOutcome,
};
use common::api::{ItemState, Sale, SaleItem, SaleState};
use common::ids::{Currency, IdempotencyKey, ItemId, OrderId, SaleId, UserId};
use futures_util::{StreamExt as _, stream};
use gateway::settings::{DEFAULTS, PREFIX, Settings};
use parking_lot::Mutex;
use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The item of the fake sale.
pub const ITEM: ItemId = ItemId(Uuid::from_u128(0x11));
/// The fake sale.
pub const SALE: SaleId = SaleId(Uuid::from_u128(0x22));
/// The secret of tokens in tests.
pub const SECRET: &str = "test-secret";
/// The token between services in tests.
pub const INTERNAL: &str = "internal-secret";

/// One call that a fake service got.
#[derive(Debug, Clone)]
pub struct Recorded {
    pub method: String,
    pub path: String,
    pub query: String,
    pub headers: HashMap<String, String>,
    pub body: Bytes,
}

/// What a fake service answers.
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    /// Parts of the body, each after so many milliseconds.
    pub parts: Vec<(u64, Bytes)>,
    /// Whether the body ends, or stays open for ever.
    pub ends: bool,
}

impl Reply {
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), parts: Vec::new(), ends: true }
    }

    pub fn json(status: u16, body: &impl serde::Serialize) -> Self {
        let body = serde_json::to_vec(body).expect("serialisable");
        Self::new(status).header("content-type", "application/json").part(0, body)
    }

    pub fn problem(code: common::problem::Code) -> Self {
        let problem = common::problem::Problem::new(code);
        let reply = Self::json(problem.status, &problem).header("x-outcome", problem.outcome().as_str());
        reply.header("content-type", "application/problem+json")
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.into()));
        self
    }

    pub fn part(mut self, after_ms: u64, bytes: impl Into<Bytes>) -> Self {
        self.parts.push((after_ms, bytes.into()));
        self
    }

    pub fn endless(mut self) -> Self {
        self.ends = false;
        self
    }
}

type Answerer = dyn Fn(&Recorded) -> Reply + Send + Sync;

/// A fake service.
#[derive(Clone)]
pub struct Fake {
    pub address: SocketAddr,
    calls: Arc<Mutex<Vec<Recorded>>>,
    answerer: Arc<Mutex<Arc<Answerer>>>,
}

impl Fake {
    pub async fn start(answer: impl Fn(&Recorded) -> Reply + Send + Sync + 'static) -> Self {
        let calls: Arc<Mutex<Vec<Recorded>>> = Arc::default();
        let answerer: Arc<Mutex<Arc<Answerer>>> = Arc::new(Mutex::new(Arc::new(answer)));
        let shared = (calls.clone(), answerer.clone());
        let server = HttpServer::new(move || {
            let shared = shared.clone();
            App::new().app_data(web::PayloadConfig::new(1 << 20)).default_service(web::to(
                move |request: HttpRequest, body: Bytes| {
                    let (calls, answerer) = shared.clone();
                    async move { respond(&request, body, &calls, &answerer) }
                },
            ))
        })
        .workers(1)
        .tcp_nodelay(true)
        .disable_signals()
        .bind(("127.0.0.1", 0))
        .expect("a free port");
        let address = server.addrs()[0];
        tokio::spawn(server.run());
        Self { address, calls, answerer }
    }

    /// From now on answers like this.
    pub fn answer(&self, answer: impl Fn(&Recorded) -> Reply + Send + Sync + 'static) {
        *self.answerer.lock() = Arc::new(answer);
    }

    /// Calls of paths that contain `part`, so far.
    pub fn calls(&self, part: &str) -> Vec<Recorded> {
        self.calls.lock().iter().filter(|call| call.path.contains(part)).cloned().collect()
    }

    /// Calls that are not the gateway's polling.
    pub fn asked(&self) -> usize {
        let polled =
            ["/internal/v1/catalogue", "/internal/v1/sales", "/internal/v1/known-ids", "/internal/v1/blocks"];
        self.calls.lock().iter().filter(|call| !polled.contains(&call.path.as_str())).count()
    }

    /// Calls on behalf of `user`. An answer that needs two calls may be given before the second one arrives, so that
    /// only these tell whose call it is.
    pub fn asked_for(&self, user: &str) -> usize {
        let calls = self.calls.lock();
        calls.iter().filter(|call| call.headers.get("x-user-id").is_some_and(|id| id == user)).count()
    }
}

fn respond(
    request: &HttpRequest,
    body: Bytes,
    calls: &Mutex<Vec<Recorded>>,
    answerer: &Mutex<Arc<Answerer>>,
) -> HttpResponse {
    let headers = request.headers().iter();
    let call = Recorded {
        method: request.method().to_string(),
        path: request.path().to_owned(),
        query: request.query_string().to_owned(),
        headers: headers
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned()))
            .collect(),
        body,
    };
    calls.lock().push(call.clone());
    let answer = answerer.lock().clone();
    let reply = answer(&call);
    let mut response =
        HttpResponse::build(actix_web::http::StatusCode::from_u16(reply.status).expect("status"));
    for (name, value) in reply.headers {
        match name {
            "content-length" => response.no_chunking(value.parse().expect("a length")),
            _ => response.insert_header((name, value)),
        };
    }
    let parts = stream::iter(reply.parts).then(|(after_ms, bytes)| async move {
        tokio::time::sleep(Duration::from_millis(after_ms)).await;
        Ok::<_, actix_web::Error>(bytes)
    });
    if reply.ends { response.streaming(parts) } else { response.streaming(parts.chain(stream::pending())) }
}

/// The state of the fake inventory.
pub fn catalogue_item(state: ItemState) -> CatalogueItem {
    CatalogueItem {
        item_id: ITEM,
        sale_id: SALE,
        state,
        starts_at: now() - TimeDelta::seconds(60),
        ends_at: now() + TimeDelta::seconds(600),
        total: 10,
        available: if state == ItemState::Active { 5 } else { 0 },
        per_user_limit: 2,
        open: true,
        waiting_room: false,
        challenge: false,
        granted: None,
    }
}

pub fn catalogue(items: Vec<CatalogueItem>) -> Catalogue {
    Catalogue { lease_ms: 60_000, items }
}

#[expect(clippy::disallowed_methods, reason = "the tests play the clocks of the stores")]
pub fn now() -> DateTime<Utc> {
    Utc::now()
}

pub fn sale(state: SaleState) -> Sale {
    Sale {
        id: SALE,
        title: "Noodles".to_owned(),
        state,
        starts_at: now() - TimeDelta::seconds(60),
        ends_at: now() + TimeDelta::seconds(600),
        payment_window_seconds: 60,
        server_time: now(),
        stale: false,
        waiting_room: false,
        challenge: false,
        items: vec![SaleItem {
            id: ITEM,
            sku: "n-1".to_owned(),
            name: "Noodles".to_owned(),
            image_url: String::new(),
            price_cents: 100,
            currency: Currency::try_from("CNY".to_owned()).expect("valid"),
            total: 10,
            available: 10,
            per_user_limit: 2,
            state: ItemState::Active,
        }],
    }
}

/// The whole batch gets one outcome.
pub fn all(call: &Recorded, outcome: &ReserveOutcome) -> Reply {
    let batch: ReserveBatch = serde_json::from_slice(&call.body).expect("a batch");
    let answers = (0..batch.requests.len()).map(|index| ReserveAnswer { index, outcome: outcome.clone() });
    lines(vec![(0, ReserveLine { answers: answers.collect() })])
}

pub fn lines(lines: Vec<(u64, ReserveLine)>) -> Reply {
    let reply = Reply::new(200).header("content-type", "application/x-ndjson");
    lines.into_iter().fold(reply, |reply, (after_ms, line)| {
        let mut line = serde_json::to_vec(&line).expect("serialisable");
        line.push(b'\n');
        reply.part(after_ms, line)
    })
}

/// A stock-service with these items that answers every reservation alike.
pub fn stock(
    items: Vec<CatalogueItem>,
    outcome: ReserveOutcome,
) -> impl Fn(&Recorded) -> Reply + Send + Sync {
    move |call| match call.path.as_str() {
        "/internal/v1/catalogue" => Reply::json(200, &catalogue(items.clone())),
        path if path.ends_with("/reservations") => all(call, &outcome),
        _ => Reply::problem(common::problem::Code::NotFound),
    }
}

/// An order-service with these sales and no orders.
pub fn orders(sales: Vec<Sale>) -> impl Fn(&Recorded) -> Reply + Send + Sync {
    move |call| match call.path.as_str() {
        "/internal/v1/sales" => Reply::json(200, &json!({ "items": sales })),
        _ => Reply::problem(common::problem::Code::NotFound),
    }
}

/// A running gateway.
pub struct Gateway {
    pub url: String,
    pub address: SocketAddr,
    pub ops: SocketAddr,
    pub client: Client,
    pub stock: Fake,
    pub orders: Fake,
    pub notify: Fake,
    pub stop: CancellationToken,
    pub ended: tokio::task::JoinHandle<anyhow::Result<()>>,
}

/// A gateway with one open item.
pub async fn open() -> Gateway {
    start(&[], stock(vec![catalogue_item(ItemState::Active)], ReserveOutcome::Accepted)).await
}

/// A gateway with these settings before this stock-service; it has seen the catalogue and the sales.
pub async fn start(
    settings: &[(&str, &str)],
    stock: impl Fn(&Recorded) -> Reply + Send + Sync + 'static,
) -> Gateway {
    let stock = Fake::start(stock).await;
    let orders = Fake::start(orders(vec![sale(SaleState::Active)])).await;
    let gateway = behind(settings, stock, orders).await;
    testkit::eventually("the gateway has its snapshots", async || {
        let listed = gateway.client.get(format!("{}/api/v1/sales", gateway.url)).send().await.ok()?;
        let ready = gateway.client.get(format!("http://{}/readyz", gateway.ops)).send().await.ok()?;
        (listed.status() == 200 && ready.status() == 200).then_some(())
    })
    .await;
    gateway
}

/// A gateway with these settings and services, which may be away.
pub async fn behind(settings: &[(&str, &str)], stock: Fake, orders: Fake) -> Gateway {
    let notify = Fake::start(|_| Reply::problem(common::problem::Code::NotFound)).await;
    let url = |fake: &Fake| format!("http://{}", fake.address);
    let (stock_url, orders_url, notify_url) = (url(&stock), url(&orders), url(&notify));
    let mut environment: HashMap<String, String> = [
        ("PROFILE", "dev"),
        ("HTTP__HOST", "127.0.0.1"),
        ("HTTP__PORT", "0"),
        ("HTTP__WORKERS", "2"),
        ("OPS__PORT", "0"),
        ("INTERNAL__TOKEN", INTERNAL),
        ("AUTH__JWT_SECRET", SECRET),
        ("STOCK__URLS", &stock_url),
        ("ORDERS__URLS", &orders_url),
        ("NOTIFY__URLS", &notify_url),
        ("CATALOGUE__POLL_MS", "50"),
        ("CATALOGUE__SALES_POLL_MS", "50"),
        ("DRAIN__READY_DELAY_MS", "0"),
        ("DRAIN__TIMEOUT_MS", "5000"),
    ]
    .iter()
    .chain(settings)
    .map(|(key, value)| (format!("{PREFIX}__{key}"), (*value).to_owned()))
    .collect();
    environment.retain(|_, value| value != "(default)");
    let settings: Settings = common::settings::load_from(PREFIX, DEFAULTS, environment).expect("settings");
    settings.validate().expect("valid settings");

    let stop = CancellationToken::new();
    let app =
        gateway::App::build(settings, common::telemetry::Metrics::default(), stop.clone()).expect("builds");
    let (address, ops) = (app.address(), app.ops_address());
    let ended = tokio::spawn(app.run());
    let client = common::http_client::build(Duration::from_secs(5), Duration::from_secs(60)).expect("client");
    Gateway { url: format!("http://{address}"), address, ops, client, stock, orders, notify, stop, ended }
}

impl Gateway {
    pub async fn token(&self, user: &str, role: &str) -> String {
        let body = json!({ "user_id": user, "role": role });
        let response = self.post("/api/v1/auth/dev-token").json(&body).send().await.expect("answered");
        assert_eq!(response.status(), 200);
        let token: Value = response.json().await.expect("JSON");
        token["token"].as_str().expect("a token").to_owned()
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.url))
    }

    pub fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(format!("{}{path}", self.url))
    }

    /// Orders one unit of [`ITEM`].
    pub async fn order(&self, token: &str, key: &str) -> Response {
        self.order_request(token, key).send().await.expect("answered")
    }

    pub fn order_request(&self, token: &str, key: &str) -> RequestBuilder {
        self.post(&order_path(ITEM))
            .bearer_auth(token)
            .header("Idempotency-Key", key)
            .json(&json!({ "quantity": 1 }))
    }

    /// Waits until the gateway has asked for the catalogue twice from now, so that it has what is said now.
    pub async fn polled(&self) {
        let (stock, sales) = (self.stock.calls("/catalogue").len(), self.orders.calls("/v1/sales").len());
        testkit::eventually("the gateway has polled", async || {
            let polled = self.stock.calls("/catalogue").len() >= stock + 2;
            (polled && self.orders.calls("/v1/sales").len() >= sales + 2).then_some(())
        })
        .await;
    }
}

pub fn order_path(item: ItemId) -> String {
    format!("/api/v1/items/{item}/orders")
}

pub fn order_id(user: &str, key: &str) -> OrderId {
    let user = UserId::try_from(user.to_owned()).expect("valid");
    OrderId::derive(&user, ITEM, &IdempotencyKey::try_from(key.to_owned()).expect("valid"))
}

/// A problem with this status and code, and what every problem must have.
pub async fn problem(response: Response, status: u16, code: &str) -> Value {
    let headers = response.headers().clone();
    let got = response.status().as_u16();
    let text = response.text().await.expect("a body");
    assert_eq!(got, status, "{text}");
    assert_eq!(headers["content-type"], "application/problem+json", "{text}");
    assert_eq!(headers["x-content-type-options"], "nosniff");
    assert!(headers.contains_key("x-request-id"));
    let outcome = if code == "outcome_unknown" { "unknown" } else { "none" };
    assert_eq!(headers["x-outcome"], outcome);
    assert_eq!(headers.contains_key("retry-after"), status == 429 || status == 503, "{text}");
    let body: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&body["code"], &body["status"]), (&json!(code), &json!(status)), "{text}");
    body
}
