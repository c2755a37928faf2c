//! What happens in one schedule, all of it drawn from one seed before anything starts.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;

use crate::client_log::Forgery;
use crate::fault::{Fault, Store};
use crate::points::{self, Action};

/// Within which faults begin, from the moment the buyers do; in milliseconds.
const FAULTS_FROM_MS: u64 = 250;
const FAULTS_UNTIL_MS: u64 = 2_600;
/// How long a fault lasts.
const FAULT_MIN_MS: u64 = 100;
const FAULT_MAX_MS: u64 = 1_600;
/// Most faults in a schedule.
const FAULTS_MAX: usize = 5;
/// Within which buyers make their wishes.
const BUYING_MS: u64 = 3_000;
/// Most operations that a schedule makes before the system is left alone.
const BUYERS_MIN: usize = 36;
const BUYERS_MAX: usize = 56;

/// One schedule.
#[derive(Debug, Clone, Serialize)]
pub struct Schedule {
    /// What everything was drawn from.
    pub seed: u64,
    /// Processes of each service.
    pub replicas: usize,
    /// What is sold.
    pub shop: Shop,
    /// Who buys, and how.
    pub buyers: Vec<Buyer>,
    /// What admins do meanwhile, by time.
    pub admin: Vec<AdminStep>,
    /// What goes wrong, by time.
    pub faults: Vec<PlannedFault>,
    /// Where processes crash, stand still or fail, by time.
    pub crash_points: Vec<Armed>,
    /// Messages that cannot be handled, by time.
    pub poison: Vec<Poison>,
    /// How often stock-service compares its books with order-service's, in milliseconds.
    pub reconcile_ms: u64,
}

/// What is sold.
#[derive(Debug, Clone, Serialize)]
pub struct Shop {
    /// The items of the one sale.
    pub goods: Vec<Goods>,
    /// Seconds to pay.
    pub window_s: u32,
    /// When the sale ends, after the buyers begin; `None`: much later.
    pub ends_after_ms: Option<u64>,
}

/// One item.
#[derive(Debug, Clone, Serialize)]
pub struct Goods {
    /// Units.
    pub stock: i64,
    /// Most units of one user.
    pub limit: u32,
    /// Price of one unit, in minor units.
    pub price_cents: i64,
}

/// One buyer with all their wishes, which they make one after the other.
#[derive(Debug, Clone, Serialize)]
pub struct Buyer {
    /// The user id.
    pub user: String,
    /// Whether they follow their event stream.
    pub listens: bool,
    /// Never gives up until an order is paid: whether units are left over is judged by them (S8).
    pub persistent: bool,
    /// In order.
    pub wishes: Vec<Wish>,
}

/// One wish: an order, and what becomes of it.
#[derive(Debug, Clone, Serialize)]
pub struct Wish {
    /// Thinking time before it.
    pub after_ms: u64,
    /// Which of the shop's goods.
    pub item: usize,
    /// How many units.
    pub quantity: u32,
    /// The Idempotency-Key.
    pub key: String,
    /// Requests that are sent at the same time with the same key, the first one included.
    pub at_once: usize,
    /// After an unknown outcome: ask again with the same key, or never again.
    pub abandons: bool,
    /// Ask for another quantity with the same key, too.
    pub mismatches: bool,
    /// What is done with the order.
    pub then: Then,
    /// How often a genuine notice is delivered in all.
    pub notices: usize,
    /// Notices that nobody may believe.
    pub forgeries: Vec<Forgery>,
    /// The same order is asked for again at the end.
    pub asks_again: bool,
}

/// What a buyer does with an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// Lets it lapse.
    Nothing,
    /// Pays.
    Pay,
    /// Cancels.
    Cancel,
    /// Pays and cancels at the same time.
    PayAndCancel,
    /// Starts a payment and makes it when the order has lapsed.
    PayLate,
    /// Starts a payment and makes it at the moment when the order lapses.
    PayAtTheLastMoment,
    /// Tries to pay, and the provider says no; then pays.
    FailThenPay,
}

/// What an admin does.
#[derive(Debug, Clone, Serialize)]
pub struct AdminStep {
    /// When, after the buyers began.
    pub at_ms: u64,
    /// What.
    pub what: AdminAction,
}

/// Something that an admin can do.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminAction {
    /// Pauses the sale.
    Pause,
    /// Lets it go on.
    Resume,
    /// Changes the stock of an item.
    Restock {
        /// Which of the shop's goods.
        item: usize,
        /// By how much.
        units: i64,
    },
    /// Takes back some order that is paid by then.
    Refund,
    /// Sends every parked message again.
    Replay,
}

/// A fault with its time.
#[derive(Debug, Clone, Serialize)]
pub struct PlannedFault {
    /// When it begins, after the buyers do.
    pub at_ms: u64,
    /// How long it lasts.
    pub for_ms: u64,
    /// What it is.
    #[serde(flatten)]
    pub fault: Fault,
}

/// A crash point that is armed while the service runs.
#[derive(Debug, Clone, Serialize)]
pub struct Armed {
    /// When, after the buyers begin.
    pub at_ms: u64,
    /// Of which service.
    pub service: &'static str,
    /// Its name.
    pub point: &'static str,
    /// What happens there.
    pub action: Action,
    /// How often, over all replicas' own counts.
    pub times: u32,
}

