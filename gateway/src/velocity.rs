//! Rules of velocity: how many orders, accounts and devices may come together within a window. Where buckets stop one
//! account that hammers, these see one person behind many accounts, and one account behind many devices.
//!
//! What people expect: never to meet such a rule; a family shares a tablet, a person has a phone and a computer. What
//! the best do (Stripe Radar, Sift): count distinct neighbours of an account over time, and let the operator set the
//! numbers. A device is what the client says it is, so a rule of devices stops who plays fair or is lazy; it is no proof.
//!
//! The counts are in Redis, for all gateways, in one call for an order that has passed everything else, the user's bucket
//! too. Without Redis these rules do not hold: buckets, the per-user limit and the waiting room do.

use std::time::Duration;

use common::ids::{OrderId, UserId};
use common::problem::{Code, Problem};
use metrics::Counter;

use crate::error::ApiError;
use crate::settings::VelocitySettings;
use crate::store::{Script, Store};

/// The braces put all of them into one slot of a cluster, so that one script can see two.
const KEY_PREFIX: &str = "limit:{velocity}";

/// One rule, as it is asked.
struct Rule {
    name: &'static str,
    key: String,
    seen: String,
    most: u32,
}

/// See the module.
pub struct Velocity {
    settings: VelocitySettings,
    store: Option<Store>,
    script: Script,
    unknown: Counter,
}

impl Velocity {
    /// With the counts in `store`.
    pub fn new(settings: &VelocitySettings, store: Option<Store>) -> Self {
        Self {
            settings: settings.clone(),
            store,
            script: Script::new("velocity", include_str!("../lua/velocity.lua")),
            unknown: metrics::counter!("gateway_velocity_unknown_total"),
        }
    }

    /// Counts an order of `user` from `device`. An order that was counted within the window is always let through.
    ///
    /// # Errors
    /// `rate_limited`, with the time until there is room.
    pub async fn check(&self, user: &UserId, device: Option<&str>, order: OrderId) -> Result<(), ApiError> {
        let Some(store) = &self.store else { return Ok(()) };
        let rules = self.rules(user, device, order);
        if rules.is_empty() {
            return Ok(());
        }
        let keys: Vec<&str> = rules.iter().map(|rule| rule.key.as_str()).collect();
        let answer = store.run(&self.script, &keys, |call| {
            call.arg(self.settings.window_ms);
            for rule in &rules {
                call.arg(&rule.seen).arg(rule.most);
            }
        });
        let decoded =
            answer.await.ok().and_then(|answer| redis::from_redis_value::<(usize, u64)>(answer).ok());
        let Some((refused_by, wait_ms)) = decoded else {
            self.unknown.increment(1);
            return Ok(());
        };
        let Some(rule) = refused_by.checked_sub(1).and_then(|index| rules.get(index)) else { return Ok(()) };
        metrics::counter!("gateway_velocity_refusals_total", "rule" => rule.name).increment(1);
        let wait = Duration::from_millis(wait_ms);
        Err(Problem::new(Code::RateLimited).retry_after_s(wait.as_secs() + 1).into())
    }

    /// The rules that are on, of what this order has.
    fn rules(&self, user: &UserId, device: Option<&str>, order: OrderId) -> Vec<Rule> {
        let settings = &self.settings;
        let rule = |name, of: &str, most, seen: &dyn ToString| {
            (most > 0).then(|| Rule {
                name,
                key: format!("{KEY_PREFIX}:{name}:{of}"),
                seen: seen.to_string(),
                most,
            })
        };
        let rules = [
            device.and_then(|device| rule("device-orders", device, settings.orders_per_device, &order)),
            device.and_then(|device| rule("device-accounts", device, settings.accounts_per_device, user)),
            rule("account-orders", user.as_str(), settings.orders_per_account, &order),
            device.and_then(|device| {
                rule("account-devices", user.as_str(), settings.devices_per_account, &device)
            }),
        ];
        rules.into_iter().flatten().collect()
    }
}
