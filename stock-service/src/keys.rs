//! Names of keys in Redis. The item in braces is the hash tag: all keys of an item are in one slot.

use common::ids::ItemId;

/// A set of the ids of all items that are loaded, so that a replica that starts knows what to look at. Only a hint:
/// order-service's list is the truth.
pub const ITEMS: &str = "items";

/// The keys of one item.
#[derive(Debug, Clone)]
pub struct ItemKeys {
    /// Hash: what is sold and whether its gate is open.
    pub item: String,
    /// Hash: order id to hold.
    pub holds: String,
    /// Hash: user to units held or sold.
    pub buyers: String,
    /// Sorted set: order ids that order-service has not reported, by the time of their grant.
    pub unsettled: String,
    /// Hash: user to orders ever granted.
    pub attempts: String,
    /// Hash: user to the newest admission of the waiting room that an order was granted for.
    pub places: String,
    /// Hash: the load in progress.
    pub loading: String,
    /// Hash: order id to what became known of it during a load.
    pub late: String,
    /// Staging of `holds`.
    pub staged_holds: String,
    /// Staging of `buyers`.
    pub staged_buyers: String,
    /// Staging of `attempts`.
    pub staged_attempts: String,
    /// Hash: how often the books were found wrong, see [`crate::check`].
    pub alarm: String,
}

impl ItemKeys {
    /// The keys of `item`.
    pub fn of(item: ItemId) -> Self {
        Self {
            item: format!("item:{{{item}}}"),
            holds: format!("holds:{{{item}}}"),
            buyers: format!("buyers:{{{item}}}"),
            unsettled: format!("unsettled:{{{item}}}"),
            attempts: format!("attempts:{{{item}}}"),
            places: format!("places:{{{item}}}"),
            loading: format!("loading:{{{item}}}"),
            late: format!("late:{{{item}}}"),
            staged_holds: format!("staged-holds:{{{item}}}"),
            staged_buyers: format!("staged-buyers:{{{item}}}"),
            staged_attempts: format!("staged-attempts:{{{item}}}"),
            alarm: format!("alarm:{{{item}}}"),
        }
    }

    /// All of them, in the order that retire.lua takes them; the load scripts take all but the last.
    pub fn all(&self) -> [&str; 12] {
        [
            &self.item,
            &self.holds,
            &self.buyers,
            &self.unsettled,
            &self.attempts,
            &self.loading,
            &self.late,
            &self.staged_holds,
            &self.staged_buyers,
            &self.staged_attempts,
            &self.places,
            &self.alarm,
        ]
    }
}

/// What a lock is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Loading an item.
    Load,
    /// Publishing again what stays unsettled.
    Relay,
    /// Comparing holds with orders.
    Reconcile,
}

/// The lock of an item for one purpose.
pub fn lock(item: ItemId, purpose: Purpose) -> String {
    match purpose {
        Purpose::Load => format!("lock:{{{item}}}"),
        Purpose::Relay => format!("lock:{{{item}}}:relay"),
        Purpose::Reconcile => format!("lock:{{{item}}}:reconcile"),
    }
}

#[cfg(test)]
mod tests {
    use redis_route::slot_of;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn all_keys_of_an_item_are_in_one_slot() {
        let item = ItemId(Uuid::from_u128(0x0190_5cf3_7a2e_7000_8000_0000_0000_0001));
        let keys = ItemKeys::of(item);
        let locks = [Purpose::Load, Purpose::Relay, Purpose::Reconcile].map(|purpose| lock(item, purpose));
        let all = keys.all().into_iter().chain(locks.iter().map(String::as_str));
        assert!(all.clone().count() == 15 && all.map(slot_of).all(|slot| slot == slot_of(&keys.item)));
    }
}
