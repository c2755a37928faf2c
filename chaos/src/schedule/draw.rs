//! The parts of a schedule.

use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::{
    AdminAction, AdminStep, Armed, Buyer, Goods, PlannedFault, Poison, PoisonKind, Shop, Then, Wish,
};
use crate::client_log::Forgery;
use crate::fault::{Fault, Store};
use crate::points::{self, Action};
use crate::proxy::Mode;
use crate::world::Edge;

/// Within which faults begin, from the moment the buyers do; in milliseconds.
const FAULTS_FROM_MS: u64 = 100;
const FAULTS_UNTIL_MS: u64 = 2_600;
/// How long a fault lasts.
const FAULT_MIN_MS: u64 = 100;
const FAULT_MAX_MS: u64 = 1_600;
/// Most faults that [`faults`] draws.
const FAULTS_MAX: usize = 5;
/// When order-service and the broker begin not to hear each other, for how long, and in which share of the schedules.
const UNHEARD_FROM_MS: std::ops::Range<u64> = 300..1_200;
const UNHEARD_FOR_MS: std::ops::Range<u64> = 500..1_200;
const UNHEARD_SHARE: f64 = 0.25;
/// Beginnings of the crash points that every order passes.
const BUSY: [&str; 6] = ["gateway.", "stock.", "order.", "outbox.", "payment.", "notify."];
/// Within which buyers make their wishes.
const BUYING_MS: u64 = 3_000;
/// Buyers, those that empty a sale not counted.
const BUYERS_MIN: usize = 36;
const BUYERS_MAX: usize = 56;

pub(super) fn shop(rng: &mut StdRng, emptied: bool) -> Shop {
    let goods = (0..rng.random_range(1..=2)).map(|_| Goods {
        stock: rng.random_range(6..=24),
        limit: rng.random_range(1..=3),
        price_cents: rng.random_range(1..=5_000),
    });
    let goods = goods.collect();
    let window_s = if rng.random_bool(0.8) { rng.random_range(2..=3) } else { 3_600 };
    let ends = !emptied && rng.random_bool(0.3);
    Shop { goods, window_s, ends_after_ms: ends.then(|| rng.random_range(1_500..3_000)) }
}

pub(super) fn buyers(rng: &mut StdRng, shop: &Shop, emptied: bool) -> Vec<Buyer> {
    let mut buyers = Vec::new();
    for n in 0..rng.random_range(BUYERS_MIN..=BUYERS_MAX) {
        let user = format!("u{n}");
        let wishes = (0..rng.random_range(1..=3)).map(|w| wish(rng, shop, format!("{user}-w{w}"))).collect();
        buyers.push(Buyer { user, listens: rng.random_bool(0.25), persistent: false, wishes });
    }
    if emptied {
        for item in 0..shop.goods.len() {
            for n in 0..shop.goods[item].stock + 4 {
                let user = format!("p{item}-{n}");
                let key = format!("{user}-w");
                let mut wish = wish(rng, shop, key);
                (wish.item, wish.quantity, wish.then, wish.at_once) = (item, 1, Then::Pay, 1);
                (wish.abandons, wish.mismatches, wish.asks_again) = (false, false, false);
                buyers.push(Buyer { user, listens: false, persistent: true, wishes: vec![wish] });
            }
        }
    }
    buyers
}

fn wish(rng: &mut StdRng, shop: &Shop, key: String) -> Wish {
    let item = rng.random_range(0..shop.goods.len());
    let all = [
        Forgery::WrongKey,
        Forgery::AlteredBody,
        Forgery::OldTimestamp,
        Forgery::WrongAmount,
        Forgery::WrongOrder,
    ];
    let forgeries = if rng.random_bool(0.3) { vec![all[rng.random_range(0..all.len())]] } else { Vec::new() };
    // Weights: most orders are paid or lapse.
    let then = [
        Then::Nothing,
        Then::Nothing,
        Then::Pay,
        Then::Pay,
        Then::Pay,
        Then::Cancel,
        Then::Cancel,
        Then::PayAndCancel,
        Then::PayAndCancel,
        Then::PayLate,
        Then::PayAtTheLastMoment,
        Then::FailThenPay,
    ];
    Wish {
        after_ms: rng.random_range(0..BUYING_MS / 2),
        item,
        quantity: if rng.random_bool(0.8) { 1 } else { 2 },
        key,
        at_once: if rng.random_bool(0.25) { rng.random_range(2..=4) } else { 1 },
        abandons: rng.random_bool(0.5),
        mismatches: rng.random_bool(0.1),
        then: then.choose(rng).copied().unwrap_or(Then::Pay),
        notices: rng.random_range(2..=5),
        forgeries,
        asks_again: rng.random_bool(0.6),
    }
}

