//! Which Redis server a key is on, and one call to it: for services whose Redis is one server, one behind Sentinel, or
//! a cluster.
//!
//! Not the cluster client of the `redis` crate, because that one sends a command again by itself when its answer was lost.
//! A script may have run then, and the second answer (say, "the gate is closed", from another server) would be taken
//! for the only one. Here a command is sent again only where the server has said that it did not run it: `MOVED`, `ASK`
//! and `NOSCRIPT`. Everything else is the caller's to judge.

mod address;
mod clock;
mod cluster;
mod node;
mod router;
mod sentinel;
mod slots;

pub use address::{Address, AddressList};
pub use clock::Clock;
pub use node::Node;
pub use router::{Answer, Config, Mode, Router};
pub use slots::{SLOTS, slot_of};
