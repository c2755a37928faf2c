//! What the tests share.

pub mod shelf;