pub(super) fn faults(rng: &mut StdRng) -> Vec<PlannedFault> {
    let mut faults: Vec<PlannedFault> = Vec::new();
    let mut lost: Option<Store> = None;
    for _ in 0..rng.random_range(1..=FAULTS_MAX) {
        let fault = Fault::draw(rng);
        let (at_ms, for_ms) =
            (rng.random_range(FAULTS_FROM_MS..FAULTS_UNTIL_MS), rng.random_range(FAULT_MIN_MS..FAULT_MAX_MS));
        // When both stores lose their data at once, nothing is promised.
        match (fault.loses(), lost) {
            (Some(store), Some(before)) if store != before => continue,
            (Some(store), _) => lost = Some(store),
            (None, _) => {}
        }
        faults.push(PlannedFault { at_ms, for_ms, fault });
    }
    faults.sort_by_key(|planned| planned.at_ms);
    faults
}

/// Nothing passes between order-service and the broker for a while, so that news go out and are not confirmed. Rare among
/// the other faults, and what an outbox is for.
pub(super) fn news_unheard(rng: &mut StdRng) -> Option<PlannedFault> {
    let unheard = PlannedFault {
        at_ms: rng.random_range(UNHEARD_FROM_MS),
        for_ms: rng.random_range(UNHEARD_FOR_MS),
        fault: Fault::Network { edge: Edge::OrderToBroker, mode: Mode::HalfOpen },
    };
    rng.random_bool(UNHEARD_SHARE).then_some(unheard)
}

pub(super) fn crash_points(rng: &mut StdRng) -> Vec<Armed> {
    let all = points::all();
    let mut armed = Vec::new();
    for _ in 0..rng.random_range(0..=3) {
        // Half of them where every order passes.
        let busy = all.iter().filter(|(_, point)| BUSY.iter().any(|prefix| point.starts_with(prefix)));
        let busy: Vec<_> = busy.copied().collect();
        let from = if rng.random_bool(0.5) { &busy } else { &all };
        let Some((service, point)) = from.choose(rng).copied() else { break };
        let action = Action::ALL[rng.random_range(0..Action::ALL.len())];
        let (at_ms, times) = (rng.random_range(0..FAULTS_UNTIL_MS / 2), rng.random_range(1..=2));
        armed.push(Armed { at_ms, service, point, action, times });
    }
    armed.sort_by_key(|armed| armed.at_ms);
    armed
}

pub(super) fn admin(rng: &mut StdRng, goods: usize, emptied: bool) -> Vec<AdminStep> {
    let mut steps = Vec::new();
    if rng.random_bool(0.3) {
        let at_ms = rng.random_range(300..1_500);
        steps.push(AdminStep { at_ms, what: AdminAction::Pause });
        steps.push(AdminStep { at_ms: at_ms + rng.random_range(200..900), what: AdminAction::Resume });
    }
    for _ in 0..rng.random_range(0..=3) {
        // Who empties a sale needs to know that there are buyers enough.
        let mut units = rng.random_range(1..=if emptied { 2 } else { 4 });
        if rng.random_bool(0.5) {
            units = -units;
        }
        let what = AdminAction::Restock { item: rng.random_range(0..goods), units };
        steps.push(AdminStep { at_ms: rng.random_range(100..2_800), what });
    }
    for _ in 0..rng.random_range(0..=3) {
        steps.push(AdminStep { at_ms: rng.random_range(1_200..3_500), what: AdminAction::Refund });
    }
    if rng.random_bool(0.3) {
        steps.push(AdminStep { at_ms: rng.random_range(1_500..3_500), what: AdminAction::Replay });
    }
    steps.sort_by_key(|step| step.at_ms);
    steps
}

pub(super) fn poison(rng: &mut StdRng, seed: u64) -> Vec<Poison> {
    let kinds = [
        PoisonKind::GarbageOrder,
        PoisonKind::GarbageReservation,
        PoisonKind::UnknownVersion,
        PoisonKind::NoUnits,
        PoisonKind::UnknownItem,
        PoisonKind::UnknownItem,
    ];
    let count = if rng.random_bool(0.6) { rng.random_range(1..=4) } else { 0 };
    let mut poison: Vec<Poison> = (0..count)
        .map(|n| Poison {
            at_ms: rng.random_range(100..2_000),
            kind: kinds[rng.random_range(0..kinds.len())],
            marker: format!("poison-{seed}-{n}-{:08x}", rng.random::<u32>()),
        })
        .collect();
    poison.sort_by_key(|poison| poison.at_ms);
    poison
}
