//! Settings of this service; `config/default.toml` explains every key.

use std::time::Duration;

use common::amqp::AmqpSettings;
use common::settings::{
    DrainSettings, HttpSettings, InternalSettings, Profile, SettingsError, TelemetrySettings, UrlList,
    check_secret, check_store,
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use url::Url;

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
    /// Taking money.
    pub payments: PaymentsSettings,
    /// Asking how payments stand.
    pub asking: AskingSettings,
    /// Giving it back.
    pub refunds: RefundSettings,
    /// Old orders as files.
    pub archive: ArchiveSettings,
}

/// The orders database.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseSettings {
    /// `postgres://…`
    pub url: SecretString,
    /// The same with the role that owns the tables, for migrations; empty: `url`.
    pub migration_url: SecretString,
    /// A streaming replica of the same, for what admins list; empty: none.
    pub replica_url: SecretString,
    /// How far behind the replica may be.
    pub replica_lag_max_ms: u64,
    /// Most connections of this process to the replica.
    pub replica_pool_size: usize,
    /// Whether this process migrates when it starts; if not, it waits for who does.
    pub migrate_at_start: bool,
    /// Most connections of this process for requests.
    pub pool_size: usize,
    /// Most connections of this process for background work.
    pub background_pool_size: usize,
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

/// How far behind a replica may be set to be. Below, nothing that was asked of the primary would be recent enough.
const REPLICA_LAG_MS: std::ops::RangeInclusive<u64> = 500..=60_000;
/// How much longer than a statement may take the server may say nothing.
const SILENCE_MARGIN: Duration = Duration::from_secs(3);

impl DatabaseSettings {
    /// Where migrations are made.
    pub fn migration_url(&self) -> &SecretString {
        if self.migration_url.expose_secret().is_empty() { &self.url } else { &self.migration_url }
    }

    /// Most time to open a connection.
    pub fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    /// Most time to wait for an answer of the server, which itself breaks off statements earlier than that.
    pub fn patience(&self) -> Duration {
        Duration::from_millis(self.statement_timeout_ms) + SILENCE_MARGIN
    }

    /// Most time to wait for a free connection.
    pub fn pool_wait(&self) -> Duration {
        Duration::from_millis(self.pool_wait_ms)
    }
}

/// Old orders as files.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchiveSettings {
    /// Where they go; empty: nowhere.
    pub folder: String,
    /// Days after the end of a sale.
    pub after_days: u16,
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
    /// Which share of all unpaid orders may be late at once.
    pub brake_share_percent: i64,
    /// How many of them may, whatever share that is.
    pub brake_minimum: i64,
    /// What is late.
    pub brake_late_ms: u32,
    /// Most orders each time while the brake is on.
    pub brake_batch_max: i64,
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

/// Taking money.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PaymentsSettings {
    /// Whether the sandbox provider is on outside the dev profile.
    pub sandbox_enabled: bool,
    /// What the sandbox provider signs its notices with.
    pub sandbox_secret: SecretString,
    /// Base URL of the gateway as buyers reach it.
    pub public_url: Url,
    /// Where the sandbox provider sends its notices; empty: below `public_url`.
    pub callback_url: String,
    /// Time for one attempt of the sandbox provider to deliver a notice.
    pub callback_timeout_ms: u64,
    /// What the sandbox provider does wrong.
    pub sandbox_faults: SandboxFaults,
}

/// What the sandbox provider does wrong, so that tests see what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SandboxFaults {
    /// Nothing.
    None,
    /// It sends no notices.
    Silent,
    /// It answers nothing at all.
    Down,
}

/// Most time for one attempt to deliver a notice: it is repeated after [`crate::sandbox::notifier::FIRST_REPEAT`].
const CALLBACK_TIMEOUT_MS_MAX: u64 = 9_000;

impl PaymentsSettings {
    /// Where the sandbox provider sends its notices.
    ///
    /// # Errors
    /// `callback_url` is not an address.
    pub fn callback_url(&self) -> Result<Url, SettingsError> {
        if self.callback_url.is_empty() {
            let mut url = self.public_url.clone();
            let base = url.path().trim_end_matches('/').to_owned();
            url.set_path(&format!("{base}/api/v1/payments/sandbox/callback"));
            return Ok(url);
        }
        Url::parse(&self.callback_url).map_err(|error| SettingsError::invalid("payments.callback_url", error))
    }

    /// Time for one attempt of the sandbox provider to deliver a notice.
    pub fn callback_timeout(&self) -> Duration {
        Duration::from_millis(self.callback_timeout_ms)
    }
}

