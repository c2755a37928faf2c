//! What stock-service last said of every item, and which orders can be refused from it without asking.
//!
//! Refusals must be true. `sold_out` and `paused` may be said for `lease_ms` from the moment of asking:
//! stock-service does not offer units that came back before that time is over. `ended` is final. `not_started` needs
//! this machine's clock as well, with a margin. A retry of a granted order is never refused here: its id is in the
//! snapshot's filter.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use chrono::{DateTime, TimeDelta, Utc};
use common::api::ItemState;
use common::api::inventory::{self, CatalogueItem};
use common::ids::{ItemId, OrderId};
use common::problem::{Code, Problem};
use tokio::time::Instant;

/// So long before the opening, by this machine's clock, stock-service is asked: its Redis' clock decides.
const OPENING_MARGIN: TimeDelta = TimeDelta::seconds(2);

/// One answer of stock-service.
pub struct Snapshot {
    /// When it was asked for, or was last said to be unchanged.
    pub asked_at: Instant,
    lease: Duration,
    items: Arc<HashMap<ItemId, CatalogueItem>>,
}

/// What can be said of an order without asking anybody.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Only stock-service can tell.
    Ask,
    /// No, for sure.
    Refuse(Box<Problem>),
    /// The snapshot does not have the item.
    Unlisted,
}

impl Snapshot {
    /// The answer to a question of `asked_at`.
    pub fn new(asked_at: Instant, catalogue: inventory::Catalogue) -> Self {
        let items = catalogue.items.into_iter().map(|item| (item.item_id, item)).collect();
        Self { asked_at, lease: Duration::from_millis(catalogue.lease_ms), items: Arc::new(items) }
    }

    /// The same, said again.
    pub fn confirmed(&self, asked_at: Instant) -> Self {
        Self { asked_at, lease: self.lease, items: self.items.clone() }
    }

    /// What it says of an item.
    pub fn item(&self, item: ItemId) -> Option<&CatalogueItem> {
        self.items.get(&item)
    }

    /// Judges an order of `item`, by the monotonic clock and by the wall clock of this machine.
    pub fn judge(&self, item: ItemId, order: OrderId, now: Instant, clock: DateTime<Utc>) -> Verdict {
        let Some(item) = self.items.get(&item) else { return Verdict::Unlisted };
        let leased = now < self.asked_at + self.lease;
        // A closed gate shows the last known figures, and its filter may lack the newest grants.
        let stranger = item.open && item.granted.as_ref().is_some_and(|granted| !granted.may_contain(order));
        match item.state {
            ItemState::Ended if stranger => refuse(Code::Ended),
            ItemState::SoldOut if stranger && leased => refuse(Code::SoldOut),
            ItemState::Paused if stranger && leased => refuse(Code::Paused),
            ItemState::Scheduled if item.open && leased && clock + OPENING_MARGIN < item.starts_at => {
                Verdict::Refuse(Box::new(Problem::not_started(item.starts_at)))
            }
            ItemState::Ended
            | ItemState::SoldOut
            | ItemState::Paused
            | ItemState::Scheduled
            | ItemState::Active
            | ItemState::Draft => Verdict::Ask,
        }
    }
}

fn refuse(code: Code) -> Verdict {
    Verdict::Refuse(Box::new(Problem::new(code)))
}

/// The newest snapshot; last known good when stock-service is away.
#[derive(Default)]
pub struct Catalogue {
    current: ArcSwapOption<Snapshot>,
}

impl Catalogue {
    /// The newest snapshot; `None` until there was one.
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.current.load_full()
    }

    /// Replaces it.
    pub fn store(&self, snapshot: Snapshot) {
        self.current.store(Some(Arc::new(snapshot)));
    }

    /// Judges an order; without any snapshot nothing is listed.
    pub fn judge(&self, item: ItemId, order: OrderId, now: Instant, clock: DateTime<Utc>) -> Verdict {
        self.current
            .load()
            .as_ref()
            .map_or(Verdict::Unlisted, |snapshot| snapshot.judge(item, order, now, clock))
    }
}

#[cfg(test)]
mod tests {
    use common::api::filter::IdFilter;
    use common::ids::{IdempotencyKey, SaleId, UserId};
    use uuid::Uuid;

    use super::*;

