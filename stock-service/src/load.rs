//! Loading an item, which is also how it is recovered.
//!
//! Whenever a gate is found closed, one replica loads the item: it gets an epoch from order-service, closes the gate for
//! good, publishes what survived in `unsettled`, waits until nothing of the old epoch can still be on its way, sends a
//! fence through the item's partition, reads the source of truth when the fence has come through, stages it, and
//! opens the gate last. The lock only saves work; the epoch is what keeps a paused loader from doing harm.

mod attempt;
mod schedule;
mod steps;

pub use attempt::{LoadError, Loaded, Loader};
pub use schedule::start;
