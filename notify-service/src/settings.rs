//! Settings of notify-service; `config/default.toml` says what each is for.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use common::amqp::AmqpSettings;
use common::settings::{
    DrainSettings, HttpSettings, InternalSettings, Profile, SettingsError, TelemetrySettings, check_store,
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

use crate::webhook::circuit::Limits;

const DEFAULT: &str = include_str!("../config/default.toml");

/// Bounds that keep a mistake from becoming an outage.
const RETRY_STEPS_MAX: usize = 20;
const INTERVAL_MS_MAX: u64 = 60_000;

/// Everything that can be set.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What the process is run for.
    pub profile: Profile,
    /// Where it listens.
    pub http: HttpSettings,
    /// What callers prove themselves with.
    pub internal: InternalSettings,
    /// Logs, metrics, traces.
    pub telemetry: TelemetrySettings,
    /// How long a stop may take.
    pub drain: DrainSettings,
    /// The `notify` database.
    pub database: DatabaseSettings,
    /// The broker.
    pub amqp: AmqpSettings,
    /// Storing events.
    pub ingest: IngestSettings,
    /// Streams.
    pub sse: SseSettings,
    /// Webhooks.
    pub webhooks: WebhookSettings,
    /// Deleting what is old.
    pub retention: RetentionSettings,
}

/// The `notify` database.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseSettings {
    /// `postgres://user:password@host:port/notify`
    pub url: SecretString,
    /// The same with the role that owns the tables, for migrations; empty: `url`.
    pub migration_url: SecretString,
    /// Whether this process migrates when it starts; if not, it waits for who does.
    pub migrate_at_start: bool,
    /// Connections, at most.
    pub pool_max: usize,
    /// Most time to wait for a connection from the pool, in milliseconds.
    pub pool_timeout_ms: u64,
    /// Most time to open a connection, in milliseconds.
    pub connect_timeout_ms: u64,
    /// Most time for one statement, in milliseconds.
    pub statement_timeout_ms: u32,
}

impl DatabaseSettings {
    /// Where migrations are made.
    pub fn migration_url(&self) -> &SecretString {
        if self.migration_url.expose_secret().is_empty() { &self.url } else { &self.migration_url }
    }

    /// Most time to wait for a connection from the pool.
    pub fn pool_timeout(&self) -> Duration {
        Duration::from_millis(self.pool_timeout_ms)
    }

    /// Most time to open a connection.
    pub fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }
}

/// Storing events.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IngestSettings {
    /// Messages that the broker hands over before one is acknowledged.
    pub prefetch: u16,
    /// Most events stored by one transaction.
    pub batch_max: usize,
    /// Least time between two transactions, in milliseconds.
    pub min_interval_ms: u64,
}

/// Streams.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SseSettings {
    /// Streams of one user on this replica.
    pub per_user_max: usize,
    /// Streams of all users on this replica.
    pub streams_max: usize,
    /// Events that wait for one client.
    pub buffer_max: usize,
    /// How long a client may take nothing although something waits, in milliseconds.
    pub stall_ms: u64,
    /// How long a stream may be silent, in milliseconds.
    pub ping_ms: u64,
    /// Least time after which clients are asked to reconnect, in milliseconds.
    pub retry_min_ms: u64,
    /// Most time after which clients are asked to reconnect, in milliseconds.
    pub retry_max_ms: u64,
    /// Least time between two reads, in milliseconds.
    pub min_interval_ms: u64,
    /// How often every connected user is looked up, in milliseconds.
    pub sweep_ms: u64,
}

/// Webhooks.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookSettings {
    /// Whether plain http, any port and private addresses are allowed.
    pub allow_private: bool,
    /// Ports that webhooks may be at, unless `allow_private`.
    pub ports: Numbers<u16>,
    /// Webhooks that can be registered.
    pub endpoints_max: u32,
    /// Deliveries under way to one webhook.
    pub endpoint_concurrency: usize,
    /// Failures in a row after which one delivery at a time is tried.
    pub circuit_failures: u32,
    /// Longest pause between two such tries, in milliseconds.
    pub circuit_pause_max_ms: u64,
    /// Most time for one attempt, in milliseconds.
    pub timeout_ms: u64,
    /// The retry ladder, in milliseconds.
    pub retry_ms: Numbers<u64>,
    /// How long a delivery belongs to the replica that took it, in milliseconds.
    pub lease_ms: u64,
    /// How often to look for due deliveries, in milliseconds.
    pub poll_ms: u64,
}

