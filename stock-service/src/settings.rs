//! Settings of the service; `config/default.toml` explains every key.

use std::time::Duration;

use common::amqp::AmqpSettings;
use common::settings::{
    DrainSettings, HttpSettings, InternalSettings, Profile, SettingsError, TelemetrySettings, UrlList,
    check_store,
};
use secrecy::ExposeSecret as _;
use serde::Deserialize;

use crate::inventory::RedisSettings;

/// What the environment variables of this service begin with.
pub const PREFIX: &str = "STOCK_SERVICE";
/// The embedded defaults.
pub const DEFAULT_TOML: &str = include_str!("../config/default.toml");
/// What a snapshot may take beside its age: reading, sending.
const SNAPSHOT_SLACK_MS: u64 = 200;

/// All settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What the process is run for.
    pub profile: Profile,
    /// Where to listen.
    pub http: HttpSettings,
    /// What the services know each other by.
    pub internal: InternalSettings,
    /// Logs, metrics, traces.
    pub telemetry: TelemetrySettings,
    /// How to stop.
    pub drain: DrainSettings,
    /// The inventory's store.
    pub redis: RedisSettings,
    /// The broker.
    pub amqp: AmqpSettings,
    /// order-service.
    pub orders: OrdersSettings,
    /// Reserving.
    pub reserve: ReserveSettings,
    /// The catalogue.
    pub catalogue: CatalogueSettings,
    /// Loading items.
    pub load: LoadSettings,
    /// Publishing again what stays unsettled.
    pub relay: RelaySettings,
    /// Comparing holds with orders.
    pub reconcile: ReconcileSettings,
    /// Removing items that are over.
    pub retire: RetireSettings,
    /// Consuming.
    pub consume: ConsumeSettings,
}

/// How to reach order-service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrdersSettings {
    /// Its base URLs.
    pub urls: UrlList,
    /// Most time to connect, in milliseconds.
    pub connect_timeout_ms: u64,
    /// Most time for an answer, in milliseconds.
    pub timeout_ms: u64,
    /// Most time for the answer to a load, in milliseconds.
    pub stock_timeout_ms: u64,
}

/// Bounds of reserving.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReserveSettings {
    /// Most requests that wait for each item.
    pub queue_max: usize,
    /// Most batches of one item in flight.
    pub flights_max: usize,
    /// Least time between two batches of one item, unless a batch is full.
    pub min_interval_ms: u64,
    /// Most scripts in flight over all items.
    pub scripts_max: usize,
    /// Most orders of one user of one item ever.
    pub attempts_max: u32,
}

/// What gateways may conclude from a snapshot.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogueSettings {
    /// How long a refusal from a snapshot is true, in milliseconds.
    pub lease_ms: u64,
    /// How old an answer may be, in milliseconds.
    pub cache_ms: u64,
    /// Most items.
    pub items_max: usize,
    /// Most orders of an item whose filter is built while the catalogue is read.
    pub filter_at_once_max: usize,
}

impl CatalogueSettings {
    /// How long units that come back stay off offer, in milliseconds: until every snapshot has run out that was read
    /// before, however late it was handed out.
    pub fn script_lease_ms(&self) -> u64 {
        self.lease_ms + self.cache_ms + SNAPSHOT_SLACK_MS
    }

    /// How old an answer may be.
    pub fn cache(&self) -> Duration {
        Duration::from_millis(self.cache_ms)
    }
}

/// Loading items.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadSettings {
    /// How often closed gates are looked for, in milliseconds.
    pub interval_ms: u64,
    /// Most items loaded at a time.
    pub parallel_max: usize,
    /// Longest pause before a failed load is tried again, in milliseconds.
    pub retry_max_ms: u64,
    /// How often the list of items is compared with order-service's, in milliseconds.
    pub sync_interval_ms: u64,
}

/// Publishing again what stays unsettled.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelaySettings {
    /// How often to look, in milliseconds.
    pub interval_ms: u64,
    /// Age from which a reservation is published again, in milliseconds.
    pub age_ms: u64,
    /// Age from which order-service is asked for its order, in milliseconds.
    pub lookup_age_ms: u64,
    /// Most reservations of one item in one round.
    pub page_max: usize,
}

/// Comparing holds with orders.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReconcileSettings {
    /// How often to compare, in milliseconds.
    pub interval_ms: u64,
    /// Most holds of one item in one round.
    pub page_max: usize,
    /// After what time withdrawn units are not claimed any more, in milliseconds.
    pub withdrawn_ms: u64,
}

/// Removing items that are over.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetireSettings {
    /// How long the keys of an ended item are kept, in milliseconds.
    pub keep_ms: u64,
    /// How often ended items are looked at, in milliseconds.
    pub interval_ms: u64,
}

impl RetireSettings {
    /// How long the keys of an ended item are kept.
    pub fn keep(&self) -> Duration {
        Duration::from_millis(self.keep_ms)
    }
}