/// Asking how payments stand.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskingSettings {
    /// How often to look for payments that are to be asked for.
    pub interval_ms: u64,
    /// Most payments each time.
    pub batch_max: i64,
    /// Time for the provider to answer.
    pub provider_timeout_ms: u64,
    /// First wait while the order can be paid.
    pub first_ms: u64,
    /// Longest such wait.
    pub last_ms: u64,
    /// Wait after the first answer that did not come.
    pub retry_min_ms: u64,
    /// Most wait after an answer that did not come.
    pub retry_max_ms: u64,
}

impl AskingSettings {
    /// Time for the provider to answer.
    pub fn provider_timeout(&self) -> Duration {
        Duration::from_millis(self.provider_timeout_ms)
    }

    /// First wait while the order can be paid.
    pub fn first_wait(&self) -> Duration {
        Duration::from_millis(self.first_ms)
    }

    /// Longest such wait.
    pub fn last_wait(&self) -> Duration {
        Duration::from_millis(self.last_ms)
    }

    /// Wait after the first answer that did not come.
    pub fn retry_min(&self) -> Duration {
        Duration::from_millis(self.retry_min_ms)
    }

    /// Most wait after an answer that did not come.
    pub fn retry_max(&self) -> Duration {
        Duration::from_millis(self.retry_max_ms)
    }
}

/// Giving money back.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefundSettings {
    /// How often to look for refunds that are due.
    pub interval_ms: u64,
    /// Most refunds each time.
    pub batch_max: i64,
    /// Time for the provider to answer.
    pub provider_timeout_ms: u64,
    /// Wait after the first failed attempt.
    pub retry_min_ms: u64,
    /// Most wait after a failed attempt.
    pub retry_max_ms: u64,
}

impl RefundSettings {
    /// Time for the provider to answer.
    pub fn provider_timeout(&self) -> Duration {
        Duration::from_millis(self.provider_timeout_ms)
    }

    /// Wait after the first failed attempt.
    pub fn retry_min(&self) -> Duration {
        Duration::from_millis(self.retry_min_ms)
    }

    /// Most wait after a failed attempt.
    pub fn retry_max(&self) -> Duration {
        Duration::from_millis(self.retry_max_ms)
    }
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

    /// Whether the sandbox provider is on.
    pub fn sandbox(&self) -> bool {
        self.profile == Profile::Dev || self.payments.sandbox_enabled
    }

    fn validate(&self) -> Result<(), SettingsError> {
        self.internal.check(self.profile)?;
        self.amqp.validate()?;
        for (key, url) in [
            ("database.url", &self.database.url),
            ("database.migration_url", self.database.migration_url()),
            ("amqp.url", &self.amqp.url),
        ] {
            check_store(key, url, self.profile)?;
        }
        if !self.database.replica_url.expose_secret().is_empty() {
            check_store("database.replica_url", &self.database.replica_url, self.profile)?;
        }
        if !REPLICA_LAG_MS.contains(&self.database.replica_lag_max_ms) {
            let reason = format!("must be {} to {}", REPLICA_LAG_MS.start(), REPLICA_LAG_MS.end());
            return Err(SettingsError::invalid("database.replica_lag_max_ms", reason));
        }
        self.validate_payments()?;
        let at_least_one = [
            ("database.pool_size", self.database.pool_size > 0),
            ("database.replica_pool_size", self.database.replica_pool_size > 0),
            ("database.background_pool_size", self.database.background_pool_size > 0),
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
            ("expiry.brake_share_percent", self.expiry.brake_share_percent > 0),
            ("expiry.brake_batch_max", self.expiry.brake_batch_max > 0),
            ("asking.interval_ms", self.asking.interval_ms > 0),
            ("asking.batch_max", self.asking.batch_max > 0),
            ("asking.provider_timeout_ms", self.asking.provider_timeout_ms > 0),
            ("asking.first_ms", self.asking.first_ms > 0),
            ("asking.retry_min_ms", self.asking.retry_min_ms > 0),
            ("asking.retry_max_ms", self.asking.retry_max_ms > 0),
            ("refunds.interval_ms", self.refunds.interval_ms > 0),
            ("refunds.batch_max", self.refunds.batch_max > 0),
            ("refunds.provider_timeout_ms", self.refunds.provider_timeout_ms > 0),
            ("refunds.retry_min_ms", self.refunds.retry_min_ms > 0),
            ("refunds.retry_max_ms", self.refunds.retry_max_ms > 0),
        ];
        match at_least_one.into_iter().find(|(_, holds)| !holds) {
            Some((key, _)) => Err(SettingsError::invalid(key, "must be at least 1")),
            None => Ok(()),
        }
    }