impl WebhookSettings {
    /// Most time for one attempt.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// When a webhook's breaker opens, and for how long.
    pub fn circuit(&self) -> Limits {
        Limits {
            failures_max: self.circuit_failures,
            pause_max: Duration::from_millis(self.circuit_pause_max_ms),
        }
    }

    /// How long a delivery belongs to the replica that took it.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }
}

/// Numbers in one text, such as `443, 8443`, so that the environment can say them too.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String", bound(deserialize = "T: FromStr<Err: Display>"))]
pub struct Numbers<T>(pub Vec<T>);

impl<T: FromStr<Err: Display>> TryFrom<String> for Numbers<T> {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let numbers = parts.map(|part| part.parse().map_err(|error| format!("`{part}`: {error}")));
        numbers.collect::<Result<_, _>>().map(Self)
    }
}

/// Deleting what is old.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetentionSettings {
    /// How long events and delivered deliveries are kept, in hours.
    pub keep_hours: u32,
    /// How long parked deliveries are kept, in hours.
    pub keep_parked_hours: u32,
    /// How often to tidy, in seconds.
    pub interval_s: u64,
    /// Rows deleted by one transaction.
    pub batch_max: u32,
}

impl Settings {
    /// Settings from the embedded defaults, the file, and the environment (`NOTIFY_SERVICE__…`), checked.
    ///
    /// # Errors
    /// Names the first key that cannot be used.
    pub fn load() -> Result<Self, SettingsError> {
        let settings: Self = common::settings::load("NOTIFY_SERVICE", DEFAULT)?;
        settings.validate()?;
        Ok(settings)
    }

    /// Checks what the types do not.
    ///
    /// # Errors
    /// Names the first key that cannot be used.
    pub fn validate(&self) -> Result<(), SettingsError> {
        self.internal.check(self.profile)?;
        self.amqp.validate()?;
        for (key, url) in [
            ("database.url", &self.database.url),
            ("database.migration_url", self.database.migration_url()),
            ("amqp.url", &self.amqp.url),
        ] {
            if url.expose_secret().is_empty() {
                return Err(SettingsError::invalid(key, "is not set"));
            }
            check_store(key, url, self.profile)?;
        }
        if self.webhooks.allow_private && self.profile != Profile::Dev {
            return Err(SettingsError::invalid(
                "webhooks.allow_private",
                "is allowed only in the dev profile",
            ));
        }
        self.validate_ranges()?;
        if self.webhooks.retry_ms.0.len() > RETRY_STEPS_MAX {
            return Err(SettingsError::invalid(
                "webhooks.retry_ms",
                format!("has more than {RETRY_STEPS_MAX} steps"),
            ));
        }
        if self.webhooks.lease_ms <= self.webhooks.timeout_ms * 2 {
            return Err(SettingsError::invalid(
                "webhooks.lease_ms",
                "must be more than twice webhooks.timeout_ms",
            ));
        }
        if self.sse.retry_min_ms > self.sse.retry_max_ms {
            return Err(SettingsError::invalid("sse.retry_min_ms", "must not be above sse.retry_max_ms"));
        }
        Ok(())
    }

