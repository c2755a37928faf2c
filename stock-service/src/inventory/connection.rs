//! Connections to Redis, and what a failed call says about its effect.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use common::failpoint::Injected;
use common::telemetry::trace::{self, Describe, SpanKind};
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{
    Client, Cmd, ErrorKind, IntoConnectionInfo as _, ProtocolVersion, RedisError, ServerErrorKind, Value,
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use tokio::time::Instant;

use super::Lane;
use super::scripts::{Script, Text};

/// The defaults of the connection manager let every command wait 9 s while Redis is away.
const RECONNECT_ATTEMPTS: usize = 1;
const RECONNECT_DELAY_MIN: Duration = Duration::from_millis(20);
const RECONNECT_DELAY_MAX: Duration = Duration::from_millis(100);

/// How to reach Redis, and how long to wait for it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisSettings {
    /// `redis://user:password@host:port/`.
    pub url: SecretString,
    /// Most time to connect, in milliseconds.
    pub connect_timeout_ms: u64,
    /// Most time for an answer that a buyer waits for, in milliseconds.
    pub response_timeout_ms: u64,
    /// Most time for an answer to bulk work (loads, audits), in milliseconds.
    pub bulk_timeout_ms: u64,
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The script did not run, or refused before its first write: nothing has changed.
    #[error("Redis did not take the call")]
    NotDone(#[source] RedisError),
    /// It was sent and no answer came: it may have run.
    #[error("Redis gave no answer")]
    Unknown(#[source] RedisError),
    /// The answer is not what the script returns: it has run.
    #[error("Redis gave an answer that makes no sense: {0}")]
    Garbled(&'static str),
}

impl From<RedisError> for StoreError {
    fn from(error: RedisError) -> Self {
        let answered = matches!(
            error.kind(),
            // Any error that the server answers with (OOM, LOADING, READONLY, BUSY, MISCONF, NOSCRIPT, a failed
            // assertion) comes before the first write: that is what the scripts promise.
            ErrorKind::Server(_) | ErrorKind::Extension
        );
        let unsent = matches!(
            error.kind(),
            ErrorKind::AuthenticationFailed
                | ErrorKind::InvalidClientConfig
                | ErrorKind::Client
                | ErrorKind::RESP3NotSupported
        );
        if answered || unsent || error.is_connection_refusal() {
            Self::NotDone(error)
        } else {
            Self::Unknown(error)
        }
    }
}

impl StoreError {
    /// As when Redis was not reached.
    pub(super) fn not_begun(injected: Injected) -> Self {
        Self::NotDone(io_error(injected))
    }

    /// As when the connection broke before the answer.
    pub(super) fn unanswered(injected: Injected) -> Self {
        Self::Unknown(io_error(injected))
    }

    /// Whether this says that Redis cannot be reached, as opposed to one call that it refused.
    fn is_outage(&self) -> bool {
        match self {
            Self::NotDone(error) => {
                error.is_io_error() || error.kind() == ErrorKind::Server(ServerErrorKind::BusyLoading)
            }
            Self::Unknown(error) => error.is_io_error(),
            Self::Garbled(_) => false,
        }
    }
}

fn io_error(injected: Injected) -> RedisError {
    RedisError::from((ErrorKind::Io, injected.0))
}

/// Both connections.
pub(super) struct Connection {
    hot: ConnectionManager,
    bulk: ConnectionManager,
    up: Arc<AtomicBool>,
}

impl Connection {
    pub(super) fn new(settings: &RedisSettings) -> anyhow::Result<Self> {
        let info = settings.url.expose_secret().into_connection_info();
        // The parser's error may repeat the address, which may hold a password.
        let info = info.map_err(|_| anyhow::anyhow!("redis.url is not a Redis address"))?;
        // RESP3 tells of a lost connection at once, so that the next command is not the one to find out.
        let resp3 = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = Client::open(info.set_redis_settings(resp3)).context("redis.url")?;
        let manager = |timeout_ms: u64| {
            let config = ConnectionManagerConfig::new()
                .set_number_of_retries(RECONNECT_ATTEMPTS)
                .set_min_delay(RECONNECT_DELAY_MIN)
                .set_max_delay(RECONNECT_DELAY_MAX)
                .set_connection_timeout(Some(Duration::from_millis(settings.connect_timeout_ms)))
                .set_response_timeout(Some(Duration::from_millis(timeout_ms)));
            ConnectionManager::new_lazy_with_config(client.clone(), config).context("redis.url")
        };
        Ok(Self {
            hot: manager(settings.response_timeout_ms)?,
            bulk: manager(settings.bulk_timeout_ms)?,
            up: Arc::new(AtomicBool::new(false)),
        })
    }

    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    pub(super) async fn call(&self, lane: Lane, command: &Cmd) -> Result<Value, StoreError> {
        let mut manager = match lane {
            Lane::Hot => self.hot.clone(),
            Lane::Bulk => self.bulk.clone(),
        };
        let result = manager.send_packed_command(command).await;
        // In RESP3 an error inside an array is no error of the call; scripts never return such.
        let result = result.and_then(Value::extract_error).map_err(StoreError::from);
        result.inspect(|_| self.up.store(true, Ordering::Relaxed)).map_err(|error| self.noted(error))
    }

    /// Takes an error into account for [`Connection::is_up`].
    pub(super) fn noted(&self, error: StoreError) -> StoreError {
        if error.is_outage() {
            self.up.store(false, Ordering::Relaxed);
        }
        error
    }

    /// Runs a script; when Redis has forgotten it, loads it and tries once more: it cannot have run.
    pub(super) async fn run(
        &self,
        lane: Lane,
        script: &Script,
        keys: &[&str],
        args: impl Fn(&mut Cmd) + Send,
    ) -> Result<Value, StoreError> {
        let began = Instant::now();
        let text = script.text();
        let mut call = text.call(keys);
        args(&mut call);
        let work = trace::child(|| {
            Describe::new(format!("EVALSHA {}", script.name), SpanKind::Client)
                .with("db.system.name", "redis")
                .with("db.operation.name", "EVALSHA")
                .with("db.stored_procedure.name", script.name)
        });
        let mut result = trace::within(work.clone(), self.call(lane, &call)).await;
        if let Err(StoreError::NotDone(error)) = &result
            && error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
        {
            self.load(lane, text).await.map_err(not_done)?;
            result = self.call(lane, &call).await;
        }
        let outcome = if result.is_ok() { "ok" } else { "error" };
        if result.is_err() {
            trace::fail(&work, "script failed");
        }
        metrics::histogram!("redis_script_seconds", "script" => script.name, "outcome" => outcome)
            .record(began.elapsed());
        result
    }

    pub(super) async fn load(&self, lane: Lane, text: &Text) -> Result<(), StoreError> {
        self.call(lane, redis::cmd("SCRIPT").arg("LOAD").arg(&text.source)).await.map(|_sha| ())
    }

    pub(super) async fn info(&self, section: &str) -> Result<String, StoreError> {
        let info = self.call(Lane::Bulk, redis::cmd("INFO").arg(section)).await?;
        redis::from_redis_value(info).map_err(|_| StoreError::Garbled("INFO"))
    }
}

/// A failed load of a script's text has not run the script.
fn not_done(error: StoreError) -> StoreError {
    match error {
        StoreError::Unknown(error) => StoreError::NotDone(error),
        StoreError::NotDone(_) | StoreError::Garbled(_) => error,
    }
}
