//! Every place at which a fault campaign can make this service crash, stand still or fail; see [`common::failpoint`].
//!
//! `before` and `after` name the step between them. An error at a point is taken for a failure of its step.

/// A batch of events has arrived, nothing is stored.
pub const RECEIVE_AFTER: &str = "notify.receive.after";
/// Events and deliveries are written, not committed.
pub const COMMIT_BEFORE: &str = "notify.commit.before";
/// Committed; as an error: the answer to the commit was lost.
pub const COMMIT_AFTER: &str = "notify.commit.after";
/// Stored and parked, not acknowledged.
pub const ACK_BEFORE: &str = "notify.ack.before";
/// The acknowledgement is on its way.
pub const ACK_AFTER: &str = "notify.ack.after";
/// A delivery is taken, and nothing was sent.
pub const SEND_BEFORE: &str = "notify.send.before";
/// The receiver has answered; as an error: its answer was lost.
pub const SEND_AFTER: &str = "notify.send.after";
/// What came of a delivery is about to be recorded.
pub const RECORD_BEFORE: &str = "notify.record.before";
/// It is recorded.
pub const RECORD_AFTER: &str = "notify.record.after";

/// All of them.
pub const ALL: [&str; 9] = [
    RECEIVE_AFTER,
    COMMIT_BEFORE,
    COMMIT_AFTER,
    ACK_BEFORE,
    ACK_AFTER,
    SEND_BEFORE,
    SEND_AFTER,
    RECORD_BEFORE,
    RECORD_AFTER,
];
