//! `load_begin.lua`, `load_stage.lua`, `load_merge.lua`, `load_commit.lua`, `update.lua`

use std::collections::BTreeMap;

use common::api::inventory::AdminHold;
use common::messages::order::Units;
use stock_service::inventory::{Committed, Updated};

use super::{Hold, Item, Loading, News, OrderNo, ReopenAs, Server, Shelf, UserNo};
use crate::guard::Guard;

/// The absolute state of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Definition {
    /// First moment at which orders are taken.
    pub starts_ms: i64,
    /// First moment at which orders are no longer taken.
    pub ends_ms: i64,
    /// What an admin said of it.
    pub state: AdminHold,
    /// Most units of one user.
    pub limit: i64,
    /// Units in the sale.
    pub total: i64,
    /// Counts its changes.
    pub version: i64,
}

/// The staged keys of a load.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Staging {
    /// `staged-holds`
    pub holds: BTreeMap<OrderNo, Hold>,
    /// `staged-buyers`
    pub buyers: BTreeMap<UserNo, i64>,
    /// `staged-attempts`
    pub attempts: BTreeMap<UserNo, i64>,
}

/// Whether a load may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// It may.
    Yes {
        /// Whether the item was loaded here before.
        earlier: bool,
    },
    /// The gate is open with this epoch or a newer one.
    AlreadyOpen,
    /// A load with a newer epoch has begun.
    Superseded,
}

impl Shelf {
    /// Closes the gate for good and prepares a load.
    pub fn load_begin(&mut self, server: Server, epoch: i64) -> Begun {
        let fenced = server.rules.hold(Guard::LoaderEpoch);
        if fenced && self.item.is_some_and(|item| item.run == Some(server.run) && item.epoch >= epoch) {
            return Begun::AlreadyOpen;
        }
        if fenced && self.loading.is_some_and(|loading| loading.run == server.run && loading.epoch > epoch) {
            return Begun::Superseded;
        }
        if let Some(item) = &mut self.item {
            item.run = None;
        }
        self.staging = Staging::default();
        self.loading = Some(Loading {
            run: server.run,
            epoch,
            begun_ms: server.now_ms,
            active: 0,
            merged: 0,
            complete: false,
        });
        Begun::Yes { earlier: self.item.is_some() }
    }

    /// Stages orders; `false`: this load is not the one in progress in this process.
    pub fn load_stage(&mut self, server: Server, epoch: i64, orders: &[News]) -> bool {
        let fenced = server.rules.hold(Guard::LoaderEpoch);
        let Some(loading) = self
            .loading
            .as_mut()
            .filter(|loading| loading.run == server.run && (loading.epoch == epoch || !fenced))
        else {
            return false;
        };
        for order in orders {
            let News { order, user, quantity, units, version, created_ms, .. } = *order;
            if self.staging.holds.contains_key(&order) {
                continue;
            }
            self.staging
                .holds
                .insert(order, Hold { quantity, units, version, reserved_ms: created_ms, user });
            *self.staging.attempts.entry(user).or_default() += 1;
            if units != Units::Returned {
                *self.staging.buyers.entry(user).or_default() += quantity;
                loading.active += quantity;
            }
        }
        true
    }

    /// Counts what the source of truth does not know yet as held; what it knows leaves `unsettled`. `false`: this load
    /// is not the one in progress in this process.
    pub fn load_merge(&mut self, server: Server, epoch: i64) -> bool {
        let fenced = server.rules.hold(Guard::LoaderEpoch);
        let Some(loading) = self
            .loading
            .as_mut()
            .filter(|loading| loading.run == server.run && (loading.epoch == epoch || !fenced))
        else {
            return false;
        };
        for order in self.unsettled.keys().copied().collect::<Vec<_>>() {
            let staged = self.staging.holds.get(&order).map(|hold| hold.version);
            match self.holds.get(&order).filter(|hold| staged.is_none() && hold.units == Units::Held) {
                Some(hold) => {
                    *self.staging.buyers.entry(hold.user).or_default() += hold.quantity;
                    *self.staging.attempts.entry(hold.user).or_default() += 1;
                    loading.active += hold.quantity;
                    loading.merged += 1;
                    self.staging.holds.insert(order, *hold);
                }
                // What was merged before stays.
                None if staged == Some(0) => {}
                None => {
                    self.unsettled.remove(&order);
                }
            }
        }
        loading.complete = true;
        true
    }

    /// Replaces the books by the staged ones and opens the gate.
    pub fn load_commit(
        &mut self,
        server: Server,
        (epoch, staged, lease_ms): (i64, usize, i64),
        definition: Definition,
    ) -> Committed {
        let fenced = server.rules.hold(Guard::LoaderEpoch);
        let Some(loading) =
            self.loading.filter(|loading| loading.run == server.run && (loading.epoch == epoch || !fenced))
        else {
            return Committed::NotReady;
        };
        let newer = self.item.is_some_and(|item| item.run.is_some() || item.epoch >= epoch);
        let all_there = loading.complete && self.staging.holds.len() == staged + loading.merged;
        if !all_there || (newer && fenced) {
            return Committed::NotReady;
        }
        let staging = std::mem::take(&mut self.staging);
        (self.holds, self.buyers, self.attempts) = (staging.holds, staging.buyers, staging.attempts);
        self.loading = None;
        let available = definition.total - loading.active;
        let reopen = (lease_ms > 0).then_some((loading.begun_ms + lease_ms, ReopenAs::Loading));
        let ended = definition.state == AdminHold::Ended;
        let run = Some(server.run);
        self.item = Some(Item { run, epoch, definition, available, withheld: 0, reopen, ended });
        Committed::Opened { available, merged: i64::try_from(loading.merged).unwrap_or(i64::MAX) }
    }

    /// Takes over a newer definition.
    pub fn update(
        &mut self,
        server: Server,
        epoch_min: i64,
        lease_ms: i64,
        definition: Definition,
    ) -> Updated {
        let mut item = match self.gate(server, epoch_min) {
            Ok(item) => item,
            Err(shut) => return Updated::Shut(shut),
        };
        if item.definition.version >= definition.version {
            return Updated::NotNewer;
        }
        let before = item.definition;
        let refused_before = before.refuses_everybody(item.available, server.now_ms);
        let lowered_by = before.total - definition.total;
        let paid = item.withheld.min(lowered_by).max(0);
        item.withheld -= paid;
        item.available -= lowered_by - paid;
        item.definition = definition;
        item.ended |= definition.state == AdminHold::Ended;
        if refused_before && !definition.refuses_everybody(item.available, server.now_ms) {
            let paused = before.state == AdminHold::Paused;
            let shown_as = if paused { ReopenAs::Paused } else { ReopenAs::SoldOut };
            item.reopen = Some((server.now_ms + lease_ms, shown_as));
        }
        self.item = Some(item);
        Updated::Changed
    }
}
