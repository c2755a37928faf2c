//! Repetitions of an attempt that reach this gateway: joined to the one in flight, or answered from memory once it was
//! accepted. They cost the buyer no token of the bucket and stock-service no work.
//!
//! Only acceptance is shared: it is never taken back. A refusal may be out of date a moment later, so each repetition
//! gets its own.
//!
//! So many may be under way at a time, whatever they wait for: each keeps its connection's buffers, and who would come
//! in behind them would wait longer than a buyer does. Repetitions are half of them at most: they cost their sender
//! nothing, and one sender must not take every turn.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use common::ids::{OrderId, Quantity};
use metrics::Gauge;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, timeout_at};

/// Accepted attempts in one of the two generations that are remembered: some hundred KiB each.
const GENERATION_MAX: usize = 16_384;

/// What this gateway knows of attempts.
pub struct Attempts {
    known: Mutex<Known>,
    turns: Semaphore,
    repetitions: Semaphore,
    /// How many turns are taken.
    under_way: Gauge,
}

#[derive(Default)]
struct Known {
    in_flight: HashMap<OrderId, (Quantity, watch::Receiver<bool>)>,
    young: HashMap<OrderId, Quantity>,
    old: HashMap<OrderId, Quantity>,
}

/// How an attempt stands.
pub enum Standing<'a> {
    /// It was accepted before.
    Accepted,
    /// It was accepted before with another quantity.
    Mismatch,
    /// It is to be tried; say so when it is accepted.
    Try(Attempt<'a>),
    /// Too many are under way.
    Full,
}

/// One that is under way.
pub struct Attempt<'a> {
    /// `None` where another has the same id: nobody can join this one.
    in_flight: Option<InFlight<'a>>,
    _turn: Turn<'a>,
}

/// One of those that are under way.
struct Turn<'a> {
    under_way: &'a Gauge,
    _permit: SemaphorePermit<'a>,
}

/// A repetition, and what it waits for.
struct Joined<'a> {
    accepted: watch::Receiver<bool>,
    turn: Turn<'a>,
    _permit: SemaphorePermit<'a>,
}

/// An attempt that others may join. Dropped, they try for themselves.
struct InFlight<'a> {
    attempts: &'a Attempts,
    order: OrderId,
    quantity: Quantity,
    accepted: watch::Sender<bool>,
}

impl Attempts {
    /// Nothing is known yet; at most `under_way_max` are tried or waited for at a time.
    pub fn new(under_way_max: usize) -> Self {
        let under_way_max = under_way_max.min(Semaphore::MAX_PERMITS);
        Self {
            known: Mutex::default(),
            turns: Semaphore::new(under_way_max),
            repetitions: Semaphore::new(under_way_max.div_ceil(2)),
            under_way: metrics::gauge!("gateway_orders_under_way"),
        }
    }

    /// Whether one more would be told [`Standing::Full`], unless it is remembered.
    pub fn is_full(&self) -> bool {
        self.turns.available_permits() == 0
    }

    /// How the attempt stands, after waiting for the one in flight with the same id, until `deadline` at most.
    pub async fn standing(&self, order: OrderId, quantity: Quantity, deadline: Instant) -> Standing<'_> {
        let mut joined = match self.begin(order, quantity) {
            Ok(standing) => return standing,
            Err(joined) => joined,
        };
        match timeout_at(deadline, joined.accepted.wait_for(|accepted| *accepted)).await {
            Ok(Ok(_)) => Standing::Accepted,
            Ok(Err(_)) | Err(_) => Standing::Try(Attempt { in_flight: None, _turn: joined.turn }),
        }
    }

    /// The standing, or the attempt in flight to wait for.
    fn begin(&self, order: OrderId, quantity: Quantity) -> Result<Standing<'_>, Joined<'_>> {
        let mut known = self.known.lock();
        if let Some(accepted) = known.young.get(&order).or_else(|| known.old.get(&order)) {
            return Ok(if *accepted == quantity { Standing::Accepted } else { Standing::Mismatch });
        }
        let Ok(permit) = self.turns.try_acquire() else { return Ok(Standing::Full) };
        let turn = Turn::new(&self.under_way, permit);
        let in_flight = match known.in_flight.entry(order) {
            Entry::Occupied(entry) if entry.get().0 == quantity => {
                let Ok(permit) = self.repetitions.try_acquire() else { return Ok(Standing::Full) };
                return Err(Joined { accepted: entry.get().1.clone(), turn, _permit: permit });
            }
            // Which of the two quantities comes first is for the inventory to decide.
            Entry::Occupied(_) => None,
            Entry::Vacant(entry) => {
                let (accepted, receiver) = watch::channel(false);
                entry.insert((quantity, receiver));
                Some(InFlight { attempts: self, order, quantity, accepted })
            }
        };
        Ok(Standing::Try(Attempt { in_flight, _turn: turn }))
    }
}

impl<'a> Turn<'a> {
    fn new(under_way: &'a Gauge, permit: SemaphorePermit<'a>) -> Self {
        under_way.increment(1);
        Self { under_way, _permit: permit }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.under_way.decrement(1);
    }
}

