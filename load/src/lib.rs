//! Measures a running Stampede from outside, as a crowd of clients would: what `./dev load` and `./dev bench` run.
//!
//! [`wire`], [`requests`] and [`schedule`] say what is sent and when, [`engine`] sends it, [`record`] counts what came
//! back; [`processes`] and [`depths`] look at the system meanwhile; [`run`] puts them together, [`result`] is what comes
//! of it, and [`report`] writes it down.

pub mod chart;
pub mod children;
pub mod cores;
pub mod depths;
pub mod engine;
pub mod page;
pub mod processes;
pub mod record;
pub mod report;
pub mod requests;
pub mod result;
pub mod run;
pub mod schedule;
pub mod spread;
pub mod stage;
pub mod token;
pub mod trend;
pub mod wire;
pub mod yardstick;
