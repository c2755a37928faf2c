//! Rate limits per user and per address: two independent buckets, never their product, by class of route.
//!
//! Users expect to notice a limit only when they hammer, and then to be told when to come back. The best known systems
//! (Envoy's local before global rate limit, Stripe's limiters) decide locally first and ask a shared counter only for
//! what passes, which then decides; neither lets an outage of the counter open or close the door.
//!
//! So each replica has its own buckets, and refuses from them without a network call. An order that passes them takes
//! its token from the buckets that all replicas share, in one script call with whoever else waits.
//!
//! Who orders for the first time in a while does not even wait for that: the order goes on, and its token is taken a
//! moment later, from a bucket that may then owe it. Such credit is a share of the rate and a hundredth of the burst for
//! each replica, so together they give away no more than the rate and a few per cent of the burst. In a sale nearly
//! every buyer comes once.
//!
//! Is Redis away, there is no credit, and this replica takes as much from its own bucket as all replicas together could
//! have given away meanwhile: a share of rate and burst.

pub mod bucket;
mod quota;
mod shared;

use std::net::IpAddr;
use std::time::Duration;

use common::ids::UserId;
use common::shutdown::Tasks;
use metrics::Counter;
use tokio_util::sync::CancellationToken;

use crate::client_ip::limit_key;
use crate::error::ApiError;
use crate::settings::{Bucket, CidrList, LimitSettings};
use crate::store::Store;
use bucket::{Buckets, Left};
use shared::{Shared, SharedBuckets};

pub use quota::{Policy, Quota, seconds};

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

/// One limit and its buckets here.
struct Limit<K> {
    policy: Policy,
    buckets: Buckets<K>,
    refused: Counter,
}

impl<K: Clone + Eq + std::hash::Hash> Limit<K> {
    fn new(name: &'static str, bucket: Bucket) -> Self {
        let refused = metrics::counter!("gateway_limit_refusals_total", "limit" => name);
        Self { policy: Policy { name, bucket }, buckets: Buckets::new(bucket), refused }
    }

    /// The standing after a bucket has spoken.
    fn told(&self, said: Result<Left, Duration>) -> Result<Quota, ApiError> {
        said.map(|left| Quota::taken(self.policy, left)).map_err(|wait| {
            self.refused.increment(1);
            ApiError::Limited(Box::new(Quota::exceeded(self.policy, wait)))
        })
    }
}

/// All buckets of this process, and the way to the shared ones.
pub struct Limits {
    user_order: Limit<UserId>,
    user_read: Limit<UserId>,
    user_admin: Limit<UserId>,
    ip_order: Limit<u128>,
    ip_read: Limit<u128>,
    ip_admin: Limit<u128>,
    ip_auth: Limit<u128>,
    ip_callback: Limit<u128>,
    exempt: CidrList,
    shared: Option<SharedBuckets>,
    user_credit: Buckets<UserId>,
    ip_credit: Buckets<u128>,
    replicas: u32,
    alone: Counter,
}

