//! Drives a running Stampede from outside, as its clients do: through the gateway's public API.
//!
//! [`environment`] finds it, [`client`] speaks to it, [`crowd`] is many buyers at once. [`collector`] hears what its
//! processes tell of themselves, [`tree`] shows it. The program `drive` (`./dev demo`, `./dev line`, `./dev trace`,
//! `./dev audit`) and the tests in `tests/it` are made of these.

pub mod client;
pub mod collector;
pub mod crowd;
pub mod environment;
pub mod line;
pub mod tree;
