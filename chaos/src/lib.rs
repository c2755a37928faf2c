//! Fault campaigns: seeded schedules of faults against real services and stores, and a checker of every promise.
//!
//! One schedule is one seed: [`schedule`] draws from it what is sold, who buys and how, and which [`fault`]s happen when;
//! [`world`] is the system that it happens to, every connection of which runs through a [`proxy`].

pub mod drill;
pub mod fault;
pub mod proxy;
pub mod world;
