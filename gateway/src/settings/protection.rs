//! How the gateway protects itself and what is behind it.

use std::net::IpAddr;
use std::num::NonZeroU32;

use common::settings::SettingsError;
use ipnet::IpNet;
use redis_route::{AddressList, Mode};
use secrecy::SecretString;
use serde::Deserialize;

/// `[redis]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisSettings {
    /// `single`, `cluster` or `sentinel`.
    pub mode: Mode,
    /// Its address, which may hold a password; empty: none.
    pub url: SecretString,
    /// Further servers of the cluster, or the sentinels.
    pub addresses: AddressList,
    /// What sentinels know the primary by.
    pub master_name: String,
    /// The password of the sentinels; empty: none.
    pub sentinel_password: SecretString,
    /// Most time to connect.
    pub connect_timeout_ms: u64,
    /// Most time for an answer.
    pub timeout_ms: u64,
}

/// `[breaker]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreakerSettings {
    /// Failures in a row that open it.
    pub failures_max: u32,
    /// How long it stays open, give or take a half.
    pub open_ms: u64,
    /// How long a service that is back takes to get its whole load.
    pub slow_start_ms: u64,
}

/// `[concurrency]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConcurrencySettings {
    /// The limit never falls below.
    pub min: u32,
    /// Where the limit begins.
    pub initial: u32,
    /// The limit never rises above.
    pub max: u32,
    /// Answers as quick as this never shrink it.
    pub quick_ms: u32,
}

/// `[limits]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitSettings {
    /// Whose X-Forwarded-For is believed.
    pub trusted_proxies: CidrList,
    /// How many gateways there are.
    pub replicas: NonZeroU32,
    /// Who has no limit per address.
    pub ip_exempt: CidrList,
    /// Buckets of one user.
    pub user: UserLimits,
    /// Buckets of one address.
    pub ip: IpLimits,
}

/// Buckets of one user, by class of route.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserLimits {
    /// Placing orders.
    pub order: Bucket,
    /// Everything else of a customer.
    pub read: Bucket,
    /// Admin calls.
    pub admin: Bucket,
}

/// Buckets of one address, by class of route.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IpLimits {
    /// Placing orders.
    pub order: Bucket,
    /// Everything else of a customer.
    pub read: Bucket,
    /// Admin calls.
    pub admin: Bucket,
    /// Logging in.
    pub auth: Bucket,
    /// Payment callbacks.
    pub callback: Bucket,
}

/// One token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bucket {
    /// Tokens per second.
    pub per_second: NonZeroU32,
    /// Most tokens.
    pub burst: NonZeroU32,
}

/// `[retries]`: how often it is asked whether a refused order is a retry of an accepted one.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetrySettings {
    /// For one user.
    pub user: Bucket,
    /// For all of them.
    pub all: Bucket,
}

/// `[velocity]`; 0: no such rule.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VelocitySettings {
    /// What is counted: this long.
    pub window_ms: u64,
    /// Most orders tried from one device.
    pub orders_per_device: u32,
    /// Most accounts that order from one device.
    pub accounts_per_device: u32,
    /// Most orders tried by one account.
    pub orders_per_account: u32,
    /// Most devices that one account orders from.
    pub devices_per_account: u32,
}

/// CIDR blocks from a text such as `10.0.0.0/8,fd00::/8`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(try_from = "String")]
pub struct CidrList(pub Vec<IpNet>);

impl TryFrom<String> for CidrList {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let blocks = parts.map(|part| part.parse().map_err(|_| format!("{part} is not a CIDR block")));
        Ok(Self(blocks.collect::<Result<_, _>>()?))
    }
}

impl CidrList {
    /// Whether one of the blocks has `address`.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|block| block.contains(&address))
    }
}

impl BreakerSettings {
    pub(super) fn check(&self) -> Result<(), SettingsError> {
        match self.failures_max {
            0 => Err(SettingsError::invalid("breaker.failures_max", "must be at least 1")),
            _ => Ok(()),
        }
    }
}

impl ConcurrencySettings {
    pub(super) fn check(&self) -> Result<(), SettingsError> {
        if 1 <= self.min && self.min <= self.initial && self.initial <= self.max {
            return Ok(());
        }
        Err(SettingsError::invalid(
            "concurrency.initial",
            "1 <= concurrency.min <= concurrency.initial <= concurrency.max must hold",
        ))
    }
}
