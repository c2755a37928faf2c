//! What clients are told of their limits: the fields of draft-ietf-httpapi-ratelimit-headers.

use std::time::Duration;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use common::problem::{Code, Problem};

use super::bucket::Left;
use crate::settings::Bucket;

/// `"user-order";r=99;t=1`: tokens left, and the seconds until the bucket is full, or has a token at all.
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// `"user-order";q=100;w=5`: most tokens, and the seconds in which an empty bucket fills.
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// One limit, as it is called in headers and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Whose and what: `user-order`.
    pub name: &'static str,
    /// The bucket.
    pub bucket: Bucket,
}

/// How a client stands with one limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    policy: Policy,
    left: u32,
    reset: Duration,
}

impl Quota {
    /// A token was taken.
    pub fn taken(policy: Policy, left: Left) -> Self {
        Self { policy, left: left.tokens, reset: left.full_in }
    }

    /// There is no token for so long.
    pub fn exceeded(policy: Policy, wait: Duration) -> Self {
        Self { policy, left: 0, reset: wait }
    }

    /// The refusal of an exceeded limit.
    pub fn problem(&self) -> Problem {
        Problem::new(Code::RateLimited).retry_after_s(seconds(self.reset))
    }

    /// Tells the client.
    pub fn write(&self, headers: &mut HeaderMap) {
        let Policy { name, bucket } = self.policy;
        let window_s = bucket.burst.get().div_ceil(bucket.per_second.get());
        let policy = format!("\"{name}\";q={};w={window_s}", bucket.burst);
        let standing = format!("\"{name}\";r={};t={}", self.left, seconds(self.reset));
        for (header, text) in [(RATE_LIMIT_POLICY, policy), (RATE_LIMIT, standing)] {
            if let Ok(value) = HeaderValue::try_from(text) {
                headers.insert(header, value);
            }
        }
    }
}

/// Whole seconds, rounded up, so that whoever waits so long does not come too early.
pub fn seconds(time: Duration) -> u64 {
    time.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)
}
