//! Who has a key, kept current, and calls that go there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use futures_util::future::join_all;
use parking_lot::Mutex;
use redis::{
    Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo as _, ProtocolVersion, RedisError,
    RedisResult, ServerErrorKind, Value,
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::cluster::{self, Owners};
use crate::{Address, AddressList, Node, SLOTS, sentinel, slot_of};

/// How often one call follows a server that says who has the key.
const REDIRECTIONS_MAX: usize = 3;
/// How often servers are asked who has what, and how soon again when something speaks for a change.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);
const REFRESH_PAUSE: Duration = Duration::from_millis(50);

/// How many servers there are, and who says which one has a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// One server, at the address in the settings.
    #[default]
    Single,
    /// A Redis Cluster.
    Cluster,
    /// One primary with replicas; sentinels say which one it is.
    Sentinel,
}

/// How to reach Redis.
#[derive(Debug, Clone)]
pub struct Config {
    /// How many servers there are.
    pub mode: Mode,
    /// `redis://user:password@host:port/`: the one server; or one of a cluster; or only user and password of the
    /// servers that sentinels name.
    pub url: SecretString,
    /// Further servers of the cluster, or the sentinels.
    pub addresses: AddressList,
    /// What sentinels know the primary by.
    pub master_name: String,
    /// The password of the sentinels; empty: none.
    pub sentinel_password: SecretString,
    /// Most time to connect.
    pub connect_timeout: Duration,
    /// Most time for an answer, for each connection to a server: calls say which one they take.
    pub response_timeouts: Vec<Duration>,
}

/// What became of a call, and who answered.
pub struct Answer {
    /// The server.
    pub node: Arc<Node>,
    /// What it answered; anything but an error from the server means that the command may have run.
    pub result: RedisResult<Value>,
}

/// Calls whoever has the key. Cheap to clone.
#[derive(Clone)]
pub struct Router {
    shared: Arc<Shared>,
}

struct Shared {
    config: Config,
    template: ConnectionInfo,
    /// By whom who has what is asked: of a cluster, those in the settings; the sentinels.
    seeds: Vec<Arc<Node>>,
    known: Mutex<HashMap<Address, Arc<Node>>>,
    /// For each slot.
    owners: ArcSwap<Vec<Option<Arc<Node>>>>,
    changed: Notify,
}

