//! Keeps a publisher connected.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{Live, Shared};
use crate::amqp::Topology;
use crate::amqp::connection::{Backoff, Change, GOOD_CONNECTION, Link};
use crate::health::HealthCheck;

/// Longest pause between attempts to connect.
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(2);
/// Least time between two declarations because of messages that no queue took.
const REDECLARE_INTERVAL: Duration = Duration::from_secs(1);

/// Opens one connection after the other, until it is told to stop.
pub(super) struct Supervisor {
    pub(super) shared: Arc<Shared>,
    pub(super) topology: Topology,
    pub(super) health: HealthCheck,
}

/// How the time of one connection ended.
enum End {
    Lost(String),
    Stopped,
}

impl Supervisor {
    pub(super) async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut backoff = Backoff::up_to(RECONNECT_PAUSE_MAX);
        loop {
            let began = Instant::now();
            let Some(opened) = stop.run_until_cancelled(self.open()).await else { return Ok(()) };
            match opened {
                Ok(link) => match self.keep(link, &stop).await {
                    End::Stopped => return Ok(()),
                    End::Lost(reason) => {
                        tracing::warn!(connection = self.shared.name, reason, "AMQP connection lost");
                        self.health.not_ready("connection lost");
                    }
                },
                Err(error) => {
                    if backoff.speaks() {
                        let error = format!("{error:#}");
                        tracing::warn!(connection = self.shared.name, error, "no AMQP connection");
                    }
                    self.health.not_ready("cannot connect");
                }
            }
            if began.elapsed() > GOOD_CONNECTION {
                backoff.reset();
            }
            if stop.run_until_cancelled(sleep(backoff.next_pause())).await.is_none() {
                return Ok(());
            }
        }
    }

    async fn open(&self) -> anyhow::Result<Link> {
        let mut link = Link::open(&self.shared.settings, &self.shared.name).await?;
        link.declare(&self.shared.settings, &self.topology).await?;
        Ok(link)
    }

    /// Lets publishes through while the connection lives.
    async fn keep(&self, mut link: Link, stop: &CancellationToken) -> End {
        let live = Arc::new(Live {
            connection: link.connection.clone(),
            idle: Mutex::default(),
            suspect: Notify::new(),
            lost: CancellationToken::new(),
        });
        self.shared.set_live(Some(live.clone()));
        self.health.ready();
        let end = self.watch(&mut link, &live, stop).await;
        self.shared.set_live(None);
        if let End::Stopped = end {
            self.land().await;
            link.close().await;
        }
        live.lost.cancel();
        end
    }

    async fn watch(&self, link: &mut Link, live: &Live, stop: &CancellationToken) -> End {
        let mut declared_at = Instant::now();
        loop {
            tokio::select! {
                change = link.change() => match change {
                    Change::Lost(reason) => return End::Lost(reason),
                    Change::Blocked(reason) => {
                        tracing::warn!(connection = self.shared.name, reason, "the broker is in alarm");
                        self.health.not_ready("the broker is in alarm and takes no messages");
                    }
                    Change::Unblocked => self.health.ready(),
                },
                () = live.suspect.notified() => return End::Lost("no confirm in time".to_owned()),
                () = self.unroutable_after(declared_at + REDECLARE_INTERVAL) => {
                    tracing::warn!(connection = self.shared.name, "unroutable messages, declaring the topology again");
                    if let Err(error) = link.declare(&self.shared.settings, &self.topology).await {
                        return End::Lost(format!("{error:#}"));
                    }
                    declared_at = Instant::now();
                }
                () = stop.cancelled() => return End::Stopped,
            }
        }
    }

    /// Waits for an unroutable message, and until `earliest` at least.
    async fn unroutable_after(&self, earliest: Instant) {
        self.shared.unroutable.notified().await;
        sleep_until(earliest).await;
    }

    /// Waits for the confirms that are still to come.
    async fn land(&self) {
        let all = self.shared.window.acquire_many(self.shared.window_size);
        if timeout(self.shared.settings.publish_timeout(), all).await.is_err() {
            tracing::warn!(connection = self.shared.name, "stopped with unconfirmed messages");
        }
    }
}
