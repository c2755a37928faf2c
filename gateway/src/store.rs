//! The gateway's own keys in Redis: what its replicas share. Optional: without it each replica goes by itself.
//!
//! Nothing here is the truth about anything: a lost key costs a buyer or an attacker some seconds of a limit. So no call
//! is tried again, each has a deadline, and while Redis is known to be away calls end at once with
//! [`StoreError::Away`], for the caller to go on by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use common::health::HealthCheck;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{
    Client, Cmd, ErrorKind, IntoConnectionInfo as _, ProtocolVersion, RedisError, ServerErrorKind, Value,
};
use secrecy::ExposeSecret as _;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::settings::RedisSettings;

/// The defaults of the connection manager let every command wait 9 s while Redis is away.
const RECONNECT_ATTEMPTS: usize = 1;
const RECONNECT_DELAY_MIN: Duration = Duration::from_millis(20);
const RECONNECT_DELAY_MAX: Duration = Duration::from_millis(100);
/// How often Redis is asked whether it is there; so soon is its return noticed.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);

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

/// The connection. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    manager: ConnectionManager,
    timeout: Duration,
    up: Arc<AtomicBool>,
}

impl Store {
    /// Prepares the connection, without connecting yet; `None` where no Redis is set up.
    ///
    /// # Errors
    /// The address is not one.
    pub fn new(settings: &RedisSettings) -> anyhow::Result<Option<Self>> {
        let url = settings.url.expose_secret();
        if url.is_empty() {
            return Ok(None);
        }
        // The parser's error may repeat the address, which may hold a password.
        let info = url.into_connection_info().map_err(|_| anyhow::anyhow!("redis.url is not an address"))?;
        // RESP3 tells of a lost connection at once, so that the next command is not the one to find out.
        let resp3 = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = Client::open(info.set_redis_settings(resp3)).context("redis.url")?;
        let timeout = Duration::from_millis(settings.timeout_ms);
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(RECONNECT_ATTEMPTS)
            .set_min_delay(RECONNECT_DELAY_MIN)
            .set_max_delay(RECONNECT_DELAY_MAX)
            .set_connection_timeout(Some(Duration::from_millis(settings.connect_timeout_ms)))
            .set_response_timeout(Some(timeout));
        let manager = ConnectionManager::new_lazy_with_config(client, config).context("redis.url")?;
        Ok(Some(Self { manager, timeout, up: Arc::new(AtomicBool::new(true)) }))
    }

    /// Most time for an answer.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether the last call was answered.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Sends one command.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn command(&self, command: &Cmd) -> Result<Value, StoreError> {
        if !self.is_up() {
            return Err(StoreError::Away);
        }
        self.send(command).await
    }

    /// Runs `script` with these keys and whatever `arguments` adds; when Redis has forgotten the script, loads it and
    /// runs it then: it cannot have run before.
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
        let mut result = self.command(&call).await;
        if let Err(StoreError::Failed(error)) = &result
            && error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
        {
            self.command(redis::cmd("SCRIPT").arg("LOAD").arg(script.source)).await?;
            result = self.command(&call).await;
        }
        let outcome = if result.is_ok() { "ok" } else { "error" };
        metrics::counter!("gateway_store_calls_total", "script" => script.name, "outcome" => outcome)
            .increment(1);
        result
    }

    /// Notices when Redis goes and when it is back, until `stop`. Shown as the dependency `health`, which never takes
    /// this instance out of service: everything works without Redis, if less exactly.
    ///
    /// # Errors
    /// Never.
    pub async fn watch(self, health: HealthCheck, stop: CancellationToken) -> anyhow::Result<()> {
        health.ready();
        loop {
            match self.send(&redis::cmd("PING")).await {
                Ok(_) => health.ready(),
                Err(error) => health.not_ready(error.to_string()),
            }
            if stop.run_until_cancelled(tokio::time::sleep(WATCH_INTERVAL)).await.is_none() {
                return Ok(());
            }
        }
    }

    async fn send(&self, command: &Cmd) -> Result<Value, StoreError> {
        let mut manager = self.manager.clone();
        let answer = match timeout(self.timeout, manager.send_packed_command(command)).await {
            // In RESP3 an error may be inside of an answer.
            Ok(answer) => answer.and_then(Value::extract_error).map_err(StoreError::Failed),
            Err(_) => Err(StoreError::Late),
        };
        match &answer {
            Ok(_) => self.up.store(true, Ordering::Relaxed),
            Err(error) if error.is_outage() => self.up.store(false, Ordering::Relaxed),
            Err(_) => {}
        }
        answer
    }
}

impl StoreError {
    /// Whether this says that Redis cannot be reached, as opposed to one call that it refused.
    fn is_outage(&self) -> bool {
        match self {
            Self::Late => true,
            Self::Failed(error) => {
                error.is_io_error() || error.kind() == ErrorKind::Server(ServerErrorKind::BusyLoading)
            }
            Self::Away | Self::Garbled(_) => false,
        }
    }
}
