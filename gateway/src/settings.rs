//! Settings of the gateway; `config/default.toml` says what each is for.

mod protection;

use std::net::IpAddr;
use std::time::Duration;

use common::api::inventory::RESERVE_BATCH_MAX;
use common::settings::{
    DrainSettings, HttpSettings, InternalSettings, Profile, SettingsError, TelemetrySettings, UrlList,
    check_secret, check_store,
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use url::Url;

pub use protection::{
    BreakerSettings, Bucket, CidrList, ConcurrencySettings, IpLimits, LimitSettings, RedisSettings,
    RetrySettings, UserLimits, VelocitySettings,
};

/// Prefix of the environment variables.
pub const PREFIX: &str = "GATEWAY";
/// The embedded defaults, with a comment on every key.
pub const DEFAULTS: &str = include_str!("../config/default.toml");

/// Most zero bits of a challenge: a thousand million hashes, which no phone finds in time.
const CHALLENGE_BITS_MAX: u32 = 30;

/// All settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What the process is run for.
    pub profile: Profile,
    /// The public port.
    pub http: PublicHttpSettings,
    /// The ops port.
    pub ops: OpsSettings,
    /// The secret between services.
    pub internal: InternalSettings,
    /// Logs, metrics, traces.
    pub telemetry: TelemetrySettings,
    /// How the process stops.
    pub drain: DrainSettings,
    /// Where stock-service is.
    pub stock: ServiceSettings,
    /// Where order-service is.
    pub orders: ServiceSettings,
    /// Where notify-service is.
    pub notify: ServiceSettings,
    /// What the replicas share.
    pub redis: RedisSettings,
    /// Deadlines of calls to services.
    pub upstream: UpstreamSettings,
    /// Leaving a service alone that fails.
    pub breaker: BreakerSettings,
    /// Calls of one service at a time.
    pub concurrency: ConcurrencySettings,
    /// Access tokens.
    pub auth: AuthSettings,
    /// Logging in with WeChat.
    pub wechat: WechatSettings,
    /// The queue of each item.
    pub admission: AdmissionSettings,
    /// What is known of sales and stock.
    pub catalogue: CatalogueSettings,
    /// Requests that wait for something to happen.
    pub waits: WaitSettings,
    /// Token buckets.
    pub limits: LimitSettings,
    /// Retries that would be refused.
    pub retries: RetrySettings,
    /// Orders, accounts and devices over time.
    pub velocity: VelocitySettings,
    /// Waiting rooms.
    pub line: LineSettings,
    /// Work before a place or an order.
    pub challenge: ChallengeSettings,
    /// Browser apps of other origins.
    pub cors: CorsSettings,
}

/// `[http]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublicHttpSettings {
    /// The address of both ports.
    pub host: IpAddr,
    /// The public port.
    pub port: u16,
    /// Threads; 0: one per core.
    pub workers: usize,
    /// Where clients reach it; empty: the same origin.
    pub public_url: String,
    /// Most time for a request body.
    pub body_timeout_ms: u64,
    /// Whether clients that send nothing more still wait for their answer.
    pub half_closed: bool,
    /// Most connections.
    pub connections_max: usize,
    /// Most connections from one address; 0: no limit.
    pub connections_per_ip_max: usize,
}

/// `[ops]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpsSettings {
    /// The port of health and metrics.
    pub port: u16,
}

/// Where one service is.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSettings {
    /// Its instances.
    pub urls: UrlList,
}

/// `[upstream]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamSettings {
    /// Most time to connect.
    pub connect_timeout_ms: u64,
    /// The deadline of a request.
    pub timeout_ms: u64,
    /// The deadline of an admin's request.
    pub admin_timeout_ms: u64,
}

/// `[auth]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthSettings {
    /// The HS256 key.
    pub jwt_secret: SecretString,
    /// A key whose tokens count besides, while ours is changed: the next one, then the last one; empty: none.
    pub jwt_secret_also: SecretString,
    /// Where the identity provider's keys are; empty: nowhere.
    pub jwks: String,
    /// `iss` of the provider's tokens; empty: `issuer`.
    pub jwks_issuer: String,
    /// Time between readings of the keys.
    pub jwks_refresh_ms: u64,
    /// Least time between readings for want of a key or after a failure.
    pub jwks_retry_ms: u64,
    /// `iss`.
    pub issuer: String,
    /// `aud`.
    pub audience: String,
    /// Lifetime of issued tokens.
    pub token_ttl_s: u64,
    /// Longest lifetime of an admin's token outside the dev profile.
    pub admin_token_ttl_max_s: u64,
}

