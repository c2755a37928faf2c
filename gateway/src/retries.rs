//! "The same key always learns of its order": before a new order would be refused for want of something that a retry
//! cannot be asked for (a solved challenge, an account that is not blocked), stock-service is asked whether this is a
//! retry of an accepted one.
//!
//! That is a call on a path that is there to spare calls, so it is bounded twice: for each user, and for the gateway.
//! It is made only where the client brought the key itself, for a key that was made here names nothing yet. Beyond the
//! bounds, and where stock-service does not say, nobody knows whether the refusal would be true. So it is not said: the
//! client is told when to ask again.

use std::time::Duration;

use common::ids::{OrderId, Quantity, UserId};
use common::problem::{Code, Problem};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::downstream::{Downstream, Priority};
use crate::error::ApiError;
use crate::limits::bucket::Buckets;
use crate::limits::seconds;
use crate::order_status::OrderStatusOf;
use crate::settings::RetrySettings;
use crate::token::{Caller, Role};

/// How often full buckets are forgotten.
const FORGET_INTERVAL: Duration = Duration::from_secs(5);

/// What is known of an order that is tried.
pub enum Before {
    /// It was accepted before.
    Accepted,
    /// It was not.
    Never,
    /// Nobody can say now: what the client is told instead, with the time to ask again.
    Unsaid(Problem),
}

/// How often it is asked.
pub struct Retries {
    of_user: Buckets<UserId>,
    of_all: Buckets<()>,
}

impl Retries {
    /// With these bounds.
    pub fn new(settings: &RetrySettings) -> Self {
        Self { of_user: Buckets::new(settings.user), of_all: Buckets::new(settings.all) }
    }

    /// Whether `order` was accepted before, for this user.
    ///
    /// # Errors
    /// `idempotency_mismatch`: it was, with another quantity.
    pub async fn accepted_before(
        &self,
        stock: &Downstream,
        user: &UserId,
        (order, quantity): (OrderId, Quantity),
        deadline: Instant,
    ) -> Result<Before, ApiError> {
        if let Err(wait) = self.of_user.take_watched(user) {
            return Ok(unsaid(Code::RateLimited, wait));
        }
        if let Err(wait) = self.of_all.take_watched(&()) {
            return Ok(unsaid(Code::TooBusy, wait));
        }
        let caller = Caller { user: user.clone(), role: Role::Customer, expires_at_s: 0 };
        let of = OrderStatusOf { orders: stock, stock, caller: &caller, priority: Priority::Order };
        let found = of.hold(order, deadline).await;
        let outcome = match &found {
            Ok(Some(_)) => "found",
            Ok(None) => "none",
            Err(_) => "unknown",
        };
        metrics::counter!("gateway_retries_looked_up_total", "outcome" => outcome).increment(1);
        match found {
            Ok(Some(hold)) if hold.user_id == *user && hold.quantity == quantity => Ok(Before::Accepted),
            Ok(Some(hold)) if hold.user_id == *user => Err(Code::IdempotencyMismatch.into()),
            Ok(_) => Ok(Before::Never),
            Err(error) => Ok(Before::Unsaid(error.problem())),
        }
    }

    /// Forgets full buckets from time to time, until `stop`.
    ///
    /// # Errors
    /// Never.
    pub async fn forget(&self, stop: CancellationToken) -> anyhow::Result<()> {
        while stop.run_until_cancelled(tokio::time::sleep(FORGET_INTERVAL)).await.is_some() {
            self.of_user.forget_full();
        }
        Ok(())
    }
}

fn unsaid(code: Code, wait: Duration) -> Before {
    metrics::counter!("gateway_retries_looked_up_total", "outcome" => "refused").increment(1);
    Before::Unsaid(Problem::new(code).retry_after_s(seconds(wait)))
}
