//! The sandbox payment provider: a stand-in for a third party, on in the dev profile only (or when it is switched on).
//!
//! It has a checkout page, decides nothing by itself, keeps a ledger of its own, and tells the merchant by signed
//! notices that it repeats until they are taken, across restarts. The rest of the service asks it as it would ask any
//! provider (`payments::provider`), and never looks into its ledger.

pub mod ledger;
pub mod notifier;
pub mod page;
pub mod standing;

pub use crate::payments::notice::Outcome;