/// Consuming.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsumeSettings {
    /// Messages that the broker hands over before one is acknowledged.
    pub prefetch: u16,
    /// Least time between two batches, in milliseconds.
    pub min_interval_ms: u64,
}

impl Settings {
    /// Defaults, then the file, then the environment.
    ///
    /// # Errors
    /// Names the first key that cannot be used.
    pub fn load() -> Result<Self, SettingsError> {
        let settings: Self = common::settings::load(PREFIX, DEFAULT_TOML)?;
        settings.validate()?;
        Ok(settings)
    }

    /// Refuses values that the types allow and the service cannot work with.
    ///
    /// # Errors
    /// Names the first key that cannot be used.
    pub fn validate(&self) -> Result<(), SettingsError> {
        self.internal.check(self.profile)?;
        self.amqp.validate()?;
        for (key, url) in [("redis.url", &self.redis.url), ("amqp.url", &self.amqp.url)] {
            if url.expose_secret().is_empty() {
                return Err(SettingsError::invalid(key, "is not set"));
            }
            check_store(key, url, self.profile)?;
        }
        let positive = [
            ("redis.connect_timeout_ms", self.redis.connect_timeout_ms),
            ("redis.response_timeout_ms", self.redis.response_timeout_ms),
            ("redis.bulk_timeout_ms", self.redis.bulk_timeout_ms),
            ("amqp.publish_timeout_ms", self.amqp.publish_timeout_ms),
            ("amqp.publish_window", self.amqp.publish_window as u64),
            ("orders.timeout_ms", self.orders.timeout_ms),
            ("orders.stock_timeout_ms", self.orders.stock_timeout_ms),
            ("reserve.queue_max", self.reserve.queue_max as u64),
            ("reserve.flights_max", self.reserve.flights_max as u64),
            ("reserve.scripts_max", self.reserve.scripts_max as u64),
            ("reserve.attempts_max", u64::from(self.reserve.attempts_max)),
            ("catalogue.lease_ms", self.catalogue.lease_ms),
            ("catalogue.items_max", self.catalogue.items_max as u64),
            ("load.interval_ms", self.load.interval_ms),
            ("load.parallel_max", self.load.parallel_max as u64),
            ("load.retry_max_ms", self.load.retry_max_ms),
            ("load.sync_interval_ms", self.load.sync_interval_ms),
            ("relay.interval_ms", self.relay.interval_ms),
            ("relay.age_ms", self.relay.age_ms),
            ("reconcile.interval_ms", self.reconcile.interval_ms),
            ("reconcile.page_max", self.reconcile.page_max as u64),
            ("reconcile.withdrawn_ms", self.reconcile.withdrawn_ms),
            ("retire.interval_ms", self.retire.interval_ms),
            ("consume.prefetch", u64::from(self.consume.prefetch)),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(SettingsError::invalid(key, "must be more than 0"));
        }
        if !(1..=1000).contains(&self.relay.page_max) {
            return Err(SettingsError::invalid("relay.page_max", "must be between 1 and 1000"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn settings(extra: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let mut environment = HashMap::from([
            (
                "STOCK_SERVICE__REDIS__URL".to_owned(),
                "redis://stock:kq8Zr2vX0pLw7TnYd4Hs@localhost/".to_owned(),
            ),
            (
                "STOCK_SERVICE__AMQP__URL".to_owned(),
                "amqp://stock:kq8Zr2vX0pLw7TnYd4Hs@localhost/".to_owned(),
            ),
            ("STOCK_SERVICE__INTERNAL__TOKEN".to_owned(), "q8Zr2Lw9Xc4Vb7Nm1Kj6Hg3Fd5Sa0PoIu".to_owned()),
        ]);
        environment.extend(extra.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let settings: Settings = common::settings::load_from(PREFIX, DEFAULT_TOML, environment)?;
        settings.validate().map(|()| settings)
    }

    #[test]
    fn the_defaults_are_valid() {
        let settings = settings(&[]).unwrap();
        assert_eq!(settings.http.port, 8081);
        assert!(
            settings.catalogue.script_lease_ms() > settings.catalogue.lease_ms + settings.catalogue.cache_ms
        );
    }

    #[test]
    fn what_cannot_be_used_is_refused_by_name() {
        let cases = [
            ("STOCK_SERVICE__RESERVE__QUEUE_MAX", "0", "reserve.queue_max"),
            ("STOCK_SERVICE__RELAY__PAGE_MAX", "5000", "relay.page_max"),
            ("STOCK_SERVICE__REDIS__URL", "", "redis.url"),
            ("STOCK_SERVICE__INTERNAL__TOKEN", "short", "internal.token"),
            ("STOCK_SERVICE__RESERVE__NO_SUCH_KEY", "1", "no_such_key"),
        ];
        for (variable, value, key) in cases {
            let error = settings(&[(variable, value)]).unwrap_err().to_string();
            assert!(error.contains(key), "{variable}={value}: {error}");
        }
    }
}
