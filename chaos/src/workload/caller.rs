//! Speaks to the public API on behalf of users, and writes down what it saw.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::api::{Accepted, Order};
use common::ids::{IdempotencyKey, ItemId, OrderId, UserId};
use common::problem::{OUTCOME_HEADER, Problem};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::client_log::{ClientLog, Forgery, Function, Op, Outcome};

/// Longer than the gateway's own deadline: what has no answer by then has none.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(4_000);
/// Headers that are written down.
const HEADERS: [&str; 3] = ["retry-after", OUTCOME_HEADER, "content-type"];

/// One client process of the log: speaks to the gateways in turn.
#[derive(Debug, Clone)]
pub struct Caller {
    http: reqwest::Client,
    gateways: Arc<[String]>,
    turn: Arc<AtomicUsize>,
    log: ClientLog,
    process: usize,
    /// On whose behalf.
    pub user: String,
    token: Arc<str>,
}

/// An answer, or none.
#[derive(Debug, Clone)]
pub struct Seen {
    /// What it says about the attempt.
    pub kind: Outcome,
    /// The status; `None`: no answer came.
    pub http: Option<u16>,
    /// The problem's code.
    pub code: Option<String>,
    /// The body, if it is JSON.
    pub body: Value,
}

impl Seen {
    /// The order in the answer.
    pub fn order(&self) -> Option<Order> {
        serde_json::from_value(self.body.clone()).ok()
    }

    /// Whether it may help to ask again: no answer, or one that says so.
    pub fn passing(&self) -> bool {
        self.kind == Outcome::Info || matches!(self.http, Some(408 | 429 | 503))
    }
}

/// What is asked, as far as it is written down.
#[derive(Debug, Clone, Default)]
struct Asked {
    item: Option<ItemId>,
    qty: u32,
    key: Option<String>,
    rid: Option<OrderId>,
    forgery: Option<Forgery>,
    note: Option<String>,
}

impl Caller {
    /// A client without a user yet.
    ///
    /// # Errors
    /// The HTTP client cannot be made.
    pub fn new(gateways: Vec<String>, log: ClientLog) -> anyhow::Result<Self> {
        testkit::init();
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(ANSWER_TIMEOUT)
            .connect_timeout(Duration::from_secs(1))
            .build()?;
        Ok(Self {
            http,
            gateways: gateways.into(),
            turn: Arc::default(),
            log,
            process: 0,
            user: String::new(),
            token: "".into(),
        })
    }

    /// The same client on behalf of a user, with a token of the dev profile; `role` is `customer` or `admin`.
    ///
    /// # Errors
    /// The gateway does not give a token.
    pub async fn login(&self, process: usize, user: &str, role: &str) -> anyhow::Result<Self> {
        let request = self.request(Method::POST, "/api/v1/auth/dev-token");
        let answer = request.json(&json!({ "user_id": user, "role": role })).send().await?;
        let body: Value = answer.error_for_status()?.json().await?;
        let token = body["token"].as_str().unwrap_or_default();
        Ok(Self { process, user: user.to_owned(), token: token.into(), ..self.clone() })
    }

    /// The log that is written.
    pub fn log(&self) -> &ClientLog {
        &self.log
    }

