//! The system under test: real stores and services, every connection between them through a proxy.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use testkit::{Services, Stores};
use tokio::sync::watch;
use url::Url;

use crate::fault::Marks;
use crate::proxy::Proxy;

/// Most time for a process to say whether it is ready, or to be armed.
const OPERATION_TIMEOUT: Duration = Duration::from_millis(1_000);

/// Who talks to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Edge {
    /// gateway to stock-service; one proxy for each replica of the latter, like all edges between services.
    GatewayToStock,
    /// gateway to order-service.
    GatewayToOrders,
    /// gateway to notify-service.
    GatewayToNotify,
    /// stock-service to Redis.
    StockToRedis,
    /// stock-service to RabbitMQ.
    StockToBroker,
    /// stock-service to order-service.
    StockToOrders,
    /// order-service to its database.
    OrderToDatabase,
    /// order-service to RabbitMQ.
    OrderToBroker,
    /// order-service to stock-service.
    OrderToStock,
    /// notify-service to its database.
    NotifyToDatabase,
    /// notify-service to RabbitMQ.
    NotifyToBroker,
}

impl Edge {
    /// Every edge.
    pub const ALL: [Self; 11] = [
        Self::GatewayToStock,
        Self::GatewayToOrders,
        Self::GatewayToNotify,
        Self::StockToRedis,
        Self::StockToBroker,
        Self::StockToOrders,
        Self::OrderToDatabase,
        Self::OrderToBroker,
        Self::OrderToStock,
        Self::NotifyToDatabase,
        Self::NotifyToBroker,
    ];

    /// The setting that says where the target is.
    fn setting(self) -> &'static str {
        match self {
            Self::GatewayToStock => "GATEWAY__STOCK__URLS",
            Self::GatewayToOrders => "GATEWAY__ORDERS__URLS",
            Self::GatewayToNotify => "GATEWAY__NOTIFY__URLS",
            Self::StockToRedis => "STOCK_SERVICE__REDIS__URL",
            Self::StockToBroker => "STOCK_SERVICE__AMQP__URL",
            Self::StockToOrders => "STOCK_SERVICE__ORDERS__URLS",
            Self::OrderToDatabase => "ORDER_SERVICE__DATABASE__URL",
            Self::OrderToBroker => "ORDER_SERVICE__AMQP__URL",
            Self::OrderToStock => "ORDER_SERVICE__STOCK__URLS",
            Self::NotifyToDatabase => "NOTIFY_SERVICE__DATABASE__URL",
            Self::NotifyToBroker => "NOTIFY_SERVICE__AMQP__URL",
        }
    }

    fn targets(self, services: &Services) -> Vec<String> {
        match self {
            Self::GatewayToStock | Self::OrderToStock => services.urls_of("stock-service"),
            Self::GatewayToOrders | Self::StockToOrders => services.urls_of("order-service"),
            Self::GatewayToNotify => services.urls_of("notify-service"),
            Self::StockToRedis => vec![services.redis().url()],
            Self::StockToBroker | Self::OrderToBroker | Self::NotifyToBroker => vec![services.vhost().url()],
            Self::OrderToDatabase => vec![services.orders_database().url()],
            Self::NotifyToDatabase => vec![services.notify_database().url()],
        }
    }
}

/// What the world is made of.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Processes of each service.
    pub replicas: usize,
    /// Settings that win over the defaults.
    pub settings: Vec<(String, String)>,
    /// `FAILPOINTS` of every process at every start, such as a planted mistake; empty: none.
    pub failpoints: String,
}

/// Stores, services and the proxies between them. Ends with this value.
#[derive(Debug)]
pub struct World {
    // Fields are dropped in this order: processes before the proxies that they talk through.
    /// The processes and their stores.
    pub services: Services,
    proxies: BTreeMap<Edge, Vec<Proxy>>,
    /// What faults have left here.
    pub(crate) marks: Marks,
    http: reqwest::Client,
    /// Where Redis is now; a fail-over moves it.
    redis_url: watch::Sender<String>,
    /// Points that were armed, by service.
    armed: Vec<(String, String)>,
    /// Processes that ended although nothing that was injected ended them.
    deaths: Vec<String>,
}

impl World {
    /// Starts everything and waits until it is ready.
    ///
    /// # Errors
    /// A proxy cannot be started. (What cannot be started in the test kit panics.)
    pub async fn start(plan: &Plan) -> anyhow::Result<Self> {
        Self::start_on(Stores::create().await, plan).await
    }