    const ITEM: ItemId = ItemId(Uuid::from_u128(7));

    fn order(key: &str) -> OrderId {
        let user = UserId::try_from("u1".to_owned()).expect("valid");
        OrderId::derive(&user, ITEM, &IdempotencyKey::try_from(key.to_owned()).expect("valid"))
    }

    fn clock() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).expect("valid")
    }

    fn snapshot(asked_at: Instant, state: ItemState, change: impl Fn(&mut CatalogueItem)) -> Snapshot {
        let mut item = CatalogueItem {
            item_id: ITEM,
            sale_id: SaleId(Uuid::from_u128(8)),
            state,
            starts_at: clock() + TimeDelta::seconds(60),
            ends_at: clock() + TimeDelta::seconds(600),
            total: 10,
            available: 0,
            per_user_limit: 1,
            open: true,
            waiting_room: false,
            challenge: false,
            granted: Some(IdFilter::of(&[order("granted")])),
        };
        change(&mut item);
        Snapshot::new(asked_at, inventory::Catalogue { lease_ms: 1000, items: vec![item] })
    }

    fn refused(code: Code) -> Verdict {
        refuse(code)
    }

    #[test]
    fn a_stranger_is_refused_within_the_lease_and_asked_for_after_it() {
        let now = Instant::now();
        for (state, code) in [(ItemState::SoldOut, Code::SoldOut), (ItemState::Paused, Code::Paused)] {
            let snapshot = snapshot(now, state, |_| {});
            let at = |ms| snapshot.judge(ITEM, order("stranger"), now + Duration::from_millis(ms), clock());
            assert_eq!(at(999), refused(code));
            assert_eq!(at(1000), Verdict::Ask);
        }
    }

    #[test]
    fn being_confirmed_renews_the_lease() {
        let now = Instant::now();
        let later = now + Duration::from_secs(5);
        let snapshot = snapshot(now, ItemState::SoldOut, |_| {}).confirmed(later);
        assert_eq!(snapshot.judge(ITEM, order("stranger"), later, clock()), refused(Code::SoldOut));
    }

    #[test]
    fn the_end_is_final() {
        let now = Instant::now();
        let snapshot = snapshot(now, ItemState::Ended, |_| {});
        let much_later = now + Duration::from_secs(3600);
        assert_eq!(snapshot.judge(ITEM, order("stranger"), much_later, clock()), refused(Code::Ended));
    }

    #[test]
    fn whoever_may_have_an_order_is_never_refused() {
        let now = Instant::now();
        for state in [ItemState::SoldOut, ItemState::Paused, ItemState::Ended] {
            assert_eq!(
                snapshot(now, state, |_| {}).judge(ITEM, order("granted"), now, clock()),
                Verdict::Ask
            );
            let no_filter = snapshot(now, state, |item| item.granted = None);
            assert_eq!(no_filter.judge(ITEM, order("stranger"), now, clock()), Verdict::Ask);
            let closed = snapshot(now, state, |item| item.open = false);
            assert_eq!(closed.judge(ITEM, order("stranger"), now, clock()), Verdict::Ask);
        }
    }

    #[test]
    fn before_the_opening_only_the_last_moments_are_asked_for() {
        let now = Instant::now();
        let snapshot = snapshot(now, ItemState::Scheduled, |_| {});
        let opening = clock() + TimeDelta::seconds(60);
        let at =
            |before_s| snapshot.judge(ITEM, order("stranger"), now, opening - TimeDelta::seconds(before_s));
        assert_eq!(at(60), Verdict::Refuse(Box::new(Problem::not_started(opening))));
        assert_eq!(at(3), Verdict::Refuse(Box::new(Problem::not_started(opening))));
        assert_eq!(at(2), Verdict::Ask);
        assert_eq!(at(-1), Verdict::Ask);
    }

    #[test]
    fn an_open_item_is_asked_for_and_an_unknown_one_is_not_here() {
        let now = Instant::now();
        let snapshot = snapshot(now, ItemState::Active, |_| {});
        assert_eq!(snapshot.judge(ITEM, order("any"), now, clock()), Verdict::Ask);
        assert_eq!(snapshot.judge(ItemId(Uuid::from_u128(9)), order("any"), now, clock()), Verdict::Unlisted);
    }
}