impl Attempt<'_> {
    /// Remembers the attempt as accepted and tells those who joined it.
    pub fn accepted(self) {
        if let Some(in_flight) = self.in_flight {
            in_flight.accepted();
        }
    }
}

impl InFlight<'_> {
    fn accepted(self) {
        let mut known = self.attempts.known.lock();
        if known.young.len() >= GENERATION_MAX {
            known.old = std::mem::take(&mut known.young);
        }
        known.young.insert(self.order, self.quantity);
        drop(known);
        self.accepted.send_replace(true);
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.attempts.known.lock().in_flight.remove(&self.order);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use common::ids::{IdempotencyKey, ItemId, UserId};
    use uuid::Uuid;

    use super::*;

    fn order(n: usize) -> OrderId {
        let user = UserId::try_from("u".to_owned()).unwrap();
        OrderId::derive(&user, ItemId(Uuid::nil()), &IdempotencyKey::try_from(format!("k{n}")).unwrap())
    }

    fn units(n: u32) -> Quantity {
        Quantity::try_from(n).unwrap()
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    async fn first(attempts: &Attempts, n: usize) -> Attempt<'_> {
        match attempts.standing(order(n), units(1), soon()).await {
            Standing::Try(attempt @ Attempt { in_flight: Some(_), .. }) => attempt,
            Standing::Try(_) | Standing::Accepted | Standing::Mismatch | Standing::Full => {
                panic!("not the first")
            }
        }
    }

    fn is_alone(standing: &Standing<'_>) -> bool {
        matches!(standing, Standing::Try(Attempt { in_flight: None, .. }))
    }

    #[tokio::test]
    async fn repetitions_join_the_attempt_in_flight_and_share_its_acceptance() {
        let attempts = Attempts::new(2);
        let in_flight = first(&attempts, 1).await;
        let joined = attempts.standing(order(1), units(1), soon());
        let (standing, ()) = tokio::join!(joined, async { in_flight.accepted() });
        assert!(matches!(standing, Standing::Accepted));
        assert!(matches!(attempts.standing(order(1), units(1), soon()).await, Standing::Accepted));
        assert!(matches!(attempts.standing(order(1), units(2), soon()).await, Standing::Mismatch));
        assert!(attempts.known.lock().in_flight.is_empty());
    }

    #[tokio::test]
    async fn a_refusal_or_a_buyer_who_hangs_up_leaves_the_others_to_try_for_themselves() {
        let attempts = Attempts::new(2);
        let in_flight = first(&attempts, 1).await;
        let joined = attempts.standing(order(1), units(1), soon());
        let (standing, ()) = tokio::join!(joined, async { drop(in_flight) });
        assert!(is_alone(&standing));
        drop(first(&attempts, 1).await);
    }

    #[tokio::test]
    async fn another_quantity_does_not_join() {
        let attempts = Attempts::new(2);
        let _in_flight = first(&attempts, 1).await;
        assert!(is_alone(&attempts.standing(order(1), units(2), soon()).await));
    }

    #[tokio::test]
    async fn one_more_than_may_be_under_way_is_told_so_at_once_but_not_if_it_is_remembered() {
        let attempts = Attempts::new(2);
        first(&attempts, 1).await.accepted();
        let (second, _third) = (first(&attempts, 2).await, first(&attempts, 3).await);
        assert!(matches!(attempts.standing(order(4), units(1), soon()).await, Standing::Full));
        assert!(matches!(attempts.standing(order(2), units(1), soon()).await, Standing::Full));
        assert!(matches!(attempts.standing(order(1), units(1), soon()).await, Standing::Accepted));
        drop(second);
        drop(first(&attempts, 4).await);
    }

    #[tokio::test]
    async fn repetitions_of_one_order_take_half_of_the_turns_and_leave_the_rest_to_others() {
        let attempts = Attempts::new(6);
        let in_flight = first(&attempts, 1).await;
        let repetitions = (0..5).map(|_| attempts.standing(order(1), units(1), soon()));
        let repetitions = futures_util::future::join_all(repetitions);
        let (standings, ()) = tokio::join!(repetitions, async {
            drop(first(&attempts, 2).await);
            in_flight.accepted();
        });
        let joined = standings.iter().filter(|standing| matches!(standing, Standing::Accepted)).count();
        let refused = standings.iter().filter(|standing| matches!(standing, Standing::Full)).count();
        assert_eq!((joined, refused), (3, 2));
    }

    #[tokio::test]
    async fn memory_is_bounded_and_forgets_the_oldest_first() {
        let attempts = Attempts::new(2);
        for n in 0..GENERATION_MAX * 3 {
            first(&attempts, n).await.accepted();
        }
        let known = attempts.known.lock();
        assert!(known.young.len() + known.old.len() <= GENERATION_MAX * 2);
        assert!(!known.young.contains_key(&order(0)) && !known.old.contains_key(&order(0)));
        assert!(known.young.contains_key(&order(GENERATION_MAX * 3 - 1)));
    }
}
