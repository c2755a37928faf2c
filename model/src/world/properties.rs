//! What must hold: in every state, and in those where nothing is left to do.

use common::api::OrderStatus;
use common::messages::order::Units;

use super::{Load, Model, Outbox, World};
use crate::explorer::Judgement;

/// The properties, as they are printed.
pub const PROPERTIES: [&str; 10] = [
    "P1  units held or sold never exceed the total, and `taken` counts them",
    "P2  an accepted order is never rejected (and is at least an order, where two Redis serve at once)",
    "P2  at rest, every accepted order exists and its user was told its last state",
    "P3  the key of an accepted order is never refused",
    "P5  an order that is over never takes a unit again; its units come back once, here and there",
    "P7  no good message is parked",
    "S2  at rest, both stores know the same orders with the same units, and all units are accounted for",
    "S5  what order-service says of an order never contradicts the books",
    "S3  behind an open gate: available + held + sold + withheld = total",
    "L1  without further faults everything comes to rest, with no help of the reconciler",
];

impl Model {
    /// Judges one state.
    pub fn judge(&self, world: &World) -> Judgement {
        let broken = self.broken(world).or_else(|| self.broken_books(world));
        if let Some(property) = broken {
            return Judgement::Broken(property.to_owned());
        }
        if !self.is_quiet(world) {
            return Judgement::Busy;
        }
        match self.broken_at_rest(world) {
            Some(property) => Judgement::Broken(property.to_owned()),
            None => Judgement::Quiet,
        }
    }

    fn broken(&self, world: &World) -> Option<&'static str> {
        let postgres = &world.postgres;
        let active = postgres.orders.iter().flatten().filter(|row| row.units != Units::Returned).count();
        let active = i64::try_from(active).unwrap_or(i64::MAX);
        if active > postgres.total {
            return Some("P1: more units are held or sold than there are");
        }
        if active != postgres.taken {
            return Some("P5: `taken` is not what the orders take");
        }
        let rejected = |status| status == OrderStatus::Rejected;
        let broken_promise = world
            .buyers
            .iter()
            .zip(&postgres.orders)
            .any(|(buyer, row)| buyer.promised && row.is_some_and(|row| rejected(row.status)));
        if broken_promise && self.case.budget.failovers == 0 {
            return Some("P2: an accepted order is rejected");
        }
        world.breach
    }

    fn broken_books(&self, world: &World) -> Option<&'static str> {
        let item = world.redis.shelf.gate(self.server(&world.redis), 0).ok()?;
        let counted = item.available + world.redis.shelf.active() + item.withheld;
        (counted != item.definition.total).then_some("S3: the books of Redis do not add up")
    }

    /// Nothing is under way. A gate with an older epoch than was handed out is one that the next look at the list closes, and
    /// the load after that brings what was not applied behind it.
    fn is_quiet(&self, world: &World) -> bool {
        let shelf = &world.redis.shelf;
        let open = shelf.gate(self.server(&world.redis), world.postgres.epoch);
        let current = open.is_ok_and(|item| item.definition.version == world.postgres.version);
        let settled = shelf.unsettled.is_empty() && shelf.late.is_empty();
        let broker = &world.broker;
        let queues =
            broker.partition.is_empty() && broker.stock_news.is_empty() && broker.notify_news.is_empty();
        let idle = world.replicas.iter().all(|replica| replica.load == Load::Idle && !replica.stray);
        let told = world.postgres.outbox.values().all(|state| *state == Outbox::Done);
        let known = broker.number == world.postgres.generation;
        current && settled && queues && idle && told && known && world.flights.is_empty()
    }

    fn broken_at_rest(&self, world: &World) -> Option<&'static str> {
        for (buyer, row) in world.buyers.iter().zip(&world.postgres.orders) {
            match row {
                None if buyer.promised => return Some("P2: an accepted order does not exist"),
                Some(row) if row.version > buyer.told => return Some("P2: a user was not told"),
                None | Some(_) => {}
            }
        }
        // An event that a replica applied to the stray Redis is brought to the other one by the reconciler.
        if self.case.budget.failovers > 0 {
            return None;
        }
        let shelf = &world.redis.shelf;
        for order in 0..u8::try_from(world.buyers.len()).unwrap_or(u8::MAX) {
            let here = shelf.holds.get(&order).map(|hold| (hold.units, hold.version));
            let there = world.postgres.orders[usize::from(order)].map(|row| (row.units, row.version));
            if here != there {
                return Some("S2: the stores do not agree on an order");
            }
        }
        let item = shelf.item?;
        (item.available + world.postgres.taken != world.postgres.total)
            .then_some("S2: units are missing at rest")
    }
}