/// A message that can never be handled.
#[derive(Debug, Clone, Serialize)]
pub struct Poison {
    /// When, after the buyers begin.
    pub at_ms: u64,
    /// What is wrong with it.
    pub kind: PoisonKind,
    /// What is found in its body, there and nowhere else.
    pub marker: String,
}

/// What can be wrong with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PoisonKind {
    /// Not JSON, to the work queues of the orders.
    GarbageOrder,
    /// Not JSON, to a reservation queue.
    GarbageReservation,
    /// A version that does not exist, to the queue of the sales.
    UnknownVersion,
    /// A reservation of no units.
    NoUnits,
}

impl Schedule {
    /// Draws the schedule of a seed.
    pub fn draw(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let rng = &mut rng;
        // Units that nobody takes show only in sales that somebody wants to empty.
        let emptied = rng.random_bool(0.5);
        let shop = shop(rng, emptied);
        let replicas = if rng.random_bool(0.25) { 2 } else { 1 };
        let buyers = buyers(rng, &shop, emptied);
        let (faults, crash_points) = (faults(rng), crash_points(rng));
        let admin = admin(rng, shop.goods.len(), emptied);
        let poison = poison(rng, seed);
        let reconcile_ms = if rng.random_bool(0.5) { 500 } else { 5_000 };
        Self { seed, replicas, shop, buyers, admin, faults, crash_points, poison, reconcile_ms }
    }

    /// A small schedule for one crash point: every kind of operation, and nothing else that goes wrong.
    pub fn for_crash_point(seed: u64, armed: Armed) -> Self {
        let mut schedule = Self::draw(seed);
        schedule.replicas = 1;
        schedule.faults.clear();
        schedule.crash_points = vec![armed];
        schedule.shop.ends_after_ms = None;
        schedule
    }
}

fn shop(rng: &mut StdRng, emptied: bool) -> Shop {
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

fn buyers(rng: &mut StdRng, shop: &Shop, emptied: bool) -> Vec<Buyer> {
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

fn faults(rng: &mut StdRng) -> Vec<PlannedFault> {
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

fn crash_points(rng: &mut StdRng) -> Vec<Armed> {
    let all = points::all();
    let mut armed = Vec::new();
    for _ in 0..rng.random_range(0..=3) {
        let Some((service, point)) = all.choose(rng).copied() else { break };
        let action = Action::ALL[rng.random_range(0..Action::ALL.len())];
        let (at_ms, times) = (rng.random_range(0..FAULTS_UNTIL_MS), rng.random_range(1..=2));
        armed.push(Armed { at_ms, service, point, action, times });
    }
    armed.sort_by_key(|armed| armed.at_ms);
    armed
}

fn admin(rng: &mut StdRng, goods: usize, emptied: bool) -> Vec<AdminStep> {
    let mut steps = Vec::new();
    if rng.random_bool(0.3) {
        let at_ms = rng.random_range(300..1_500);
        steps.push(AdminStep { at_ms, what: AdminAction::Pause });
        steps.push(AdminStep { at_ms: at_ms + rng.random_range(200..900), what: AdminAction::Resume });
    }
    for _ in 0..rng.random_range(0..=2) {
        let units = if rng.random_bool(0.6) { rng.random_range(1..=4) } else { -rng.random_range(1..=3) };
        // Who empties a sale needs to know that there are buyers enough.
        let units = if emptied { units.min(2) } else { units };
        let what = AdminAction::Restock { item: rng.random_range(0..goods), units };
        steps.push(AdminStep { at_ms: rng.random_range(300..2_800), what });
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

fn poison(rng: &mut StdRng, seed: u64) -> Vec<Poison> {
    let kinds = [
        PoisonKind::GarbageOrder,
        PoisonKind::GarbageReservation,
        PoisonKind::UnknownVersion,
        PoisonKind::NoUnits,
    ];
    let count = if rng.random_bool(0.5) { rng.random_range(1..=3) } else { 0 };
    let mut poison: Vec<Poison> = (0..count)
        .map(|n| Poison {
            at_ms: rng.random_range(200..2_500),
            kind: kinds[rng.random_range(0..kinds.len())],
            marker: format!("poison-{seed}-{n}-{:08x}", rng.random::<u32>()),
        })
        .collect();
    poison.sort_by_key(|poison| poison.at_ms);
    poison
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_is_the_same_schedule() {
        for seed in 1..50 {
            let text = |schedule: Schedule| serde_json::to_string(&schedule).unwrap();
            assert_eq!(text(Schedule::draw(seed)), text(Schedule::draw(seed)));
            assert_ne!(text(Schedule::draw(seed)), text(Schedule::draw(seed + 1)));
        }
    }

    #[test]
    fn both_stores_never_lose_their_data_in_one_schedule() {
        for seed in 0..500 {
            let lost: Vec<Store> =
                Schedule::draw(seed).faults.iter().filter_map(|planned| planned.fault.loses()).collect();
            assert!(lost.windows(2).all(|pair| pair[0] == pair[1]), "seed {seed}: {lost:?}");
        }
    }
}
