//! A model of the way of a unit: reserve, publish, settle, and rebuild after a loss; explored exhaustively.
//!
//! [`shelf`] is Redis with the scripts, transcribed and checked against the real ones; [`world`] is everything else,
//! around order-service's own decisions and its own table of states; [`guard`] names what it all rests on;
//! [`explorer`] visits every state; [`cases`] says how much of everything there is. [`capacity`] is another kind of model: how
//! many machines a load takes.

pub mod capacity;
pub mod cases;
pub mod explorer;
pub mod guard;
pub mod shelf;
pub mod world;
