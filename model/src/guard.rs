//! What the protocol rests on, each with a name, so that it can be taken away and missed.

use clap::ValueEnum;

/// One rule that keeps a promise. The tests take each away and expect a counterexample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub enum Guard {
    /// Scripts refuse unless the item was loaded into this very Redis process.
    RunId,
    /// A load reads the orders only when its fence has come through the item's partition.
    Fence,
    /// An order id stays in `unsettled` until order-service has reported its order.
    Unsettled,
    /// Finished orders are kept in the books, so that their keys cannot take a unit again.
    Tombstones,
    /// Only a newer version of an order changes the books.
    Versions,
    /// order-service counts the units that are taken by itself.
    Taken,
    /// Only the loader with the newest epoch reads the orders and opens the gate.
    LoaderEpoch,
    /// A broker that lost its data is told again what it was told.
    Generation,
    /// A load waits until whatever was granted before it is published or given up.
    StragglerWait,
    /// A grant whose script was sent long ago is not published any more.
    FreshGrant,
    /// A confirm counts only for the broker that gave it.
    ConfirmOfThisBroker,
}

impl Guard {
    /// Every guard.
    pub const ALL: [Self; 11] = [
        Self::RunId,
        Self::Fence,
        Self::Unsettled,
        Self::Tombstones,
        Self::Versions,
        Self::Taken,
        Self::LoaderEpoch,
        Self::Generation,
        Self::StragglerWait,
        Self::FreshGrant,
        Self::ConfirmOfThisBroker,
    ];
}

/// The guards in force: all, or all but one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rules {
    without: Option<Guard>,
}

impl Rules {
    /// The protocol as it is.
    pub const ALL: Self = Self { without: None };

    /// The protocol without `guard`.
    pub fn without(guard: Guard) -> Self {
        Self { without: Some(guard) }
    }

    /// Whether `guard` is in force.
    pub fn hold(self, guard: Guard) -> bool {
        self.without != Some(guard)
    }
}
