//! What a run needs before it begins: a sale, tokens, and something that is sold out.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chrono::Utc;
use common::api::Sale;
use common::problem::Code;
use e2e::client::{Client, one_dish};
use e2e::environment::Environment;
use uuid::Uuid;

use crate::processes::Parts;
use crate::requests::{Mix, Requests};
use crate::token;

/// How long the sale may take to be open at every gateway.
const OPEN_WITHIN: Duration = Duration::from_secs(30);
/// Units on sale: as many as a sale may have, more than any run takes.
const UNITS: i64 = 10_000_000;
/// Units of the item that is sold out before the run.
const UNITS_OF_SOLD_OUT: i64 = 20;
/// Most units of one user.
const PER_USER_MAX: u32 = 100;
/// Longer than any run, so that nothing expires in it.
const PAYMENT_WINDOW_S: u32 = 86_400;

/// A running Stampede.
pub struct Target {
    /// Its addresses and secrets.
    pub environment: Environment,
    /// A client for what is not measured.
    pub client: Client,
    /// Its gateways.
    pub gateways: Vec<SocketAddr>,
    /// Its processes.
    pub parts: Parts,
}

impl Target {
    /// Finds it by its env file, beside which the folder with process ids is.
    ///
    /// # Errors
    /// It does not run; the message says what to do.
    pub fn find(env_file: &Path) -> anyhow::Result<Self> {
        let environment = Environment::read(env_file)?;
        let urls = environment.gateways()?;
        let gateways = urls.iter().map(|url| address_of(url)).collect::<anyhow::Result<_>>()?;
        let parts =
            Parts::recorded(&env_file.parent().map_or_else(PathBuf::new, Path::to_owned).join("pids"))?;
        Ok(Self { environment, client: Client::new(urls)?, gateways, parts })
    }
}

/// The address of a base URL.
///
/// # Errors
/// It has no host, or the host has no address.
pub fn address_of(url: &str) -> anyhow::Result<SocketAddr> {
    let parsed = url::Url::parse(url).with_context(|| url.to_owned())?;
    let host = parsed.host_str().with_context(|| format!("{url} has no host"))?;
    let port = parsed.port_or_known_default().with_context(|| format!("{url} has no port"))?;
    (host, port).to_socket_addrs()?.next().with_context(|| format!("{host} has no address"))
}

/// The stage of one run.
pub struct Stage {
    /// An admin's token.
    pub admin: String,
    /// The sale.
    pub sale: Sale,
    /// Makes the requests.
    pub requests: Requests,
}

impl Stage {
    /// Opens a sale with one item that does not run out and one that is sold out, and signs tokens for `buyers`.
    ///
    /// # Errors
    /// The system does not do its part.
    pub async fn set(target: &Target, mix: Mix, buyers: usize) -> anyhow::Result<Self> {
        let client = &target.client;
        let admin = client.token("admin", "admin").await.with_context(|| {
            "no admin's token: is the gateway up? ./dev status shows it, ./dev restart starts what has died"
        })?;
        let run = Uuid::new_v4().simple().to_string()[..8].to_owned();
        let secret = target.environment.value("JWT_SECRET")?;
        let tokens = token::sign_all(secret, &format!("load-{run}"), buyers)?;
        #[expect(clippy::disallowed_methods, reason = "a client picks its sale's opening by its own clock")]
        let mut sale = one_dish(Utc::now(), UNITS, PER_USER_MAX, PAYMENT_WINDOW_S)?;
        let mut rare = sale.items[0].clone();
        (rare.sku, rare.name) = ("truffle-01".to_owned(), "Truffle".to_owned());
        rare.stock = UNITS_OF_SOLD_OUT;
        sale.items.push(rare);
        let sale = client.open_sale(&admin, &sale).await?;
        client.wait_until_listed(sale.id, OPEN_WITHIN).await?;
        let requests = Requests {
            mix,
            host: target.gateways[0].to_string(),
            sale: sale.id,
            item: sale.items[0].id,
            sold_out: sale.items[1].id,
            tokens: Arc::new(tokens),
            run,
            turn: AtomicU64::new(0),
        };
        let stage = Self { admin, sale, requests };
        stage.sell_out(client).await?;
        Ok(stage)
    }

    /// Buys all of the rare item, and waits until every gateway knows.
    async fn sell_out(&self, client: &Client) -> anyhow::Result<()> {
        let item = self.requests.sold_out;
        let deadline = std::time::Instant::now() + OPEN_WITHIN;
        let (mut turn, mut refusals) = (0, 0);
        while refusals < 20 {
            let token = &self.requests.tokens[turn % self.requests.tokens.len()];
            let answer = client.order(token, item, &format!("all-{turn}"), 1).await?;
            turn += 1;
            refusals = if answer.code() == Some(Code::SoldOut) { refusals + 1 } else { 0 };
            ensure!(
                std::time::Instant::now() < deadline,
                "the rare item does not sell out: {}",
                answer.status
            );
            if refusals > 0 || !answer.status.is_success() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }
}
