//! A client of the public API.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chrono::{DateTime, Utc};
use common::api::admin::{Audit, NewItem, NewSale};
use common::api::{Order, PaymentStarted, Sale};
use common::ids::{Currency, ItemId, OrderId, SaleId};
use common::problem::{Code, Problem};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

/// How long a client waits for an answer before it takes the outcome as unknown.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Pause between two audits while waiting for the books to come to rest.
const QUIET_POLL: Duration = Duration::from_millis(250);
/// Open connections that are kept for the next request, for each gateway.
const IDLE_CONNECTIONS_MAX: usize = 2_048;

/// Speaks to the gateways in turn.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    gateways: Arc<[String]>,
    turn: Arc<AtomicUsize>,
}

/// One answer, taken apart as far as callers need.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// The headers.
    pub headers: reqwest::header::HeaderMap,
    /// The body as it came.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as `T`.
    ///
    /// # Errors
    /// When the status is not a success or the body is something else; the message shows both.
    pub fn json<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        let text = || String::from_utf8_lossy(&self.body).into_owned();
        ensure!(self.status.is_success(), "answered {}: {}", self.status, text());
        serde_json::from_slice(&self.body).with_context(|| format!("unexpected body: {}", text()))
    }

    /// The problem document of a refusal; `None` when the body is none.
    pub fn problem(&self) -> Option<Problem> {
        serde_json::from_slice(&self.body).ok()
    }

    /// The code of a refusal; `None` when the body is not a problem document.
    pub fn code(&self) -> Option<Code> {
        self.problem().map(|problem| problem.code)
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

impl Client {
    /// A client of these gateways.
    ///
    /// # Errors
    /// When the HTTP client cannot be made, or there is no gateway.
    pub fn new(gateways: Vec<String>) -> anyhow::Result<Self> {
        ensure!(!gateways.is_empty(), "no gateway to speak to");
        // Err means that it is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(ANSWER_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .build()?;
        Ok(Self { http, gateways: gateways.into(), turn: Arc::default() })
    }

    /// A request to the next gateway; for what has no method here.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let gateway = &self.gateways[turn % self.gateways.len()];
        self.http.request(method, format!("{gateway}{path}"))
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// When no answer comes: the outcome is unknown.
    pub async fn send(&self, request: RequestBuilder) -> anyhow::Result<Answer> {
        let response = request.send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes().await?.to_vec();
        Ok(Answer { status, headers, body })
    }

    /// The first sale that is listed.
    ///
    /// # Errors
    /// As [`Client::send`], or there is none.
    pub async fn first_sale(&self) -> anyhow::Result<Sale> {
        #[derive(serde::Deserialize)]
        struct Sales {
            items: Vec<Sale>,
        }
        let answer = self.send(self.request(Method::GET, "/api/v1/sales")).await?;
        answer.json::<Sales>()?.items.into_iter().next().context("there is no sale")
    }

    /// What is at another address than the gateways', as JSON.
    ///
    /// # Errors
    /// As [`Client::send`], or it is something else.
    pub async fn fetch<T: DeserializeOwned>(&self, url: &str) -> anyhow::Result<T> {
        self.send(self.http.get(url)).await?.json()
    }

    /// What is at another address than the gateways', as text.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn text(&self, url: &str) -> anyhow::Result<String> {
        Ok(String::from_utf8(self.send(self.http.get(url)).await?.body)?)
    }

    /// A GET with a token.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn get(&self, path: &str, token: &str) -> anyhow::Result<Answer> {
        self.send(self.request(Method::GET, path).bearer_auth(token)).await
    }

    /// A POST of a JSON body with a token.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn post(&self, path: &str, token: &str, body: &impl Serialize) -> anyhow::Result<Answer> {
        self.send(self.request(Method::POST, path).bearer_auth(token).json(body)).await
    }

    /// A token of the dev profile; `role` is `customer` or `admin`.
    ///
    /// # Errors
    /// When the gateway does not give one.
    pub async fn token(&self, user: &str, role: &str) -> anyhow::Result<String> {
        #[derive(serde::Deserialize)]
        struct Token {
            token: String,
        }
        let request = self.request(Method::POST, "/api/v1/auth/dev-token");
        let answer = self.send(request.json(&json!({ "user_id": user, "role": role }))).await?;
        Ok(answer.json::<Token>().context("asking for a dev token")?.token)
    }

    /// Creates and publishes a sale.
    ///
    /// # Errors
    /// When either is refused.
    pub async fn open_sale(&self, admin: &str, sale: &NewSale) -> anyhow::Result<Sale> {
        let created: Sale =
            self.post("/api/v1/admin/sales", admin, sale).await?.json().context("creating a sale")?;
        let path = format!("/api/v1/admin/sales/{}/publish", created.id);
        self.post(&path, admin, &json!({})).await?.json().context("publishing the sale")
    }

    /// Waits until orders of the sale's items are taken, or its opening is announced, at every gateway.
    ///
    /// # Errors
    /// When that takes longer than `patience`.
    pub async fn wait_until_listed(&self, sale: SaleId, patience: Duration) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + patience;
        for gateway in self.gateways.iter() {
            loop {
                let request = self.http.get(format!("{gateway}/api/v1/sales/{sale}"));
                if let Ok(answer) = self.send(request).await
                    && let Ok(listed) = answer.json::<Sale>()
                    && !listed.stale
                {
                    break;
                }
                ensure!(tokio::time::Instant::now() < deadline, "{gateway} does not list the sale {sale}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// Places an order.
    ///
    /// # Errors
    /// When no answer comes: ask again with the same key.
    pub async fn order(&self, token: &str, item: ItemId, key: &str, quantity: u32) -> anyhow::Result<Answer> {
        let request = self.request(Method::POST, &format!("/api/v1/items/{item}/orders"));
        let request = request.bearer_auth(token).header("Idempotency-Key", key);
        self.send(request.json(&json!({ "quantity": quantity }))).await
    }

    /// The order as its owner sees it.
    ///
    /// # Errors
    /// When it is not shown.
    pub async fn order_state(&self, token: &str, order: OrderId) -> anyhow::Result<Order> {
        self.get(&format!("/api/v1/orders/{order}"), token).await?.json()
    }

    /// Pays an order at the sandbox provider.
    ///
    /// # Errors
    /// When starting the payment is refused, or the provider cannot deliver its notice.
    pub async fn pay(&self, token: &str, order: OrderId) -> anyhow::Result<PaymentStarted> {
        let path = format!("/api/v1/orders/{order}/pay");
        let started: PaymentStarted =
            self.post(&path, token, &json!({ "provider": "sandbox" })).await?.json()?;
        self.settle_payment(&started, "success").await?;
        Ok(started)
    }

    /// Presses a button of the sandbox's checkout page.
    ///
    /// # Errors
    /// When the sandbox does not take it.
    pub async fn settle_payment(&self, payment: &PaymentStarted, outcome: &str) -> anyhow::Result<()> {
        let path = format!("/sandbox/payments/{}", payment.payment_id);
        let answer =
            self.send(self.request(Method::POST, &path).json(&json!({ "outcome": outcome }))).await?;
        ensure!(answer.status.is_success(), "the sandbox answered {}", answer.status);
        Ok(())
    }

    /// The books of a sale, counted afresh.
    ///
    /// # Errors
    /// When they cannot be counted.
    pub async fn audit(&self, admin: &str, sale: SaleId) -> anyhow::Result<Audit> {
        self.get(&format!("/api/v1/admin/sales/{sale}/audit"), admin).await?.json()
    }

    /// Waits until the books of a sale are consistent with nothing under way, and returns them.
    ///
    /// # Errors
    /// When they are not within `patience`; the message shows the last books.
    pub async fn wait_until_quiet(
        &self,
        admin: &str,
        sale: SaleId,
        patience: Duration,
    ) -> anyhow::Result<Audit> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let audit = self.audit(admin, sale).await;
            if let Ok(audit) = &audit
                && audit.consistent
                && audit.items.iter().all(|item| item.unsettled == 0)
            {
                return Ok(audit.clone());
            }
            ensure!(tokio::time::Instant::now() < deadline, "not quiet in time; last books: {audit:?}");
            tokio::time::sleep(QUIET_POLL).await;
        }
    }
}

/// A sale of one dish, open from `starts_at` for a day.
///
/// # Errors
/// Never for the constants used; the type of the currency asks for it.
pub fn one_dish(
    starts_at: DateTime<Utc>,
    stock: i64,
    per_user_limit: u32,
    window_s: u32,
) -> anyhow::Result<NewSale> {
    let dish = NewItem {
        sku: "duck-01".to_owned(),
        name: "Roast duck".to_owned(),
        image_url: String::new(),
        price_cents: 1_990,
        currency: Currency::try_from("CNY".to_owned())?,
        stock,
        per_user_limit,
    };
    Ok(NewSale {
        title: "Lunch rush".to_owned(),
        starts_at,
        ends_at: starts_at + chrono::Duration::days(1),
        payment_window_seconds: window_s,
        waiting_room: false,
        challenge: false,
        items: vec![dish],
    })
}
