//! What the inventory decides and keeps, without Redis and HTTP.

use std::str::FromStr;

use common::api::inventory::StockOrder;
use common::api::{OrderStatus, Reason};
use common::ids::{Currency, OrderId, Quantity, SaleId, UserId};
use common::messages::order::{OrderV1, Units};

/// Most requests that one call of the reserve script decides.
pub const REQUESTS_PER_CALL_MAX: usize = 128;
/// Most orders that one call of the apply and stage scripts takes.
pub const ORDERS_PER_CALL_MAX: usize = 256;

/// One buyer's wish, with its deadline by the clock of Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The order to be.
    pub order_id: OrderId,
    /// Who buys.
    pub user_id: UserId,
    /// Units wanted.
    pub quantity: Quantity,
    /// When nobody waits for the answer any more, in ms of Redis' clock.
    pub deadline_ms: i64,
    /// When the waiting room admitted the buyer, if it did, in ms of its clock.
    pub admitted_ms: Option<i64>,
}

/// What the script decided about one wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// A hold was written now.
    Granted {
        /// Units left on offer.
        left: i64,
        /// When, in ms of Redis' clock.
        reserved_ms: i64,
    },
    /// This order was granted before.
    Known {
        /// Whether order-service has reported the order.
        settled: bool,
        /// When it was granted, in ms of Redis' clock.
        reserved_ms: i64,
    },
    /// Nothing was written.
    Refused(Refusal),
}

/// Why a wish was refused; return codes of `lua/reserve.lua`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Fewer units left than wanted.
    NotEnough,
    /// The user would have more than the limit.
    OverLimit,
    /// The sale is not open yet.
    NotStarted,
    /// The sale is over.
    Ended,
    /// The sale is held by an admin.
    Paused,
    /// The order id is known with another quantity or user.
    Mismatch,
    /// The deadline had passed when the script ran.
    DeadlinePassed,
    /// The user has had too many orders of this item, finished ones counted.
    TooManyAttempts,
    /// The item was loaded a moment ago; units are offered again in less than a lease.
    Reopening,
    /// The item has a waiting room, and the buyer was not admitted or has used the admission.
    PlaceRequired,
}

impl Refusal {
    /// The refusal of a negative code of `lua/reserve.lua`.
    pub fn from_code(code: i64) -> Option<Self> {
        match code {
            -2 => Some(Self::NotEnough),
            -3 => Some(Self::OverLimit),
            -4 => Some(Self::NotStarted),
            -5 => Some(Self::Ended),
            -6 => Some(Self::Paused),
            -7 => Some(Self::Mismatch),
            -8 => Some(Self::DeadlinePassed),
            -9 => Some(Self::TooManyAttempts),
            -12 => Some(Self::Reopening),
            -13 => Some(Self::PlaceRequired),
            _ => None,
        }
    }

    /// The value of the label `reason` in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::NotEnough => "sold_out",
            Self::OverLimit => "limit_exceeded",
            Self::NotStarted => "not_started",
            Self::Ended => "ended",
            Self::Paused => "paused",
            Self::Mismatch => "idempotency_mismatch",
            Self::DeadlinePassed => "deadline_passed",
            Self::TooManyAttempts => "too_many_attempts",
            Self::Reopening => "reopening",
            Self::PlaceRequired => "place_required",
        }
    }
}

/// Why an item's books cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shut {
    /// There is no such item in this Redis.
    Unknown,
    /// It was loaded into another server process, or is being loaded.
    Closed,
    /// A key is of the wrong type or a value makes no sense.
    Broken,
}

/// What is sold, as a grant has to state it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The epoch of the open gate.
    pub epoch: i64,
    /// The sale.
    pub sale_id: SaleId,
    /// Price of one unit in minor units.
    pub unit_price_cents: i64,
    /// Currency of the price.
    pub currency: Currency,
}

/// One entry of the hash `holds`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Units of the order.
    pub quantity: Quantity,
    /// Where they are.
    pub units: Units,
    /// The order's version as far as known; 0 until order-service has reported it.
    pub version: i64,
    /// When it was granted, in ms of Redis' clock.
    pub reserved_ms: i64,
    /// Whose it is.
    pub user_id: UserId,
}

/// A text is not a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not quantity:units:version:reserved_ms:user")]
pub struct NotAHold;

impl FromStr for Hold {
    type Err = NotAHold;

    fn from_str(text: &str) -> Result<Self, NotAHold> {
        let mut parts = text.splitn(5, ':');
        let mut next = || parts.next().ok_or(NotAHold);
        let quantity = next()?.parse::<u32>().map_err(|_| NotAHold)?;
        let units = units_from(next()?).ok_or(NotAHold)?;
        let version = next()?.parse().map_err(|_| NotAHold)?;
        let reserved_ms = next()?.parse().map_err(|_| NotAHold)?;
        let user_id = UserId::try_from(next()?.to_owned()).map_err(|_| NotAHold)?;
        let quantity = Quantity::try_from(quantity).map_err(|_| NotAHold)?;
        Ok(Self { quantity, units, version, reserved_ms, user_id })
    }
}