impl Limits {
    /// `exempt` addresses have no limit per address; `store` has the buckets that replicas share, and is asked by some of
    /// `tasks`.
    pub fn new(settings: &LimitSettings, exempt: CidrList, store: Option<Store>, tasks: &Tasks) -> Self {
        let (user, ip) = (&settings.user, &settings.ip);
        Self {
            user_order: Limit::new("user-order", user.order),
            user_read: Limit::new("user-read", user.read),
            user_admin: Limit::new("user-admin", user.admin),
            ip_order: Limit::new("ip-order", ip.order),
            ip_read: Limit::new("ip-read", ip.read),
            ip_admin: Limit::new("ip-admin", ip.admin),
            ip_auth: Limit::new("ip-auth", ip.auth),
            ip_callback: Limit::new("ip-callback", ip.callback),
            exempt,
            shared: store.map(|store| SharedBuckets::new(store, user.order, ip.order, tasks)),
            user_credit: Buckets::part_of(user.order, settings.replicas.get()),
            ip_credit: Buckets::part_of(ip.order, settings.replicas.get()),
            replicas: settings.replicas.get(),
            alone: metrics::counter!("gateway_limit_alone_total"),
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
        let key = limit_key(address);
        let limit = match class {
            Class::Order => return self.ip_order.told(self.first(&self.ip_order, &key)).map(drop),
            Class::Read => &self.ip_read,
            Class::Admin => &self.ip_admin,
            Class::Auth => &self.ip_auth,
            Class::Callback => &self.ip_callback,
        };
        limit.told(limit.buckets.take(&key)).map(drop)
    }

    /// Takes a token of this user, for anything but an order; classes without users have no such limit.
    ///
    /// # Errors
    /// `rate_limited`, with the time until there is one.
    pub fn check_user(&self, class: Class, user: &UserId) -> Result<(), ApiError> {
        let limit = match class {
            // Placing orders takes its token later, when the snapshot has had its say.
            Class::Order => return Ok(()),
            Class::Read => &self.user_read,
            Class::Admin => &self.user_admin,
            Class::Auth | Class::Callback => return Ok(()),
        };
        limit.told(limit.buckets.take(user)).map(drop)
    }

    /// Takes the tokens for an order: of the user here, and of user and address where all replicas see it. The address
    /// has passed [`Limits::check_ip`].
    ///
    /// # Errors
    /// `rate_limited`, with the time until there is one.
    pub async fn take_for_order(&self, user: &UserId, address: IpAddr) -> Result<Quota, ApiError> {
        let here = self.user_order.told(self.first(&self.user_order, user))?;
        let address = (!self.exempt.contains(address)).then(|| limit_key(address));
        if let Some(shared) = &self.shared {
            if shared.give_credit() && self.has_credit(user, address) && shared.owe(user, address) {
                return Ok(here);
            }
            match shared.take(user, address).await {
                Ok(Shared::Taken(left)) => return self.user_order.told(Ok(left)),
                Ok(Shared::UserEmpty(wait)) => return self.user_order.told(Err(wait)),
                Ok(Shared::AddressEmpty(wait)) => return self.ip_order.told(Err(wait)),
                Err(_) => {} // The cause is in the log.
            }
        }
        self.alone.increment(1);
        if let Some(address) = address {
            let of_others = self.ip_order.buckets.take_share_of_others(&address, self.replicas);
            self.ip_order.told(of_others)?;
        }
        self.user_order.told(self.user_order.buckets.take_share_of_others(user, self.replicas))
    }

    /// Takes from the credit of user and address, as far as there is any.
    fn has_credit(&self, user: &UserId, address: Option<u128>) -> bool {
        self.user_credit.take_watched(user).is_ok()
            && address.is_none_or(|address| self.ip_credit.take_watched(&address).is_ok())
    }

    /// The first token of an order: where the replicas have a common count, that one keeps the burst after a restart.
    fn first<K: Clone + Eq + std::hash::Hash>(&self, limit: &Limit<K>, key: &K) -> Result<Left, Duration> {
        if self.shared.is_some() { limit.buckets.take_watched(key) } else { limit.buckets.take(key) }
    }

    /// Forgets full buckets from time to time, until `stop`.
    ///
    /// # Errors
    /// Never.
    pub async fn forget(&self, stop: CancellationToken) -> anyhow::Result<()> {
        while stop.run_until_cancelled(tokio::time::sleep(FORGET_INTERVAL)).await.is_some() {
            for limit in [&self.user_order, &self.user_read, &self.user_admin] {
                limit.buckets.forget_full();
            }
            for limit in [&self.ip_order, &self.ip_read, &self.ip_admin, &self.ip_auth, &self.ip_callback] {
                limit.buckets.forget_full();
            }
            self.user_credit.forget_full();
            self.ip_credit.forget_full();
        }
        Ok(())
    }
}
