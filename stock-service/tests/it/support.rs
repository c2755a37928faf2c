//! What the tests share.

pub mod app;
pub mod orders;
pub mod shelf;
