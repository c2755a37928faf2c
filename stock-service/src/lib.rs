//! stock-service: owner of the inventory in Redis, and the decision who gets a unit.

pub mod inventory;
pub mod keys;
pub mod stock;