    /// As [`World::start`], on these stores.
    ///
    /// # Errors
    /// As there.
    pub async fn start_on(stores: Stores, plan: &Plan) -> anyhow::Result<Self> {
        let settings: Vec<_> =
            plan.settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let mut services = Services::prepare(stores, plan.replicas, &settings);
        let mut proxies: BTreeMap<Edge, Vec<Proxy>> = BTreeMap::new();
        for edge in Edge::ALL {
            let mut urls = Vec::new();
            for target in edge.targets(&services) {
                let (proxy, url) = put_between(&target).await?;
                proxies.entry(edge).or_default().push(proxy);
                urls.push(url);
            }
            services.set(edge.setting(), &urls.join(","));
        }
        if !plan.failpoints.is_empty() {
            for name in services.names() {
                services.set_variable(&name, "FAILPOINTS", Some(&plan.failpoints));
            }
        }
        services.launch().await;
        let http = reqwest::Client::builder().no_proxy().timeout(OPERATION_TIMEOUT).build()?;
        let redis_url = watch::channel(services.redis().url()).0;
        let marks = Marks::default();
        Ok(Self { services, proxies, marks, http, redis_url, armed: Vec::new(), deaths: Vec::new() })
    }

    /// Where Redis is, now and later.
    pub fn redis_url(&self) -> watch::Receiver<String> {
        self.redis_url.subscribe()
    }

    /// Tells whoever reads Redis where it is now; to be called after a fault was injected or healed.
    pub fn announce_redis(&self) {
        let url = self.services.redis().url();
        self.redis_url.send_if_modified(|known| {
            let moved = *known != url;
            *known = url;
            moved
        });
    }

    /// Arms a crash point in every running process of a service; `action` in the language of `common::failpoint`.
    pub async fn arm(&mut self, service: &str, point: &str, action: &str) {
        self.armed.push((service.to_owned(), point.to_owned()));
        for name in self.services.names().iter().filter(|name| name.starts_with(service)) {
            let url = format!("{}/failpoints/{point}", self.services.ops_url(name));
            // A process that does not answer is not armed.
            self.http.put(url).body(action.to_owned()).send().await.ok();
        }
    }

    /// Disarms everything that was armed while the processes ran.
    pub async fn disarm(&mut self) {
        for (service, point) in std::mem::take(&mut self.armed) {
            self.arm(&service, &point, "off").await;
        }
        self.armed.clear();
    }

    /// Starts processes again that ended by themselves, as a supervisor would; notes those that had no reason to.
    pub fn revive(&mut self) {
        for (name, status) in self.services.ended() {
            let log = self.services.log(&name);
            let last = log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
            if !(last.contains("injected") && last.contains("abort")) {
                self.deaths.push(format!("{name} ended by itself ({status}): {last}"));
            }
            self.services.start_again(&name);
        }
    }

    /// Starts every process that does not run.
    pub fn start_missing(&mut self) {
        self.revive();
        for name in self.services.names() {
            if self.services.pid(&name).is_none() {
                self.services.start_again(&name);
            }
        }
    }

    /// Processes that are not ready.
    pub async fn not_ready(&self) -> Vec<String> {
        let mut waiting = Vec::new();
        for name in self.services.names() {
            let url = format!("{}/readyz", self.services.ops_url(&name));
            let ready = self.http.get(url).send().await.is_ok_and(|answer| answer.status().is_success());
            if !ready {
                waiting.push(name);
            }
        }
        waiting
    }

    /// Processes that ended although nothing that was injected ended them.
    pub fn deaths(&self) -> &[String] {
        &self.deaths
    }

    /// The proxies of an edge: one for each target.
    pub fn proxies(&self, edge: Edge) -> &[Proxy] {
        self.proxies.get(&edge).map_or(&[], Vec::as_slice)
    }
}

/// A proxy for `target`, and the same URL with the proxy's address.
async fn put_between(target: &str) -> anyhow::Result<(Proxy, String)> {
    let mut url = Url::parse(target)?;
    let port = url.port().context("a target has a port")?;
    let proxy = Proxy::start(SocketAddr::from(([127, 0, 0, 1], port))).await?;
    url.set_port(Some(proxy.address().port())).ok().context("a port can be set")?;
    url.set_host(Some("127.0.0.1"))?;
    Ok((proxy, url.as_str().trim_end_matches('/').to_owned()))
}