/// `[wechat]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WechatSettings {
    /// The mini-program; empty: off.
    pub app_id: String,
    /// Its secret.
    pub app_secret: SecretString,
    /// Where code2session is.
    pub base_url: Url,
    /// Most time for one exchange.
    pub timeout_ms: u64,
}

/// `[admission]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdmissionSettings {
    /// Most orders under way, of all items.
    pub orders_max: usize,
    /// Most orders that wait, per item.
    pub queue_max: usize,
    /// Most orders in one call.
    pub batch_max: usize,
    /// Most calls in flight, per item.
    pub flights_max: usize,
    /// Least time between two calls, per item, unless a call is full.
    pub min_interval_ms: u64,
    /// Most orders a second that leave for stock-service; 0: as they come.
    pub per_second_max: u32,
}

/// `[catalogue]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogueSettings {
    /// Time between questions to stock-service.
    pub poll_ms: u64,
    /// Time between questions to order-service.
    pub sales_poll_ms: u64,
    /// Age at which stock figures are marked.
    pub stale_after_ms: u64,
}

/// `[waits]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaitSettings {
    /// Most long polls.
    pub long_polls_max: usize,
    /// Most event streams.
    pub streams_max: usize,
}

/// `[line]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LineSettings {
    /// What purchase tokens are signed with; empty: a key derived from `internal.token`.
    pub secret: SecretString,
    /// The secret before this one, which still counts; empty: none.
    pub secret_previous: SecretString,
    /// People let in per second, for each item.
    pub admit_per_second: u32,
    /// Admissions not used yet, in percent of the units on offer.
    pub oversubscribe_percent: u32,
    /// How long an admission that is not used keeps a unit from others.
    pub hold_ms: u64,
    /// How long an admission is good.
    pub token_ttl_ms: u64,
    /// How long one who does not ask counts as there.
    pub presence_ms: u64,
    /// Most people in one line.
    pub people_max: u32,
    /// How long the keys of a line outlive its sale.
    pub keep_ms: u64,
    /// Orders without an admission that are asked for, of one user.
    pub unplaced: Bucket,
}

/// `[challenge]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChallengeSettings {
    /// Zero bits to find.
    pub difficulty_bits: u32,
    /// Zero bits to find above `hard_above_per_second`.
    pub hard_bits: u32,
    /// Above so many requests per second everybody is asked; 0: only where the sale asks.
    pub required_above_per_second: u64,
    /// Above so many requests per second it is harder; 0: never.
    pub hard_above_per_second: u64,
    /// How long an answer counts.
    pub ttl_ms: u64,
}

/// `[cors]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorsSettings {
    /// Origins that may call, with commas between.
    pub allowed_origins: String,
}

impl Settings {
    /// The settings of this process.
    ///
    /// # Errors
    /// Names the key that is unknown or has a bad value.
    pub fn load() -> Result<Self, SettingsError> {
        let settings: Self = common::settings::load(PREFIX, DEFAULTS)?;
        settings.validate()?;
        Ok(settings)
    }

