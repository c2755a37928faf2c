//! Fault campaigns: seeded schedules of faults against real services and stores, and a checker of every promise.
//!
//! One schedule is one seed. [`schedule`] draws from it what is sold, who buys and how, and which [`fault`]s happen when;
//! [`world`] is the system that it happens to, every connection of which runs through a [`proxy`]. [`run`] plays it: the
//! [`workload`] writes the [`client_log`], the [`sampler`] looks at the stores all the time, and in the end the
//! [`checker`] judges the [`evidence`], one verdict per invariant. [`campaign`] runs many of them, [`planted`] sees
//! whether they notice mistakes, [`report`] writes down what was found.
//!
//! A [`drill`] does one kind of harm very often and measures what comes of it.

pub mod campaign;
pub mod checker;
pub mod client_log;
pub mod drill;
pub mod evidence;
pub mod fault;
pub mod planted;
pub mod points;
pub mod proxy;
pub mod report;
pub mod run;
pub mod sampler;
pub mod schedule;
pub mod settings;
pub mod stores;
pub mod workload;
pub mod world;
