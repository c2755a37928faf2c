//! A Redis process with the item's keys.

use crate::shelf::Shelf;

/// A Redis process.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Redis {
    /// Its run id.
    pub run: u32,
    /// The keys of the item.
    pub shelf: Shelf,
    /// The replica that holds the lock for loads.
    pub lock: Option<usize>,
}
