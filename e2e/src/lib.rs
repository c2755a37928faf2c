//! Drives a running Stampede from outside, as its clients do: through the gateway's public API.
//!
//! [`environment`] finds it, [`client`] speaks to it, [`crowd`] is many buyers at once. The program `drive`
//! (`./dev demo`, `./dev line`, `./dev audit`) and the tests in `tests/it` are made of these.

pub mod client;
pub mod crowd;
pub mod environment;
pub mod line;
