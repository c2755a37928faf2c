//! What happens in one schedule, all of it drawn from one seed before anything starts.

mod compound;
mod crash_point;
mod draw;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;

use crate::client_log::Forgery;
use crate::fault::Fault;
use crate::points::Action;

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

impl Then {
    /// Everything that is done.
    pub const ALL: [Self; 7] = [
        Self::Nothing,
        Self::Pay,
        Self::Cancel,
        Self::PayAndCancel,
        Self::PayLate,
        Self::PayAtTheLastMoment,
        Self::FailThenPay,
    ];
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
    /// A reservation of an item that does not exist, in the queue of one that does.
    UnknownItem,
}

impl Schedule {
    /// Draws the schedule of a seed.
    pub fn draw(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let rng = &mut rng;
        // Units that nobody takes show only in sales that somebody wants to empty.
        let emptied = rng.random_bool(0.5);
        let shop = draw::shop(rng, emptied);
        let replicas = if rng.random_bool(0.25) { 2 } else { 1 };
        let buyers = draw::buyers(rng, &shop, emptied);
        let (mut faults, mut crash_points) = (draw::faults(rng), draw::crash_points(rng));
        let mut admin = draw::admin(rng, shop.goods.len(), emptied);
        if rng.random_bool(0.75) {
            compound::add(rng, &mut faults, &mut crash_points, &mut admin);
        }
        let poison = draw::poison(rng, seed);
        let reconcile_ms = if rng.random_bool(0.5) { 500 } else { 5_000 };
        // Drawn last, so that the rest of a seed stays what it was.
        faults.extend(draw::news_unheard(rng));
        faults.sort_by_key(|planned| planned.at_ms);
        Self { seed, replicas, shop, buyers, admin, faults, crash_points, poison, reconcile_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Store;

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
