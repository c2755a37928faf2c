//! Mistakes that a build for fault campaigns can be made to make, one at a time, to see whether the campaign notices;
//! see [`common::failpoint`]. Each breaks the promise (of README.md) or the invariant that its line names.

/// An attempt whose answer was lost is answered as one that had no effect. P2: a buyer goes elsewhere and has an order.
pub const UNKNOWN_SAID_NONE: &str = "unknown_said_none";
/// The client's Idempotency-Key is ignored. P3: a repetition is another order.
pub const KEY_IGNORED: &str = "key_ignored";
/// Whoever asks sees the order that is on its way. P8.
pub const FOREIGN_HOLD_SHOWN: &str = "foreign_hold_shown";

/// All of them.
pub const ALL: [&str; 3] = [UNKNOWN_SAID_NONE, KEY_IGNORED, FOREIGN_HOLD_SHOWN];