    /// Whether the values fit together.
    ///
    /// # Errors
    /// Names the first key that does not fit.
    pub fn validate(&self) -> Result<(), SettingsError> {
        self.check_secrets()?;
        for (key, bits) in [
            ("challenge.difficulty_bits", self.challenge.difficulty_bits),
            ("challenge.hard_bits", self.challenge.hard_bits),
        ] {
            if bits > CHALLENGE_BITS_MAX {
                return Err(SettingsError::invalid(key, format!("must be at most {CHALLENGE_BITS_MAX}")));
            }
        }
        if !self.wechat.app_id.is_empty() && self.wechat.app_secret.expose_secret().is_empty() {
            return Err(SettingsError::invalid("wechat.app_secret", "is not set"));
        }
        if !self.http.public_url.is_empty() && Url::parse(&self.http.public_url).is_err() {
            return Err(SettingsError::invalid("http.public_url", "must be a URL"));
        }
        if self.admission.batch_max > RESERVE_BATCH_MAX {
            return Err(SettingsError::invalid(
                "admission.batch_max",
                format!("must be at most {RESERVE_BATCH_MAX}"),
            ));
        }
        self.concurrency.check()?;
        self.breaker.check()?;
        let positive = [
            ("http.body_timeout_ms", self.http.body_timeout_ms),
            ("redis.connect_timeout_ms", self.redis.connect_timeout_ms),
            ("redis.timeout_ms", self.redis.timeout_ms),
            ("upstream.connect_timeout_ms", self.upstream.connect_timeout_ms),
            ("upstream.timeout_ms", self.upstream.timeout_ms),
            ("upstream.admin_timeout_ms", self.upstream.admin_timeout_ms),
            ("breaker.open_ms", self.breaker.open_ms),
            ("auth.token_ttl_s", self.auth.token_ttl_s),
            ("auth.jwks_refresh_ms", self.auth.jwks_refresh_ms),
            ("auth.jwks_retry_ms", self.auth.jwks_retry_ms),
            ("wechat.timeout_ms", self.wechat.timeout_ms),
            ("line.admit_per_second", self.line.admit_per_second.into()),
            ("line.oversubscribe_percent", self.line.oversubscribe_percent.into()),
            ("line.hold_ms", self.line.hold_ms),
            ("line.token_ttl_ms", self.line.token_ttl_ms),
            ("line.presence_ms", self.line.presence_ms),
            ("line.people_max", self.line.people_max.into()),
            ("challenge.ttl_ms", self.challenge.ttl_ms),
            ("velocity.window_ms", self.velocity.window_ms),
            ("catalogue.poll_ms", self.catalogue.poll_ms),
            ("catalogue.sales_poll_ms", self.catalogue.sales_poll_ms),
        ];
        let counts = [
            ("http.connections_max", self.http.connections_max),
            ("admission.orders_max", self.admission.orders_max),
            ("admission.queue_max", self.admission.queue_max),
            ("admission.batch_max", self.admission.batch_max),
            ("admission.flights_max", self.admission.flights_max),
        ];
        let zero_time = positive.iter().find(|(_, value)| *value == 0).map(|(key, _)| key);
        let zero_count = counts.iter().find(|(_, value)| *value == 0).map(|(key, _)| key);
        match zero_time.or(zero_count) {
            Some(key) => Err(SettingsError::invalid(key, "must be at least 1")),
            None => Ok(()),
        }
    }

    /// What must not be guessed: secrets that are set, and passwords of stores.
    fn check_secrets(&self) -> Result<(), SettingsError> {
        self.internal.check(self.profile)?;
        self.check_tokens()?;
        if self.internal.token.expose_secret() == self.auth.jwt_secret.expose_secret() {
            return Err(SettingsError::invalid("auth.jwt_secret", "must not be internal.token"));
        }
        for (key, secret) in
            [("line.secret", &self.line.secret), ("line.secret_previous", &self.line.secret_previous)]
        {
            if !secret.expose_secret().is_empty() {
                check_secret(key, secret, self.profile)?;
            }
        }
        if !self.redis.url.expose_secret().is_empty() {
            check_store("redis.url", &self.redis.url, self.profile)?;
        }
        Ok(())
    }

    /// Tokens need a key: ours, or the provider's. Ours is needed for whatever is issued here.
    fn check_tokens(&self) -> Result<(), SettingsError> {
        let auth = &self.auth;
        let issues = self.is_dev() || !self.wechat.app_id.is_empty();
        if auth.jwks.is_empty() || issues || !auth.jwt_secret.expose_secret().is_empty() {
            check_secret("auth.jwt_secret", &auth.jwt_secret, self.profile)?;
        }
        if !auth.jwt_secret_also.expose_secret().is_empty() {
            check_secret("auth.jwt_secret_also", &auth.jwt_secret_also, self.profile)?;
        }
        if auth.jwks.starts_with("http:") && !self.is_dev() {
            return Err(SettingsError::invalid("auth.jwks", "must be https, or a file"));
        }
        Ok(())
    }

    /// What tokens and puzzles are signed with, and what else still counts.
    pub fn door_secrets(&self) -> (&[u8], Option<&[u8]>) {
        let (secret, previous) =
            (self.line.secret.expose_secret(), self.line.secret_previous.expose_secret());
        let (secret, previous) = match (secret, previous) {
            ("", "") => (self.internal.token.expose_secret(), self.internal.token_also.expose_secret()),
            ("", previous) => (self.internal.token.expose_secret(), previous),
            both => both,
        };
        (secret.as_bytes(), (!previous.is_empty()).then_some(previous.as_bytes()))
    }

    /// Whether this is a developer's machine.
    pub fn is_dev(&self) -> bool {
        self.profile == Profile::Dev
    }
}

