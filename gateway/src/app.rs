//! Putting the parts together, and taking them apart in order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_web::web::{Data, ServiceConfig};
use anyhow::Context as _;
use common::health::{self, Health};
use common::http_client::{self, Upstream};
use common::serve::{ConnectionLimits, Server};
use common::settings::DrainSettings;
use common::shutdown::Tasks;
use common::telemetry::Metrics;
use ipnet::IpNet;
use tokio_util::sync::CancellationToken;

use crate::admission::Admission;
use crate::attempts::Attempts;
use crate::blocks::Blocks;
use crate::catalogue::Catalogue;
use crate::challenge::Challenges;
use crate::downstream::Downstream;
use crate::edge::Origins;
use crate::http::{self, Served};
use crate::known_ids::KnownIds;
use crate::limits::Limits;
use crate::line::Lines;
use crate::listing::Listing;
use crate::openapi::Documents;
use crate::places::Places;
use crate::poll::{BlocksPoller, CataloguePoller, SalesPoller};
use crate::refusals::Refusals;
use crate::retries::Retries;
use crate::sale_cache::SaleCache;
use crate::settings::{CidrList, Settings};
use crate::state::State;
use crate::store::Store;
use crate::token::Tokens;
use crate::token::jwks::Jwks;
use crate::velocity::Velocity;
use crate::wechat::Wechat;

/// Upper bound of any call, for what has no nearer deadline: a stream that lives as long as its token.
const CALL_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);
/// The networks of this machine itself.
const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1/128"];

/// The assembled gateway. `main` and the tests build it the same way.
pub struct App {
    public: Server,
    ops: Server,
    drain: DrainSettings,
    tasks: Tasks,
    closing: CancellationToken,
    stop: CancellationToken,
}

impl App {
    /// Binds both ports and starts the pollers; accepts nothing yet. Services need not be there.
    ///
    /// # Errors
    /// A port is taken, or a setting does not fit.
    pub fn build(settings: Settings, metrics: Metrics, stop: CancellationToken) -> anyhow::Result<Self> {
        let tasks = Tasks::new(stop.clone());
        let health = Health::new(metrics);
        let closing = CancellationToken::new();
        let served = Served { dev: settings.is_dev(), wechat: !settings.wechat.app_id.is_empty() };

        let state = Data::new(state(&settings, served, &tasks, &health, closing.clone())?);
        start_tasks(&settings, &state, &health, &tasks);

        let shared = state.clone();
        let routes = move |cfg: &mut ServiceConfig| {
            cfg.app_data(shared.clone());
            http::routes(cfg, served);
        };
        let (listener, limits) = (settings.http.listener(), connection_limits(&settings));
        let public = Server::bind_limited(&listener, settings.drain, health.clone(), limits, routes)?;
        // The ops port goes on answering until the public one is drained.
        let at_once = DrainSettings { ready_delay_ms: 0, ..settings.drain };
        let ops = Server::bind(&settings.http.ops_listener(&settings.ops), at_once, health, health::routes)
            .context("ops port")?;
        Ok(Self { public, ops, drain: settings.drain, tasks, closing, stop })
    }

    /// Where the public port is.
    pub fn address(&self) -> SocketAddr {
        self.public.address()
    }

    /// Where the ops port is.
    pub fn ops_address(&self) -> SocketAddr {
        self.ops.address()
    }

    /// Serves until stopped, then drains: what waits is ended when the balancers have turned away, running requests
    /// get their time, batches in flight too.
    ///
    /// # Errors
    /// A server or a task ended by itself, or did not end in time.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self { public, ops, drain, tasks, closing, stop } = self;
        let drained = CancellationToken::new();
        let end_waits = async {
            stop.cancelled().await;
            tokio::time::sleep(drain.ready_delay()).await;
            closing.cancel();
        };
        let serve_public = async {
            let ended = public.run(stop.clone()).await;
            stop.cancel(); // If it ended by itself, everything does.
            drained.cancel();
            ended
        };
        let serve_ops = async {
            let ended = ops.run(drained.clone()).await;
            stop.cancel();
            ended
        };
        let (served, ops_served, ()) = tokio::join!(serve_public, serve_ops, end_waits);
        let finished = tasks.finish(drain.tasks_timeout()).await;
        served.and(ops_served.context("ops port")).and(finished)
    }
}

