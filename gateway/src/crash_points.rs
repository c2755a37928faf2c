//! Every place at which a fault campaign can make this service crash, stand still or fail; see [`common::failpoint`].
//! All of them are on the way of an order; an error at a point is taken for a failure of its step.

/// An order has arrived, no limit was asked.
pub const LIMIT_BEFORE: &str = "gateway.limit.before";
/// The user's limit lets it pass.
pub const LIMIT_AFTER: &str = "gateway.limit.after";
/// stock-service was not asked.
pub const FORWARD_BEFORE: &str = "gateway.forward.before";
/// stock-service has answered; as an error: its answer was lost.
pub const FORWARD_AFTER: &str = "gateway.forward.after";
/// The answer is known, and the buyer has not got it.
pub const REPLY_BEFORE: &str = "gateway.reply.before";

/// All of them.
pub const ALL: [&str; 5] = [LIMIT_BEFORE, LIMIT_AFTER, FORWARD_BEFORE, FORWARD_AFTER, REPLY_BEFORE];
