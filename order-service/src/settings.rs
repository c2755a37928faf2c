//! Settings of this service; `config/default.toml` explains every key.

use std::time::Duration;

use common::amqp::AmqpSettings;
use common::settings::{
    DrainSettings, HttpSettings, InternalSettings, Profile, SettingsError, TelemetrySettings, UrlList,
    check_secret,
};
use secrecy::SecretString;
use serde::Deserialize;

const DEFAULTS: &str = include_str!("../config/default.toml");
const PREFIX: &str = "ORDER_SERVICE";

/// Everything that can be set.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What the process is run for.
    pub profile: Profile,
    /// Where it listens.
    pub http: HttpSettings,
    /// What services know each other by.
    pub internal: InternalSettings,
    /// Logs, metrics, traces.
    pub telemetry: TelemetrySettings,
    /// How long a stop may take.
    pub drain: DrainSettings,
    /// The orders database.
    pub database: DatabaseSettings,
    /// The broker.
    pub amqp: AmqpSettings,
    /// Turning reservations into orders.
    pub place_orders: PlaceOrdersSettings,
    /// Ending orders that nobody paid.
    pub expiry: ExpirySettings,
    /// Telling the others.
    pub outbox: OutboxSettings,
    /// Collecting parked messages.
    pub dead_letters: DeadLettersSettings,
    /// Asking stock-service.
    pub stock: StockSettings,
}

/// The orders database.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseSettings {
    /// `postgres://…`
    pub url: SecretString,
    /// Most connections of this process.
    pub pool_size: usize,
    /// Most time to open a connection.
    pub connect_timeout_ms: u64,
    /// Most time to wait for a free connection.
    pub pool_wait_ms: u64,
    /// Most time for one statement.
    pub statement_timeout_ms: u64,
    /// Most time to wait for a row that somebody else has locked.
    pub lock_timeout_ms: u64,
    /// Most time that a transaction may sit idle.
    pub idle_in_transaction_timeout_ms: u64,
}

impl DatabaseSettings {
    /// Most time to open a connection.
    pub fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    /// Most time to wait for a free connection.
    pub fn pool_wait(&self) -> Duration {
        Duration::from_millis(self.pool_wait_ms)
    }
}

/// Turning reservations into orders.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlaceOrdersSettings {
    /// Messages of a partition that are handed out before they are acknowledged.
    pub prefetch: u16,
    /// Most reservations in one transaction.
    pub batch_max: usize,
    /// Shortest time between two batches of a partition.
    pub min_interval_ms: u64,
}

/// Ending orders that nobody paid.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpirySettings {
    /// How often to look.
    pub interval_ms: u64,
    /// Most orders in one transaction.
    pub batch_max: i64,
    /// Most transactions each time.
    pub batches_per_interval: u32,
}

/// Telling the others.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutboxSettings {
    /// Shortest time between two batches.
    pub min_interval_ms: u64,
    /// How often to look without having been woken.
    pub poll_interval_ms: u64,
    /// Most messages on their way at once.
    pub batch_max: i64,
    /// Time for the broker to confirm a batch.
    pub publish_timeout_ms: u64,
    /// How long published messages are kept.
    pub keep_hours: i32,
}

/// Collecting parked messages.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadLettersSettings {
    /// How often to look into the `*.dead` queues.
    pub interval_ms: u64,
}

/// Asking stock-service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StockSettings {
    /// Its instances.
    pub urls: UrlList,
    /// Most time to connect.
    pub connect_timeout_ms: u64,
    /// Most time for a call.
    pub timeout_ms: u64,
}

impl Settings {
    /// From the embedded defaults, the file and the environment.
    ///
    /// # Errors
    /// Names the key that is unknown, missing or bad.
    pub fn load() -> Result<Self, SettingsError> {
        let settings: Self = common::settings::load(PREFIX, DEFAULTS)?;
        settings.validate()?;
        Ok(settings)
    }

    /// From the embedded defaults and the given environment, for tests.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn load_from(environment: &[(&str, &str)]) -> Result<Self, SettingsError> {
        let environment = environment
            .iter()
            .map(|(key, value)| (format!("{PREFIX}__{key}"), (*value).to_owned()))
            .collect();
        let settings: Self = common::settings::load_from(PREFIX, DEFAULTS, environment)?;
        settings.validate()?;
        Ok(settings)
    }

    fn validate(&self) -> Result<(), SettingsError> {
        check_secret("internal.token", &self.internal.token, self.profile)?;
        let at_least_one = [
            ("database.pool_size", self.database.pool_size > 0),
            ("database.statement_timeout_ms", self.database.statement_timeout_ms > 0),
            ("database.lock_timeout_ms", self.database.lock_timeout_ms > 0),
            ("place_orders.prefetch", self.place_orders.prefetch > 0),
            ("place_orders.batch_max", self.place_orders.batch_max > 0),
            ("expiry.interval_ms", self.expiry.interval_ms > 0),
            ("expiry.batch_max", self.expiry.batch_max > 0),
            ("expiry.batches_per_interval", self.expiry.batches_per_interval > 0),
            ("outbox.poll_interval_ms", self.outbox.poll_interval_ms > 0),
            ("outbox.batch_max", self.outbox.batch_max > 0),
            ("outbox.publish_timeout_ms", self.outbox.publish_timeout_ms > 0),
            ("outbox.keep_hours", self.outbox.keep_hours > 0),
            ("dead_letters.interval_ms", self.dead_letters.interval_ms > 0),
        ];
        match at_least_one.into_iter().find(|(_, holds)| !holds) {
            Some((key, _)) => Err(SettingsError::invalid(key, "must be at least 1")),
            None => Ok(()),
        }
    }
}
