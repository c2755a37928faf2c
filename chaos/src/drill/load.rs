//! Users of all kinds, behind a balancer that sends them to gateways that are ready.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use common::api::Accepted;
use common::ids::{ItemId, OrderId};
use e2e::client::{Answer, Client};
use e2e::crowd::Buyer;
use parking_lot::Mutex;
use rand::Rng as _;
use reqwest::StatusCode;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::stage::Stage;

/// Users at the same time.
const WORKERS: usize = 12;
/// Between two requests of one of them, at most.
const THINK_MS: u64 = 40;
/// How often the balancer asks whether a gateway is ready.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
const READINESS_TIMEOUT: Duration = Duration::from_millis(500);
/// Attempts while the outcome of an order is unknown, and the pause before each.
const UNKNOWN_TRIES: u32 = 50;
const UNKNOWN_PAUSE: Duration = Duration::from_millis(200);
/// Samples of what went wrong that are kept.
const SAMPLES_MAX: usize = 20;

/// A shared list that stays short.
type Few = Arc<parking_lot::Mutex<Vec<String>>>;

/// A gateway as the balancer sees it.
struct Target {
    client: Client,
    readiness: String,
    ready: AtomicBool,
}

#[derive(Default)]
struct Counters {
    requests: AtomicU64,
    unavailable: AtomicU64,
    refused: AtomicU64,
    unauthenticated: AtomicU64,
    unanswered: AtomicU64,
}

/// What was asked and answered.
pub(super) struct Done {
    pub(super) requests: u64,
    pub(super) unavailable: u64,
    pub(super) refused: u64,
    /// Of them, how many because of their token.
    pub(super) unauthenticated: u64,
    pub(super) unanswered: u64,
    pub(super) accepted: BTreeSet<OrderId>,
    /// Answers that nobody may get.
    pub(super) strange: Vec<String>,
    /// Why requests got no answer.
    pub(super) broken: Vec<String>,
}

/// Users who go on until they are told to stop.
pub(super) struct Load {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

struct Shared {
    targets: Vec<Target>,
    users: Arc<Vec<Buyer>>,
    item: ItemId,
    counters: Counters,
    accepted: Mutex<BTreeSet<OrderId>>,
    strange: Few,
    broken: Few,
    over: AtomicBool,
}

impl Load {
    pub(super) fn start(stage: &Stage, users: Arc<Vec<Buyer>>, item: ItemId) -> anyhow::Result<Self> {
        let services = &stage.world.services;
        let mut targets = Vec::new();
        for name in services.names().into_iter().filter(|name| name.starts_with("gateway")) {
            let client = Client::new(vec![services.url(&name)])?;
            let readiness = format!("{}/readyz", services.ops_url(&name));
            targets.push(Target { client, readiness, ready: AtomicBool::new(true) });
        }
        let shared = Arc::new(Shared {
            targets,
            users,
            item,
            counters: Counters::default(),
            accepted: Mutex::default(),
            strange: Few::default(),
            broken: Few::default(),
            over: AtomicBool::new(false),
        });
        let http = reqwest::Client::builder().no_proxy().timeout(READINESS_TIMEOUT).build()?;
        let mut tasks = JoinSet::new();
        for target in 0..shared.targets.len() {
            tasks.spawn(watch(shared.clone(), target, http.clone()));
        }
        for _ in 0..WORKERS {
            tasks.spawn(use_it(shared.clone()));
        }
        Ok(Self { shared, tasks })
    }

    pub(super) fn so_far(&self) -> String {
        let counters = &self.shared.counters;
        format!(
            "{} requests, {} x 503, {} without answer, {} strange",
            counters.requests.load(Ordering::Relaxed),
            counters.unavailable.load(Ordering::Relaxed),
            counters.unanswered.load(Ordering::Relaxed),
            self.shared.strange.lock().len(),
        )
    }

    pub(super) async fn end(mut self) -> anyhow::Result<Done> {
        self.shared.over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.context("a user's task ended")?;
        }
        let Shared { counters, accepted, strange, broken, .. } = &*self.shared;
        Ok(Done {
            requests: counters.requests.load(Ordering::Relaxed),
            unavailable: counters.unavailable.load(Ordering::Relaxed),
            refused: counters.refused.load(Ordering::Relaxed),
            unauthenticated: counters.unauthenticated.load(Ordering::Relaxed),
            unanswered: counters.unanswered.load(Ordering::Relaxed),
            accepted: std::mem::take(&mut *accepted.lock()),
            strange: std::mem::take(&mut *strange.lock()),
            broken: std::mem::take(&mut *broken.lock()),
        })
    }
}

