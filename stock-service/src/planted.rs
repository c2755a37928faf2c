//! Mistakes that a build for fault campaigns can be made to make, one at a time, to see whether the campaign notices.
//! See [`common::failpoint`]; without its feature none of them can be made.
//!
//! Each is made at the very place where the right thing is done. For the scripts, that is their text: see [`IN_SCRIPTS`].

/// The gate asks neither which server process it is nor of which of its times as a primary: a restored or lagging Redis sells what is sold (P1, P2).
pub const NO_RUN_ID_CHECK: &str = "no_run_id_check";
/// A load takes the total as available, whatever orders there are (P1).
pub const REBUILD_IGNORES_ORDERS: &str = "rebuild_ignores_orders";
/// A load leaves finished orders out: a retry of theirs is a new order, or is refused (P3).
pub const REBUILD_WITHOUT_TOMBSTONES: &str = "rebuild_without_tombstones";
/// The fence goes through another partition: a load does not wait for what is in the item's own queue (P1, P2).
pub const FENCE_ELSEWHERE: &str = "fence_elsewhere";
/// A message that no queue took counts as delivered (P2).
pub const RETURNED_IS_DELIVERED: &str = "returned_is_delivered";
/// A grant is not written to `unsettled`: nobody announces it when the broker loses it (P2).
pub const UNSETTLED_NOT_WRITTEN: &str = "unsettled_not_written";
/// An order id leaves `unsettled` at the broker's confirm: a broker that loses its data loses orders (P2).
pub const SETTLED_AT_CONFIRM: &str = "settled_at_confirm";
/// 202 without publishing: a Redis that loses its data loses orders (P2).
pub const ACCEPTED_UNPUBLISHED: &str = "accepted_unpublished";
/// The per-user limit is not checked (P4).
pub const LIMIT_NOT_CHECKED: &str = "limit_not_checked";
/// What is left is not checked (P1).
pub const STOCK_NOT_CHECKED: &str = "stock_not_checked";
/// A known order id is not recognised: a retry takes one more unit, or is refused (P3).
pub const KNOWN_ID_FORGOTTEN: &str = "known_id_forgotten";
/// Units come back again with each repetition of an event (P5, P1).
pub const RELEASED_TWICE: &str = "released_twice";
/// Units do not come back (P5).
pub const NEVER_RELEASED: &str = "never_released";
/// An older version of an order overwrites a newer one (P5).
pub const OLDER_VERSION_APPLIED: &str = "older_version_applied";
/// The relay never publishes again: what lost its message is never an order (P2).
pub const RELAY_NEVER_PUBLISHES: &str = "relay_never_publishes";
/// Units that were withdrawn for a lower total are still on offer (P2).
pub const WITHDRAWN_STAYS_ON_OFFER: &str = "withdrawn_stays_on_offer";

/// Every mistake.
pub const ALL: [&str; 16] = [
    NO_RUN_ID_CHECK,
    REBUILD_IGNORES_ORDERS,
    REBUILD_WITHOUT_TOMBSTONES,
    FENCE_ELSEWHERE,
    RETURNED_IS_DELIVERED,
    UNSETTLED_NOT_WRITTEN,
    SETTLED_AT_CONFIRM,
    ACCEPTED_UNPUBLISHED,
    LIMIT_NOT_CHECKED,
    STOCK_NOT_CHECKED,
    KNOWN_ID_FORGOTTEN,
    RELEASED_TWICE,
    NEVER_RELEASED,
    OLDER_VERSION_APPLIED,
    RELAY_NEVER_PUBLISHES,
    WITHDRAWN_STAYS_ON_OFFER,
];

/// A mistake that is a change of a script's text.
#[derive(Debug, Clone, Copy)]
pub struct InScript {
    /// The mistake.
    pub name: &'static str,
    /// What the text says.
    pub right: &'static str,
    /// What it says instead.
    pub wrong: &'static str,
}

/// Either of the two ids would notice a restart.
const SERVER_ASKED: &str =
    "  if run_id and epoch and run_id == server_run_id() and tonumber(epoch) >= epoch_min then
    local replid = try('HGET', KEYS[1], 'replid')
    if not replid or replid == server_replid() then
      return OPEN
    end
  end
";
const SERVER_NOT_ASKED: &str = "  if run_id and epoch and tonumber(epoch) >= epoch_min then
    return OPEN
  end
";
const WITHDRAWN: &str =
    "redis.call('HSET', KEYS[1], 'available', available - moved, 'withheld', withheld + moved,
  'withdrawn', withdrawn + moved)";
const APPLIED_ONCE: &str = "  if hold and hold.version >= order.version then
    return UNCHANGED
  end
  local before = hold and hold.units ~= 'returned' and hold.quantity or 0
";
const APPLIED_AGAIN: &str = "  if hold and hold.version > order.version then
    return UNCHANGED
  end
  local before = hold and hold.quantity or 0
";

/// The mistakes that are made in whichever scripts have the text.
pub const IN_SCRIPTS: [InScript; 9] = [
    InScript { name: NO_RUN_ID_CHECK, right: SERVER_ASKED, wrong: SERVER_NOT_ASKED },
    InScript {
        name: UNSETTLED_NOT_WRITTEN,
        right: "redis.call('ZADD', KEYS[4], unpack(new_unsettled))",
        wrong: "",
    },
    InScript { name: LIMIT_NOT_CHECKED, right: "bought[user] + quantities[i] > limit", wrong: "false" },
    InScript { name: STOCK_NOT_CHECKED, right: "available < quantities[i]", wrong: "false" },
    InScript { name: KNOWN_ID_FORGOTTEN, right: "local known = seen[id]", wrong: "local known = nil" },
    InScript { name: RELEASED_TWICE, right: APPLIED_ONCE, wrong: APPLIED_AGAIN },
    InScript {
        name: OLDER_VERSION_APPLIED,
        right: "hold and hold.version >= order.version",
        wrong: "hold and hold.version == order.version",
    },
    InScript { name: WITHDRAWN_STAYS_ON_OFFER, right: WITHDRAWN, wrong: "" },
    InScript { name: NEVER_RELEASED, right: "available = available + quantity", wrong: "" },
];
