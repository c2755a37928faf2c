//! Short schedules that lead to one crash point each.

use super::{AdminAction, AdminStep, Armed, PlannedFault, Poison, PoisonKind, Schedule, Then};
use crate::fault::Fault;

/// Buyers of a schedule for one crash point.
const CRASH_POINT_BUYERS: usize = 24;
/// Least units of each item: for everybody's first wish.
const CRASH_POINT_STOCK: i64 = 48;

impl Schedule {
    /// A short schedule for one crash point: every kind of operation, and nothing else that goes wrong than what it takes
    /// to get there.
    pub fn for_crash_point(seed: u64, armed: Armed) -> Self {
        let mut schedule = Self::draw(seed);
        schedule.replicas = 1;
        schedule.shop.window_s = 2;
        schedule.shop.ends_after_ms = None;
        schedule.buyers.retain(|buyer| !buyer.persistent);
        schedule.buyers.truncate(CRASH_POINT_BUYERS);
        for goods in &mut schedule.shop.goods {
            goods.stock = goods.stock.max(CRASH_POINT_STOCK);
        }
        // Chance leaves one out now and then, and the points on its way with it.
        for (buyer, then) in schedule.buyers.iter_mut().zip(Then::ALL.into_iter().cycle()) {
            if let Some(wish) = buyer.wishes.first_mut() {
                wish.then = then;
            }
        }
        schedule.faults = provocation(armed.point);
        schedule.crash_points = vec![armed];
        let poison = |n, at_ms, kind| Poison { at_ms, kind, marker: format!("poison-{seed}-{n}") };
        schedule.poison =
            vec![poison(0, 200, PoisonKind::GarbageReservation), poison(1, 600, PoisonKind::UnknownItem)];
        let step = |at_ms, what| AdminStep { at_ms, what };
        let fewer = |item| AdminAction::Restock { item, units: -1 };
        schedule.admin = vec![
            step(150, fewer(0)),
            step(400, fewer(0)),
            step(700, fewer(0)),
            step(1_200, AdminAction::Refund),
            step(1_500, AdminAction::Replay),
            step(2_000, AdminAction::Refund),
            step(2_500, AdminAction::Refund),
        ];
        schedule
    }
}

/// What it takes to get to a crash point that no ordinary order passes.
fn provocation(point: &str) -> Vec<PlannedFault> {
    let planned = |at_ms, for_ms, fault| PlannedFault { at_ms, for_ms, fault };
    if point.starts_with("rebuild.") {
        return vec![planned(700, 100, Fault::FlushRedis)];
    }
    if point.starts_with("generation.") {
        return vec![planned(800, 100, Fault::WipeBroker)];
    }
    if point.starts_with("relay.") {
        // Reservations that wait for a consumer are lost, and the queue is empty.
        let away = Fault::Kill { process: "order-service".to_owned() };
        return vec![planned(300, 1_400, away), planned(1_000, 100, Fault::WipeBroker)];
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::points::Action;

    #[test]
    fn everything_that_can_be_done_with_an_order_is_done_on_the_way_to_a_crash_point() {
        for seed in 10_000..10_400 {
            let armed =
                Armed { at_ms: 0, service: "order-service", point: "none", action: Action::Pause, times: 1 };
            let schedule = Schedule::for_crash_point(seed, armed);
            for then in Then::ALL {
                let doing = schedule.buyers.iter().filter(|buyer| buyer.wishes[0].then == then).count();
                assert!(doing >= 2, "seed {seed}: {doing} buyers do {then:?}");
            }
            let wanted: i64 = schedule.buyers.iter().map(|buyer| i64::from(buyer.wishes[0].quantity)).sum();
            let least = schedule.shop.goods.iter().map(|goods| goods.stock).min();
            assert!(least >= Some(wanted), "seed {seed}: {wanted} units are wanted of {least:?}");
        }
    }
}
