//! The gateway's own keys in Redis: what its replicas share. Optional: without it each replica goes by itself.
//!
//! Nothing here is the truth about anything: a lost key costs a buyer or an attacker some seconds of a limit. So no call
//! is tried again, each has a deadline, and while Redis is known to be away calls end at once with
//! [`StoreError::Away`], for the caller to go on by itself.

use std::sync::Arc;
use std::time::Duration;

use common::health::HealthCheck;
use futures_util::future::join_all;
use redis::{Cmd, RedisError, Value};
use redis_route::{Answer, Config, Node, Router};
use secrecy::ExposeSecret as _;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::settings::RedisSettings;

/// How often Redis is asked whether it is there; so soon is its return noticed.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);
/// The one connection to each server.
const LANE: usize = 0;

/// Why a call has no answer. Whether a script has run is known only of `Away`: it has not.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Redis is known to be away; nothing was sent.
    #[error("Redis is away")]
    Away,
    /// No answer within the deadline.
    #[error("Redis gave no answer in time")]
    Late,
    /// Redis refused the call, or the connection broke.
    #[error("Redis did not answer the call")]
    Failed(#[source] RedisError),
    /// The answer is not what the script returns.
    #[error("Redis gave an answer that makes no sense: {0}")]
    Garbled(&'static str),
}

/// A Lua script, as it is sent and as it is called.
#[derive(Debug)]
pub struct Script {
    name: &'static str,
    source: &'static str,
    sha: String,
}

impl Script {
    /// The script `source`, called `name` in metrics.
    pub fn new(name: &'static str, source: &'static str) -> Self {
        Self { name, source, sha: redis::Script::new(source).get_hash().to_owned() }
    }
}

/// The connections. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    router: Router,
    timeout: Duration,
}

impl Store {
    /// Prepares the connections, without connecting yet; `None` where no Redis is set up.
    ///
    /// # Errors
    /// The address is not one.
    pub fn new(settings: &RedisSettings) -> anyhow::Result<Option<Self>> {
        if settings.url.expose_secret().is_empty() {
            return Ok(None);
        }
        let timeout = Duration::from_millis(settings.timeout_ms);
        let router = Router::new(Config {
            mode: settings.mode,
            url: settings.url.clone(),
            addresses: settings.addresses.clone(),
            master_name: settings.master_name.clone(),
            sentinel_password: settings.sentinel_password.clone(),
            connect_timeout: Duration::from_millis(settings.connect_timeout_ms),
            response_timeouts: vec![timeout],
        })?;
        router.nodes().iter().for_each(|node| node.set_up());
        Ok(Some(Self { router, timeout }))
    }

    /// Most time for an answer.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether the last call to whoever has `key` was answered.
    pub fn reaches(&self, key: &str) -> bool {
        self.router.node_of(key).is_some_and(|node| node.is_up())
    }

    /// Sends one command to whoever has `key`.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn command(&self, key: &str, command: &Cmd) -> Result<Value, StoreError> {
        let node = self.reachable(key)?;
        self.in_time(&node, Box::pin(self.router.call(LANE, key, command))).await
    }

    /// Runs `script` with these keys, of which there is at least one, and whatever `arguments` adds; when Redis has
    /// forgotten the script, loads it and runs it then: it cannot have run before.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn run(
        &self,
        script: &Script,
        keys: &[&str],
        arguments: impl FnOnce(&mut Cmd) + Send,
    ) -> Result<Value, StoreError> {
        let mut call = redis::cmd("EVALSHA");
        call.arg(&script.sha).arg(keys.len()).arg(keys);
        arguments(&mut call);
        let key = keys.first().copied().unwrap_or_default();
        let result = match self.reachable(key) {
            // Apart, because a request keeps room for the largest thing that it may have to wait for.
            Ok(node) => {
                self.in_time(&node, Box::pin(self.router.run(LANE, key, (&call, script.source)))).await
            }
            Err(error) => Err(error),
        };
        let outcome = if result.is_ok() { "ok" } else { "error" };
        metrics::counter!("gateway_store_calls_total", "script" => script.name, "outcome" => outcome)
            .increment(1);
        result
    }

    /// Who has `key`, if it is not known to be away.
    fn reachable(&self, key: &str) -> Result<Arc<Node>, StoreError> {
        self.router.node_of(key).filter(|node| node.is_up()).ok_or(StoreError::Away)
    }

    async fn in_time(
        &self,
        node: &Node,
        call: impl Future<Output = Option<Answer>> + Send,
    ) -> Result<Value, StoreError> {
        match timeout(self.timeout, call).await {
            Ok(Some(answer)) => answer.result.map_err(StoreError::Failed),
            Ok(None) => Err(StoreError::Away),
            Err(_) => {
                node.set_down();
                Err(StoreError::Late)
            }
        }
    }

    /// Notices when Redis goes and when it is back, until `stop`. Shown as the dependency `health`, which never takes
    /// this instance out of service: everything works without Redis, if less exactly.
    ///
    /// # Errors
    /// Never.
    pub async fn watch(self, health: HealthCheck, stop: CancellationToken) -> anyhow::Result<()> {
        health.ready();
        let watching = async {
            loop {
                let nodes = self.router.nodes();
                let pings = nodes.iter().map(|node| timeout(self.timeout, self.ping(node)));
                let answers = join_all(pings).await;
                match answers.iter().filter(|answer| matches!(answer, Ok(Ok(_)))).count() {
                    0 => health.not_ready("Redis does not answer"),
                    _ => health.ready(),
                }
                for (node, answer) in nodes.iter().zip(answers) {
                    if answer.is_err() {
                        node.set_down();
                    }
                }
                tokio::time::sleep(WATCH_INTERVAL).await;
            }
        };
        let current = self.router.clone().keep_current(stop.clone());
        tokio::join!(stop.run_until_cancelled(watching), current);
        Ok(())
    }

    async fn ping(&self, node: &Node) -> Result<Value, RedisError> {
        node.call(LANE, &redis::cmd("PING")).await
    }
}
