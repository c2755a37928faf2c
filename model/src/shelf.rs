//! The keys of one item in Redis and what the scripts of stock-service do to them: `stock-service/lua`, line by line.
//!
//! `tests/it/scripts.rs` runs the real scripts on a real Redis beside this, so that the two cannot drift apart. Not here:
//! `lock_*.lua`, because locks only save work; `close.lua` and `retire.lua`; waiting rooms; and keys of the wrong type.

mod apply;
mod load;
mod reserve;

use std::collections::BTreeMap;

use common::api::inventory::AdminHold;
use common::messages::order::Units;
use stock_service::stock::Shut;

pub use self::apply::News;
pub use self::load::{Begun, Definition, Staging};
pub use self::reserve::Wish;

use crate::guard::{Guard, Rules};

/// Stands for an order id.
pub type OrderNo = u8;
/// Stands for a user id.
pub type UserNo = u8;

/// The Redis process that a script runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Server {
    /// Its run id.
    pub run: u32,
    /// Its clock.
    pub now_ms: i64,
    /// The guards in force.
    pub rules: Rules,
}

/// An entry of `holds`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hold {
    /// Units of the order.
    pub quantity: i64,
    /// Where they are.
    pub units: Units,
    /// The order's version; 0 until it was reported.
    pub version: i64,
    /// When it was granted.
    pub reserved_ms: i64,
    /// Whose it is.
    pub user: UserNo,
}

/// The hash `item`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Item {
    /// The process that it was loaded into; `None` while a load is in progress.
    pub run: Option<u32>,
    /// The epoch that it was loaded with.
    pub epoch: i64,
    /// What is sold.
    pub definition: Definition,
    /// Units on offer.
    pub available: i64,
    /// Units that the source of truth said were never there.
    pub withheld: i64,
    /// Until when nothing is offered, and as what that is shown.
    pub reopen: Option<(i64, ReopenAs)>,
    /// Whether an admin ended it.
    pub ended: bool,
}

/// The field `reopen_as`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReopenAs {
    /// Units came back to a sold-out item.
    SoldOut,
    /// A paused item goes on.
    Paused,
    /// The item was loaded.
    Loading,
}

/// The hash `loading`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Loading {
    /// The process that the load was begun in.
    pub run: u32,
    /// Its epoch.
    pub epoch: i64,
    /// When it began.
    pub begun_ms: i64,
    /// Units staged as held or sold.
    pub active: i64,
    /// Orders of `unsettled` that were staged.
    pub merged: usize,
    /// Whether all of `unsettled` was looked at.
    pub complete: bool,
}

/// The keys of one item.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Shelf {
    /// `item`
    pub item: Option<Item>,
    /// `holds`
    pub holds: BTreeMap<OrderNo, Hold>,
    /// `buyers`
    pub buyers: BTreeMap<UserNo, i64>,
    /// `unsettled`, with the times.
    pub unsettled: BTreeMap<OrderNo, i64>,
    /// `attempts`
    pub attempts: BTreeMap<UserNo, i64>,
    /// `loading`
    pub loading: Option<Loading>,
    /// `late`
    pub late: BTreeMap<OrderNo, News>,
    /// `staged-holds`, `staged-buyers`, `staged-attempts`
    pub staging: Staging,
    /// `alarm`: how often the books were found wrong.
    pub alarm: i64,
}

impl Shelf {
    /// Whether the item can be used: `include/gate.lua`.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn gate(&self, server: Server, epoch_min: i64) -> Result<Item, Shut> {
        let Some(item) = self.item else { return Err(Shut::Unknown) };
        let here = match item.run {
            Some(run) => run == server.run || !server.rules.hold(Guard::RunId),
            None => false,
        };
        if here && item.epoch >= epoch_min { Ok(item) } else { Err(Shut::Closed) }
    }

    /// Units of holds that are not returned.
    pub fn active(&self) -> i64 {
        let active = self.holds.values().filter(|hold| hold.units != Units::Returned);
        active.map(|hold| hold.quantity).sum()
    }
}

impl Definition {
    /// Whether nobody gets a unit: `update.lua`.
    fn refuses_everybody(&self, available: i64, now_ms: i64) -> bool {
        self.state != AdminHold::None || available <= 0 || now_ms >= self.ends_ms
    }
}