/// The balancer's look at one gateway.
async fn watch(shared: Arc<Shared>, target: usize, http: reqwest::Client) {
    let target = &shared.targets[target];
    while !shared.over.load(Ordering::Relaxed) {
        let answer = http.get(&target.readiness).send().await;
        let ready = answer.is_ok_and(|answer| answer.status() == StatusCode::OK);
        target.ready.store(ready, Ordering::Relaxed);
        sleep(POLL_INTERVAL).await;
    }
}

/// One user after the other, each with one thing to do.
async fn use_it(shared: Arc<Shared>) {
    let mut last: Option<(usize, OrderId)> = None;
    while !shared.over.load(Ordering::Relaxed) {
        let think_ms = rand::rng().random_range(0..THINK_MS);
        sleep(Duration::from_millis(think_ms)).await;
        let (roll, user) = {
            let mut rng = rand::rng();
            (rng.random_range(0..10), rng.random_range(0..shared.users.len()))
        };
        let Some(target) = shared.ready(user) else { continue };
        let answer = match (roll, last) {
            (0..4, _) | (_, None) => {
                let (answer, order) = shared.order(&target.client, user).await;
                last = order.map(|order| (user, order)).or(last);
                answer
            }
            (4..8, Some((owner, order))) => {
                let path = format!("/api/v1/orders/{order}");
                target.client.get(&path, &shared.users[owner].token).await
            }
            (8, Some((owner, order))) => {
                let path = format!("/api/v1/orders/{order}/cancel");
                target.client.post(&path, &shared.users[owner].token, &json!({})).await
            }
            (_, Some(_)) => target.client.get("/api/v1/sales", &shared.users[user].token).await,
        };
        shared.judge(answer);
    }
}

impl Shared {
    /// Places an order at a gateway that is ready; while the outcome is unknown, again with the same key, as a client does.
    /// Once it was unknown, being turned away for the moment says nothing of the attempt before.
    async fn order(&self, client: &Client, user: usize) -> (anyhow::Result<Answer>, Option<OrderId>) {
        let key = format!("{:016x}", rand::rng().random::<u64>());
        let mut answer = client.order(&self.users[user].token, self.item, &key, 1).await;
        let mut owed = false;
        for _ in 0..UNKNOWN_TRIES {
            let Ok(given) = &answer else { break };
            owed |= given.header("x-outcome") == Some("unknown");
            let turned_away = given.header("retry-after").is_some();
            if !(owed && turned_away) {
                break;
            }
            self.judge(answer);
            sleep(UNKNOWN_PAUSE).await;
            let client = self.ready(user).map_or(client, |target| &target.client);
            answer = client.order(&self.users[user].token, self.item, &key, 1).await;
        }
        let accepted = answer.as_ref().ok().filter(|answer| answer.status == StatusCode::ACCEPTED);
        let order = accepted.and_then(|answer| answer.json::<Accepted>().ok()).map(|body| body.order_id);
        self.accepted.lock().extend(order);
        (answer, order)
    }

    /// The gateway that the balancer sends a user to; `None` while none is ready.
    fn ready(&self, user: usize) -> Option<&Target> {
        let ready: Vec<&Target> =
            self.targets.iter().filter(|target| target.ready.load(Ordering::Relaxed)).collect();
        ready.get(user % ready.len().max(1)).copied()
    }

    /// 2xx, 4xx with a problem document, or 503 with Retry-After.
    fn judge(&self, answer: anyhow::Result<Answer>) {
        let counters = &self.counters;
        counters.requests.fetch_add(1, Ordering::Relaxed);
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                counters.unanswered.fetch_add(1, Ordering::Relaxed);
                return keep(&self.broken, format!("{error:?}"));
            }
        };
        let patient = answer.header("retry-after").is_some() && answer.header("x-outcome").is_some();
        if answer.status.is_client_error() && answer.code().is_some() {
            counters.refused.fetch_add(1, Ordering::Relaxed);
            let by_token = u64::from(answer.status == StatusCode::UNAUTHORIZED);
            counters.unauthenticated.fetch_add(by_token, Ordering::Relaxed);
        } else if answer.status == StatusCode::SERVICE_UNAVAILABLE && patient {
            counters.unavailable.fetch_add(1, Ordering::Relaxed);
        } else if !answer.status.is_success() {
            keep(&self.strange, format!("{}: {}", answer.status, String::from_utf8_lossy(&answer.body)));
        }
    }
}

fn keep(samples: &Few, sample: String) {
    let mut samples = samples.lock();
    if samples.len() < SAMPLES_MAX {
        samples.push(sample);
    }
}