    fn validate_ranges(&self) -> Result<(), SettingsError> {
        let (sse, webhooks) = (&self.sse, &self.webhooks);
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let ranges = [
            ("database.pool_max", count(self.database.pool_max), 2, 100),
            ("database.pool_timeout_ms", self.database.pool_timeout_ms, 1, INTERVAL_MS_MAX),
            ("database.connect_timeout_ms", self.database.connect_timeout_ms, 1, INTERVAL_MS_MAX),
            (
                "database.statement_timeout_ms",
                self.database.statement_timeout_ms.into(),
                100,
                INTERVAL_MS_MAX,
            ),
            ("ingest.prefetch", self.ingest.prefetch.into(), 1, 1_000),
            ("ingest.batch_max", count(self.ingest.batch_max), 1, 10_000),
            ("ingest.min_interval_ms", self.ingest.min_interval_ms, 0, 1_000),
            ("sse.per_user_max", count(sse.per_user_max), 1, 100),
            ("sse.streams_max", count(sse.streams_max), 1, 1_000_000),
            ("sse.buffer_max", count(sse.buffer_max), 1, 1_000),
            ("sse.stall_ms", sse.stall_ms, 100, INTERVAL_MS_MAX),
            ("sse.ping_ms", sse.ping_ms, 100, INTERVAL_MS_MAX),
            ("sse.retry_max_ms", sse.retry_max_ms, 1, INTERVAL_MS_MAX),
            ("sse.min_interval_ms", sse.min_interval_ms, 0, 1_000),
            ("sse.sweep_ms", sse.sweep_ms, 50, INTERVAL_MS_MAX),
            ("webhooks.endpoints_max", webhooks.endpoints_max.into(), 0, 1_000),
            ("webhooks.endpoint_concurrency", count(webhooks.endpoint_concurrency), 1, 1_000),
            ("webhooks.circuit_failures", webhooks.circuit_failures.into(), 1, 1_000_000),
            ("webhooks.circuit_pause_max_ms", webhooks.circuit_pause_max_ms, 1, INTERVAL_MS_MAX),
            ("webhooks.timeout_ms", webhooks.timeout_ms, 10, INTERVAL_MS_MAX),
            ("webhooks.poll_ms", webhooks.poll_ms, 10, INTERVAL_MS_MAX),
            ("retention.keep_hours", self.retention.keep_hours.into(), 1, 24 * 365),
            ("retention.keep_parked_hours", self.retention.keep_parked_hours.into(), 1, 24 * 3_650),
            ("retention.interval_s", self.retention.interval_s, 1, 86_400),
            ("retention.batch_max", self.retention.batch_max.into(), 1, 100_000),
        ];
        for (key, value, least, most) in ranges {
            if !(least..=most).contains(&value) {
                return Err(SettingsError::invalid(key, format!("must be {least} to {most}")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn the_defaults_lack_only_addresses_and_the_secret() {
        let given = [
            ("NOTIFY_SERVICE__INTERNAL__TOKEN", "a7c1e09b44f2d86a315b9ce07d2f68a4"),
            ("NOTIFY_SERVICE__DATABASE__URL", "postgres://notify:kq8Zr2vX0pLw7TnYd4Hs@localhost/notify"),
            ("NOTIFY_SERVICE__AMQP__URL", "amqp://notify:kq8Zr2vX0pLw7TnYd4Hs@localhost"),
        ];
        let environment: HashMap<_, _> =
            given.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let settings: Settings = common::settings::load_from("NOTIFY_SERVICE", DEFAULT, environment).unwrap();
        settings.validate().unwrap();
    }

    #[test]
    fn private_targets_are_refused_outside_the_dev_profile() {
        let given = [
            ("NOTIFY_SERVICE__INTERNAL__TOKEN", "a7c1e09b44f2d86a315b9ce07d2f68a4"),
            ("NOTIFY_SERVICE__DATABASE__URL", "postgres://notify:kq8Zr2vX0pLw7TnYd4Hs@localhost/notify"),
            ("NOTIFY_SERVICE__AMQP__URL", "amqp://notify:kq8Zr2vX0pLw7TnYd4Hs@localhost"),
            ("NOTIFY_SERVICE__WEBHOOKS__ALLOW_PRIVATE", "true"),
        ];
        let environment: HashMap<_, _> =
            given.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let settings: Settings = common::settings::load_from("NOTIFY_SERVICE", DEFAULT, environment).unwrap();
        let error = settings.validate().unwrap_err().to_string();
        assert!(error.contains("webhooks.allow_private"), "{error}");
    }
}
