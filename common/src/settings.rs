//! Settings: loading them, and the sections that every service has.
//!
//! Embedded defaults, then an optional file, then the environment. An unknown key or a bad value stops the process
//! before it binds a port, and the error names the key. Values of secrets are never in an error.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use config::{Config, ConfigError, Environment, File, FileFormat};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::Url;

/// Fewest bytes of a secret outside the dev profile.
const SECRET_LENGTH_MIN_BYTES: usize = 32;
/// Parts of secrets that were published somewhere, in lower case; such a secret is refused however long it is.
const WEAK: [&str; 7] =
    ["changeme", "change-me", "change_me", "password", "insecure", "example", "dev-secret"];
/// Fewest bytes of a store's password outside the dev profile.
const PASSWORD_LENGTH_MIN_BYTES: usize = 12;
/// Passwords that stores come with, in lower case.
const FACTORY_PASSWORDS: [&str; 6] = ["guest", "admin", "root", "postgres", "rabbitmq", "redis"];
/// Fewest different bytes in a secret that was drawn at random.
const DIFFERENT_BYTES_MIN: usize = 8;

/// Why the settings cannot be used; `Display` names the key.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The defaults or the file cannot be read.
    #[error("settings cannot be read")]
    Source(#[source] ConfigError),
    /// A key is unknown, missing, or its value does not fit.
    #[error("setting `{key}`: {reason}")]
    Key {
        /// The key, with dots between levels.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl SettingsError {
    /// A value that a service refuses, for its own `validate()`.
    pub fn invalid(key: &str, reason: impl fmt::Display) -> Self {
        Self::Key { key: key.to_owned(), reason: reason.to_string() }
    }
}

/// Settings from the embedded defaults, the file named by `<PREFIX>__FILE`, and the environment.
///
/// # Errors
/// Names the first key that is unknown, missing or has a bad value.
pub fn load<T: DeserializeOwned>(prefix: &str, default_toml: &str) -> Result<T, SettingsError> {
    let start = format!("{prefix}__");
    let ours = std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value)))
        .filter(|(key, _)| key.starts_with(&start));
    let mut environment = HashMap::new();
    for (key, value) in ours {
        let Ok(value) = value.into_string() else {
            return Err(SettingsError::invalid(&key, "is not UTF-8"));
        };
        environment.insert(key, value);
    }
    load_from(prefix, default_toml, environment)
}

/// As [`load`], with another environment than the process' own.
///
/// # Errors
/// As [`load`].
pub fn load_from<T: DeserializeOwned>(
    prefix: &str,
    default_toml: &str,
    mut environment: HashMap<String, String>,
) -> Result<T, SettingsError> {
    let file = environment.remove(&format!("{prefix}__FILE"));
    let mut builder = Config::builder().add_source(File::from_str(default_toml, FileFormat::Toml));
    if let Some(file) = file {
        builder = builder.add_source(File::new(&file, FileFormat::Toml));
    }
    // No `try_parsing`: it makes a number of a secret that has only digits. Texts still become numbers where the
    // setting is one.
    let environment =
        Environment::with_prefix(prefix).prefix_separator("__").separator("__").source(Some(environment));
    let config = builder.add_source(environment).build().map_err(SettingsError::Source)?;

    serde_path_to_error::deserialize(config).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.into_inner();
        if let ConfigError::At { error, key: Some(key), .. } = reason {
            return SettingsError::invalid(&key, error);
        }
        SettingsError::invalid(&path, reason)
    })
}

/// What a process is run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// A developer's machine: weak secrets and sandbox routes are allowed.
    Dev,
    /// Everything else.
    Production,
}

/// Refuses a weak secret outside the dev profile: shorter than 32 bytes, well known, or of few different characters.
///
/// # Errors
/// Names `key`, never the value.
pub fn check_secret(key: &str, secret: &SecretString, profile: Profile) -> Result<(), SettingsError> {
    let text = secret.expose_secret();
    if text.is_empty() {
        return Err(SettingsError::invalid(key, "is not set"));
    }
    if profile == Profile::Dev {
        return Ok(());
    }
    if text.len() < SECRET_LENGTH_MIN_BYTES {
        let reason = format!("needs at least {SECRET_LENGTH_MIN_BYTES} bytes");
        return Err(SettingsError::invalid(key, reason));
    }
    let lower = text.to_lowercase();
    let different = text.bytes().collect::<std::collections::HashSet<_>>().len();
    if different < DIFFERENT_BYTES_MIN || WEAK.iter().any(|weak| lower.contains(weak)) {
        return Err(SettingsError::invalid(key, "is a well-known or guessable secret"));
    }
    Ok(())
}

