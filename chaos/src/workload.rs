//! Buyers, admins and listeners of one schedule, all at once.

pub mod admin;
pub mod buyer;
pub mod caller;
pub mod notices;
pub mod poison;
pub mod receiver;
pub mod stream;