fn state(
    settings: &Settings,
    served: Served,
    tasks: &Tasks,
    health: &Health,
    closing: CancellationToken,
) -> anyhow::Result<State> {
    let connect_timeout = Duration::from_millis(settings.upstream.connect_timeout_ms);
    let client = http_client::build(connect_timeout, CALL_TIMEOUT_MAX)?;
    let upstream = |name, service: &crate::settings::ServiceSettings| {
        let upstream = Upstream::new(name, service.urls.clone(), client.clone(), &settings.internal.token)?;
        anyhow::Ok(Downstream::new(name, upstream, &settings.breaker, &settings.concurrency))
    };
    let jwks = Jwks::new(&settings.auth, client.clone());
    if let Some(jwks) = &jwks {
        let check = health.dependency("identity provider");
        tasks.spawn("identity provider's keys", jwks.clone().run(check, tasks.stop_token()));
    }
    let stock = upstream("stock-service", &settings.stock)?;
    let orders = upstream("order-service", &settings.orders)?;
    let store = Store::new(&settings.redis)?;
    let known_ids: Arc<KnownIds> = Arc::default();
    let listing = Arc::new(Listing::new(Duration::from_millis(settings.catalogue.stale_after_ms)));
    let catalogue: Arc<Catalogue> = Arc::default();
    let blocks: Arc<Blocks> = Arc::default();
    let sales_interval = Duration::from_millis(settings.catalogue.sales_poll_ms);
    Ok(State {
        tokens: Tokens::new(&settings.auth, jwks, settings.is_dev()),
        limits: Limits::new(&settings.limits, exempt(settings), store.clone(), tasks),
        trusted_proxies: settings.limits.trusted_proxies.clone(),
        origins: Origins::new(&settings.cors.allowed_origins, settings.is_dev()),
        challenges: Challenges::new(&settings.challenge, settings.door_secrets(), store.clone()),
        lines: Lines::new(settings, store.clone(), catalogue.clone(), tasks),
        catalogue,
        sales: Arc::new(SalesPoller::new(orders.clone(), listing.clone(), known_ids.clone(), sales_interval)),
        listing,
        admission: Admission::new(settings.admission.clone(), stock.clone(), tasks.clone()),
        attempts: Attempts::new(settings.admission.orders_max),
        block_list: Arc::new(BlocksPoller::new(orders.clone(), blocks.clone(), sales_interval)),
        blocks,
        retries: Retries::new(&settings.retries),
        velocity: Velocity::new(&settings.velocity, store.clone()),
        sale_cache: SaleCache::new(orders.clone(), store.clone()),
        known_ids,
        store,
        stock,
        orders,
        notify: upstream("notify-service", &settings.notify)?,
        wechat: Wechat::new(&settings.wechat, client.clone())?,
        accepted: metrics::counter!("gateway_orders_accepted_total"),
        refusals: Refusals::default(),
        places: Places::new(&settings.waits),
        documents: Documents::new(served, &settings.http.public_url)?,
        timeout: settings.upstream.timeout(),
        admin_timeout: settings.upstream.admin_timeout(),
        body_timeout: Duration::from_millis(settings.http.body_timeout_ms),
        closing,
    })
}

fn start_tasks(settings: &Settings, state: &Data<State>, health: &Health, tasks: &Tasks) {
    let interval = Duration::from_millis(settings.catalogue.poll_ms);
    let check = health.dependency("stock-service");
    let catalogue: Arc<Catalogue> = state.catalogue.clone();
    let poller =
        CataloguePoller::new(state.stock.clone(), catalogue, state.known_ids.clone(), interval, check);
    tasks.spawn("catalogue", poller.run(tasks.stop_token()));
    tasks.spawn("sales", state.sales.clone().run(tasks.stop_token()));
    tasks.spawn("blocks", state.block_list.clone().run(tasks.stop_token()));
    if let Some(store) = state.store.clone() {
        tasks.spawn("redis", store.watch(health.dependency("redis"), tasks.stop_token()));
    }
    tasks.spawn("lines", state.lines.clone().forget(tasks.stop_token()));
    let (shared, stop) = (state.clone(), tasks.stop_token());
    tasks.spawn("limits", async move { shared.limits.forget(stop).await });
    let (shared, stop) = (state.clone(), tasks.stop_token());
    tasks.spawn("retries", async move { shared.retries.forget(stop).await });
}

/// Proxies of ours bring everybody's connections.
fn connection_limits(settings: &Settings) -> ConnectionLimits {
    let (proxies, exempt) = (settings.limits.trusted_proxies.clone(), exempt(settings));
    ConnectionLimits {
        total: settings.http.connections_max,
        per_address: settings.http.connections_per_ip_max,
        exempt: Arc::new(move |peer| proxies.contains(peer) || exempt.contains(peer)),
        half_closed: settings.http.half_closed,
    }
}

/// Who has no limit per address. In the dev profile also this machine, so that load from it measures the system.
fn exempt(settings: &Settings) -> CidrList {
    let mut exempt = settings.limits.ip_exempt.clone();
    if settings.is_dev() {
        exempt.0.extend(LOOPBACK.iter().filter_map(|block| block.parse::<IpNet>().ok()));
    }
    exempt
}
