//! What tests of sales and money do around a world: an admin's calls, a stand-in for the gateway and for
//! stock-service, orders that are simply there, and the payment provider's notices.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use common::api::{Order, Sale};
use common::ids::{IdempotencyKey, ItemId, OrderId, UserId};
use order_service::payments::signature::sign;
use reqwest::Method;
use secrecy::SecretString;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Instance, SANDBOX_SECRET, TOKEN, World, answer};

/// A world with one instance, and what is outside of it.
pub struct Desk {
    pub instance: Instance,
    pub outside: Outside,
    pub world: World,
}

/// The gateway and stock-service, as far as order-service sees them.
#[derive(Clone)]
pub struct Outside {
    pub address: SocketAddr,
    /// The instance that the gateway passes callbacks on to.
    target: Arc<Mutex<Option<SocketAddr>>>,
    /// Whether the gateway answers callbacks with 503.
    pub down: Arc<AtomicBool>,
    /// Callbacks that have come to the gateway.
    pub callbacks: Arc<AtomicU32>,
    /// Books by item; without an entry it is 404.
    pub books: Arc<Mutex<HashMap<Uuid, Value>>>,
    /// What is asked and answered about units that are to go.
    pub withdrawals: Arc<Mutex<Withdrawals>>,
}

/// stock-service where totals are lowered.
#[derive(Default)]
pub struct Withdrawals {
    /// What it answers, as JSON; without one it is 503.
    pub answer: Option<Value>,
    /// What it was asked, in order.
    pub asked: Vec<Value>,
    /// What was given back, in order.
    pub returned: Vec<Value>,
}

impl Outside {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let outside = Self {
            address: listener.local_addr().unwrap(),
            target: Arc::default(),
            down: Arc::default(),
            callbacks: Arc::default(),
            books: Arc::default(),
            withdrawals: Arc::default(),
        };
        outside.inventory_says(json!({"outcome": "unknown_item"}));
        let data = web::Data::new(outside.clone());
        let server = HttpServer::new(move || {
            App::new()
                .app_data(data.clone())
                .route("/api/v1/payments/sandbox/callback", web::post().to(callback))
                .route("/internal/v1/items/{id}/books", web::get().to(books))
                .route("/internal/v1/items/{id}/withdraw", web::post().to(withdraw))
                .route("/internal/v1/items/{id}/withdraw/return", web::post().to(give_back))
        });
        tokio::spawn(server.workers(1).disable_signals().listen(listener).unwrap().run());
        outside
    }

    /// What the inventory answers from now on when it is asked to withdraw units.
    pub fn inventory_says(&self, answer: Value) {
        self.withdrawals.lock().unwrap().answer = Some(answer);
    }

    pub fn pass_on_to(&self, address: SocketAddr) {
        *self.target.lock().unwrap() = Some(address);
    }
}

async fn callback(outside: web::Data<Outside>, request: HttpRequest, body: web::Bytes) -> HttpResponse {
    outside.callbacks.fetch_add(1, Ordering::SeqCst);
    let target = *outside.target.lock().unwrap();
    let (false, Some(target)) = (outside.down.load(Ordering::SeqCst), target) else {
        return HttpResponse::ServiceUnavailable().finish();
    };
    let signature = request.headers().get("Sandbox-Signature").unwrap().to_str().unwrap().to_owned();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let call = client
        .post(format!("http://{target}/internal/v1/payments/sandbox/callback"))
        .header("x-internal-token", TOKEN)
        .header("Sandbox-Signature", signature)
        .body(body.to_vec());
    match call.send().await {
        Ok(answer) => {
            HttpResponse::build(actix_web::http::StatusCode::from_u16(answer.status().as_u16()).unwrap())
                .finish()
        }
        Err(_) => HttpResponse::ServiceUnavailable().finish(),
    }
}

