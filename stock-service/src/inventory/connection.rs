//! Connections to Redis, and what a failed call says about its effect.

use std::sync::Arc;
use std::time::Duration;

use common::failpoint::Injected;
use common::telemetry::trace::{self, Describe, SpanKind};
use redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, Value};
use redis_route::{AddressList, Answer, Config, Mode, Node, Router};
use secrecy::SecretString;
use serde::Deserialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Lane;
use super::scripts::Script;

/// How to reach Redis, and how long to wait for it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisSettings {
    /// `single`, `cluster` or `sentinel`.
    pub mode: Mode,
    /// `redis://user:password@host:port/`.
    pub url: SecretString,
    /// Further servers of the cluster, or the sentinels.
    pub addresses: AddressList,
    /// What sentinels know the primary by.
    pub master_name: String,
    /// The password of the sentinels; empty: none.
    pub sentinel_password: SecretString,
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

    /// No server is known to have the key, or is asked for a sign of life.
    pub(super) fn nobody() -> Self {
        let kind = ErrorKind::Server(ServerErrorKind::ClusterDown);
        Self::NotDone((kind, "no Redis server is known to have this key").into())
    }
}

fn io_error(injected: Injected) -> RedisError {
    RedisError::from((ErrorKind::Io, injected.0))
}

/// The servers, and two connections to each.
pub(super) struct Connection {
    router: Router,
}

impl Connection {
    pub(super) fn new(settings: &RedisSettings) -> anyhow::Result<Self> {
        let config = Config {
            mode: settings.mode,
            url: settings.url.clone(),
            addresses: settings.addresses.clone(),
            master_name: settings.master_name.clone(),
            sentinel_password: settings.sentinel_password.clone(),
            connect_timeout: Duration::from_millis(settings.connect_timeout_ms),
            // As `Lane::index` counts.
            response_timeouts: [settings.response_timeout_ms, settings.bulk_timeout_ms]
                .map(Duration::from_millis)
                .to_vec(),
        };
        Ok(Self { router: Router::new(config)? })
    }

    /// The servers that have keys.
    pub(super) fn nodes(&self) -> Vec<Arc<Node>> {
        self.router.nodes()
    }

    /// Who has `key`.
    pub(super) fn node_of(&self, key: &str) -> Option<Arc<Node>> {
        self.router.node_of(key)
    }

    pub(super) async fn refresh(&self) {
        self.router.refresh().await;
    }

    pub(super) async fn keep_current(&self, stop: CancellationToken) {
        self.router.clone().keep_current(stop).await;
    }

    /// Sends a command to whoever has `key`.
    pub(super) async fn call(&self, lane: Lane, key: &str, command: &Cmd) -> Result<Value, StoreError> {
        let answer = self.router.call(lane.index(), key, command).await.ok_or_else(StoreError::nobody)?;
        answer.result.map_err(StoreError::from)
    }

    /// Sends a command to one server.
    pub(super) async fn ask(&self, lane: Lane, node: &Node, command: &Cmd) -> Result<Value, StoreError> {
        node.call(lane.index(), command).await.map_err(StoreError::from)
    }

    /// As when no server was reached, for failures that a campaign wants.
    pub(super) fn noted(&self, injected: StoreError) -> StoreError {
        self.nodes().iter().for_each(|node| node.set_down());
        injected
    }

    /// Runs a script where its keys are, and says who ran it. Never a second time, see [`redis_route`].
    pub(super) async fn run(
        &self,
        lane: Lane,
        script: &Script,
        keys: &[&str],
        args: impl Fn(&mut Cmd) + Send,
    ) -> Result<(Value, Arc<Node>), StoreError> {
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
        let key = keys.first().copied().unwrap_or_default();
        let sent = self.router.run(lane.index(), key, (&call, &text.source));
        let result = match trace::within(work.clone(), sent).await {
            Some(Answer { node, result }) => result.map(|value| (value, node)).map_err(StoreError::from),
            None => Err(StoreError::nobody()),
        };
        let outcome = if result.is_ok() { "ok" } else { "error" };
        if result.is_err() {
            trace::fail(&work, "script failed");
        }
        metrics::histogram!("redis_script_seconds", "script" => script.name, "outcome" => outcome)
            .record(began.elapsed());
        result
    }
}