/// How scripts write where units are.
pub fn units_text(units: Units) -> &'static str {
    match units {
        Units::Held => "held",
        Units::Sold => "sold",
        Units::Returned => "returned",
    }
}

/// The reverse of [`units_text`].
pub fn units_from(text: &str) -> Option<Units> {
    match text {
        "held" => Some(Units::Held),
        "sold" => Some(Units::Sold),
        "returned" => Some(Units::Returned),
        _ => None,
    }
}

/// What the source of truth says of one order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderState {
    /// The order.
    pub order_id: OrderId,
    /// Whose it is.
    pub user_id: UserId,
    /// Its units.
    pub quantity: Quantity,
    /// Where they are.
    pub units: Units,
    /// The order's version, from 1.
    pub version: i64,
    /// When the order was made, in ms of the clock of the source of truth.
    pub created_ms: i64,
    /// Rejected because nothing was left in the source of truth: the units were never there.
    pub refused_by_total: bool,
}

impl From<&OrderV1> for OrderState {
    fn from(event: &OrderV1) -> Self {
        let order = &event.order;
        Self {
            order_id: order.id,
            user_id: event.user_id.clone(),
            quantity: order.quantity,
            units: event.units,
            version: order.version,
            created_ms: order.created_at.timestamp_millis(),
            refused_by_total: is_refused_by_total(order.status, order.reason),
        }
    }
}

impl From<&StockOrder> for OrderState {
    fn from(order: &StockOrder) -> Self {
        Self {
            order_id: order.order_id,
            user_id: order.user_id.clone(),
            quantity: order.quantity,
            units: order.units,
            version: order.version,
            created_ms: order.created_at.timestamp_millis(),
            refused_by_total: is_refused_by_total(order.status, order.reason),
        }
    }
}

fn is_refused_by_total(status: OrderStatus, reason: Option<Reason>) -> bool {
    status == OrderStatus::Rejected && reason == Some(Reason::SoldOut)
}

/// What became of one order in the books; return codes of `lua/apply_order.lua`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Applied {
    /// Nothing new.
    Unchanged,
    /// A newer version, units where they were.
    Noted,
    /// Units are on offer again.
    GaveBack,
    /// Units are counted as taken that were not.
    Adopted,
    /// A finished order that was not known: its key cannot take a unit again.
    Tombstone,
    /// Units that the source of truth says were never there: neither taken nor on offer.
    Withheld,
    /// The gate is closed and a load is in progress: applied after it.
    Kept,
    /// The gate is closed and no load is in progress: the one to come reads it.
    Dropped,
    /// It says what cannot be if the books are right: the gate was closed, and nothing of the batch was applied.
    Contradicts,
}

impl Applied {
    /// The outcome of a code of `lua/apply_order.lua`.
    pub fn from_code(code: i64) -> Option<Self> {
        match code {
            0 => Some(Self::Unchanged),
            1 => Some(Self::Noted),
            2 => Some(Self::GaveBack),
            3 => Some(Self::Adopted),
            4 => Some(Self::Tombstone),
            5 => Some(Self::Withheld),
            6 => Some(Self::Kept),
            7 => Some(Self::Dropped),
            8 => Some(Self::Contradicts),
            _ => None,
        }
    }

    /// The value of the label `outcome` in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::Noted => "noted",
            Self::GaveBack => "gave_back",
            Self::Adopted => "adopted",
            Self::Tombstone => "tombstone",
            Self::Withheld => "withheld",
            Self::Kept => "kept",
            Self::Dropped => "dropped",
            Self::Contradicts => "contradicts",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_is_read_as_the_scripts_write_it() {
        let hold: Hold = "2:held:0:1763829742123:u-1_x".parse().unwrap();
        assert_eq!((hold.quantity.get(), hold.units, hold.version), (2, Units::Held, 0));
        assert_eq!((hold.reserved_ms, hold.user_id.as_str()), (1_763_829_742_123, "u-1_x"));
        for bad in [
            "",
            "1:held:0:1",
            "0:held:0:1:u",
            "1:gone:0:1:u",
            "x:held:0:1:u",
            "1:held:0:1:a:b",
            "1:held:0:1:",
        ] {
            assert!(bad.parse::<Hold>().is_err(), "{bad:?} was taken for a hold");
        }
    }

    #[test]
    fn codes_of_the_scripts_are_all_known() {
        assert!((0..=8).all(|code| Applied::from_code(code).is_some()));
        assert!(Applied::from_code(9).is_none());
        let codes = [-2, -3, -4, -5, -6, -7, -8, -9, -12, -13];
        assert!(codes.iter().all(|code| Refusal::from_code(*code).is_some()));
        assert!(Refusal::from_code(-1).is_none());
    }
}