async fn books(outside: web::Data<Outside>, request: HttpRequest, id: web::Path<Uuid>) -> HttpResponse {
    assert_eq!(request.headers().get("x-internal-token").unwrap(), TOKEN);
    match outside.books.lock().unwrap().get(&*id) {
        Some(books) => HttpResponse::Ok().json(books),
        None => HttpResponse::NotFound().finish(),
    }
}

async fn withdraw(outside: web::Data<Outside>, wish: web::Json<Value>) -> HttpResponse {
    let mut withdrawals = outside.withdrawals.lock().unwrap();
    withdrawals.asked.push(wish.into_inner());
    match &withdrawals.answer {
        Some(answer) => HttpResponse::Ok().json(answer),
        None => HttpResponse::ServiceUnavailable().finish(),
    }
}

async fn give_back(outside: web::Data<Outside>, wish: web::Json<Value>) -> HttpResponse {
    outside.withdrawals.lock().unwrap().returned.push(wish.into_inner());
    HttpResponse::Ok().json(json!({"units": 0}))
}

impl Desk {
    pub async fn open(hint: &str) -> Self {
        Self::open_with(hint, &[]).await
    }

    pub async fn open_with(hint: &str, overrides: &[(&str, &str)]) -> Self {
        let world = World::start(hint).await;
        let outside = Outside::start();
        let instance = instance(&world, &outside, overrides).await;
        outside.pass_on_to(instance.address);
        Self { instance, outside, world }
    }

    /// One more instance on the same stores.
    pub async fn another(&self) -> Instance {
        instance(&self.world, &self.outside, &[]).await
    }

    pub async fn admin(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        answer(self.instance.call(method, path, "root").header("x-user-role", "admin").json(&body)).await
    }

    pub async fn admin_get(&self, path: &str) -> (u16, Value) {
        answer(self.instance.call(Method::GET, path, "root").header("x-user-role", "admin")).await
    }

    /// An admin's POST that must succeed.
    pub async fn admin_does(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.admin(Method::POST, path, body).await;
        assert!((200..300).contains(&status), "POST {path}: {status} {answer}");
        answer
    }

    /// A sale with one item that is open now.
    pub async fn open_sale(&self, stock: i64) -> Sale {
        let draft: Sale = serde_json::from_value(self.admin_does("/admin/sales", sale(stock)).await).unwrap();
        let published = self.admin_does(&format!("/admin/sales/{}/publish", draft.id), json!({})).await;
        serde_json::from_value(published).unwrap()
    }

    /// An order that waits for payment, as if its reservation had been consumed.
    pub async fn order(&self, sale: &Sale, user: &str, quantity: i64) -> OrderId {
        let item = &sale.items[0];
        let key = IdempotencyKey::try_from(Uuid::new_v4().to_string()).unwrap();
        let id = OrderId::derive(&user.parse::<UserId>().unwrap(), item.id, &key);
        self.world
            .execute(&format!(
                "BEGIN;
                 UPDATE items SET taken = taken + {quantity} WHERE id = '{item}';
                 INSERT INTO orders (id, item_id, sale_id, user_id, quantity, unit_price_cents, currency, status,
                                     units, version, epoch, reserved_at, created_at, expires_at)
                 VALUES ('{id}', '{item}', '{sale}', '{user}', {quantity}, {price}, 'CNY', 'pending_payment', 'held',
                         1, 1, now(), clock_timestamp(), now() + interval '1 hour');
                 INSERT INTO order_transitions (order_id, version, from_status, to_status, units)
                 VALUES ('{id}', 1, NULL, 'pending_payment', 'held');
                 COMMIT",
                item = item.id,
                sale = sale.id,
                price = item.price_cents,
            ))
            .await;
        id
    }

    pub async fn try_pay(&self, user: &str, order: OrderId) -> (u16, Value) {
        let path = format!("/orders/{order}/pay");
        answer(self.instance.call(Method::POST, &path, user).json(&json!({"provider": "sandbox"}))).await
    }