/// Refuses an address of a store, outside the dev profile, that opens it to everybody: without a password, with the one
/// it came with, with the user's name for one, or with a short or well-known one.
///
/// # Errors
/// Names `key`, never the value.
pub fn check_store(key: &str, url: &SecretString, profile: Profile) -> Result<(), SettingsError> {
    if profile == Profile::Dev {
        return Ok(());
    }
    // The parser's error is not repeated: it may quote the password.
    let url = Url::parse(url.expose_secret()).map_err(|_| SettingsError::invalid(key, "must be a URL"))?;
    let password = url.password().unwrap_or_default().to_lowercase();
    if password.is_empty() {
        return Err(SettingsError::invalid(key, "needs a user with a password"));
    }
    let known = FACTORY_PASSWORDS.contains(&password.as_str())
        || WEAK.iter().any(|weak| password.contains(weak))
        || password == url.username().to_lowercase();
    if known || password.len() < PASSWORD_LENGTH_MIN_BYTES {
        let reason =
            format!("needs a password that nobody knows, of at least {PASSWORD_LENGTH_MIN_BYTES} bytes");
        return Err(SettingsError::invalid(key, reason));
    }
    Ok(())
}

/// Where a service listens.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpSettings {
    /// The address to bind.
    pub host: IpAddr,
    /// The port; 0 takes a free one.
    pub port: u16,
    /// Threads that serve requests; 0: one per core.
    pub workers: usize,
}

/// What services know each other by.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InternalSettings {
    /// The shared secret of `/internal/v1`, which calls carry.
    pub token: SecretString,
    /// One that is accepted besides, while the secret is changed: the next one, then the last one; empty: none.
    pub token_also: SecretString,
}

impl InternalSettings {
    /// Refuses weak secrets, as [`check_secret`].
    ///
    /// # Errors
    /// Names the key.
    pub fn check(&self, profile: Profile) -> Result<(), SettingsError> {
        check_secret("internal.token", &self.token, profile)?;
        if self.token_also.expose_secret().is_empty() {
            return Ok(());
        }
        check_secret("internal.token_also", &self.token_also, profile)
    }
}

/// What the process tells about itself.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetrySettings {
    /// Which events are logged, as an env-filter, such as `info,order_service=debug`.
    pub log: String,
    /// How logs look.
    pub format: LogFormat,
    /// The collector's base URL (OTLP over HTTP), such as `http://collector:4318`; empty: no traces, and logs on stdout
    /// alone.
    pub otlp_endpoint: String,
    /// The share of traces that are kept, 0 to 1, where the caller has not decided it.
    #[serde(default = "TelemetrySettings::sampling_ratio_default")]
    pub sampling_ratio: f64,
}

impl TelemetrySettings {
    fn sampling_ratio_default() -> f64 {
        0.01
    }

    /// Refuses values that could never work.
    ///
    /// # Errors
    /// Names the key below `telemetry`.
    pub fn validate(&self) -> Result<(), SettingsError> {
        if !(0.0..=1.0).contains(&self.sampling_ratio) {
            return Err(SettingsError::invalid("telemetry.sampling_ratio", "must be between 0 and 1"));
        }
        let endpoint = &self.otlp_endpoint;
        let usable = |url: Url| matches!(url.scheme(), "http" | "https") && url.has_host();
        if !endpoint.is_empty() && !Url::parse(endpoint).is_ok_and(usable) {
            return Err(SettingsError::invalid("telemetry.otlp_endpoint", "must be an http or https URL"));
        }
        Ok(())
    }
}

/// How logs look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}

/// How long a stop may take; see [`crate::serve`].
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainSettings {
    /// How long to go on serving after readiness is withdrawn, until balancers have noticed, in milliseconds.
    pub ready_delay_ms: u64,
    /// Most time for what is in flight after that, in milliseconds: two thirds for requests, one for tasks.
    pub timeout_ms: u64,
}

impl DrainSettings {
    /// How long to go on serving after readiness is withdrawn.
    pub fn ready_delay(&self) -> Duration {
        Duration::from_millis(self.ready_delay_ms)
    }

    /// Most time for requests in flight.
    pub fn http_timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms) * 2 / 3
    }

    /// Most time for [`crate::shutdown::Tasks::finish`].
    pub fn tasks_timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms) / 3
    }
}

/// One or more base URLs of the same service, from a text such as `http://a:8081,http://b:8081`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct UrlList(Vec<Url>);

impl UrlList {
    /// The URLs, at least one.
    pub fn as_slice(&self) -> &[Url] {
        &self.0
    }
}

impl TryFrom<String> for UrlList {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut urls = Vec::new();
        for part in text.split(',').map(str::trim) {
            // The text is not repeated: a URL may hold a password.
            let url =
                Url::parse(part).map_err(|error| format!("must be URLs with commas between: {error}"))?;
            if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
                return Err("must be http or https URLs".to_owned());
            }
            urls.push(url);
        }
        Ok(Self(urls))
    }
}
