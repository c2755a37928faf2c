//! The block list, as order-service tells it to gateways.

use serde::{Deserialize, Serialize};

use super::admin::BlockKind;

/// Most entries; a list that every gateway has whole needs a bound.
pub const BLOCKS_MAX: usize = 10_000;

/// Answer of `GET /internal/v1/blocks`: the entries in force; its ETag is the version of the list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockList {
    /// The entries.
    pub items: Vec<Blocked>,
}

/// Who or what is blocked, and for how long from the moment of the question, so that no clock needs to be right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    /// What it is about.
    pub kind: BlockKind,
    /// Who or what.
    pub value: String,
    /// Milliseconds; `None`: until it is lifted.
    pub expires_in_ms: Option<u64>,
}
