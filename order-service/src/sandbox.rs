//! The sandbox payment provider: a stand-in for a third party, on in the dev profile only (or when it is switched on).
//!
//! It has a checkout page, decides nothing by itself, keeps a ledger of its own, and tells the merchant by signed
//! notices that it repeats until they are taken, across restarts. The rest of the service learns of captures from
//! these notices alone, and asks it for nothing but refunds.

pub mod ledger;
pub mod notifier;
pub mod page;

pub use crate::payments::notice::Outcome;
