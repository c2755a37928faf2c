//! Mistakes that a build for fault campaigns can be made to make, one at a time, to see whether the campaign notices;
//! see [`common::failpoint`]. Each breaks the promise (of README.md) or the invariant that its line names.

/// An event that comes again is told again, under another number. P3, and no webhook hears of it (P7).
pub const NO_DEDUPE: &str = "no_dedupe";
/// Events are acknowledged though they could not be stored. P2: the user is never told.
pub const ACK_WITHOUT_STORE: &str = "ack_without_store";
/// A stream that is resumed leaves out one event. P2: the user is not told.
pub const GAP_AT_RESUME: &str = "gap_at_resume";
/// A delivery is recorded as delivered without being sent. P7.
pub const DELIVERED_BEFORE_SENT: &str = "delivered_before_sent";
/// Each attempt at a delivery has a `webhook-id` of its own. P3: receivers cannot tell a repetition.
pub const ID_PER_ATTEMPT: &str = "id_per_attempt";

/// All of them.
pub const ALL: [&str; 5] =
    [NO_DEDUPE, ACK_WITHOUT_STORE, GAP_AT_RESUME, DELIVERED_BEFORE_SENT, ID_PER_ATTEMPT];