impl Router {
    /// Nothing is sent yet, and nobody has a key until [`Router::refresh`], but for a single server.
    ///
    /// # Errors
    /// An address is not one, or a mode lacks what it needs.
    pub fn new(config: Config) -> anyhow::Result<Self> {
        // The parser's error may repeat the address, which may hold a password.
        let info = config.url.expose_secret().into_connection_info();
        let info = info.map_err(|_| anyhow::anyhow!("redis.url is not a Redis address"))?;
        // RESP3 tells of a lost connection at once, so that the next command is not the one to find out.
        let resp3 = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let template = info.set_redis_settings(resp3);
        let own = address_of(template.addr()).context("redis.url has no host and port")?;
        let listed = config.addresses.as_slice();
        let seeds: Vec<Address> = match config.mode {
            Mode::Single => vec![own],
            Mode::Cluster => std::iter::once(&own).chain(listed).cloned().collect(),
            Mode::Sentinel => listed.to_vec(),
        };
        anyhow::ensure!(!seeds.is_empty(), "redis.addresses must name the sentinels");
        anyhow::ensure!(
            config.mode != Mode::Sentinel || !config.master_name.is_empty(),
            "redis.master_name is not set"
        );
        let of_seeds =
            if config.mode == Mode::Sentinel { of_sentinels(&template, &config)? } else { template.clone() };
        let seeds = seeds.into_iter().map(|address| Node::new(address, &of_seeds, &config).map(Arc::new));
        let seeds = seeds.collect::<RedisResult<Vec<_>>>().context("redis.addresses")?;
        let owner = (config.mode == Mode::Single).then(|| seeds[0].clone());
        let owners = ArcSwap::from_pointee(vec![owner; SLOTS]);
        let known = Mutex::default();
        let shared = Shared { config, template, seeds, known, owners, changed: Notify::new() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The servers that have keys, each once.
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        let owners = self.shared.owners.load();
        let mut nodes: Vec<Arc<Node>> = Vec::new();
        for node in owners.iter().flatten() {
            let again = nodes.last().is_some_and(|last| Arc::ptr_eq(last, node));
            if !again && !nodes.iter().any(|known| Arc::ptr_eq(known, node)) {
                nodes.push(node.clone());
            }
        }
        nodes
    }

    /// Who has `key`, as far as is known.
    pub fn node_of(&self, key: &str) -> Option<Arc<Node>> {
        self.shared.owners.load()[usize::from(slot_of(key))].clone()
    }

    /// Sends `command`, all of whose keys are in the slot of `key`, to whoever has it. `None`: nobody is known to, and
    /// nothing was sent.
    pub async fn call(&self, lane: usize, key: &str, command: &Cmd) -> Option<Answer> {
        self.route(lane, key, (command, None)).await
    }

    /// As [`Router::call`], for a script: `call` is its EVALSHA, and `source` its text for servers that do not know it.
    pub async fn run(&self, lane: usize, key: &str, (call, source): (&Cmd, &str)) -> Option<Answer> {
        self.route(lane, key, (call, Some(source))).await
    }

    async fn route(&self, lane: usize, key: &str, (command, source): (&Cmd, Option<&str>)) -> Option<Answer> {
        let Some(mut node) = self.node_of(key) else {
            self.shared.changed.notify_one();
            return None;
        };
        let (mut asking, mut redirections) = (false, 0);
        loop {
            let result = match source {
                Some(source) => node.send_script(lane, (command, source), asking).await,
                None => node.send(lane, command, asking).await,
            };
            let Err(error) = &result else { return Some(Answer { node, result }) };
            if speaks_for_a_change(error) {
                self.shared.changed.notify_one();
            }
            redirections += 1;
            let next =
                if redirections <= REDIRECTIONS_MAX { self.redirected(key, &node, error) } else { None };
            let Some((other, ask)) = next else { return Some(Answer { node, result }) };
            (node, asking) = (other, ask);
        }
    }

    /// Where a server sends us that did not run the command, and whether only this once.
    fn redirected(&self, key: &str, from: &Node, error: &RedisError) -> Option<(Arc<Node>, bool)> {
        let (address, _) = error.redirect_node().filter(|_| self.shared.config.mode == Mode::Cluster)?;
        let mut address: Address = address.parse().ok()?;
        if address.host.is_empty() {
            address.host = from.address().host.clone();
        }
        let node = self.shared.node(address)?;
        let once = error.kind() == ErrorKind::Server(ServerErrorKind::Ask);
        if !once {
            let mut owners = self.shared.owners.load().as_ref().clone();
            owners[usize::from(slot_of(key))] = Some(node.clone());
            self.shared.owners.store(Arc::new(owners));
        }
        Some((node, once))
    }

    /// Asks once who has what. Without any answer, all stays as it is.
    pub async fn refresh(&self) {
        let owners = match self.shared.config.mode {
            Mode::Single => None,
            Mode::Cluster => self.shared.ask_the_cluster().await,
            Mode::Sentinel => self.shared.ask_sentinels().await,
        };
        let Some(owners) = owners else { return };
        let before = self.shared.owners.load();
        let same = |(before, now): (&Option<Arc<Node>>, &Option<Address>)| {
            before.as_ref().map(|node| node.address()) == now.as_ref()
        };
        if before.iter().zip(&owners).all(same) {
            return;
        }
        let nodes = owners.into_iter().map(|owner| self.shared.node(owner?));
        self.shared.owners.store(Arc::new(nodes.collect()));
        let nodes = self.nodes();
        self.shared.known.lock().retain(|_, known| nodes.iter().any(|node| Arc::ptr_eq(node, known)));
        let servers: Vec<String> = nodes.iter().map(|node| node.address().to_string()).collect();
        tracing::info!(?servers, "Redis: who has the keys has changed");
    }

    /// Keeps who has what current, until `stop`.
    pub async fn keep_current(self, stop: CancellationToken) {
        let rounds = async {
            loop {
                self.refresh().await;
                sleep(REFRESH_PAUSE).await;
                tokio::select! {
                    () = sleep(REFRESH_INTERVAL) => {}
                    () = self.shared.changed.notified() => {}
                }
            }
        };
        stop.run_until_cancelled(rounds).await;
    }
}

impl Shared {
    /// The server at an address: always the same value, as long as it has keys.
    fn node(&self, address: Address) -> Option<Arc<Node>> {
        let mut known = self.known.lock();
        if let Some(node) = known.get(&address) {
            return Some(node.clone());
        }
        match Node::new(address.clone(), &self.template, &self.config) {
            Ok(node) => Some(known.entry(address).or_insert(Arc::new(node)).clone()),
            Err(error) => {
                tracing::error!(%error, %address, "not an address of a Redis server");
                None
            }
        }
    }

    async fn ask_the_cluster(&self) -> Option<Owners> {
        let mut asked: Vec<Arc<Node>> = self.known.lock().values().cloned().collect();
        asked.extend(
            self.seeds.iter().filter(|seed| !self.known.lock().contains_key(seed.address())).cloned(),
        );
        let mut question = redis::cmd("CLUSTER");
        question.arg("NODES");
        let question = &question;
        let answers = join_all(asked.iter().map(|node| async move {
            let answer =
                node.call(0, question).await.and_then(|value| Ok(redis::from_redis_value::<String>(value)?));
            answer.ok().map(|text| (node.address().host.clone(), text))
        }));
        let answers: Vec<_> = answers.await.into_iter().flatten().collect();
        (!answers.is_empty()).then(|| cluster::owners(&answers))
    }

    async fn ask_sentinels(&self) -> Option<Owners> {
        for address in sentinel::primaries(&self.seeds, &self.config.master_name).await {
            let node = self.node(address.clone())?;
            if sentinel::is_primary(&node).await {
                return Some(vec![Some(address); SLOTS]);
            }
        }
        None
    }
}

/// Whether somebody else may have the key now.
fn speaks_for_a_change(error: &RedisError) -> bool {
    let elsewhere = matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::Moved
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ReadOnly
        )
    );
    elsewhere || error.is_io_error()
}

fn address_of(address: &ConnectionAddr) -> Option<Address> {
    if let ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } = address {
        Some(Address { host: host.clone(), port: *port })
    } else {
        None
    }
}

/// Sentinels have neither the user nor the databases of the servers.
fn of_sentinels(template: &ConnectionInfo, config: &Config) -> anyhow::Result<ConnectionInfo> {
    let plain = "redis://sentinel/".into_connection_info().context("an address without anything")?;
    let mut settings = plain.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    if !config.sentinel_password.expose_secret().is_empty() {
        settings = settings.set_password(config.sentinel_password.expose_secret());
    }
    Ok(template.clone().set_redis_settings(settings))
}