impl PublicHttpSettings {
    /// Where the public server listens.
    pub fn listener(&self) -> HttpSettings {
        HttpSettings { host: self.host, port: self.port, workers: self.workers }
    }

    /// Where the ops server listens.
    pub fn ops_listener(&self, ops: &OpsSettings) -> HttpSettings {
        HttpSettings { host: self.host, port: ops.port, workers: 1 }
    }
}

impl UpstreamSettings {
    /// The deadline of a customer's request.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// The deadline of an admin's request.
    pub fn admin_timeout(&self) -> Duration {
        Duration::from_millis(self.admin_timeout_ms)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn with(values: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let secrets = [
            ("GATEWAY__INTERNAL__TOKEN", "kq8Zr2vX0pLw7TnYd4Hs9BfGc1MjUe6A"),
            ("GATEWAY__AUTH__JWT_SECRET", "Wb3uQz8LxE5rNf0KtVy7PmCd2JhSa9Gi"),
        ];
        let environment: HashMap<String, String> = secrets
            .iter()
            .chain(values)
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let settings: Settings = common::settings::load_from(PREFIX, DEFAULTS, environment)?;
        settings.validate()?;
        Ok(settings)
    }

    fn refused(key: &str, value: &str) -> String {
        with(&[(key, value)]).expect_err("must be refused").to_string()
    }

    #[test]
    fn the_defaults_and_two_secrets_are_enough() {
        let settings = with(&[]).expect("valid");
        assert!(!settings.is_dev());
    }

    #[test]
    fn our_key_is_needed_for_whatever_is_issued_here() {
        let provider = ("GATEWAY__AUTH__JWKS", "https://login.example/jwks.json");
        let no_key = ("GATEWAY__AUTH__JWT_SECRET", "");
        with(&[provider, no_key]).expect("the provider's tokens do");
        let refused = |values: &[(&str, &str)]| with(values).expect_err("must be refused").to_string();
        assert!(refused(&[no_key]).contains("auth.jwt_secret"));
        assert!(refused(&[provider, no_key, ("GATEWAY__PROFILE", "dev")]).contains("auth.jwt_secret"));
        let wechat = [("GATEWAY__WECHAT__APP_ID", "wx1"), ("GATEWAY__WECHAT__APP_SECRET", "s3cr3t")];
        assert!(refused(&[provider, no_key, wechat[0], wechat[1]]).contains("auth.jwt_secret"));
        assert!(refused(&[("GATEWAY__AUTH__JWKS", "http://login.example/jwks.json")]).contains("auth.jwks"));
        assert!(refused(&[provider, ("GATEWAY__AUTH__JWKS_RETRY_MS", "0")]).contains("auth.jwks_retry_ms"));
    }

    #[test]
    fn a_bad_value_is_refused_by_the_name_of_its_key() {
        assert!(refused("GATEWAY__AUTH__JWT_SECRET", "short").contains("auth.jwt_secret"));
        assert!(refused("GATEWAY__ADMISSION__BATCH_MAX", "257").contains("admission.batch_max"));
        assert!(refused("GATEWAY__ADMISSION__QUEUE_MAX", "0").contains("admission.queue_max"));
        assert!(
            refused("GATEWAY__LIMITS__TRUSTED_PROXIES", "10.0.0.0/33").contains("limits.trusted_proxies")
        );
        assert!(refused("GATEWAY__LIMITS__USER__ORDER__BURST", "0").contains("limits.user.order.burst"));
        assert!(refused("GATEWAY__WECHAT__APP_ID", "wx1").contains("wechat.app_secret"));
        assert!(refused("GATEWAY__AUTH__JWT_SECRET_ALSO", "short").contains("auth.jwt_secret_also"));
        assert!(refused("GATEWAY__INTERNAL__TOKEN_ALSO", "short").contains("internal.token_also"));
        assert!(refused("GATEWAY__LINE__SECRET", "short").contains("line.secret"));
        assert!(refused("GATEWAY__LINE__SECRET_PREVIOUS", "changeme").contains("line.secret_previous"));
        assert!(refused("GATEWAY__LINE__ADMIT_PER_SECOND", "0").contains("line.admit_per_second"));
        assert!(refused("GATEWAY__HTTP__PROT", "1").contains("prot"));
        assert!(
            refused("GATEWAY__AUTH__JWT_SECRET", "kq8Zr2vX0pLw7TnYd4Hs9BfGc1MjUe6A").contains("jwt_secret")
        );
    }
}
