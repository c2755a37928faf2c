//! Mistakes that a build for fault campaigns can be made to make, one at a time, to see whether the campaign notices;
//! see [`common::failpoint`]. Each breaks the promise (of README.md) or the invariant that its line names.

/// Reservations are acknowledged before their transaction has committed. P2: a 202 without an order.
pub const ACK_BEFORE_COMMIT: &str = "ack_before_commit";
/// A reservation that comes again raises `taken` again. P1's books: `taken` is more than the orders hold.
pub const TAKEN_COUNTED_TWICE: &str = "taken_counted_twice";
/// What cannot work is acknowledged and parked nowhere. P7.
pub const POISON_SWALLOWED: &str = "poison_swallowed";
/// One event that cannot work takes its whole batch along into the dead letters. P2, P7: good orders are parked.
pub const POISON_PARKS_NEIGHBOURS: &str = "poison_parks_neighbours";
/// The relay goes on above the highest outbox id it has seen. P2, P5: events that became visible or failed later are
/// never told.
pub const OUTBOX_ABOVE_LAST_SEEN: &str = "outbox_above_last_seen";
/// An outbox row counts as published whatever the broker says. P2, P5: events that the broker refused are never told.
pub const OUTBOX_MARKED_UNCONFIRMED: &str = "outbox_marked_unconfirmed";
/// Nobody notices that the broker has lost its data. P2: what it held is never told again.
pub const GENERATION_IGNORED: &str = "generation_ignored";
/// The fence of a load is not waited for. P1, P2: an inventory opens without orders that were accepted.
pub const FENCE_NOT_AWAITED: &str = "fence_not_awaited";
/// Paid orders expire too when their time to pay is over. P2, P5: an answer is taken back, money without goods.
pub const EXPIRY_IGNORES_STATUS: &str = "expiry_ignores_status";
/// An order that is cancelled does not lower `taken`. P5: its units never come back.
pub const CANCEL_KEEPS_UNITS: &str = "cancel_keeps_units";
/// Nobody is told of a cancellation. P2, P5: neither user nor inventory hear of it.
pub const CANCEL_UNTOLD: &str = "cancel_untold";
/// Events carry the order's version before the change. P2, P5: consumers take the news for known.
pub const EVENT_WITH_OLD_VERSION: &str = "event_with_old_version";
/// Money that is captured for an order that has ended is kept. P5.
pub const LATE_CAPTURE_KEPT: &str = "late_capture_kept";
/// Each attempt at a refund has a number of its own. P5: a provider may give the money back twice.
pub const REFUND_NUMBER_PER_TRY: &str = "refund_number_per_try";
/// A notice about another amount than the payment's is believed. P5: sold below its price.
pub const AMOUNT_NOT_CHECKED: &str = "amount_not_checked";
/// The same notice again counts as a second capture. P3, P5: a paid order's money goes back.
pub const NOTICE_COUNTED_AGAIN: &str = "notice_counted_again";
/// A write whose commit may have worked is answered as one that had no effect. P2.
pub const WRITE_SAID_NONE: &str = "write_said_none";
/// A total is lowered before the inventory has withdrawn the units. P2: accepted orders that the queue still carries are
/// rejected.
pub const LOWERED_FIRST: &str = "lowered_first";
/// Whoever asks sees the order. P8.
pub const FOREIGN_ORDER_SHOWN: &str = "foreign_order_shown";

/// All of them.
pub const ALL: [&str; 19] = [
    ACK_BEFORE_COMMIT,
    TAKEN_COUNTED_TWICE,
    POISON_SWALLOWED,
    POISON_PARKS_NEIGHBOURS,
    OUTBOX_ABOVE_LAST_SEEN,
    OUTBOX_MARKED_UNCONFIRMED,
    GENERATION_IGNORED,
    FENCE_NOT_AWAITED,
    EXPIRY_IGNORES_STATUS,
    CANCEL_KEEPS_UNITS,
    CANCEL_UNTOLD,
    EVENT_WITH_OLD_VERSION,
    LATE_CAPTURE_KEPT,
    REFUND_NUMBER_PER_TRY,
    AMOUNT_NOT_CHECKED,
    NOTICE_COUNTED_AGAIN,
    WRITE_SAID_NONE,
    LOWERED_FIRST,
    FOREIGN_ORDER_SHOWN,
];