    /// A request to the next gateway, without a token.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let gateway = &self.gateways[turn % self.gateways.len()];
        self.http.request(method, format!("{gateway}{path}"))
    }

    /// A request with the user's token.
    pub fn authorised(&self, method: Method, path: &str) -> RequestBuilder {
        self.request(method, path).bearer_auth(&self.token)
    }

    /// Places an order.
    pub async fn reserve(&self, item: ItemId, key: &str, quantity: u32) -> Seen {
        let request = self.authorised(Method::POST, &format!("/api/v1/items/{item}/orders"));
        let request = request.header("Idempotency-Key", key).json(&json!({ "quantity": quantity }));
        let rid = order_id(&self.user, item, key);
        let asked =
            Asked { item: Some(item), qty: quantity, key: Some(key.to_owned()), rid, ..Asked::default() };
        self.send(Function::Reserve, asked, request).await
    }

    /// Reads an order.
    pub async fn get(&self, order: OrderId) -> Seen {
        self.get_with(order, None).await
    }

    /// Reads an order, with a note for the log.
    pub async fn get_with(&self, order: OrderId, note: Option<&str>) -> Seen {
        let request = self.authorised(Method::GET, &format!("/api/v1/orders/{order}"));
        let asked = Asked { rid: Some(order), note: note.map(str::to_owned), ..Asked::default() };
        self.send(Function::Get, asked, request).await
    }

    /// Reads something as an admin.
    pub async fn admin_get(&self, path: &str) -> Seen {
        let request = self.authorised(Method::GET, path);
        self.send(Function::Admin, Asked { note: Some(path.to_owned()), ..Asked::default() }, request).await
    }

    /// Cancels an order.
    pub async fn cancel(&self, order: OrderId) -> Seen {
        let request = self.authorised(Method::POST, &format!("/api/v1/orders/{order}/cancel"));
        let request = request.json(&json!({}));
        self.send(Function::Cancel, Asked { rid: Some(order), ..Asked::default() }, request).await
    }

    /// Starts a payment.
    pub async fn pay(&self, order: OrderId) -> Seen {
        let request = self.authorised(Method::POST, &format!("/api/v1/orders/{order}/pay"));
        let request = request.json(&json!({ "provider": "sandbox" }));
        self.send(Function::Pay, Asked { rid: Some(order), ..Asked::default() }, request).await
    }

    /// Decides at the sandbox's page; `outcome` is `success` or `failure`.
    pub async fn check_out(&self, order: OrderId, payment: Uuid, outcome: &str) -> Seen {
        let request = self.request(Method::POST, &format!("/sandbox/payments/{payment}"));
        let request = request.json(&json!({ "outcome": outcome }));
        let asked = Asked { rid: Some(order), note: Some(outcome.to_owned()), ..Asked::default() };
        self.send(Function::Checkout, asked, request).await
    }

    /// Delivers a notice in the provider's place.
    pub async fn notify(
        &self,
        order: OrderId,
        body: String,
        signature: String,
        forgery: Option<Forgery>,
    ) -> Seen {
        let event = serde_json::from_str::<Value>(&body).ok();
        let event = event.and_then(|body| body["event_id"].as_str().map(str::to_owned));
        let request = self.request(Method::POST, "/api/v1/payments/sandbox/callback");
        let request = request.header("Sandbox-Signature", signature);
        let request = request.header("Content-Type", "application/json").body(body);
        let asked = Asked { rid: Some(order), forgery, note: event, ..Asked::default() };
        self.send(Function::Callback, asked, request).await
    }

    /// Does something as an admin.
    pub async fn admin(&self, path: &str, body: &Value) -> Seen {
        let request = self.authorised(Method::POST, path).json(body);
        self.send(Function::Admin, Asked { note: Some(path.to_owned()), ..Asked::default() }, request).await
    }

    async fn send(&self, f: Function, asked: Asked, request: RequestBuilder) -> Seen {
        let mut pending = self.log.begin_op(self.unanswered(f, asked));
        let (mut http, mut hdr, mut body) = (None, BTreeMap::new(), Value::Null);
        if let Ok(response) = request.send().await {
            let status = response.status().as_u16();
            for name in HEADERS {
                if let Some(value) = response.headers().get(name).and_then(|value| value.to_str().ok()) {
                    hdr.insert(name.to_owned(), value.to_owned());
                }
            }
            // An answer whose body does not come is none.
            if let Ok(bytes) = response.bytes().await {
                http = Some(status);
                body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            }
        }
        let kind = outcome(http, hdr.get(OUTCOME_HEADER).map(String::as_str));
        let code = serde_json::from_value::<Problem>(body.clone()).ok();
        let code = code.and_then(|problem| serde_json::to_value(problem.code).ok());
        let code = code.and_then(|code| code.as_str().map(str::to_owned));
        let order = serde_json::from_value::<Order>(body.clone()).ok();
        let accepted = serde_json::from_value::<Accepted>(body.clone()).ok();
        let op = &mut pending.op;
        op.http = http;
        op.code.clone_from(&code);
        op.hdr = hdr;
        op.answered = order.as_ref().map(|order| order.id).or(accepted.map(|accepted| accepted.order_id));
        op.state = order.as_ref().map(|order| order.status);
        op.version = order.as_ref().map(|order| order.version);
        op.kind = kind;
        Seen { kind, http, code, body }
    }

    /// An operation that has just been sent.
    fn unanswered(&self, f: Function, asked: Asked) -> Op {
        let now = self.log.now();
        Op {
            op: 0,
            process: self.process,
            f,
            user: self.user.clone(),
            item: asked.item,
            qty: asked.qty,
            key: asked.key,
            t0: now,
            t1: now,
            http: None,
            code: None,
            hdr: BTreeMap::new(),
            rid: asked.rid,
            answered: None,
            state: None,
            version: None,
            forgery: asked.forgery,
            kind: Outcome::Info,
            note: asked.note,
        }
    }
}

/// The order that a key stands for.
fn order_id(user: &str, item: ItemId, key: &str) -> Option<OrderId> {
    let user = UserId::try_from(user.to_owned()).ok()?;
    let key = IdempotencyKey::try_from(key.to_owned()).ok()?;
    Some(OrderId::derive(&user, item, &key))
}

/// What an answer says about the attempt (reliability rules, the contract of the API).
fn outcome(http: Option<u16>, said: Option<&str>) -> Outcome {
    match http {
        Some(200..=299) => Outcome::Ok,
        Some(400 | 401 | 403 | 404 | 405 | 409 | 413 | 415 | 422 | 429) => Outcome::Fail,
        Some(408 | 503) if said == Some("none") => Outcome::Fail,
        Some(_) | None => Outcome::Info,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_answer_says_about_the_attempt() {
        assert_eq!(outcome(Some(202), None), Outcome::Ok);
        assert_eq!(outcome(Some(409), Some("none")), Outcome::Fail);
        assert_eq!(outcome(Some(503), Some("none")), Outcome::Fail);
        assert_eq!(outcome(Some(503), Some("unknown")), Outcome::Info);
        assert_eq!(outcome(Some(503), None), Outcome::Info);
        assert_eq!(outcome(Some(500), Some("none")), Outcome::Info);
        assert_eq!(outcome(None, None), Outcome::Info);
    }
}
