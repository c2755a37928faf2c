//! The state machines: one table each, and nothing else decides what may follow what.

use common::api::{OrderStatus, SaleState};
use common::messages::order::{self, Units};

/// Every step in the life of a sale. Between `scheduled`, `active` and `ended` the window steps by itself.
pub const SALE: [(SaleState, SaleState); 7] = [
    (SaleState::Draft, SaleState::Scheduled),
    (SaleState::Scheduled, SaleState::Active),
    (SaleState::Active, SaleState::Paused),
    (SaleState::Paused, SaleState::Active),
    (SaleState::Active, SaleState::Ended),
    (SaleState::Paused, SaleState::Ended),
    // A sale that was published by mistake is taken back before it opens.
    (SaleState::Scheduled, SaleState::Ended),
];

/// Whether a sale may go from one state to the other.
pub fn sale_allows(from: SaleState, to: SaleState) -> bool {
    SALE.contains(&(from, to))
}

/// One step in the life of an order, with what it does to its units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderStep {
    /// The state before; `queued` orders are not in the database yet.
    pub from: OrderStatus,
    /// The state after.
    pub to: OrderStatus,
    /// Where the units are before; `None` for orders that are not in the database yet.
    pub units_from: Option<Units>,
    /// Where the units are after.
    pub units_to: Units,
    /// The event that tells of it; `None`: nobody is told.
    pub event: Option<&'static str>,
}

/// Every step in the life of an order. No state is reached in two ways, so the state after names the step.
pub const ORDER: [OrderStep; 7] = [
    OrderStep {
        from: OrderStatus::Queued,
        to: OrderStatus::PendingPayment,
        units_from: None,
        units_to: Units::Held,
        event: Some(order::CREATED_V1),
    },
    OrderStep {
        from: OrderStatus::Queued,
        to: OrderStatus::Rejected,
        units_from: None,
        units_to: Units::Returned,
        event: Some(order::REJECTED_V1),
    },
    OrderStep {
        from: OrderStatus::PendingPayment,
        to: OrderStatus::Paid,
        units_from: Some(Units::Held),
        units_to: Units::Sold,
        event: Some(order::PAID_V1),
    },
    OrderStep {
        from: OrderStatus::PendingPayment,
        to: OrderStatus::Cancelled,
        units_from: Some(Units::Held),
        units_to: Units::Returned,
        event: Some(order::CANCELLED_V1),
    },
    OrderStep {
        from: OrderStatus::PendingPayment,
        to: OrderStatus::Expired,
        units_from: Some(Units::Held),
        units_to: Units::Returned,
        event: Some(order::EXPIRED_V1),
    },
    OrderStep {
        from: OrderStatus::Paid,
        to: OrderStatus::RefundPending,
        units_from: Some(Units::Sold),
        units_to: Units::Sold,
        event: None,
    },
    OrderStep {
        from: OrderStatus::RefundPending,
        to: OrderStatus::Refunded,
        units_from: Some(Units::Sold),
        units_to: Units::Returned,
        event: Some(order::REFUNDED_V1),
    },
];

/// The step that leads to `to`; `None` when none does.
pub fn order_step(to: OrderStatus) -> Option<&'static OrderStep> {
    ORDER.iter().find(|step| step.to == to)
}

/// The event that tells a consumer of an order's present state, whatever it has missed.
pub fn present_event(status: OrderStatus) -> Option<&'static str> {
    match status {
        OrderStatus::Queued => None,
        // The step to it has no event of its own: to consumers the order is still a paid one.
        OrderStatus::RefundPending => Some(order::PAID_V1),
        OrderStatus::PendingPayment
        | OrderStatus::Paid
        | OrderStatus::Cancelled
        | OrderStatus::Expired
        | OrderStatus::Rejected
        | OrderStatus::Refunded => order_step(status).and_then(|step| step.event),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const STATUSES: [OrderStatus; 8] = [
        OrderStatus::Queued,
        OrderStatus::PendingPayment,
        OrderStatus::Paid,
        OrderStatus::Cancelled,
        OrderStatus::Expired,
        OrderStatus::Rejected,
        OrderStatus::RefundPending,
        OrderStatus::Refunded,
    ];

    #[test]
    fn the_state_after_names_the_step() {
        let after: HashSet<OrderStatus> = ORDER.iter().map(|step| step.to).collect();
        assert_eq!(after.len(), ORDER.len());
        assert_eq!(order_step(OrderStatus::Queued), None, "nothing goes back into the queue");
    }

    #[test]
    fn every_state_in_the_database_can_be_told() {
        for status in STATUSES {
            assert_eq!(present_event(status).is_some(), status != OrderStatus::Queued, "{status:?}");
        }
    }

    #[test]
    fn a_sale_that_has_ended_stays_so_and_drafts_open_only_through_their_window() {
        let states =
            [SaleState::Draft, SaleState::Scheduled, SaleState::Active, SaleState::Paused, SaleState::Ended];
        for to in states {
            assert!(!sale_allows(SaleState::Ended, to));
            assert_eq!(sale_allows(SaleState::Draft, to), to == SaleState::Scheduled);
        }
    }

    proptest! {
        /// Whatever is asked of an order in whatever sequence: its units are taken once, come back at most once, and
        /// never move without a step; `sold` means paid for.
        #[test]
        fn units_are_taken_once_and_come_back_at_most_once(wishes in prop::collection::vec(0..STATUSES.len(), 0..40)) {
            let (mut status, mut units) = (OrderStatus::Queued, None);
            let (mut taken, mut returned) = (0, 0);
            for wish in wishes {
                let Some(step) = order_step(STATUSES[wish]).filter(|step| step.from == status) else { continue };
                prop_assert_eq!(step.units_from, units);
                let was_taken = matches!(units, Some(Units::Held | Units::Sold));
                let is_taken = step.units_to != Units::Returned;
                taken += i32::from(is_taken && !was_taken);
                returned += i32::from(!is_taken && was_taken);
                (status, units) = (step.to, Some(step.units_to));
            }
            prop_assert!(taken <= 1 && returned <= taken);
            let paid = matches!(status, OrderStatus::Paid | OrderStatus::RefundPending);
            prop_assert_eq!(units == Some(Units::Sold), paid);
            prop_assert_eq!(units == Some(Units::Held), status == OrderStatus::PendingPayment);
        }
    }
}