    /// Begins a payment.
    pub async fn pay(&self, user: &str, order: OrderId) -> Uuid {
        let (status, answer) = self.try_pay(user, order).await;
        assert_eq!(status, 201, "{answer}");
        serde_json::from_value(answer["payment_id"].clone()).unwrap()
    }

    /// The notice that the provider would send about a payment.
    pub async fn notice(&self, payment: Uuid, outcome: &str) -> Value {
        let notice = format!(
            "SELECT json_build_object('event_id', gen_random_uuid(), 'payment_id', id, 'order_id', order_id,
                                      'amount_cents', amount_cents, 'currency', currency, 'outcome', '{outcome}',
                                      'paid_at', now())
               FROM payments WHERE id = '{payment}'"
        );
        serde_json::from_str(&self.world.words(&notice).await[0]).unwrap()
    }

    /// Delivers a notice, signed now.
    pub async fn deliver(&self, notice: &Value) -> u16 {
        let now = self.world.number("SELECT extract(epoch FROM now())").await;
        let body = notice.to_string();
        self.deliver_raw(&body, &[signature(now, &body)]).await
    }

    /// Delivers a body with whatever headers.
    pub async fn deliver_raw(&self, body: &str, signatures: &[String]) -> u16 {
        let mut request = self.world.client.post(self.instance.url("/payments/sandbox/callback"));
        for signature in signatures {
            request = request.header("Sandbox-Signature", signature);
        }
        answer(request.header("x-internal-token", TOKEN).body(body.to_owned())).await.0
    }

    pub async fn shown(&self, user: &str, order: OrderId) -> Order {
        let (status, body) = self.instance.get(&format!("/orders/{order}"), user).await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_value(body).unwrap()
    }

    /// Everything that a refused notice must leave as it is.
    pub async fn money_rows(&self) -> Vec<String> {
        let tables = ["orders", "order_transitions", "payments", "payment_notices", "items", "outbox"];
        let mut rows = Vec::new();
        for table in tables {
            // When the relay has published a message is its own affair.
            let row = "(to_jsonb(t) - 'published_at')::text";
            rows.extend(self.world.words(&format!("SELECT {row} FROM {table} t ORDER BY 1")).await);
        }
        rows
    }
}

async fn instance(world: &World, outside: &Outside, overrides: &[(&str, &str)]) -> Instance {
    let url = format!("http://{}", outside.address);
    let mut all = vec![
        ("PAYMENTS__PUBLIC_URL", url.as_str()),
        ("STOCK__URLS", &url),
        ("REFUNDS__INTERVAL_MS", "20"),
        // A test machine stalls; what is tested here is not patience.
        ("DATABASE__CONNECT_TIMEOUT_MS", "20000"),
        ("DATABASE__POOL_WAIT_MS", "20000"),
        ("DATABASE__STATEMENT_TIMEOUT_MS", "20000"),
        ("DATABASE__LOCK_TIMEOUT_MS", "20000"),
        ("REFUNDS__RETRY_MIN_MS", "50"),
        ("REFUNDS__RETRY_MAX_MS", "200"),
        // Not while a test counts rows; those about asking say when.
        ("ASKING__FIRST_MS", "600000"),
        ("ASKING__RETRY_MIN_MS", "50"),
    ];
    all.extend_from_slice(overrides);
    world.instance_with(&all).await
}

pub fn signature(unix_s: i64, body: &str) -> String {
    sign(&SecretString::from(SANDBOX_SECRET), unix_s, body.as_bytes()).unwrap()
}

/// A sale with one item whose window is open.
pub fn sale(stock: i64) -> Value {
    json!({
        "title": "午餐秒杀", "starts_at": "2020-01-01T10:00:00Z", "ends_at": "2999-01-01T11:00:00Z",
        "payment_window_seconds": 300,
        "items": [{"sku": "A1", "name": "牛肉面", "image_url": "https://img.example/a.png", "price_cents": 990,
                   "currency": "CNY", "stock": stock, "per_user_limit": 2}],
    })
}

pub fn item_of(sale: &Sale) -> ItemId {
    sale.items[0].id
}