    fn validate_payments(&self) -> Result<(), SettingsError> {
        let payments = &self.payments;
        if !matches!(payments.public_url.scheme(), "http" | "https") {
            return Err(SettingsError::invalid("payments.public_url", "must be an http(s) address"));
        }
        if !self.sandbox() {
            return Ok(());
        }
        if self.profile != Profile::Dev && payments.sandbox_faults != SandboxFaults::None {
            return Err(SettingsError::invalid("payments.sandbox_faults", "is for the dev profile"));
        }
        check_secret("payments.sandbox_secret", &payments.sandbox_secret, self.profile)?;
        if !(1..=CALLBACK_TIMEOUT_MS_MAX).contains(&payments.callback_timeout_ms) {
            let reason = format!("must be between 1 and {CALLBACK_TIMEOUT_MS_MAX}");
            return Err(SettingsError::invalid("payments.callback_timeout_ms", reason));
        }
        payments.callback_url().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEV: [(&str, &str); 4] = [
        ("PROFILE", "dev"),
        ("AMQP__URL", "amqp://o:kq8Zr2vX0pLw7TnYd4Hs@h"),
        ("INTERNAL__TOKEN", "short"),
        ("PAYMENTS__SANDBOX_SECRET", "short"),
    ];

    fn refusal(overrides: &[(&str, &str)]) -> String {
        let environment = [&DEV, overrides].concat();
        Settings::load_from(&environment).expect_err("refused").to_string()
    }

    #[test]
    fn the_defaults_work_in_dev() {
        let settings = Settings::load_from(&DEV).expect("valid settings");
        assert_eq!((settings.http.port, settings.profile), (8082, Profile::Dev));
    }

    #[test]
    fn weak_secrets_unknown_keys_and_impossible_values_are_named() {
        for (key, value, named) in [
            ("PROFILE", "production", "internal.token"),
            ("HTTP__PROT", "1", "prot"),
            ("DATABASE__POOL_SIZE", "0", "database.pool_size"),
            ("DATABASE__REPLICA_LAG_MAX_MS", "100", "database.replica_lag_max_ms"),
            ("EXPIRY__BATCH_MAX", "0", "expiry.batch_max"),
            ("OUTBOX__KEEP_HOURS", "many", "keep_hours"),
        ] {
            let refusal = refusal(&[(key, value)]);
            assert!(refusal.contains(named), "{key}={value}: {refusal}");
        }
    }

    const STRONG: &str = "q7Zp4Xw9Lk2Vt6Rn8Bc3Hs5Jd1Fg0MyA";
    const STORES: [(&str, &str); 3] = [
        ("DATABASE__URL", "postgres://o:kq8Zr2vX0pLw7TnYd4Hs@h/orders"),
        ("AMQP__URL", "amqp://o:kq8Zr2vX0pLw7TnYd4Hs@h"),
        ("INTERNAL__TOKEN", STRONG),
    ];

    fn load(overrides: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        Settings::load_from(&[&STORES, overrides].concat())
    }

    #[test]
    fn the_sandbox_needs_a_secret_only_where_it_is_on() {
        assert!(!load(&[]).expect("production without it").sandbox());
        let on = ("PAYMENTS__SANDBOX_ENABLED", "true");
        for secret in ["", "short", "00000000000000000000000000000000"] {
            let error = load(&[on, ("PAYMENTS__SANDBOX_SECRET", secret)]).expect_err(secret);
            assert!(error.to_string().contains("payments.sandbox_secret"), "{error}");
        }
        assert!(load(&[on, ("PAYMENTS__SANDBOX_SECRET", STRONG)]).expect("a strong one").sandbox());
        assert!(load(&[("PROFILE", "dev"), ("PAYMENTS__SANDBOX_SECRET", "weak")]).expect("dev").sandbox());
    }

    #[test]
    fn notices_go_below_the_public_address_unless_told_otherwise() {
        let url = |overrides: &[(&str, &str)]| {
            let settings = load(overrides).expect("valid");
            settings.payments.callback_url().expect("an address").to_string()
        };
        let public = ("PAYMENTS__PUBLIC_URL", "https://shop.example/base/");
        assert_eq!(url(&[public]), "https://shop.example/base/api/v1/payments/sandbox/callback");
        assert_eq!(
            url(&[public, ("PAYMENTS__CALLBACK_URL", "http://gateway:8080/x")]),
            "http://gateway:8080/x"
        );
        assert!(load(&[("PAYMENTS__PUBLIC_URL", "ftp://h")]).is_err());
    }
}
