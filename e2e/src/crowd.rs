//! Many buyers at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use common::api::Accepted;
use common::ids::{ItemId, OrderId};
use common::problem::Code;
use reqwest::StatusCode;
use tokio::task::JoinSet;

use crate::client::{Answer, Client};

/// How long a buyer keeps asking before giving up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Tokens asked for at the same time.
const TOKENS_AT_ONCE: usize = 64;
/// Longest that a buyer waits between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// One buyer with a token of their own.
#[derive(Debug, Clone)]
pub struct Buyer {
    /// The user id.
    pub user: String,
    /// Their token.
    pub token: String,
}

/// What became of one buyer's wish.
#[derive(Debug, Clone)]
pub struct Purchase {
    /// Who.
    pub buyer: usize,
    /// How it ended.
    pub end: End,
    /// Attempts made, the last one included.
    pub attempts: u32,
    /// How long the last attempt took.
    pub latency: Duration,
}

/// How a wish ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// 202.
    Accepted(OrderId),
    /// A final refusal.
    Refused(Code),
    /// Something that the API does not document.
    Strange(String),
    /// No final answer within the buyer's patience.
    GaveUp,
}

/// How all wishes ended.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Accepted orders with their buyers.
    pub accepted: Vec<(usize, OrderId)>,
    /// Final refusals by code.
    pub refused: BTreeMap<String, usize>,
    /// What the API does not document, and buyers who gave up.
    pub strange: Vec<String>,
    /// Attempts of all buyers.
    pub attempts: u64,
}

impl Tally {
    fn count(&mut self, purchase: Purchase) {
        self.attempts += u64::from(purchase.attempts);
        match purchase.end {
            End::Accepted(order) => self.accepted.push((purchase.buyer, order)),
            End::Refused(code) => *self.refused.entry(code_name(code)).or_default() += 1,
            End::Strange(what) => self.strange.push(what),
            End::GaveUp => self.strange.push("no final answer in time".to_owned()),
        }
    }
}

/// Asks for a token for each of `count` buyers named `<prefix>-<n>`.
///
/// # Errors
/// When a token is refused.
pub async fn gather(client: &Client, prefix: &str, count: usize) -> anyhow::Result<Vec<Buyer>> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut askers = JoinSet::new();
    for _ in 0..TOKENS_AT_ONCE {
        let (client, prefix, next) = (client.clone(), prefix.to_owned(), next.clone());
        askers.spawn(async move {
            let mut buyers = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return anyhow::Ok(buyers);
                }
                let user = format!("{prefix}-{n}");
                let token = client.token(&user, "customer").await?;
                buyers.push(Buyer { user, token });
            }
        });
    }
    let mut buyers = Vec::with_capacity(count);
    while let Some(asked) = askers.join_next().await {
        buyers.extend(asked.context("a task that asks for tokens ended")??);
    }
    Ok(buyers)
}

/// Lets every buyer try for one order, `at_once` of them at the same time, each until the answer is final.
///
/// # Errors
/// When a buyer's task dies.
pub async fn rush(
    client: &Client,
    buyers: Arc<Vec<Buyer>>,
    item: ItemId,
    at_once: usize,
    watch: impl Fn(&Purchase) + Clone + Send + 'static,
) -> anyhow::Result<Tally> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut hands = JoinSet::new();
    for _ in 0..at_once.min(buyers.len()) {
        let (client, buyers, next, watch) = (client.clone(), buyers.clone(), next.clone(), watch.clone());
        hands.spawn(async move {
            let mut purchases = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                let Some(buyer) = buyers.get(n) else { return purchases };
                let key = format!("rush-{item}");
                let purchase = buy(&client, (n, buyer), item, &key).await;
                watch(&purchase);
                purchases.push(purchase);
            }
        });
    }
    let mut tally = Tally::default();
    while let Some(purchases) = hands.join_next().await {
        purchases.context("a buyer's task ended")?.into_iter().for_each(|purchase| tally.count(purchase));
    }
    Ok(tally)
}

/// Buys one unit, asking again with the same key as long as the answer is not final.
pub async fn buy(client: &Client, (n, buyer): (usize, &Buyer), item: ItemId, key: &str) -> Purchase {
    let begin = Instant::now();
    let mut attempts = 0;
    loop {
        attempts += 1;
        let sent = Instant::now();
        let answer = client.order(&buyer.token, item, key, 1).await;
        let latency = sent.elapsed();
        let pause = match answer.map(|answer| judge(&answer)) {
            Ok(Judged::Final(end)) => return Purchase { buyer: n, end, attempts, latency },
            Ok(Judged::Again(pause)) => pause,
            Err(_) => Duration::from_millis(200),
        };
        if begin.elapsed() + pause > PATIENCE {
            return Purchase { buyer: n, end: End::GaveUp, attempts, latency };
        }
        tokio::time::sleep(pause).await;
    }
}

enum Judged {
    Final(End),
    Again(Duration),
}

fn judge(answer: &Answer) -> Judged {
    if answer.status == StatusCode::ACCEPTED {
        return match answer.json::<Accepted>() {
            Ok(accepted) => Judged::Final(End::Accepted(accepted.order_id)),
            Err(error) => Judged::Final(End::Strange(error.to_string())),
        };
    }
    let Some(code) = answer.code() else {
        return Judged::Final(End::Strange(format!("status {} without a problem document", answer.status)));
    };
    if matches!(code, Code::RateLimited | Code::TooBusy | Code::Unavailable | Code::OutcomeUnknown) {
        return match answer.header("retry-after").and_then(|seconds| seconds.parse().ok()) {
            Some(seconds) => Judged::Again(Duration::from_secs(seconds).min(PAUSE_MAX)),
            None => Judged::Final(End::Strange(format!("{} without Retry-After", code_name(code)))),
        };
    }
    if answer.status.is_server_error() {
        return Judged::Final(End::Strange(format!("status {}", answer.status)));
    }
    Judged::Final(End::Refused(code))
}

/// The code as the API writes it.
pub fn code_name(code: Code) -> String {
    match serde_json::to_value(code) {
        Ok(serde_json::Value::String(name)) => name,
        Ok(_) | Err(_) => format!("{code:?}"),
    }
}
