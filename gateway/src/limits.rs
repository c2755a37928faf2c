//! Token buckets per user and per address: two independent limits, by class of route, in this process.

use std::net::IpAddr;
use std::time::Duration;

use common::ids::UserId;
use common::problem::{Code, Problem};
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio_util::sync::CancellationToken;

use crate::client_ip::limit_key;
use crate::error::ApiError;
use crate::settings::{Bucket, CidrList, LimitSettings};

/// How often full buckets are forgotten; without it they would be kept for ever.
const FORGET_INTERVAL: Duration = Duration::from_secs(5);

/// What a route is counted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Placing orders.
    Order,
    /// Everything else that customers do.
    Read,
    /// What admins do.
    Admin,
    /// Logging in: there is no user yet.
    Auth,
    /// Payment providers: there is no user.
    Callback,
}

/// All buckets of this process.
pub struct Limits {
    user_order: DefaultKeyedRateLimiter<UserId>,
    user_read: DefaultKeyedRateLimiter<UserId>,
    user_admin: DefaultKeyedRateLimiter<UserId>,
    ip_order: DefaultKeyedRateLimiter<u128>,
    ip_read: DefaultKeyedRateLimiter<u128>,
    ip_admin: DefaultKeyedRateLimiter<u128>,
    ip_auth: DefaultKeyedRateLimiter<u128>,
    ip_callback: DefaultKeyedRateLimiter<u128>,
    exempt: CidrList,
    clock: DefaultClock,
}

impl Limits {
    /// Full buckets; `exempt` addresses have no limit per address.
    pub fn new(settings: &LimitSettings, exempt: CidrList) -> Self {
        let (user, ip) = (&settings.user, &settings.ip);
        Self {
            user_order: RateLimiter::keyed(quota(user.order)),
            user_read: RateLimiter::keyed(quota(user.read)),
            user_admin: RateLimiter::keyed(quota(user.admin)),
            ip_order: RateLimiter::keyed(quota(ip.order)),
            ip_read: RateLimiter::keyed(quota(ip.read)),
            ip_admin: RateLimiter::keyed(quota(ip.admin)),
            ip_auth: RateLimiter::keyed(quota(ip.auth)),
            ip_callback: RateLimiter::keyed(quota(ip.callback)),
            exempt,
            clock: DefaultClock::default(),
        }
    }

    /// Takes a token of this address.
    ///
    /// # Errors
    /// `rate_limited`, with the time until there is one.
    pub fn check_ip(&self, class: Class, address: IpAddr) -> Result<(), ApiError> {
        if self.exempt.contains(address) {
            return Ok(());
        }
        let limiter = match class {
            Class::Order => &self.ip_order,
            Class::Read => &self.ip_read,
            Class::Admin => &self.ip_admin,
            Class::Auth => &self.ip_auth,
            Class::Callback => &self.ip_callback,
        };
        self.take(limiter, &limit_key(address))
    }

    /// Takes a token of this user; classes without users have no such limit.
    ///
    /// # Errors
    /// `rate_limited`, with the time until there is one.
    pub fn check_user(&self, class: Class, user: &UserId) -> Result<(), ApiError> {
        let limiter = match class {
            Class::Order => &self.user_order,
            Class::Read => &self.user_read,
            Class::Admin => &self.user_admin,
            Class::Auth | Class::Callback => return Ok(()),
        };
        self.take(limiter, user)
    }

    /// Forgets full buckets from time to time, until `stop`.
    ///
    /// # Errors
    /// Never.
    pub async fn forget(&self, stop: CancellationToken) -> anyhow::Result<()> {
        while stop.run_until_cancelled(tokio::time::sleep(FORGET_INTERVAL)).await.is_some() {
            for limiter in [&self.user_order, &self.user_read, &self.user_admin] {
                limiter.retain_recent();
                limiter.shrink_to_fit();
            }
            for limiter in [&self.ip_order, &self.ip_read, &self.ip_admin, &self.ip_auth, &self.ip_callback] {
                limiter.retain_recent();
                limiter.shrink_to_fit();
            }
        }
        Ok(())
    }

    fn take<K: Clone + Eq + std::hash::Hash>(
        &self,
        limiter: &DefaultKeyedRateLimiter<K>,
        key: &K,
    ) -> Result<(), ApiError> {
        limiter.check_key(key).map_err(|refusal| {
            let wait = refusal.wait_time_from(self.clock.now());
            Problem::new(Code::RateLimited).retry_after_s(wait.as_secs() + 1).into()
        })
    }
}

fn quota(bucket: Bucket) -> Quota {
    Quota::per_second(bucket.per_second).allow_burst(bucket.burst)
}
