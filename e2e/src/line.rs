//! A sale with a waiting room, played by a crowd of people and bots over HTTP.

pub mod arrivals;
